//! Which faults of a BMC's log are told, and how a report keeps them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use chrono::{DateTime, Utc};
use slipway_edge::{
    bmc::{
        event_log::{Entry, EventLog, Mark},
        ipmi::{sel::Record, sel_faults},
    },
    runner::{
        event_log::{Seen, add, news},
        next,
    },
};
use slipway_protocol::{
    ids::{JobId, MachineId},
    inventory::FirmwareKind,
    order::{Hardware, Order},
    report::{FaultSeverity, HardwareFault, MAX_HARDWARE_FAULTS, Report},
};
use uuid::Uuid;

/// The BMC's clock when its log is read.
const CLOCK: u32 = 1_795_000_000;
const DAY: u32 = 24 * 3600;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// A record of a power supply: its number, its sensor, the BMC's time, and data 1 (3: input lost), over or not.
fn entry(record: u16, sensor: u8, time: u32, event_type: u8) -> Entry {
    let mut raw = [0xff; 16];
    raw[..2].copy_from_slice(&record.to_le_bytes());
    raw[2] = 0x02;
    raw[3..7].copy_from_slice(&time.to_le_bytes());
    raw[7..14].copy_from_slice(&[0x20, 0x00, 0x04, 0x08, sensor, event_type, 0x03]);
    sel_faults::entry(&Record::new(raw))
}

fn lost(record: u16, sensor: u8, time: u32) -> Entry {
    entry(record, sensor, time, 0x6f)
}

fn back(record: u16, sensor: u8, time: u32) -> Entry {
    entry(record, sensor, time, 0xef)
}

fn log(entries: Vec<Entry>, complete: bool) -> EventLog {
    let last = entries.last();
    EventLog {
        clock: Some(CLOCK),
        complete,
        mark: Mark {
            record: last.map_or(0, |entry| entry.record),
            raw: last.map(|entry| entry.raw.clone()).unwrap_or_default(),
            cleared_at: 0,
        },
        entries,
    }
}

fn known(caught_up: bool) -> Seen {
    Seen {
        mark: log(vec![], true).mark,
        caught_up,
    }
}

fn records(faults: &[HardwareFault]) -> Vec<u16> {
    faults.iter().map(|fault| fault.record).collect()
}

#[test]
fn a_fault_is_told_with_all_that_is_known_of_it() {
    let (told, seen) = news(Some(&known(true)), &log(vec![lost(7, 0x52, 5)], true), now());
    let [fault] = told.as_slice() else {
        panic!("{told:?}");
    };
    let expected = HardwareFault {
        record: 7,
        bmc_time: 5,
        seen_at: now(),
        kind: "power_supply".into(),
        severity: FaultSeverity::Critical,
        text: "power supply: input is lost (sensor 0x52)".into(),
        raw: "0700020500000020000408526f03ffff".into(),
    };
    assert_eq!(*fault, expected);
    assert_eq!((seen.mark.record, seen.caught_up), (7, true));
}

#[test]
fn at_first_contact_only_the_last_day_is_told() {
    let entries = vec![
        lost(1, 1, CLOCK - DAY - 1),
        lost(2, 2, CLOCK - DAY),
        lost(3, 3, CLOCK + 60),
        lost(4, 4, CLOCK + DAY),
        lost(5, 5, 77),
        lost(6, 6, u32::MAX),
    ];
    let first = log(entries.clone(), true);
    let (told, seen) = news(None, &first, now());
    assert_eq!(records(&told), [2, 3]);
    let (told, _) = news(Some(&seen), &first, now());
    assert_eq!(
        records(&told),
        [1, 2, 3, 4, 5, 6],
        "what comes later is new whatever its time"
    );
    let no_clock = EventLog { clock: None, ..first };
    assert!(news(None, &no_clock, now()).0.is_empty());

    let cut = log(entries, false);
    let (_, seen) = news(None, &cut, now());
    assert!(!seen.caught_up, "a first reading that was cut is not over");
    let (told, seen) = news(Some(&seen), &cut, now());
    assert_eq!((records(&told), seen.caught_up), (vec![2, 3], false));
}

#[test]
fn what_is_over_is_no_fault_and_repeats_are_one() {
    let entries = vec![
        lost(1, 1, CLOCK),
        lost(2, 2, CLOCK),
        back(3, 1, CLOCK),
        lost(4, 2, CLOCK),
        back(5, 3, CLOCK),
        lost(6, 3, CLOCK),
    ];
    let (told, _) = news(Some(&known(true)), &log(entries, true), now());
    assert_eq!(records(&told), [4, 6]);
}

fn order(job: u128) -> Order {
    Order {
        machine: MachineId(Uuid::nil()),
        job: JobId(Uuid::from_u128(job)),
        deadline: now(),
        retry: 0,
        settled: None,
        hardware: Hardware {
            macs: vec![],
            firmware: FirmwareKind::Bios,
            bmc: None,
        },
        secrets: std::collections::BTreeMap::new(),
        steps: vec![],
    }
}

#[test]
fn a_report_has_each_fault_once_the_newest_ones_and_the_next_jobs_has_them_too() {
    let told = |range: std::ops::Range<u16>| {
        let entries = range.map(|n| lost(n, u8::try_from(n).unwrap(), CLOCK)).collect();
        news(Some(&known(true)), &log(entries, true), now()).0
    };
    let mut report: Report = next::begin(&order(1), 1, None);
    assert!(add(&mut report, told(1..4)));
    assert!(
        !add(&mut report, told(1..4)),
        "an edge that fell before it kept its mark"
    );
    assert_eq!(records(&report.hardware_faults), [1, 2, 3]);
    let mut report = next::begin(&order(2), 1, Some(&report));
    assert_eq!(
        records(&report.hardware_faults),
        [1, 2, 3],
        "another job of the machine"
    );
    assert!(add(&mut report, told(2..30)));
    assert_eq!(report.hardware_faults.len(), MAX_HARDWARE_FAULTS);
    assert_eq!(report.hardware_faults.last().unwrap().record, 29);
}
