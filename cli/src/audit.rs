//! `slipway audit`: who did what, the newest lines first, from the beginning, or as it happens.

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};

use crate::{
    account::Audit,
    client::Client,
    output::{self, Format},
};

const COLUMNS: [(&str, &str); 8] = [
    ("seq", "/seq"),
    ("at", "/at"),
    ("actor", "/actor"),
    ("via", "/via"),
    ("address", "/address"),
    ("action", "/action"),
    ("object", "/object"),
    ("outcome", "/outcome"),
];
const PATH: &str = "/api/v1/audit";
/// How often new lines are looked for.
const TICK: Duration = Duration::from_secs(2);

type Filters = Vec<(&'static str, Option<String>)>;

/// Shows lines of the audit log.
pub(crate) async fn run(client: &Client, format: Format, audit: Audit) -> anyhow::Result<ExitCode> {
    let order = if audit.oldest_first { "oldest" } else { "newest" };
    let filters: Filters = vec![
        ("actor", audit.actor),
        ("action", audit.action),
        ("object", audit.object),
        ("outcome", audit.outcome),
    ];
    let mut first = filters.clone();
    first.push(("order", Some(order.to_owned())));
    let limit = usize::try_from(audit.limit).unwrap_or(usize::MAX);
    let mut lines = client.first(PATH, &first, limit).await?;
    if !audit.follow {
        output::print(format, &json!({ "items": lines }), &COLUMNS);
        return Ok(ExitCode::SUCCESS);
    }
    lines.reverse();
    let mut after = match lines.last() {
        Some(line) => line["seq"].as_i64().unwrap_or(0),
        // Nothing fits yet: what comes is after the last line of all.
        None => last_line(client).await?,
    };
    loop {
        if !lines.is_empty() {
            output::print(format, &json!({ "items": lines }), &COLUMNS);
        }
        lines = Vec::new();
        while lines.is_empty() {
            tokio::time::sleep(TICK).await;
            lines = news(client, &filters, &mut after).await?;
        }
    }
}

async fn last_line(client: &Client) -> anyhow::Result<i64> {
    let newest = [("order", Some("newest".to_owned()))];
    let last = client.first(PATH, &newest, 1).await?;
    Ok(last.first().and_then(|line| line["seq"].as_i64()).unwrap_or(0))
}

/// The lines after `after`, oldest first; moves it on.
async fn news(client: &Client, filters: &Filters, after: &mut i64) -> anyhow::Result<Vec<Value>> {
    let mut page = client.page(PATH, filters, Some(&after.to_string())).await?;
    let Value::Array(lines) = page["items"].take() else {
        return Ok(Vec::new());
    };
    if let Some(last) = lines.last() {
        *after = last["seq"].as_i64().unwrap_or(*after);
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, extract::Query, routing::get};

    #[derive(serde::Deserialize)]
    struct Asked {
        limit: i64,
        cursor: Option<i64>,
        order: Option<String>,
    }

    /// A log of 5000 lines.
    async fn log(Query(asked): Query<Asked>) -> Json<Value> {
        let seqs: Vec<i64> = match asked.order.as_deref() {
            Some("newest") => (1..asked.cursor.unwrap_or(5001)).rev().collect(),
            _ => (asked.cursor.unwrap_or(0) + 1..=5000).collect(),
        };
        let limit = usize::try_from(asked.limit).unwrap();
        let items: Vec<Value> = seqs.iter().take(limit).map(|seq| json!({ "seq": seq })).collect();
        let next = items.last().map(|line| line["seq"].to_string());
        Json(json!({ "items": items, "next": next }))
    }

    #[tokio::test]
    async fn the_newest_lines_are_read_without_the_others_and_news_come_once() {
        slipway_bus::tls::install_provider();
        let router = Router::new().route(PATH, get(log));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::new(&url, None).unwrap();
        let newest = [("order", Some("newest".to_owned()))];
        let seqs = |lines: &[Value]| {
            lines
                .iter()
                .map(|line| line["seq"].as_i64().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(seqs(&client.first(PATH, &newest, 2).await.unwrap()), [5000, 4999]);
        assert_eq!(
            client.first(PATH, &newest, 2500).await.unwrap().len(),
            2500,
            "over pages"
        );
        assert_eq!(last_line(&client).await.unwrap(), 5000);
        let mut after = 4998;
        assert_eq!(
            seqs(&news(&client, &vec![], &mut after).await.unwrap()),
            [4999, 5000]
        );
        assert!(news(&client, &vec![], &mut after).await.unwrap().is_empty());
    }
}
