//! Token buckets by key, for log-ins and for callers nobody knows. In this process only: with N replicas N times as much
//! gets through, which is still little. The time is an argument.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// Keys kept at most; past that, those with full buckets are forgotten, and if none is full new keys share one bucket.
const MAX_KEYS: usize = 10_000;
/// The bucket of those for whom there is no room.
const OTHERS: &str = "others";

/// What throttles count by: an IPv4 address, or an IPv6 network of 64 bits, in which anybody has as many addresses as they like.
#[must_use]
pub fn network_of(address: &str) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => {
            let [a, b, c, d, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
        _ => address.to_owned(),
    }
}

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
        }
        let is_known = buckets.len() < MAX_KEYS || buckets.contains_key(key);
        let key = if is_known { key } else { OTHERS };
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
        assert!(throttle.buckets.lock().unwrap().len() <= MAX_KEYS + 1);
    }

    #[test]
    fn a_flood_of_keys_gives_nobody_a_full_bucket_again() {
        let throttle = Throttle::new(2, 0.001);
        let start = Instant::now();
        assert!(throttle.take("guesser", start) && throttle.take("guesser", start));
        for n in 0..2 * MAX_KEYS {
            throttle.take(&n.to_string(), start);
        }
        assert!(!throttle.take("guesser", start), "it is still known");
        assert!(!throttle.take("a new one", start), "there is no room for more");
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        for (address, expected) in [
            ("192.0.2.7", "192.0.2.7"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
            ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
            ("unknown", "unknown"),
        ] {
            assert_eq!(network_of(address), expected);
        }
    }
}
