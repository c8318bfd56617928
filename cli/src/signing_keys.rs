//! `slipway signing-key`: the keys that orders are signed by.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use crate::{
    client::Client,
    output::{self, Format},
};

/// The keys that orders are signed by.
#[derive(Debug, Subcommand)]
pub(crate) enum SigningKey {
    /// List them, the newest first, with how many sites are signed to by each
    List,
    /// Make a new one and announce it to every site
    Rotate,
    /// Sign nothing by a key any more, and have no site trust it
    Retire {
        /// Its id
        key: String,
        /// Though sites know no newer one: they have to join again
        #[arg(long)]
        force: bool,
    },
}

const COLUMNS: [(&str, &str); 5] = [
    ("key", "/id"),
    ("state", "/state"),
    ("sites", "/sites"),
    ("made", "/created_at"),
    ("public", "/public"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, command: SigningKey) -> anyhow::Result<ExitCode> {
    let answer = match command {
        SigningKey::List => client.get("/api/v1/signing-keys").await?,
        SigningKey::Rotate => client.post("/api/v1/signing-keys", json!({})).await?,
        SigningKey::Retire { key, force } => {
            let path = format!("/api/v1/signing-keys/{key}/retire");
            client.post(&path, json!({ "force": force })).await?
        }
    };
    output::print(format, &answer, &COLUMNS);
    Ok(ExitCode::SUCCESS)
}
