//! Virtual time, one a thread: a schedule runs on one thread from its begin to its end. Both sides' wall clocks are this
//! time plus what they are off by. While an edge's runtime runs, its paused tokio clock is what moves the time on.

use std::cell::Cell;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

/// What the wall clocks show when a schedule begins: seconds since 1970.
const BEGUN_S: i64 = 1_800_000_000;

thread_local! {
    static STANDS_MS: Cell<u64> = const { Cell::new(0) };
    static ASKED_MS: Cell<u64> = const { Cell::new(0) };
    static RUNS_SINCE: Cell<Option<Instant>> = const { Cell::new(None) };
    static EDGE_OFF_MS: Cell<i64> = const { Cell::new(0) };
    static CENTRE_OFF_MS: Cell<i64> = const { Cell::new(0) };
}

/// Sets the time to the begin of a schedule.
pub fn reset() {
    RUNS_SINCE.set(None);
    STANDS_MS.set(0);
    ASKED_MS.set(0);
    EDGE_OFF_MS.set(0);
    CENTRE_OFF_MS.set(0);
}

/// Milliseconds since the schedule's begin.
#[must_use]
pub fn now_ms() -> u64 {
    let run = RUNS_SINCE.get().map_or(0, |since| since.elapsed().as_millis());
    let now = STANDS_MS.get() + u64::try_from(run).unwrap_or(u64::MAX);
    ASKED_MS.set(now);
    now
}

/// Sets the time on; only while no runtime moves it.
pub fn set_ms(ms: u64) {
    STANDS_MS.set(ms.max(STANDS_MS.get()));
}

/// The calling runtime's clock moves the time from here on.
pub fn run() {
    RUNS_SINCE.set(Some(Instant::now()));
}

/// The same for a runtime that stood at `begun_ms` when its clock showed `origin`.
pub fn run_from(origin: Instant, begun_ms: u64) {
    STANDS_MS.set(begun_ms);
    RUNS_SINCE.set(Some(origin));
}

/// The time stands where the calling runtime's clock moved it.
pub fn stand() {
    STANDS_MS.set(now_ms());
    RUNS_SINCE.set(None);
}

/// A runtime was broken off, and its clock cannot be asked any more: the time stands where it was asked last.
pub fn break_off() {
    RUNS_SINCE.set(None);
    STANDS_MS.set(ASKED_MS.get().max(STANDS_MS.get()));
}

fn wall(off_ms: i64) -> DateTime<Utc> {
    let begun = DateTime::from_timestamp(BEGUN_S, 0).unwrap_or_default();
    begun + TimeDelta::milliseconds(now_ms().cast_signed() + off_ms)
}

/// The edge's wall clock.
#[must_use]
pub fn edge() -> DateTime<Utc> {
    wall(EDGE_OFF_MS.get())
}

/// The control plane's wall clock.
#[must_use]
pub fn centre() -> DateTime<Utc> {
    wall(CENTRE_OFF_MS.get())
}

/// Sets by how much the edge's wall clock is off.
pub fn set_edge_off(ms: i64) {
    EDGE_OFF_MS.set(ms);
}

/// Sets by how much the control plane's wall clock is off.
pub fn set_centre_off(ms: i64) {
    CENTRE_OFF_MS.set(ms);
}
