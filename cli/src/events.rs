//! `slipway events`: what happened, and what happens. A live view that loses its connection goes on after the last event
//! it has shown.

use std::{convert::Infallible, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::Value;

use crate::{
    client::Client,
    output::{self, Format},
};

/// How long a live view waits before it connects again.
const AGAIN: Duration = Duration::from_secs(2);

/// Shows events, newest last.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Stay, and show what happens
    #[arg(long, short)]
    follow: bool,
    /// At one site
    #[arg(long)]
    site: Option<String>,
    /// Of one machine, by id or name
    #[arg(long)]
    machine: Option<String>,
    /// Of one instance, by id or name
    #[arg(long)]
    instance: Option<String>,
    /// Of one job
    #[arg(long)]
    job: Option<String>,
    /// Of this kind or below it: `job` is `job.failed` too
    #[arg(long)]
    kind: Option<String>,
    /// Above this number
    #[arg(long)]
    after: Option<u64>,
    /// At most so many
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

const COLUMNS: [(&str, &str); 5] = [
    ("seq", "/seq"),
    ("at", "/at"),
    ("kind", "/kind"),
    ("site", "/site"),
    ("text", "/text"),
];

/// Carries the command out.
pub(crate) async fn run(client: &Client, format: Format, mut events: Events) -> anyhow::Result<ExitCode> {
    // Events hold ids; people know names.
    events.machine = id_of(client, "machines", events.machine).await?;
    events.instance = id_of(client, "instances", events.instance).await?;
    let mut shown = events.after;
    // A live view begins with what happened just before, unless it is told where to begin.
    if !(events.follow && shown.is_some()) {
        let mut page = client.get(&path(&events, shown)).await?;
        if let Some(items) = page["items"].as_array_mut() {
            if shown.is_none() {
                items.reverse();
            }
            shown = items.last().and_then(|event| event["seq"].as_u64()).or(shown);
        }
        if !events.follow {
            output::print(format, &page, &COLUMNS);
            return Ok(ExitCode::SUCCESS);
        }
        let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().for_each(|event| println!("{}", line(format, event)));
        if items.is_empty() {
            shown = last(client).await?;
        }
    }
    let show = |event: &Value| println!("{}", line(format, event));
    match follow(client, &events, shown.unwrap_or(0), show).await? {}
}

/// The number of the last event there is.
async fn last(client: &Client) -> anyhow::Result<Option<u64>> {
    let page = client.get("/api/v1/events?limit=1").await?;
    Ok(page["items"][0]["seq"].as_u64())
}

async fn id_of(client: &Client, noun: &str, key: Option<String>) -> anyhow::Result<Option<String>> {
    let Some(key) = key else { return Ok(None) };
    // One that was deleted is known by its id only.
    let found = client.get(&format!("/api/v1/{noun}/{key}")).await;
    let id = found
        .ok()
        .and_then(|found| found["id"].as_str().map(str::to_owned));
    Ok(Some(id.unwrap_or(key)))
}

/// Shows what happens after number `shown`, for ever; only a control plane that cannot be reached at all ends it.
async fn follow(
    client: &Client,
    events: &Events,
    mut shown: u64,
    mut show: impl FnMut(&Value),
) -> anyhow::Result<Infallible> {
    let mut stream = client.stream(&path(events, Some(shown))).await?;
    loop {
        let mut messages = Messages::default();
        while let Ok(Some(bytes)) = stream.chunk().await {
            for event in messages.take(&bytes) {
                shown = event["seq"].as_u64().unwrap_or(shown);
                show(&event);
            }
        }
        eprintln!("slipway: the connection was lost; trying again");
        stream = loop {
            tokio::time::sleep(AGAIN).await;
            match client.stream(&path(events, Some(shown))).await {
                Ok(stream) => break stream,
                Err(error) => eprintln!("slipway: {error:#}; trying again"),
            }
        };
    }
}

fn path(events: &Events, after: Option<u64>) -> String {
    let mut path = format!("/api/v1/events?limit={}", events.limit);
    let named = [
        ("site", &events.site),
        ("machine", &events.machine),
        ("instance", &events.instance),
        ("job", &events.job),
        ("kind", &events.kind),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={value}"));
        }
    }
    if let Some(after) = after {
        path.push_str(&format!("&after={after}"));
    }
    path
}

/// One event as one line.
fn line(format: Format, event: &Value) -> String {
    if format == Format::Json {
        return event.to_string();
    }
    let word = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
    let at = word("at");
    let seq = event["seq"].as_u64().unwrap_or(0);
    format!(
        "{seq:>7} {at:<27} {:<10} {:<22} {}",
        word("site"),
        word("kind"),
        word("text")
    )
}

/// Server-sent events, put together from what the network delivers in pieces. Pure.
#[derive(Debug, Default)]
struct Messages {
    rest: Vec<u8>,
}

impl Messages {
    /// The events that are complete with these bytes. Comments, which keep the connection alive, are left out.
    fn take(&mut self, bytes: &[u8]) -> Vec<Value> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.rest.windows(2).position(|two| two == b"\n\n") {
            let message: Vec<u8> = self.rest.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&message);
            let data: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .map(str::trim_start)
                .collect();
            events.extend(serde_json::from_str::<Value>(&data.join("\n")).ok());
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_any_pieces() {
        let sent =
            b": keep-alive\n\nid: 1\ndata: {\"seq\":1,\"text\":\"\xc3\xa4\"}\n\nid: 2\ndata: {\"seq\":2}\n\n";
        for size in [1, 7, sent.len()] {
            let mut messages = Messages::default();
            let events: Vec<Value> = sent.chunks(size).flat_map(|piece| messages.take(piece)).collect();
            assert_eq!(events.len(), 2, "in pieces of {size}");
            assert_eq!(
                (&events[0]["text"], &events[1]["seq"]),
                (&Value::from("ä"), &Value::from(2))
            );
        }
    }

    /// Each connection gives one event and ends; the next one asks for what comes after it.
    #[tokio::test]
    async fn a_lost_connection_is_taken_up_after_the_last_event() {
        slipway_bus::tls::install_provider();
        let one = async |uri: axum::http::Uri| {
            let after: u64 = uri
                .query()
                .unwrap()
                .split("after=")
                .nth(1)
                .unwrap()
                .parse()
                .unwrap();
            assert!(uri.query().unwrap().contains("kind=job"), "filters are kept");
            format!("data: {{\"seq\":{}}}\n\n", after + 1)
        };
        let router = axum::Router::new().route("/api/v1/events", axum::routing::get(one));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()), None).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let wanted = Events {
            follow: true,
            site: None,
            machine: None,
            instance: None,
            job: None,
            kind: Some("job".into()),
            after: None,
            limit: 50,
        };
        let (seen, mut events) = tokio::sync::mpsc::unbounded_channel();
        let show = |event: &Value| seen.send(event["seq"].as_u64().unwrap()).unwrap();
        tokio::select! {
            ended = follow(&client, &wanted, 7, show) => panic!("{ended:?}"),
            () = async {
                assert_eq!(events.recv().await, Some(8));
                assert_eq!(events.recv().await, Some(9));
            } => {}
        }
    }

    #[test]
    fn a_line_says_what_happened_where() {
        let event = serde_json::json!({ "seq": 12, "at": "2026-11-21T12:00:00.000001Z", "kind": "job.failed",
            "site": "bj-1", "text": "two disks" });
        assert_eq!(
            line(Format::Table, &event),
            "     12 2026-11-21T12:00:00.000001Z bj-1       job.failed             two disks"
        );
        assert_eq!(line(Format::Json, &event), event.to_string());
    }
}
