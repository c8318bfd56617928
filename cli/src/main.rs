//! `slipway`: the operator's command line, a client of the public REST API only.

mod access;
mod account;
mod alerts;
mod apply;
mod audit;
mod client;
mod commands;
mod config;
mod events;
mod images;
mod install_plan;
mod job_log;
mod jobs;
mod labels;
mod life;
mod machine_power;
mod machine_types;
mod machines;
mod ordering;
mod output;
mod progress;
mod rotation;
mod search;
mod session;
mod signing_keys;
mod sites;
mod sso;
mod stock;
mod terminal;
mod watch;
mod webhooks;
mod work;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    slipway_bus::tls::install_provider();
    let cli = commands::Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("slipway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(cli: commands::Cli) -> anyhow::Result<ExitCode> {
    commands::run(cli).await
}
