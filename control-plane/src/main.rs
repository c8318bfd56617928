//! `slipway-control-plane`

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use chrono::Utc;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use rustix::process::{Resource, getrlimit, setrlimit};
use slipway_control_plane::{
    config::{Config, Given},
    metrics,
    pki::Authority,
    serve,
    store::{Store, StoreError, edge_certificates},
    upkeep::{
        backup::{self, Images},
        doctor, mosquitto,
        restore::{self, Former},
    },
};
use tokio_util::sync::CancellationToken;

/// The control plane of Slipway: one binary to try, with SQLite and an embedded broker.
#[derive(Parser)]
#[command(name = "slipway-control-plane", version, about)]
struct Cli {
    #[command(flatten)]
    given: Given,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Subcommand)]
enum Command {
    /// Back database and keys up into a file; the control plane may run meanwhile
    Backup {
        /// Where to; it holds every secret of this control plane
        file: PathBuf,
        /// The images' bytes, too
        #[arg(long)]
        images: bool,
    },
    /// Bring a backup back; the control plane must not run
    Restore {
        /// A file that `backup` made
        file: PathBuf,
        /// Move what is there aside; without this nothing is touched where something is
        #[arg(long)]
        force: bool,
    },
    /// Write the configuration of a Mosquitto for several replicas: lists of rights, certificate and key included
    Mosquitto {
        /// Where to; Mosquitto must be able to read it
        folder: PathBuf,
        /// Address and port at which sites connect
        #[arg(long, default_value = "0.0.0.0:8883")]
        sites: SocketAddr,
        /// Address and port at which replicas connect; keep it in a network that sites do not reach
        #[arg(long, default_value = "127.0.0.1:8884")]
        replicas: SocketAddr,
        /// A name or address by which either reaches it; may be repeated
        #[arg(long = "host", required = true)]
        hosts: Vec<String>,
    },
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder
        dir: PathBuf,
    },
    /// Look at everything the control plane stands on, and say what to do
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// The edge's connection; the router behind it needs none.
const FILES_A_CONNECTION: u64 = 1;
/// Database, HTTP, log.
const OTHER_FILES: u64 = 1024;
/// Exit status for settings that cannot be used (BSD `EX_USAGE`).
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    slipway_bus::log::start();
    slipway_bus::tls::install_provider();
    // Settings stand before or after the subcommand.
    let matches = Cli::command().mut_args(|arg| arg.global(true)).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Some(Command::Man { dir }) = &cli.command {
        return match clap_mangen::generate_to(Cli::command(), dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!(
                    "slipway-control-plane: cannot write into {}: {error}",
                    dir.display()
                );
                ExitCode::FAILURE
            }
        };
    }
    let config = match cli.given.resolve() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("slipway-control-plane: {:#}", anyhow::Error::from(error));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let done = match cli.command {
        None => start(config).map(|()| ExitCode::SUCCESS),
        Some(command) => upkeep(config, command),
    };
    done.unwrap_or_else(|error| {
        eprintln!("slipway-control-plane: {error:#}");
        ExitCode::FAILURE
    })
}

#[tokio::main]
async fn upkeep(config: Config, command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Backup { file, images } => {
            let images = if images { Images::With } else { Images::Without };
            let to = file.clone();
            let made = tokio::task::spawn_blocking(move || backup::run(&config, &to, images)).await??;
            let bytes: u64 = made.files.iter().map(|entry| entry.bytes).sum();
            println!(
                "{}: {} files, {bytes} bytes, schema {}",
                file.display(),
                made.files.len(),
                made.schema
            );
            eprintln!(
                "It holds every secret of this control plane, keys included: keep it as you keep those."
            );
            if !made.images {
                eprintln!("Images' bytes are not in it: copy the folder `chunks`, or give --images.");
            }
        }
        Command::Restore { file, force } => {
            let former = if force { Former::Replace } else { Former::Keep };
            let made = restore::run(&config, &file, former).await?;
            println!(
                "Restored the control plane of {}, schema {}.",
                made.made_at, made.schema
            );
            if !made.images {
                eprintln!(
                    "Images' bytes were not in it: copy the folder `chunks` back, or upload them again."
                );
            }
        }
        Command::Mosquitto {
            folder,
            sites,
            replicas,
            hosts,
        } => write_mosquitto(&config, &folder, (sites, replicas), &hosts).await?,
        // Done before settings are read.
        Command::Man { .. } => {}
        Command::Doctor { json } => {
            let found = doctor::run(&config).await;
            if json {
                println!("{}", serde_json::to_string_pretty(&found)?);
            } else {
                print!("{}", doctor::text(&found));
            }
            if !doctor::works(&found) {
                return Ok(ExitCode::FAILURE);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn write_mosquitto(
    config: &Config,
    folder: &Path,
    (sites, replicas): (SocketAddr, SocketAddr),
    hosts: &[String],
) -> anyhow::Result<()> {
    let door = |address: SocketAddr| (address.ip().to_string(), address.port());
    let doors = mosquitto::Doors {
        sites: door(sites),
        replicas: door(replicas),
        connections: config.mqtt_connections,
    };
    std::fs::create_dir_all(&config.data_dir)?;
    let (store, now) = (Store::open(&config.database_url).await?, Utc::now());
    let revoked = store.read(move |db| edge_certificates::revoked(db, now)).await;
    let revoked = revoked.map_err(|e: StoreError| e)?;
    let authority = Authority::open(&config.data_dir)?;
    mosquitto::write(folder, &authority, &doors, hosts, (&revoked, now))?;
    println!("{}", folder.join("mosquitto.conf").display());
    Ok(())
}

#[tokio::main]
async fn start(config: Config) -> anyhow::Result<()> {
    let kept = metrics::recorder()?.install_recorder()?;
    metrics::begin();
    allow_files(config.mqtt_connections);
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone()));
    let announce = |link: &str| println!("Set-up link, good once: {link}");
    let result = serve::run(config, kept, announce, stop).await;
    signals.abort();
    result
}

/// Raises the limit of open files to the most it may be: the usual 1,024 are used up by 340 edges, and then nobody gets in
/// by HTTP either. Says so where that is not enough for all connections that the broker would take.
fn allow_files(connections: u32) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let wanted = u64::from(connections) * FILES_A_CONNECTION + OTHER_FILES;
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < wanted => tracing::warn!(
            allowed,
            wanted,
            "too few open files for SLIPWAY_MQTT_CONNECTIONS: raise LimitNOFILE, or lower that setting"
        ),
        _ => {}
    }
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
