//! `slipway-control-plane`

use std::process::ExitCode;

use clap::Parser;
use slipway_control_plane::{config::Given, serve};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The control plane of Slipway: one binary to try, with SQLite and an embedded broker.
#[derive(Parser)]
#[command(name = "slipway-control-plane", version, about)]
struct Cli {
    #[command(flatten)]
    given: Given,
}

/// Exit status for settings that cannot be used (BSD `EX_USAGE`).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let filter =
        EnvFilter::try_from_env("SLIPWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info,rumqttd=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    slipway_bus::tls::install_provider();
    let config = match Cli::parse().given.resolve() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("slipway-control-plane: {:#}", anyhow::Error::from(error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipway-control-plane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(config: slipway_control_plane::config::Config) -> anyhow::Result<()> {
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let announce = |link: &str| println!("Set-up link, good once: {link}");
    let result = serve::run(config, metrics, announce, stop).await;
    signals.abort();
    result
}

async fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => result?,
    }
    stop.cancel();
    Ok(())
}
