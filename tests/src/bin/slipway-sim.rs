//! `slipway-sim`: runs simulated fault schedules, and replays those that fail.

use std::{
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use clap::Parser;
use slipway_tests::sim::{self, figures::Figures, schedule::Schedule};

/// Simulates a site and its control plane through crashes, cuts, full disks, wrong clocks and old backups.
#[derive(Parser)]
#[command(name = "slipway-sim", version, about)]
struct Cli {
    /// How many schedules
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Runs one seed and prints all that happens
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
    /// Stops after so many failing seeds
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(seed) = cli.replay {
        return replay(&Schedule::of(seed));
    }
    let begun = Instant::now();
    let next = AtomicU64::new(cli.from);
    let (total, failed) = (Mutex::new(Figures::default()), Mutex::new(Vec::new()));
    let end = cli.from + cli.seeds;
    std::thread::scope(|scope| {
        for _ in 0..cli.threads {
            scope.spawn(|| work((&next, end), &total, (&failed, cli.failures)));
        }
    });
    let (total, failed) = (
        *total.lock().unwrap_or_else(PoisonError::into_inner),
        failed.into_inner().unwrap_or_else(PoisonError::into_inner),
    );
    for (seed, violations) in &failed {
        println!("seed {seed}: {}", violations.join("; "));
    }
    println!("{total}");
    println!(
        "{:.1} s, {} failing seeds",
        begun.elapsed().as_secs_f64(),
        failed.len()
    );
    let Some((seed, _)) = failed.first() else {
        return ExitCode::SUCCESS;
    };
    let _failed = replay(&sim::shrink(&Schedule::of(*seed), None));
    println!("replay with: slipway-sim --replay {seed}");
    ExitCode::FAILURE
}

type Failed = Mutex<Vec<(u64, Vec<String>)>>;

fn work((next, end): (&AtomicU64, u64), total: &Mutex<Figures>, (failed, most): (&Failed, usize)) {
    let mut figures = Figures::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || failed.lock().unwrap_or_else(PoisonError::into_inner).len() >= most {
            break;
        }
        let ending = sim::run(Schedule::of(seed), None, false);
        figures.add(&ending.figures);
        if !ending.violations.is_empty() {
            failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((seed, ending.violations));
        }
    }
    total.lock().unwrap_or_else(PoisonError::into_inner).add(&figures);
}

fn replay(schedule: &Schedule) -> ExitCode {
    println!("{schedule:#?}");
    let ending = sim::run(schedule.clone(), None, true);
    for line in &ending.trace {
        println!("{line}");
    }
    println!("{}", ending.figures);
    if ending.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
