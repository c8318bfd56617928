//! `slipway stock`: how many machines there are, by site and type.

use std::process::ExitCode;

use clap::Args;

use crate::{
    client::Client,
    output::{self, Format},
};

/// Which machines are counted.
#[derive(Debug, Args)]
pub(crate) struct Stock {
    /// At one site
    #[arg(long)]
    site: Option<String>,
    /// Of one type
    #[arg(long = "type", value_name = "TYPE")]
    machine_type: Option<String>,
}

const COLUMNS: [(&str, &str); 9] = [
    ("site", "/site"),
    ("type", "/machine_type"),
    ("total", "/total"),
    ("available", "/available"),
    ("allocated", "/states/allocated"),
    ("erasing", "/states/erasing"),
    ("enrolled", "/states/enrolled"),
    ("maintenance", "/states/maintenance"),
    ("quarantined", "/states/quarantined"),
];

/// Counts.
pub(crate) async fn run(client: &Client, format: Format, stock: Stock) -> anyhow::Result<ExitCode> {
    let filters = [("site", stock.site), ("machine_type", stock.machine_type)];
    let answer = client.page("/api/v1/stock", &filters, None).await?;
    output::print(format, &answer, &COLUMNS);
    Ok(ExitCode::SUCCESS)
}
