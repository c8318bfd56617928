//! How long the API takes to answer while the fleet works: a client that asks for lists and jobs all the time.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::api::Api;

/// Between two requests.
const EVERY: Duration = Duration::from_millis(50);

/// The times of one kind of request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// What was asked for.
    pub name: &'static str,
    /// Answers.
    pub answers: usize,
    /// Requests without a good answer, as while the control plane is dead.
    pub errors: usize,
    /// Half of the answers came faster.
    pub p50: Duration,
    /// All but one in a hundred came faster.
    pub p99: Duration,
}

/// Times taken so far, by kind of request.
pub struct Probe {
    kinds: [(&'static str, Mutex<Taken>); 3],
}

#[derive(Default)]
struct Taken {
    times: Vec<Duration>,
    errors: usize,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            kinds: ["list machines", "list jobs", "get job"].map(|name| (name, Mutex::default())),
        }
    }
}

impl Probe {
    /// Asks until it is dropped; `job` is the one that is asked for.
    pub async fn run(&self, api: &Api, job: &str) {
        let job = format!("/api/v1/jobs/{job}");
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            for ((_, taken), path) in self.kinds.iter().zip(["/api/v1/machines", "/api/v1/jobs", &job]) {
                tick.tick().await;
                let begun = Instant::now();
                let good = api.get(path).await.is_ok();
                let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
                if good {
                    taken.times.push(begun.elapsed());
                } else {
                    taken.errors += 1;
                }
            }
        }
    }

    /// What was measured.
    #[must_use]
    pub fn times(&self) -> Vec<Times> {
        let times = |(name, taken): &(&'static str, Mutex<Taken>)| {
            let taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            let mut sorted = taken.times.clone();
            sorted.sort();
            Times {
                name,
                answers: sorted.len(),
                errors: taken.errors,
                p50: percentile(&sorted, 50),
                p99: percentile(&sorted, 99),
            }
        };
        self.kinds.iter().map(times).collect()
    }
}

/// The smallest of sorted times that `percent` of them do not exceed (nearest rank).
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
