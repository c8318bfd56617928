//! How long simulated hardware takes: seeded, so that a run can be had again.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// One machine's times; clones share the same stream of numbers.
#[derive(Debug, Clone)]
pub(super) struct Pace(Arc<Mutex<StdRng>>);

impl Pace {
    /// The times of machine `number` in a fleet of `seed`.
    #[must_use]
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number);
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(mixed))))
    }

    fn between(&self, low_ms: u64, high_ms: u64) -> Duration {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_millis(random.random_range(low_ms..=high_ms))
    }

    /// From power to the first byte asked of the network.
    #[must_use]
    pub(super) fn firmware(&self) -> Duration {
        self.between(200, 2000)
    }

    /// From the loaded kernel to the agent's start.
    #[must_use]
    pub(super) fn liveos(&self) -> Duration {
        self.between(200, 2000)
    }

    /// What a disk takes to answer a step.
    #[must_use]
    pub(super) fn disk(&self) -> Duration {
        self.between(20, 400)
    }

    /// From the disk's boot to the guest's first word.
    #[must_use]
    pub(super) fn guest(&self) -> Duration {
        self.between(300, 3000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_times_and_machines_differ() {
        let times = |seed, number| {
            let pace = Pace::new(seed, number);
            (0..8).map(|_| pace.firmware()).collect::<Vec<_>>()
        };
        assert_eq!(times(1, 5), times(1, 5));
        assert_ne!(times(1, 5), times(1, 6));
        assert_ne!(times(1, 5), times(2, 5));
    }
}
