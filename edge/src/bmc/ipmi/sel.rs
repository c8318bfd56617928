//! The System Event Log (IPMI 2.0 sections 31 and 32): commands out, answers and records in. Pure; every length is
//! looked at, since BMCs lie. What a record means for the hardware is decided in [`super::sel_faults`].

use super::chassis::Command;

/// Network function "storage".
pub const NETFN_STORAGE: u8 = 0x0a;
/// Get SEL Info.
pub const GET_INFO: Command = command(0x40, "get event log info");
/// Reserve SEL: for reading a record in parts.
pub const RESERVE: Command = command(0x42, "reserve event log");
/// Get SEL Entry.
pub const GET_ENTRY: Command = command(0x43, "get event log entry");
/// Get SEL Time.
pub const GET_TIME: Command = command(0x48, "get event log time");

/// Asks for the oldest record.
pub const FIRST: u16 = 0x0000;
/// Asks for the newest record; as the next one's number: there is none.
pub const LAST: u16 = 0xffff;
/// Times below this count from the BMC's own start (section 37).
pub const PRE_INIT: u32 = 0x2000_0000;
/// The BMC does not know the time.
pub const NO_TIME: u32 = 0xffff_ffff;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 16;

const fn command(number: u8, name: &'static str) -> Command {
    Command {
        netfn: NETFN_STORAGE,
        number,
        name,
    }
}

/// What Get SEL Info says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Records in the log.
    pub entries: u16,
    /// When it was cleared last, by the BMC's clock.
    pub cleared_at: u32,
}

/// Reads Get SEL Info (section 31.2).
#[must_use]
pub fn info(data: &[u8]) -> Option<Info> {
    let [
        _version,
        e0,
        e1,
        _free0,
        _free1,
        _,
        _,
        _,
        _,
        c0,
        c1,
        c2,
        c3,
        _support,
        ..,
    ] = *data
    else {
        return None;
    };
    Some(Info {
        entries: u16::from_le_bytes([e0, e1]),
        cleared_at: u32::from_le_bytes([c0, c1, c2, c3]),
    })
}

/// Reads Get SEL Time (section 31.10).
#[must_use]
pub fn time(data: &[u8]) -> Option<u32> {
    data.first_chunk().map(|time| u32::from_le_bytes(*time))
}

/// Reads Reserve SEL (section 31.4): the reservation's number.
#[must_use]
pub fn reservation(data: &[u8]) -> Option<u16> {
    data.first_chunk().map(|id| u16::from_le_bytes(*id))
}

/// Asks for `bytes` of a record from `offset` on; 0xff is all of it. Without a part a reservation of 0 will do.
#[must_use]
pub fn entry_request(reservation: u16, record: u16, offset: u8, bytes: u8) -> [u8; 6] {
    let ([r0, r1], [n0, n1]) = (reservation.to_le_bytes(), record.to_le_bytes());
    [r0, r1, n0, n1, offset, bytes]
}

/// Reads Get SEL Entry (section 31.5): the number of the next record, and `bytes` of this one.
#[must_use]
pub fn part(data: &[u8], bytes: usize) -> Option<(u16, &[u8])> {
    let (next, rest) = data.split_first_chunk()?;
    (rest.len() == bytes).then_some((u16::from_le_bytes(*next), rest))
}

/// A record of the log (table 32-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub id: u16,
    /// All of it.
    pub raw: [u8; RECORD_BYTES],
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// A system event (type 0x02).
    Event(Event),
    /// A maker's own record; with a time for the types 0xC0 to 0xDF, without one from 0xE0 on.
    Oem,
    /// A type the specification does not have.
    Unknown,
}

/// A system event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// What the sensor looks at (table 42-3).
    pub sensor_type: u8,
    /// Which sensor.
    pub sensor: u8,
    /// What it tells: thresholds, a generic list of states, or one of its own type (table 42-1).
    pub event_type: u8,
    /// The state begins to hold; otherwise it holds no more.
    pub asserted: bool,
    /// Event data 1 to 3.
    pub data: [u8; 3],
}

impl Event {
    /// Which state of the sensor.
    #[must_use]
    pub fn offset(&self) -> u8 {
        self.data[0] & 0x0f
    }

    /// Event data 2, where it is said to hold what the sensor's type has it hold.
    #[must_use]
    pub fn detail(&self) -> Option<u8> {
        (self.data[0] >> 6 == 0b11).then_some(self.data[1])
    }

    /// Event data 3, likewise.
    #[must_use]
    pub fn part(&self) -> Option<u8> {
        ((self.data[0] >> 4) & 0b11 == 0b11).then_some(self.data[2])
    }
}

impl Record {
    /// A record from its bytes.
    #[must_use]
    pub fn new(raw: [u8; RECORD_BYTES]) -> Self {
        Self {
            id: u16::from_le_bytes([raw[0], raw[1]]),
            raw,
        }
    }

    /// When it was made, by the BMC's clock.
    #[must_use]
    pub fn time(&self) -> Option<u32> {
        let [_, _, kind, t0, t1, t2, t3, ..] = self.raw;
        (kind < 0xe0).then(|| u32::from_le_bytes([t0, t1, t2, t3]))
    }

    /// What it is.
    #[must_use]
    pub fn body(&self) -> Body {
        let [.., sensor_type, sensor, kind, data1, data2, data3] = self.raw;
        match self.raw[2] {
            0x02 => Body::Event(Event {
                sensor_type,
                sensor,
                event_type: kind & 0x7f,
                asserted: kind & 0x80 == 0,
                data: [data1, data2, data3],
            }),
            0xc0..=0xff => Body::Oem,
            _ => Body::Unknown,
        }
    }

    /// All of it in hex.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.raw)
    }
}

/// Where reading may begin, best first: `last` is the number of the newest record, `mark` that of the last one seen. In
/// most logs numbers follow one another; where they do not, a later choice serves.
#[must_use]
pub fn starts(last: u16, mark: Option<u16>, entries: u16, most: u16) -> Vec<u16> {
    let mut starts = Vec::new();
    starts.extend(mark.filter(|mark| last.wrapping_sub(*mark) < most));
    if entries <= most {
        starts.push(FIRST);
        return starts;
    }
    let mut back = most.saturating_sub(1);
    while back > 0 {
        let start = last.wrapping_sub(back);
        if start != FIRST && start != LAST {
            starts.push(start);
        }
        back /= 2;
    }
    starts.push(LAST);
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    const POWER_SUPPLY_LOST: [u8; 16] = [
        0x12, 0x00, 0x02, 0xc0, 0x86, 0xfd, 0x6a, 0x20, 0x00, 0x04, 0x08, 0x52, 0x6f, 0x03, 0xff, 0xff,
    ];

    #[test]
    fn a_record_is_taken_apart() {
        let record = Record::new(POWER_SUPPLY_LOST);
        assert_eq!((record.id, record.time()), (0x12, Some(1_795_000_000)));
        let event = Event {
            sensor_type: 0x08,
            sensor: 0x52,
            event_type: 0x6f,
            asserted: true,
            data: [3, 0xff, 0xff],
        };
        assert_eq!(record.body(), Body::Event(event));
        assert_eq!((event.offset(), event.detail(), event.part()), (3, None, None));
        let mut over = POWER_SUPPLY_LOST;
        over[12] |= 0x80;
        let over = Record::new(over).body();
        assert_eq!(
            over,
            Body::Event(Event {
                asserted: false,
                ..event
            })
        );
        let named = Event {
            data: [0xf1, 7, 9],
            ..event
        };
        assert_eq!(
            (named.offset(), named.detail(), named.part()),
            (1, Some(7), Some(9))
        );
    }

    #[test]
    fn a_makers_record_stays_as_it_is() {
        for (kind, body, timed) in [
            (0xc0, Body::Oem, true),
            (0xdf, Body::Oem, true),
            (0xe0, Body::Oem, false),
            (0x77, Body::Unknown, true),
        ] {
            let mut raw = POWER_SUPPLY_LOST;
            raw[2] = kind;
            let record = Record::new(raw);
            assert_eq!(
                (record.body(), record.time().is_some()),
                (body, timed),
                "{kind:02x}"
            );
            assert_eq!(record.hex().len(), 32);
        }
    }

    #[test]
    fn other_lengths_are_refused() {
        for length in 0..14 {
            assert_eq!(info(&[0; 13][..length.min(13)]), None);
        }
        let full = [0x51, 3, 0, 0, 1, 1, 1, 1, 1, 0x78, 0x56, 0x34, 0x12, 2];
        let read = Info {
            entries: 3,
            cleared_at: 0x1234_5678,
        };
        assert_eq!(info(&full), Some(read));
        assert_eq!((time(&[1, 2, 3]), time(&[1, 0, 0, 0])), (None, Some(1)));
        assert_eq!((reservation(&[1]), reservation(&[1, 1])), (None, Some(0x101)));
        for length in (0..40).filter(|length| *length != 18) {
            assert_eq!(part(&[0; 40][..length], RECORD_BYTES), None, "{length}");
        }
        assert_eq!(
            part(&[0xff; 18], RECORD_BYTES),
            Some((LAST, [0xff; 16].as_slice()))
        );
    }

    #[test]
    fn reading_begins_at_the_mark_or_near_the_end() {
        assert_eq!(starts(10, Some(8), 10, 256), [8, FIRST]);
        assert_eq!(starts(10, None, 10, 256), [FIRST]);
        assert_eq!(
            starts(2, Some(0xfffd), 300, 256)[0],
            0xfffd,
            "the numbers began anew"
        );
        assert_eq!(starts(3, Some(900), 3, 256), [FIRST], "the log was cleared");
        assert_eq!(
            starts(1000, Some(1), 1000, 4),
            [997, 999, LAST],
            "the mark is far behind"
        );
        assert_eq!(starts(2, None, 1000, 4), [1, LAST], "0 and 0xffff are no numbers");
    }
}
