//! `slipway search` and `slipway overview`: finding one's way in everything there is.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
};

/// What is looked for.
#[derive(Debug, Args)]
pub(crate) struct Search {
    /// The text, 2 letters or more; several words are one text
    #[arg(required = true)]
    words: Vec<String>,
    /// Hits of each kind at most, 1 to 20
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=20))]
    limit: u8,
}

const HITS: [(&str, &str); 4] = [
    ("kind", "/kind"),
    ("name", "/name"),
    ("detail", "/detail"),
    ("id", "/id"),
];

/// Searches.
pub(crate) async fn search(client: &Client, format: Format, search: Search) -> anyhow::Result<ExitCode> {
    let asked = [("q", Some(search.words.join(" ")))];
    let path = format!("/api/v1/search?limit={}", search.limit);
    let answer = client.asked(&path, &asked).await?;
    output::print(format, &answer, &HITS);
    Ok(ExitCode::SUCCESS)
}

const SITES: [(&str, &str); 11] = [
    ("site", "/name"),
    ("online", "/online"),
    ("lag s", "/lag_s"),
    ("available", "/machines/available"),
    ("allocated", "/machines/allocated"),
    ("quarantined", "/machines/quarantined"),
    ("queued", "/jobs/queued"),
    ("running", "/jobs/running"),
    ("failed 24h", "/jobs/failed_24h"),
    ("alerts", "/open_alerts"),
    ("stuck", "/oldest_stuck/name"),
];

/// The sites, and all of them as the last row.
fn rows(overview: &Value) -> Value {
    let mut rows = overview["sites"].as_array().cloned().unwrap_or_default();
    let mut all = overview["totals"].clone();
    all["name"] = "(all)".into();
    rows.push(all);
    json!({ "items": rows })
}

/// Shows everything, counted.
pub(crate) async fn overview(client: &Client, format: Format) -> anyhow::Result<ExitCode> {
    let answer = client.get("/api/v1/overview").await?;
    match format {
        Format::Json => output::print(format, &answer, &SITES),
        Format::Table => output::print(format, &rows(&answer), &SITES),
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sites_are_the_last_row() {
        let overview =
            json!({ "sites": [{ "name": "bj-1", "online": true }], "totals": { "sites": 1, "online": 1 } });
        let rows = rows(&overview);
        assert_eq!(rows["items"][0]["name"], "bj-1");
        assert_eq!(
            (&rows["items"][1]["name"], &rows["items"][1]["online"]),
            (&json!("(all)"), &json!(1))
        );
    }
}
