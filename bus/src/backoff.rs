//! Exponential back-off with full jitter: after a broker restart a thousand edges do not come back in the same second.
//! Pure: the random number is an argument.

use std::time::Duration;

/// Delays between attempts; grows without end in count, not in length.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `base`, doubles up to `limit`.
    #[must_use]
    pub fn new(base: Duration, limit: Duration) -> Self {
        Self {
            base,
            limit,
            failures: 0,
        }
    }

    /// The next delay; `jitter` is drawn evenly from 0 to 1. At least a tenth of the full delay is kept, so that a
    /// refused client never spins.
    pub fn next_delay(&mut self, jitter: f64) -> Duration {
        let full = self
            .base
            .saturating_mul(2_u32.saturating_pow(self.failures))
            .min(self.limit);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(jitter.clamp(0.1, 1.0))
    }

    /// Call when a connection has held.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_limit_with_jitter_and_starts_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let full: Vec<u128> = (0..6).map(|_| backoff.next_delay(1.0).as_millis()).collect();
        assert_eq!(full, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next_delay(0.0), Duration::from_millis(100), "never spins");
        backoff.reset();
        assert_eq!(backoff.next_delay(0.5), Duration::from_millis(50));
        for _ in 0..100 {
            assert!(backoff.next_delay(1.0) <= Duration::from_secs(1));
        }
    }
}
