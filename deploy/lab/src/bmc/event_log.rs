//! The log a BMC keeps: System Event Log (IPMI 2.0 section 31), entries given by hand or by Add SEL Entry. Commands in,
//! answers out; it owns no socket.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::commands::{BAD_LENGTH, INVALID_FIELD, OK, Reply, UNKNOWN_COMMAND};

/// Entries a log holds; the oldest goes for a new one.
const ROOM: usize = 512;
/// The record asked for is not there.
const NOT_THERE: u8 = 0xcb;
/// The reservation is gone.
const RESERVATION: u8 = 0xc5;

/// One BMC's log.
#[derive(Debug, Default)]
pub struct EventLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<[u8; 16]>,
    last: u16,
    added_at: u32,
    cleared_at: u32,
    reservation: u16,
    lies: HashMap<u8, Reply>,
}

impl EventLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs an event as of now: sensor type, sensor number, event type with bit 7 for "over", event data 1 to 3.
    pub fn add(&self, event: [u8; 6]) {
        self.add_at(event, clock());
    }

    /// As [`EventLog::add`], with a time of its own, in seconds since 1970.
    pub fn add_at(&self, event: [u8; 6], time: u32) {
        let mut record = [0; 16];
        record[2] = 0x02;
        record[3..7].copy_from_slice(&time.to_le_bytes());
        record[7..10].copy_from_slice(&[0x20, 0x00, 0x04]);
        record[10..].copy_from_slice(&event);
        self.lock().keep(record, time);
    }

    /// Empties it; numbers begin anew.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// The next entry's number is the one after this.
    pub fn count_from(&self, number: u16) {
        self.lock().last = number;
    }

    /// From now on a command (0x40 info, 0x42 reserve, 0x43 entry, 0x48 time) is answered with this completion code and data,
    /// as BMCs do whose firmware is broken; `None` ends it.
    pub fn lie(&self, command: u8, answer: Option<(u8, Vec<u8>)>) {
        let lies = &mut self.lock().lies;
        match answer {
            Some(answer) => drop(lies.insert(command, answer)),
            None => drop(lies.remove(&command)),
        }
    }

    /// Answers a command of the network function "storage".
    pub(super) fn answer(&self, command: u8, data: &[u8]) -> Reply {
        let mut log = self.lock();
        if let Some(lie) = log.lies.get(&command) {
            return lie.clone();
        }
        match command {
            0x40 => (OK, log.info()),
            0x42 => {
                log.reservation = log.reservation.wrapping_add(1).max(1);
                (OK, log.reservation.to_le_bytes().to_vec())
            }
            0x43 => log.entry(data),
            0x44 => match data.try_into() {
                Ok(record) => (OK, log.add(record).to_le_bytes().to_vec()),
                Err(_) => (BAD_LENGTH, Vec::new()),
            },
            0x47 => match data {
                [_, _, b'C', b'L', b'R', 0xaa] => {
                    log.clear();
                    (OK, vec![0x01])
                }
                [_, _, b'C', b'L', b'R', 0x00] => (OK, vec![0x01]),
                [_, _, _, _, _, _] => (INVALID_FIELD, Vec::new()),
                _ => (BAD_LENGTH, Vec::new()),
            },
            0x48 => (OK, clock().to_le_bytes().to_vec()),
            _ => (UNKNOWN_COMMAND, Vec::new()),
        }
    }
}

impl Inner {
    fn clear(&mut self) {
        self.records.clear();
        self.last = 0;
        self.cleared_at = clock();
        self.reservation = 0;
    }

    /// Adds a record as Add SEL Entry does: number and time are the log's.
    fn add(&mut self, mut record: [u8; 16]) -> u16 {
        let now = clock();
        if record[2] < 0xe0 {
            record[3..7].copy_from_slice(&now.to_le_bytes());
        }
        self.keep(record, now)
    }

    fn keep(&mut self, mut record: [u8; 16], now: u32) -> u16 {
        self.last = match self.last.wrapping_add(1) {
            0 | 0xffff => 1,
            number => number,
        };
        record[..2].copy_from_slice(&self.last.to_le_bytes());
        if self.records.len() >= ROOM {
            self.records.remove(0);
        }
        self.records.push(record);
        self.added_at = now;
        self.reservation = 0;
        self.last
    }

    /// Get SEL Info: version 1.5, it can reserve, and does not drop what does not fit.
    fn info(&self) -> Vec<u8> {
        let count = |entries: usize| u16::try_from(entries).unwrap_or(u16::MAX).to_le_bytes();
        let mut data = vec![0x51];
        data.extend(count(self.records.len()));
        data.extend(count((ROOM - self.records.len()) * 16));
        data.extend(self.added_at.to_le_bytes());
        data.extend(self.cleared_at.to_le_bytes());
        data.push(0x02);
        data
    }

    fn entry(&self, data: &[u8]) -> Reply {
        let &[r0, r1, n0, n1, offset, bytes] = data else {
            return (BAD_LENGTH, Vec::new());
        };
        if offset > 0 && u16::from_le_bytes([r0, r1]) != self.reservation {
            return (RESERVATION, Vec::new());
        }
        let place = match u16::from_le_bytes([n0, n1]) {
            0x0000 => (!self.records.is_empty()).then_some(0),
            0xffff => self.records.len().checked_sub(1),
            _ => self.records.iter().position(|record| record[..2] == [n0, n1]),
        };
        let Some(place) = place else {
            return (NOT_THERE, Vec::new());
        };
        let (from, most) = (usize::from(offset), usize::from(bytes));
        let Some(rest) = self.records[place].get(from..) else {
            return (INVALID_FIELD, Vec::new());
        };
        let next = self
            .records
            .get(place + 1)
            .map_or([0xff, 0xff], |next| [next[0], next[1]]);
        (OK, [next.as_slice(), &rest[..most.min(rest.len())]].concat())
    }
}

/// This BMC's clock: seconds since 1970.
fn clock() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}
