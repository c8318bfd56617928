//! What a BMC is told to do wrong, so that drivers can be tested against it (counts down; 0 = behave), and what it says to
//! be wrong with its machine.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use super::{event_log::EventLog, oddities::Oddities};

/// What a BMC does with a new password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Passwords {
    /// It stores it.
    #[default]
    Store,
    /// It answers this completion code and stores nothing.
    Refuse(u8),
    /// It says yes and stores nothing.
    Ignore,
    /// It says yes and stores so many bytes of it.
    CutTo(usize),
    /// It stores it and ends the session without an answer, once; from then on it stores and answers.
    HangUp,
}

/// Faults of one BMC; shared between its server and whoever makes trouble.
#[derive(Debug, Default)]
pub struct Faults {
    drop: AtomicU32,
    busy: AtomicU32,
    passwords: Mutex<Passwords>,
    failed_logins: AtomicU32,
    oddities: Mutex<Oddities>,
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

    /// From now on this is what becomes of new passwords.
    pub fn passwords(&self, rule: Passwords) {
        *self.passwords.lock().unwrap_or_else(PoisonError::into_inner) = rule;
    }

    /// How often a wrong password was tried: what BMCs lock users out for.
    pub fn failed_logins(&self) -> u32 {
        self.failed_logins.load(Ordering::Relaxed)
    }

    pub(super) fn login_failed(&self) {
        self.failed_logins.fetch_add(1, Ordering::Relaxed);
    }

    /// The rule for one new password.
    pub(super) fn take_passwords(&self) -> Passwords {
        let mut rule = self.passwords.lock().unwrap_or_else(PoisonError::into_inner);
        let now = *rule;
        if now == Passwords::HangUp {
            *rule = Passwords::Store;
        }
        now
    }

    /// From now on this BMC has these ways.
    pub fn oddities(&self, oddities: Oddities) {
        *self.oddities.lock().unwrap_or_else(PoisonError::into_inner) = oddities;
    }

    /// Looks at the ways of this BMC, or counts one of them down.
    pub(super) fn with_oddities<T>(&self, look: impl FnOnce(&mut Oddities) -> T) -> T {
        look(&mut self.oddities.lock().unwrap_or_else(PoisonError::into_inner))
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
