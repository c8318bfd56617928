//! Token buckets by key, for log-ins and for callers nobody knows. In this process only: with N replicas N times as much
//! gets through, which is still little. The time is an argument.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Keys kept at most; past that, those that have waited longest are forgotten.
const MAX_KEYS: usize = 10_000;

/// Buckets of one size.
#[derive(Debug)]
pub struct Throttle {
    size: f64,
    per_second: f64,
    buckets: Mutex<HashMap<String, (f64, Instant)>>,
}

impl Throttle {
    /// Buckets that hold `size` and refill at `per_second`.
    #[must_use]
    pub fn new(size: u32, per_second: f64) -> Self {
        Self {
            size: size.into(),
            per_second,
            buckets: Mutex::default(),
        }
    }

    /// Takes one from the bucket of `key`; `false` if it is empty.
    pub fn take(&self, key: &str, now: Instant) -> bool {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(key) {
            let (size, rate) = (self.size, self.per_second);
            buckets.retain(|_, (left, at)| *left + (now - *at).as_secs_f64() * rate < size);
            if buckets.len() >= MAX_KEYS {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(key.to_owned()).or_insert((self.size, now));
        let refilled = bucket.0 + now.saturating_duration_since(bucket.1).as_secs_f64() * self.per_second;
        *bucket = (refilled.min(self.size), now);
        let has = bucket.0 >= 1.0;
        if has {
            bucket.0 -= 1.0;
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_bucket_empties_refills_and_is_of_one_key() {
        let throttle = Throttle::new(3, 0.5);
        let start = Instant::now();
        let taken: Vec<bool> = (0..4).map(|_| throttle.take("ann", start)).collect();
        assert_eq!(taken, [true, true, true, false]);
        assert!(throttle.take("bob", start));
        assert!(!throttle.take("ann", start + Duration::from_secs(1)));
        assert!(throttle.take("ann", start + Duration::from_secs(3)));
        let later = start + Duration::from_secs(3600);
        let taken = (0..9).filter(|_| throttle.take("ann", later)).count();
        assert_eq!(taken, 3, "never more than its size");
    }

    #[test]
    fn keys_do_not_pile_up() {
        let throttle = Throttle::new(3, 1.0);
        let start = Instant::now();
        for n in 0..3 * MAX_KEYS {
            throttle.take(&n.to_string(), start);
        }
        assert!(throttle.buckets.lock().unwrap().len() <= MAX_KEYS);
    }
}
