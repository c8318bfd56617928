//! Fault schedules by the thousand, in virtual time; and that the simulator can fail.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use slipway_tests::sim::{self, defect::Defect, schedule::Schedule};

/// Schedules a run of CI goes through.
const CI: u64 = 300;
/// Within how many a planted defect must be found.
const FOUND_WITHIN: u64 = 400;

/// The first failing seed of a range, and what it broke.
fn first_failing(seeds: std::ops::Range<u64>, defect: Option<Defect>) -> Option<(u64, Vec<String>)> {
    let next = AtomicU64::new(seeds.start);
    let found = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().unwrap().is_some() {
                        return;
                    }
                    let ending = sim::run(Schedule::of(seed), defect, false);
                    if !ending.violations.is_empty() {
                        *found.lock().unwrap() = Some((seed, ending.violations));
                    }
                }
            });
        }
    });
    found.into_inner().unwrap()
}

#[test]
fn no_order_is_lost_no_effect_repeated_and_no_revision_goes_back() {
    if let Some((seed, broken)) = first_failing(0..CI, None) {
        let smallest = sim::shrink(&Schedule::of(seed), None);
        let ending = sim::run(smallest.clone(), None, true);
        panic!(
            "seed {seed} broke: {broken:?}\n{smallest:#?}\n{}\nreplay with: slipway-sim --replay {seed}",
            ending.trace.join("\n")
        );
    }
}

/// Seeds that failed once, each for a defect of the product that was mended since.
#[test]
fn what_failed_once_does_not_fail_again() {
    for seed in [
        34, 1024, 1046, 1132, 1495, 1997, 2044, 2346, 2955, 4389, 5252, 624, 5864, 6041, 9802, 11_798,
        1_000_356, 1_012_524, 1_059_330, 1_160_969, 1_171_859, 1_185_722, 1_204_777, 1_351_019, 1_372_812,
        1_435_792, 1_499_344, 1_825_566,
    ] {
        let ending = sim::run(Schedule::of(seed), None, false);
        assert_eq!(ending.violations, Vec::<String>::new(), "seed {seed}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in [3, 17, 2955, 60_001] {
        let [one, other] = [(); 2].map(|()| sim::run(Schedule::of(seed), None, true));
        assert_eq!(one.trace, other.trace, "seed {seed}");
        assert_eq!(one.view, other.view, "seed {seed}");
    }
}

#[test]
fn each_planted_defect_is_found() {
    for defect in [
        Defect::EdgeActsBeforeItKeeps,
        Defect::CentreTakesOlderReports,
        Defect::RestoreKeepsRevisions,
        Defect::EdgeTrustsAnyone,
        Defect::CentreNeverCompares,
        Defect::CentreTellsNoReports,
    ] {
        let found = first_failing(0..FOUND_WITHIN, Some(defect));
        assert!(
            found.is_some(),
            "{defect:?} was not found in {FOUND_WITHIN} schedules"
        );
    }
}

/// The tables in memory do as the product's own store does.
#[test]
fn the_real_store_ends_in_the_same_view() {
    for seed in 0..60 {
        let memory = sim::run(Schedule::of(seed), None, false);
        let real = sim::run_on_the_real_store(Schedule::of(seed)).unwrap();
        assert_eq!(memory.violations, real.violations, "seed {seed}");
        assert_eq!(memory.view, real.view, "seed {seed}");
    }
}
