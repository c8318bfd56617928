//! A deterministic simulator of one site and its control plane. The code that decides and keeps is the product's own: the
//! edge's uplink, ledger, runner, store (SQLite) and agents' door, the agent's bookkeeping, the control plane's gateway,
//! workflows and workflow rules. Simulated are time, the link and its broker, the disk's moods, BMCs, machines, and, for
//! speed, the control plane's tables, which a smaller number of runs holds against the real ones.
//!
//! A seed makes a [`schedule::Schedule`]: wishes and faults. The same seed gives the same run, event by event.
//!
//! What is judged ([`judge`], [`rest`]):
//! - No order is lost: each job that was taken on ends, by its site's word, and both sides then hold the same orders,
//!   reports and configuration. A job that ends only because its deadline passed unheard is lost.
//! - No effect is repeated. The effects that cannot be taken back are: power taken from a machine that has it (off,
//!   cycle, reset, soft), and the begin of writing an image. Such an effect belongs to one attempt at one step of a job
//!   (and of how often the job was taken up). It is repeated when it is done after that attempt was once written down
//!   at the edge as done, or after its job was written down as ended well. An attempt that failed is followed by the next one;
//!   that is no repeat, and neither is a reset whose success the edge never learnt of.
//! - Nothing is done whose order and begun step are not on the edge's disk.
//! - Revisions never go back on either side, but by an old backup; after it they end above all that were ever given out.
//! - The edge keeps no command that the control plane did not seal for it.
//! - No job counts as done whose steps were not.
//!
//! Not covered, and known: an edge whose disk is put back to an old copy acts by what that says, before or while it hears
//! from the control plane, and does effects again that it had done since the copy was made, within the life of the order
//! (two hours). The control plane never tells an edge what the edge once reported. Such effects are counted, apart for
//! those whose report the control plane held; all other promises are judged as ever. For the same reason an edge that
//! reported by a clock that was ahead, and then lost those reports with its disk, is not believed before its clock has got
//! there; schedules do not put an old disk and a wrong clock at the edge together.

pub mod agenda;
pub mod base;
pub mod bmc;
pub mod clock;
pub mod defect;
pub mod dice;
pub mod disk;
pub mod edge;
mod faults;
pub mod figures;
pub mod gate;
mod hardware;
pub mod judge;
pub mod machine;
pub mod memory;
pub mod real;
mod rest;
pub mod schedule;
pub mod site;
pub mod wire;
pub mod world;

use std::sync::Arc;

use self::{
    defect::Defect,
    memory::Memory,
    schedule::Schedule,
    site::Site,
    world::{Ending, World},
};

/// Runs a schedule over tables in memory.
///
/// # Panics
/// When there is no room in memory for the edge's disk.
#[must_use]
pub fn run(schedule: Schedule, defect: Option<Defect>, traces: bool) -> Ending {
    let site = Arc::new(Site::new().expect("the seeds are 32 bytes long"));
    let base = Box::new(Memory::new(Arc::clone(&site), defect));
    World::new(schedule, (site, base), defect, traces)
        .expect("there is room in memory for the edge's disk")
        .run()
}

/// Runs a schedule over the control plane's own store.
///
/// # Errors
/// When that cannot be made.
pub fn run_on_the_real_store(schedule: Schedule) -> anyhow::Result<Ending> {
    let site = Arc::new(Site::new()?);
    clock::reset();
    let base = Box::new(real::Real::new(Arc::clone(&site), schedule.machines)?);
    Ok(World::new(schedule, (site, base), None, false)?.run())
}

/// The shortest list of faults, found by leaving out one after the other, with which the schedule still fails.
#[must_use]
pub fn shrink(schedule: &Schedule, defect: Option<Defect>) -> Schedule {
    let fails = |schedule: &Schedule| !run(schedule.clone(), defect, false).violations.is_empty();
    let mut smallest = schedule.clone();
    let mut at = 0;
    while at < smallest.faults.len() {
        let mut less = smallest.clone();
        less.faults.remove(at);
        if fails(&less) {
            smallest = less;
        } else {
            at += 1;
        }
    }
    let mut quiet = smallest.clone();
    quiet.noise = schedule::Noise::default();
    if fails(&quiet) { quiet } else { smallest }
}
