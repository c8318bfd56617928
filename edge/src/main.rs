//! `slipway-edge`: joins a site, and serves it.

use std::{
    io::{IsTerminal as _, Read as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use slipway_edge::{
    config::{Config, Given},
    identity::Identity,
    interfaces, join, local, preflight, setup, site, status,
};
use slipway_protocol::site::JoinToken;
use tokio_util::sync::CancellationToken;

/// The edge box of a Slipway site: boots, installs and watches its machines, also while the WAN is cut.
#[derive(Parser)]
#[command(name = "slipway-edge", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    given: Given,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the site this box has joined (the default)
    Run,
    /// Join a site with a one-time token made by `slipway site token SITE`; the box is looked at first
    Join {
        /// The token; `-` reads it from standard input, where it does not show in the process list
        #[arg(env = "SLIPWAY_JOIN_TOKEN", hide_env_values = true)]
        token: String,
        /// Join though the look found something that will not work
        #[arg(long)]
        force: bool,
    },
    /// Look whether this box is fit to serve a site, and change nothing
    Check {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Operate machines while this site is cut off from its control plane, as far as their leases allow
    #[command(subcommand)]
    Local(local::client::Local),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        dir: std::path::PathBuf,
    },
}

/// Exit status for settings that cannot be used (BSD `EX_USAGE`).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    slipway_bus::log::start();
    slipway_bus::tls::install_provider();
    let Cli { command, given } = Cli::parse();
    if let Some(Command::Man { dir }) = &command {
        return match clap_mangen::generate_to(<Cli as clap::CommandFactory>::command(), dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("slipway-edge: cannot write into {}: {error}", dir.display());
                ExitCode::FAILURE
            }
        };
    }
    if let Some(Command::Local(command)) = command {
        return operate(command, given);
    }
    let config = match given.resolve() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("slipway-edge: {:#}", anyhow::Error::from(error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match start(command, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipway-edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Asks the edge that runs.
fn operate(command: local::client::Local, given: Given) -> ExitCode {
    let asked = given
        .resolve_data_dir()
        .map_err(anyhow::Error::from)
        .and_then(|dir| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(local::client::run(command, &dir))
        });
    match asked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slipway-edge: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn start(command: Option<Command>, mut config: Config) -> anyhow::Result<()> {
    if config.auto {
        config.interfaces = interfaces::found().await?;
    }
    match command {
        Some(Command::Join { token, force }) => return join_site(&token, &config, force).await,
        Some(Command::Check { json }) => return check(&config, json).await,
        _ => {}
    }
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    if config.auto {
        status::say(&config, status::NO_ADDRESS);
        match interfaces::wait(&stop).await? {
            Some(found) => config.interfaces = found,
            None => return Ok(()),
        }
        tokio::spawn(interfaces::stop_on_change(
            config.interfaces.clone(),
            stop.clone(),
        ));
    }
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
    let metrics = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    if let Some(page) = config.setup.filter(|_| !Identity::is_there(&config.data_dir))
        && !setup::serve(&config, page, &stop).await?
    {
        return Ok(());
    }
    let running = tokio::spawn(site::run(config, metrics, stop));
    let result = running.await?;
    signals.abort();
    result
}

async fn check(config: &Config, json: bool) -> anyhow::Result<()> {
    let found = preflight::look(config, None, chrono::Utc::now()).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&found)?);
    } else {
        found.iter().for_each(|found| println!("{found}"));
    }
    anyhow::ensure!(
        preflight::works(&found),
        "this box cannot serve a site so; see what failed above"
    );
    Ok(())
}

async fn join_site(token: &str, config: &Config, force: bool) -> anyhow::Result<()> {
    let mut text = token.to_owned();
    if text == "-" {
        text.clear();
        if std::io::stdin().is_terminal() {
            // One line: nobody should have to know how to end a terminal's input.
            eprint!("Join token: ");
            std::io::stdin().read_line(&mut text)?;
        } else {
            std::io::stdin().read_to_string(&mut text)?;
        }
    }
    let token = JoinToken::from_text(&text)?;
    let found = preflight::look(config, Some(&token), chrono::Utc::now()).await;
    found.iter().for_each(|found| eprintln!("{found}"));
    anyhow::ensure!(
        force || preflight::works(&found),
        "nothing was done, and the token is still good: see to what failed above, or give --force"
    );
    std::fs::create_dir_all(&config.data_dir)
        .with_context(|| format!("cannot make the data folder {}", config.data_dir.display()))?;
    let identity = join::join(&token, &config.addresses(), &config.data_dir, chrono::Utc::now()).await?;
    println!(
        "Joined site {}. Start serving with `slipway-edge run`.",
        identity.site
    );
    Ok(())
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
