//! Telling others: webhooks and mail. What is to be told stands in the store; this sends it, at least once, and notes how
//! it went. It never decides what is told, and no transaction is open while it sends.

pub mod alerts;
pub mod egress;
pub mod mail;
pub mod post;
pub mod signature;
pub mod webhooks;

use chrono::{DateTime, TimeDelta, Utc};

/// How long something is tried before it is given up.
pub const GIVEN_UP_AFTER: TimeDelta = TimeDelta::hours(24);

/// First pause.
const FIRST: TimeDelta = TimeDelta::seconds(5);
/// Longest pause.
const LONGEST: TimeDelta = TimeDelta::hours(1);

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Again, then.
    At(DateTime<Utc>),
    /// Never.
    GiveUp,
}

/// When to try again after `attempts` failures: pauses double up to an hour; `random` takes up to half of one off, so
/// that those who failed together do not come back together. Pure.
#[must_use]
pub fn next(attempts: i32, created_at: DateTime<Utc>, now: DateTime<Utc>, random: u16) -> Next {
    if now - created_at >= GIVEN_UP_AFTER {
        return Next::GiveUp;
    }
    let doublings = u32::try_from(attempts.clamp(1, 11) - 1).unwrap_or(0);
    let pause = (FIRST * 2_i32.pow(doublings)).min(LONGEST);
    let off = pause / 2 * i32::from(random) / i32::from(u16::MAX);
    Next::At(now + pause - off)
}

/// Sixteen random bits; none if the system has none, which costs no more than the jitter.
fn jitter() -> u16 {
    crate::vault::random().map(u16::from_le_bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_end_after_a_day() {
        let now = Utc::now();
        let pause = |attempts, random| match next(attempts, now, now, random) {
            Next::At(at) => (at - now).num_milliseconds(),
            Next::GiveUp => 0,
        };
        assert_eq!((pause(1, 0), pause(1, u16::MAX)), (5_000, 2_500));
        assert_eq!((pause(2, 0), pause(5, 0)), (10_000, 80_000));
        assert_eq!((pause(11, 0), pause(i32::MAX, 0)), (3_600_000, 3_600_000));
        assert_eq!(next(1, now - TimeDelta::hours(24), now, 0), Next::GiveUp);
    }
}
