//! `slipway-fleet`: a simulated fleet of sites and machines, and how a real control plane and real edges do with it.

use std::{process::ExitCode, time::Duration};

use anyhow::ensure;
use clap::Parser;
use slipway_tests::fleet::{
    self, Database, Fleet, Plan, Spec, Summary,
    attack::{self, Target},
    chaos::Chaos,
};

/// Simulates sites and machines on loopback and measures control plane and edges (needs root).
#[derive(Parser)]
#[command(name = "slipway-fleet", version, about)]
struct Cli {
    /// Sites, each with an edge process
    #[arg(long, default_value_t = 4)]
    sites: u8,
    /// Machines a site
    #[arg(long, default_value_t = 5)]
    machines: u8,
    /// Installs asked for at once
    #[arg(long, default_value_t = 20)]
    installs: usize,
    /// sqlite or postgres
    #[arg(long, default_value = "sqlite")]
    database: Database,
    /// Control planes on one PostgreSQL, behind a balancer and a Mosquitto
    #[arg(long, default_value_t = 1)]
    replicas: u8,
    /// Seed of the simulated hardware's times
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kill control plane and edges at random moments of this seed
    #[arg(long, value_name = "SEED")]
    chaos: Option<u64>,
    /// Have idle and half-sent connections, a TFTP and an MQTT flood run against the first edge or the control plane meanwhile
    #[arg(long, value_enum)]
    attack: Option<Attacked>,
    /// Seconds all installs may take
    #[arg(long, default_value_t = 1800)]
    limit: u64,
    /// Leave data and logs behind, as a run with broken promises does
    #[arg(long)]
    keep: bool,
    /// Stay up until Ctrl-C, to be looked at in a browser
    #[arg(long)]
    stay: bool,
}

/// Who is attacked.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Attacked {
    /// The first site's edge.
    Edge,
    /// The control plane.
    ControlPlane,
}

/// The password of the stay's administrator: of a fleet that lives on loopback and is gone with this program.
const PASSWORD: &str = "look-at-the-fleet";

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    tokio::select! {
        result = measure(&cli) => result,
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::FAILURE),
    }
}

/// The run, attacked or not.
async fn run(fleet: &Fleet, plan: Plan, attacked: Option<Attacked>) -> anyhow::Result<Summary> {
    let target = match attacked {
        None => return fleet::run(fleet, plan).await,
        Some(Attacked::Edge) => Target::edge(fleet),
        Some(Attacked::ControlPlane) => Target::control_plane(fleet),
    };
    let (tasks, done) = attack::start(target);
    done.stands().await?;
    let ran = fleet::run(fleet, plan).await;
    println!("{done}");
    drop(tasks);
    ran
}

async fn measure(cli: &Cli) -> anyhow::Result<ExitCode> {
    let room = usize::from(cli.sites) * usize::from(cli.machines);
    ensure!(
        (1..=room).contains(&cli.installs),
        "{} installs do not fit on {room} machines",
        cli.installs
    );
    let spec = Spec {
        sites: cli.sites,
        machines: cli.machines,
        replicas: cli.replicas,
        database: cli.database,
        seed: cli.seed,
    };
    let begun = std::time::Instant::now();
    let mut fleet = Fleet::start(spec).await?;
    println!(
        "{} sites with {} machines each up after {:.1} s; {} installs",
        cli.sites,
        cli.machines,
        begun.elapsed().as_secs_f64(),
        cli.installs
    );
    let chaos = cli.chaos.map(|seed| Chaos {
        seed,
        control_plane: if cli.replicas > 1 { 8 } else { 2 },
        edges: (cli.sites / 15).clamp(1, 10),
    });
    let plan = Plan {
        installs: cli.installs,
        chaos,
        limit: Duration::from_secs(cli.limit),
    };
    let ran = run(&fleet, plan, cli.attack).await;
    let good = ran.as_ref().is_ok_and(|summary| summary.faults.is_empty());
    if cli.keep || !good {
        println!("data and logs are in {}", fleet.keep().display());
    }
    println!("{}", ran?);
    if cli.stay {
        fleet.let_in(PASSWORD).await?;
        println!(
            "{} is up until Ctrl-C; sign in as demo, {PASSWORD}",
            fleet.api.base()
        );
        tokio::signal::ctrl_c().await?;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
