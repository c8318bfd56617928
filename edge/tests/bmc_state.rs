//! How a machine's BMC was: what of it is told, which reading holds, and that the next job's report has it too.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use chrono::{DateTime, Utc};
use slipway_edge::{
    bmc::{BmcInfo, PowerState},
    runner::{
        bmc_state::{keep, state},
        next,
    },
};
use slipway_protocol::{
    bmc::{BmcState, Power},
    ids::{JobId, MachineId},
    inventory::FirmwareKind,
    order::{Hardware, Order},
};
use uuid::Uuid;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn order(job: u128) -> Order {
    Order {
        machine: MachineId(Uuid::nil()),
        job: JobId(Uuid::from_u128(job)),
        deadline: at(3600),
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
fn what_a_bmc_does_not_tell_is_left_out() {
    let info = |manufacturer, product| BmcInfo {
        protocol: "ipmi".into(),
        manufacturer,
        product,
        firmware: "2.81".into(),
        security: "cipher suite 17".into(),
    };
    let told = state(PowerState::On, Some(info(674, 256)), at(0));
    let expected = BmcState {
        power: Power::On,
        seen_at: at(0),
        manufacturer: Some(674),
        product: Some(256),
        firmware: Some("2.81".into()),
        security: Some("cipher suite 17".into()),
    };
    assert_eq!(told, expected);
    let silent = state(PowerState::Off, Some(info(0, 0)), at(0));
    assert_eq!(
        (silent.power, silent.manufacturer, silent.product),
        (Power::Off, None, None)
    );
    assert_eq!(
        state(PowerState::Off, None, at(1)),
        BmcState::of_power(Power::Off, at(1)),
        "not asked about itself"
    );
}

#[test]
fn the_next_jobs_report_has_it_too_and_the_later_reading_holds() {
    let read = |power, seconds| state(power, None, at(seconds));
    let mut report = next::begin(&order(1), 1, None);
    assert_eq!(report.bmc, None);
    assert!(keep(&mut report, read(PowerState::On, 5)));
    assert!(!keep(&mut report, read(PowerState::Off, 4)), "a late word");
    assert!(!keep(&mut report, read(PowerState::On, 5)), "a repeated word");
    let mut report = next::begin(&order(2), 2, Some(&report));
    assert_eq!(
        report.bmc,
        Some(read(PowerState::On, 5)),
        "another job of the machine"
    );
    assert!(keep(&mut report, read(PowerState::Off, 6)));
    let again = next::begin(&order(2), 3, Some(&report));
    assert_eq!(again.bmc, Some(read(PowerState::Off, 6)), "the same job again");
}
