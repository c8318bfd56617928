//! What a BMC is told to do wrong, so that drivers can be tested against it (counts down; 0 = behave), and what it says to
//! be wrong with its machine.

use std::sync::atomic::{AtomicU32, Ordering};

use super::event_log::EventLog;

/// Faults of one BMC; shared between its server and whoever makes trouble.
#[derive(Debug, Default)]
pub struct Faults {
    drop: AtomicU32,
    busy: AtomicU32,
    log: EventLog,
}

impl Faults {
    /// The next `count` packets are lost.
    pub fn drop_packets(&self, count: u32) {
        self.drop.store(count, Ordering::Relaxed);
    }

    /// The next `count` commands inside a session are answered 0xC0 (node busy).
    pub fn busy(&self, count: u32) {
        self.busy.store(count, Ordering::Relaxed);
    }

    /// The BMC's event log.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// Packets still to be lost, commands still to be refused.
    pub fn pending(&self) -> (u32, u32) {
        (
            self.drop.load(Ordering::Relaxed),
            self.busy.load(Ordering::Relaxed),
        )
    }

    pub(super) fn take_drop(&self) -> bool {
        take(&self.drop)
    }

    pub(super) fn take_busy(&self) -> bool {
        take(&self.busy)
    }
}

fn take(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1))
        .is_ok()
}
