//! What an event in the log means for the hardware: one table, from sensor type and state (IPMI 2.0 tables 42-2 and 42-3) to
//! a fault's kind, severity and words. Pure. What is not in it is no fault: presence, boots, resets, a corrected bit, a
//! crossing of a non-critical threshold.

use slipway_protocol::report::FaultSeverity::{self, Critical, Warning};

use super::super::event_log::{Entry, News, Place};
use super::sel::{Body, Event, NO_TIME, Record};

/// Event type: thresholds.
const THRESHOLD: u8 = 0x01;
/// Event type: the states of the sensor's own type.
const SPECIFIC: u8 = 0x6f;

/// A fault's kind, severity and words.
type Fault = (&'static str, FaultSeverity, &'static str);

/// The entry of a record.
#[must_use]
pub fn entry(record: &Record) -> Entry {
    let news = match record.body() {
        Body::Event(event) => news(&event),
        Body::Oem | Body::Unknown => News::Other,
    };
    Entry {
        record: record.id,
        time: record.time().filter(|time| *time != NO_TIME),
        raw: record.hex(),
        news,
    }
}

/// What an event says of the hardware.
#[must_use]
pub fn news(event: &Event) -> News {
    let place = |offset| Place {
        sensor_type: event.sensor_type,
        sensor: event.sensor,
        event_type: event.event_type,
        offset,
    };
    if !event.asserted {
        return News::Over {
            place: place(Some(event.offset())),
        };
    }
    if good(event.event_type) == Some(event.offset()) {
        return News::Over { place: place(None) };
    }
    match fault(event) {
        Some((kind, severity, words)) => News::Fault {
            place: place(Some(event.offset())),
            kind,
            severity,
            text: text(event, kind, words),
        },
        None => News::Other,
    }
}

fn text(event: &Event, kind: &str, words: &str) -> String {
    let part = match (kind, event.part()) {
        ("memory", Some(part)) => format!(", module {part}"),
        _ => String::new(),
    };
    let what = kind.replace('_', " ");
    format!("{what}: {words} (sensor 0x{:02x}{part})", event.sensor)
}

/// The state of a generic list that says that all is well again (table 42-2).
fn good(event_type: u8) -> Option<u8> {
    match event_type {
        0x04 | 0x05 | 0x07 | 0x0a | 0x0b => Some(0),
        0x08 => Some(1),
        _ => None,
    }
}

fn fault(event: &Event) -> Option<Fault> {
    match event.event_type {
        THRESHOLD => threshold(event),
        SPECIFIC => specific(event),
        _ => generic(event),
    }
}

/// Beyond a critical or non-recoverable threshold. Fans that turn too fast are no fault.
fn threshold(event: &Event) -> Option<Fault> {
    let low = match event.offset() {
        0x02 | 0x04 => true,
        0x09 | 0x0b => false,
        _ => return None,
    };
    Some(match (event.sensor_type, low) {
        (0x01, false) => ("temperature", Critical, "above its critical limit"),
        (0x01, true) => ("temperature", Critical, "below its critical limit"),
        (0x02, false) => ("voltage", Critical, "above its critical limit"),
        (0x02, true) => ("voltage", Critical, "below its critical limit"),
        (0x03, false) => ("current", Critical, "above its critical limit"),
        (0x04, true) => ("fan", Critical, "slower than its critical limit, or stands still"),
        _ => return None,
    })
}

/// The part a sensor with a generic list of states looks at.
fn part(sensor_type: u8) -> Option<&'static str> {
    Some(match sensor_type {
        0x01 => "temperature",
        0x02 => "voltage",
        0x03 => "current",
        0x04 | 0x0a => "fan",
        0x07 => "processor",
        0x08 | 0x09 => "power_supply",
        0x0c => "memory",
        0x0d => "drive",
        0x15 | 0x16 | 0x19 => "system_board",
        0x29 => "battery",
        _ => return None,
    })
}

/// Generic lists of states (table 42-2).
fn generic(event: &Event) -> Option<Fault> {
    let kind = part(event.sensor_type)?;
    let removable = matches!(kind, "fan" | "power_supply" | "drive");
    Some(match (event.event_type, event.offset()) {
        (0x04, 1) => (kind, Warning, "is expected to fail"),
        (0x05, 1) => (kind, Critical, "is beyond its limit"),
        (0x07, 2) => (kind, Critical, "is in a critical state"),
        (0x07, 3 | 6) => (kind, Critical, "is in a state it does not recover from"),
        (0x08, 0) if removable => (kind, Warning, "was removed"),
        (0x0a, 6) => (kind, Warning, "is degraded"),
        (0x0a, 8) => (kind, Warning, "is not installed as it must be"),
        (0x0b, 1) => (kind, Warning, "redundancy is lost"),
        (0x0b, 2 | 6 | 7) => (kind, Warning, "redundancy is degraded"),
        (0x0b, 3 | 4) => (kind, Warning, "there is no redundancy"),
        (0x0b, 5) => (kind, Critical, "there are fewer than the server needs"),
        _ => return None,
    })
}

/// States of the sensor's own type (table 42-3), each type's on a line of its own.
fn specific(event: &Event) -> Option<Fault> {
    let offset = event.offset();
    match event.sensor_type {
        0x07 => processor(offset),
        0x08 => power_supply(offset),
        0x09 => power_unit(offset),
        0x0c => memory(offset),
        0x0d => drive(offset),
        0x0f => firmware(offset, event.detail()),
        0x10 if offset == 0 => Some((
            "memory",
            Warning,
            "so many corrected errors that they are no longer logged",
        )),
        0x13 => critical_interrupt(offset),
        0x19 if offset == 1 => Some(("system_board", Critical, "the chip set was shut down by its heat")),
        0x1b if offset == 1 => Some(("cable", Warning, "a cable is missing or in the wrong place")),
        0x21 if offset == 0 => Some(("slot", Critical, "a slot or connector reports a fault")),
        0x28 if offset == 5 => Some(("management", Warning, "a replaceable unit has failed")),
        0x29 if offset == 0 => Some(("battery", Warning, "is low")),
        0x29 if offset == 1 => Some(("battery", Critical, "has failed")),
        _ => None,
    }
}

fn processor(offset: u8) -> Option<Fault> {
    let (severity, words) = match offset {
        0 => (Critical, "internal error (IERR)"),
        1 => (Critical, "was shut down by its heat (thermal trip)"),
        2 => (Critical, "failed its self-test (FRB1/BIST)"),
        3 => (Critical, "hung in POST (FRB2)"),
        4 => (Critical, "did not start (FRB3)"),
        5 => (Critical, "configuration error"),
        6 | 11 => (Critical, "uncorrectable machine check"),
        8 => (Warning, "is disabled"),
        _ => return None,
    };
    Some(("processor", severity, words))
}

fn power_supply(offset: u8) -> Option<Fault> {
    let (severity, words) = match offset {
        1 => (Critical, "failure detected"),
        2 => (Warning, "is expected to fail"),
        3 => (Critical, "input is lost"),
        4 => (Critical, "input is lost or out of range"),
        5 => (Warning, "input is out of range"),
        6 => (Warning, "configuration error"),
        _ => return None,
    };
    Some(("power_supply", severity, words))
}

fn power_unit(offset: u8) -> Option<Fault> {
    let (severity, words) = match offset {
        4 => (Critical, "the server's input power was lost"),
        5 => (Critical, "the server does not follow its power control"),
        6 => (Critical, "the power unit has failed"),
        7 => (Warning, "the power unit is expected to fail"),
        _ => return None,
    };
    Some(("power_supply", severity, words))
}

fn memory(offset: u8) -> Option<Fault> {
    let (severity, words) = match offset {
        1 => (Critical, "uncorrectable ECC error"),
        2 => (Critical, "parity error"),
        3 => (Critical, "scrubbing failed (stuck bit)"),
        4 => (Warning, "a module is disabled"),
        5 => (
            Warning,
            "so many corrected ECC errors that they are no longer logged",
        ),
        7 => (Warning, "configuration error"),
        10 => (Critical, "critically hot"),
        _ => return None,
    };
    Some(("memory", severity, words))
}

fn drive(offset: u8) -> Option<Fault> {
    let (severity, words) = match offset {
        1 => (Critical, "has failed"),
        2 => (Warning, "is expected to fail"),
        5 => (Warning, "its array lost redundancy"),
        6 => (Critical, "its array has failed"),
        8 => (Warning, "the rebuild of its array was aborted"),
        _ => return None,
    };
    Some(("drive", severity, words))
}

/// What the firmware found in POST.
fn firmware(offset: u8, error: Option<u8>) -> Option<Fault> {
    Some(match (offset, error) {
        (0, Some(0x01)) => ("memory", Critical, "the firmware found none"),
        (0, Some(0x02)) => ("memory", Critical, "the firmware found none it can use"),
        (0, Some(0x03)) => ("drive", Critical, "the firmware found a drive that has failed"),
        (0, Some(0x04)) => ("system_board", Critical, "the firmware found that it has failed"),
        (0, Some(0x06)) => (
            "drive",
            Critical,
            "the firmware found that its controller has failed",
        ),
        (0, Some(0x0b)) => ("firmware", Critical, "its memory is corrupt"),
        (0, Some(0x0c)) => ("processor", Critical, "voltages do not match"),
        (0, Some(0x0d)) => ("processor", Critical, "speeds do not match"),
        (1, _) => ("firmware", Critical, "hangs"),
        _ => return None,
    })
}

fn critical_interrupt(offset: u8) -> Option<Fault> {
    let (severity, words) = match offset {
        1 => (Critical, "bus timeout"),
        2 => (Critical, "I/O channel check"),
        4 => (Critical, "PCI parity error (PERR)"),
        5 => (Critical, "PCI system error (SERR)"),
        8 => (Critical, "uncorrectable bus error"),
        9 => (Critical, "fatal NMI"),
        10 => (Critical, "fatal bus error"),
        11 => (Warning, "a bus is degraded"),
        _ => return None,
    };
    Some(("critical_interrupt", severity, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sensor_type: u8, event_type: u8, data: [u8; 3]) -> Event {
        Event {
            sensor_type,
            sensor: 0x30,
            event_type,
            asserted: true,
            data,
        }
    }

    /// Sensor type, event type, event data 1 to 3, and what is told; nothing for what is no fault.
    type Case = (u8, u8, [u8; 3], &'static str);

    const CASES: &[Case] = &[
        (
            0x08,
            0x6f,
            [0x01, 0xff, 0xff],
            "Critical power supply: failure detected",
        ),
        (
            0x08,
            0x6f,
            [0x03, 0xff, 0xff],
            "Critical power supply: input is lost",
        ),
        (0x08, 0x6f, [0x00, 0xff, 0xff], ""),
        (
            0x08,
            0x0b,
            [0x01, 0xff, 0xff],
            "Warning power supply: redundancy is lost",
        ),
        (
            0x08,
            0x08,
            [0x00, 0xff, 0xff],
            "Warning power supply: was removed",
        ),
        (
            0x09,
            0x6f,
            [0x04, 0xff, 0xff],
            "Critical power supply: the server's input power was lost",
        ),
        (
            0x0c,
            0x6f,
            [0x31, 0xff, 0x05],
            "Critical memory: uncorrectable ECC error, module 5",
        ),
        (
            0x0c,
            0x6f,
            [0x01, 0xff, 0x05],
            "Critical memory: uncorrectable ECC error",
        ),
        (0x0c, 0x6f, [0x30, 0xff, 0x05], ""),
        (0x0d, 0x6f, [0x01, 0xff, 0xff], "Critical drive: has failed"),
        (
            0x0d,
            0x04,
            [0x01, 0xff, 0xff],
            "Warning drive: is expected to fail",
        ),
        (0x0d, 0x6f, [0x00, 0xff, 0xff], ""),
        (
            0x01,
            0x01,
            [0x59, 0x60, 0x5a],
            "Critical temperature: above its critical limit",
        ),
        (0x01, 0x01, [0x57, 0x60, 0x5a], ""),
        (
            0x02,
            0x01,
            [0x52, 0x60, 0x5a],
            "Critical voltage: below its critical limit",
        ),
        (
            0x04,
            0x01,
            [0x52, 0x00, 0x05],
            "Critical fan: slower than its critical limit, or stands still",
        ),
        (0x04, 0x01, [0x59, 0xff, 0xf0], ""),
        (
            0x04,
            0x07,
            [0x03, 0xff, 0xff],
            "Critical fan: is in a state it does not recover from",
        ),
        (
            0x07,
            0x6f,
            [0x00, 0xff, 0xff],
            "Critical processor: internal error (IERR)",
        ),
        (0x07, 0x6f, [0x07, 0xff, 0xff], ""),
        (
            0x13,
            0x6f,
            [0x05, 0xff, 0xff],
            "Critical critical interrupt: PCI system error (SERR)",
        ),
        (0x13, 0x6f, [0x00, 0xff, 0xff], ""),
        (
            0x0f,
            0x6f,
            [0xc0, 0x02, 0xff],
            "Critical memory: the firmware found none it can use",
        ),
        (0x0f, 0x6f, [0x00, 0x02, 0xff], ""),
        (0x0f, 0x6f, [0xc2, 0x01, 0xff], ""),
        (0x10, 0x6f, [0x02, 0xff, 0xff], ""),
        (0x12, 0x6f, [0x05, 0xff, 0xff], ""),
        (0xc0, 0x6f, [0x01, 0xff, 0xff], ""),
        (0x08, 0x7f, [0x01, 0xff, 0xff], ""),
    ];

    #[test]
    fn the_table_tells_faults_from_all_else() {
        for (sensor_type, event_type, data, expected) in CASES {
            let told = match news(&event(*sensor_type, *event_type, *data)) {
                News::Fault { severity, text, .. } => format!("{severity:?} {text}"),
                News::Over { .. } | News::Other => String::new(),
            };
            let expected = match expected.split_once(", module") {
                _ if expected.is_empty() => String::new(),
                Some((words, module)) => format!("{words} (sensor 0x30, module{module})"),
                None => format!("{expected} (sensor 0x30)"),
            };
            assert_eq!(told, expected, "{sensor_type:02x} {event_type:02x} {data:02x?}");
        }
    }

    #[test]
    fn what_ends_is_no_fault_and_ends_what_began_there() {
        let place = |event: &Event| match news(event) {
            News::Fault { place, .. } => (true, place),
            News::Over { place } => (false, place),
            News::Other => panic!("{event:?} says nothing"),
        };
        let lost = event(0x08, 0x0b, [0x01, 0xff, 0xff]);
        let (began, at) = place(&lost);
        assert!(began);
        let deasserted = Event {
            asserted: false,
            ..lost
        };
        let regained = event(0x08, 0x0b, [0x00, 0xff, 0xff]);
        for end in [deasserted, regained] {
            let (began, over) = place(&end);
            assert!(!began && over.covers(&at), "{end:?}");
        }
        let elsewhere = Event {
            sensor: 0x31,
            ..deasserted
        };
        let other_state = Event {
            data: [2, 0, 0],
            ..deasserted
        };
        for end in [elsewhere, other_state] {
            assert!(!place(&end).1.covers(&at), "{end:?}");
        }
    }

    #[test]
    fn every_fault_has_a_word_and_a_line() {
        let types = (0..=u8::MAX).flat_map(|sensor| (0..=0x7f).map(move |kind| (sensor, kind)));
        let all = types.flat_map(|(sensor, kind)| (0..16).map(move |offset| (sensor, kind, offset)));
        let mut faults = 0;
        for (sensor_type, event_type, offset) in all {
            let told = news(&event(sensor_type, event_type, [0xf0 | offset, offset, 9]));
            if let News::Fault { text, kind, .. } = told {
                faults += 1;
                assert!(text.len() < 120 && !text.contains('\n'), "{text}");
                assert!(
                    kind.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                    "{kind}"
                );
            }
        }
        assert!(faults > 100, "{faults}");
    }
}
