//! The log that a BMC keeps by itself: plain types, whatever protocol it was read by. Nothing is judged here.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use slipway_protocol::report::FaultSeverity;

/// Most entries read at a time; what is left comes with the next reading.
pub const MAX_ENTRIES: u16 = 256;

/// How far a log was read: the last entry that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The entry's number.
    pub record: u16,
    /// The entry as it stands in the log, in hex; empty where the log had none. By it another entry of the same number is told
    /// apart: the log was cleared, or is full and began anew.
    pub raw: String,
    /// When the log was cleared last, by the BMC's word.
    pub cleared_at: u32,
}

/// What a reading may cost.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most entries, from 1.
    pub entries: u16,
    /// After so long no further entry is asked for.
    pub time: Duration,
}

impl Default for Bounds {
    /// 256 entries, 20 s.
    fn default() -> Self {
        Self {
            entries: MAX_ENTRIES,
            time: Duration::from_secs(20),
        }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// The BMC's clock, in seconds since 1970 by its own reckoning; none if it does not tell.
    pub clock: Option<u32>,
    /// The entries after the mark, oldest first; of a long log the newest ones.
    pub entries: Vec<Entry>,
    /// Read to its end; otherwise a bound was met, and the next reading goes on.
    pub complete: bool,
    /// How far the log is read now.
    pub mark: Mark,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub record: u16,
    /// When it was made, by the BMC's clock; none for an entry without a time.
    pub time: Option<u32>,
    /// The entry as it stands in the log, in hex.
    pub raw: String,
    /// What it says of the hardware.
    pub news: News,
}

/// What an entry says of the hardware.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A fault began.
    Fault {
        /// Where; what ends there is this fault.
        place: Place,
        /// What is faulty, a stable word.
        kind: &'static str,
        /// How bad it is.
        severity: FaultSeverity,
        /// One line for people.
        text: String,
    },
    /// What was told of a place before is over: one fault, or all.
    Over {
        /// Where.
        place: Place,
    },
    /// No fault, or nothing this product has words for.
    Other,
}

/// A sensor, and what of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    /// The sensor's type (IPMI table 42-3).
    pub sensor_type: u8,
    /// The sensor's number.
    pub sensor: u8,
    /// What the sensor tells (IPMI table 42-1).
    pub event_type: u8,
    /// Which of the sensor's states; none for all of them.
    pub offset: Option<u8>,
}

impl Place {
    /// Whether the end of this is the end of a fault at `fault`.
    #[must_use]
    pub fn covers(&self, fault: &Self) -> bool {
        let all = Self {
            offset: self.offset.and(fault.offset),
            ..*fault
        };
        *self == all
    }
}
