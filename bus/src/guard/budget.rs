//! How much a client may send: buckets of messages and of bytes that refill. Who empties one is read more slowly, and loses
//! nothing. Pure; the time is an argument.

use std::time::{Duration, Instant};

/// What a client may send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Budget {
    /// Messages a second, for long.
    pub messages_per_second: f64,
    /// Messages at once.
    pub messages: f64,
    /// Bytes a second, for long.
    pub bytes_per_second: f64,
    /// Bytes at once.
    pub bytes: f64,
}

impl Budget {
    /// Of a site: after a cut it sends the reports of all its machines at once.
    pub const SITE: Self = Self {
        messages_per_second: 2_000.0,
        messages: 50_000.0,
        bytes_per_second: 16.0 * 1024.0 * 1024.0,
        bytes: 256.0 * 1024.0 * 1024.0,
    };
    /// Of an agent: a report each few seconds, and the lines of its log.
    pub const AGENT: Self = Self {
        messages_per_second: 20.0,
        messages: 400.0,
        bytes_per_second: 512.0 * 1024.0,
        bytes: 8.0 * 1024.0 * 1024.0,
    };
    /// Of the program that runs the broker.
    pub const OWN: Self = Self {
        messages_per_second: f64::INFINITY,
        messages: f64::INFINITY,
        bytes_per_second: f64::INFINITY,
        bytes: f64::INFINITY,
    };
}

/// What a client has left of its budget.
#[derive(Debug, Clone)]
pub(super) struct Spent {
    budget: Budget,
    messages: f64,
    bytes: f64,
    at: Instant,
    pauses: u64,
}

impl Spent {
    pub(super) fn new(budget: Budget, now: Instant) -> Self {
        Self {
            budget,
            messages: budget.messages,
            bytes: budget.bytes,
            at: now,
            pauses: 0,
        }
    }

    /// Takes a packet of so many bytes; how long is to be waited before the next one is read.
    pub(super) fn pause(&mut self, bytes: usize, now: Instant) -> Duration {
        if self.budget.messages.is_infinite() {
            return Duration::ZERO;
        }
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let Budget {
            messages_per_second,
            messages,
            bytes_per_second,
            bytes: most_bytes,
        } = self.budget;
        self.messages = (self.messages + seconds * messages_per_second).min(messages) - 1.0;
        #[expect(clippy::cast_precision_loss, reason = "a packet is far below 2^52 bytes")]
        let taken = bytes as f64;
        self.bytes = (self.bytes + seconds * bytes_per_second).min(most_bytes) - taken;
        let wait = (-self.messages / messages_per_second).max(-self.bytes / bytes_per_second);
        let pause = Duration::try_from_secs_f64(wait.max(0.0)).unwrap_or_default();
        if !pause.is_zero() {
            self.pauses += 1;
        }
        pause
    }

    /// Whether the last pause was the first one: it is told once.
    pub(super) fn is_first_pause(&self) -> bool {
        self.pauses == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_sends_too_much_is_slowed_to_its_rate() {
        let budget = Budget {
            messages_per_second: 10.0,
            messages: 5.0,
            bytes_per_second: 1000.0,
            bytes: 2000.0,
        };
        let start = Instant::now();
        let mut spent = Spent::new(budget, start);
        let mut now = start;
        for n in 0..105 {
            let pause = spent.pause(10, now);
            assert_eq!(pause.is_zero(), n < 5, "{n}");
            now += pause;
        }
        let took = (now - start).as_secs_f64();
        assert!(
            (9.9..10.1).contains(&took),
            "a hundred above five take ten seconds: {took}"
        );
        let mut spent = Spent::new(budget, start);
        assert!(spent.pause(2000, start).is_zero());
        assert_eq!(
            spent.pause(500, start),
            Duration::from_millis(500),
            "bytes count, too"
        );
        assert!(spent.is_first_pause());
        assert!(spent.pause(1, start + Duration::from_secs(60)).is_zero());
        let mut own = Spent::new(Budget::OWN, start);
        assert!((0..100_000).all(|_| own.pause(1 << 22, start).is_zero()));
    }
}
