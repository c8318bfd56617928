//! The agent's binary: `/init` of the LiveOS as PID 1, a plain process otherwise.
//!
//! As a plain process: `slipway-agent --config boot.json --root DIR`, with the disks being files in DIR.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use slipway_agent::{
    env::{Env, Files, Hardware},
    fetch::Edge,
    init,
    lldp::Neighbours,
    log::Log,
    net, run,
    steps::Machine,
};
use slipway_protocol::{
    boot::{BOOT_CONFIG_PATH, BootConfig},
    keys::KeyRing,
    seal::OpeningKey,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, level_filters::LevelFilter, warn};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// Further off than this, the clock is not believed even if it is ahead: certificates would seem expired.
const CLOCK_AHEAD_S: i64 = 24 * 3600;

fn main() -> ExitCode {
    let log = Log::default();
    let is_init = std::process::id() == 1;
    let prepared = if is_init { init::prepare() } else { Ok(()) };
    let console = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::io::stderr);
    tracing_subscriber::registry()
        .with(LevelFilter::INFO)
        .with(console)
        .with(log.layer())
        .init();
    slipway_bus::tls::install_provider();
    if is_init {
        let result = prepared
            .context("cannot bring up the LiveOS")
            .and_then(|()| live(log));
        let reason = result.map_or_else(
            |e| format!("{e:#}"),
            |()| "the machine did not restart".to_owned(),
        );
        init::give_up(&reason);
    }
    match plain(log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("slipway-agent: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// PID 1 after its mounts.
fn live(log: Log) -> anyhow::Result<()> {
    info!(version = slipway_agent::VERSION, "Slipway LiveOS");
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    init::load_drivers()?;
    let config = read_config(&PathBuf::from(BOOT_CONFIG_PATH))?;
    // Nobody else needs the token, and the agent has read it.
    fs::remove_file(BOOT_CONFIG_PATH).context("cannot remove the boot configuration")?;
    floor_clock(&Hardware::default(), config.edge_time_s);
    block_on(async {
        net::set_up(&config).await?;
        info!(address = %config.address, mac = %config.mac, "network is up");
        net::raise_others(config.mac).await;
        let machine = machine(config, Box::new(Hardware::default()), (Neighbours::listen(), log))?;
        run::run(machine, CancellationToken::new()).await
    })
}

/// A plain process, for tests and for people: does not touch network, clock or reset of the host.
fn plain(log: Log) -> anyhow::Result<()> {
    let (mut config, mut root) = (None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--config" => config = Some(PathBuf::from(value()?)),
            "--root" => root = Some(PathBuf::from(value()?)),
            "--version" => {
                println!("slipway-agent {}", slipway_agent::VERSION);
                return Ok(());
            }
            other => bail!(
                "unknown argument {other}; usage: slipway-agent --config boot.json --root DIR | --version"
            ),
        }
    }
    let config = read_config(&config.context("--config is missing")?)?;
    let root = root.context("--root is missing: as a plain process the agent works on files only")?;
    let machine = machine(config, Box::new(Files { root }), (Neighbours::default(), log))?;
    block_on(run::run(machine, CancellationToken::new()))
}

fn read_config(path: &PathBuf) -> anyhow::Result<BootConfig> {
    let text = fs::read(path).with_context(|| {
        format!(
            "cannot read {}; was the LiveOS booted without its site's overlay?",
            path.display()
        )
    })?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))
}

fn machine(
    config: BootConfig,
    env: Box<dyn Env>,
    (neighbours, log): (Neighbours, Log),
) -> anyhow::Result<Machine> {
    let (opening, _) = OpeningKey::generate()?;
    Ok(Machine {
        env,
        edge: Edge::new(config.edge, config.http_port),
        keys: KeyRing::new(config.verifying_keys.iter().copied()),
        opening,
        neighbours,
        config,
        log,
    })
}

/// Sets a clock that is behind the edge's or far ahead of it, so that certificates can be judged.
fn floor_clock(env: &dyn Env, edge_time_s: i64) {
    let off_s = env.now().timestamp() - edge_time_s;
    if (0..=CLOCK_AHEAD_S).contains(&off_s) {
        return;
    }
    let Some(to) = DateTime::<Utc>::from_timestamp(edge_time_s, 0) else {
        return;
    };
    match env.set_clock(to) {
        Ok(()) => info!(%to, off_s, "clock set by the edge's"),
        Err(error) => warn!(%error, "cannot set the clock"),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the agent's threads")?;
    let result = runtime.block_on(work);
    // A step's thread that hangs on a device must not hold up the end.
    runtime.shutdown_background();
    result
}
