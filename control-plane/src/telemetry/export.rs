//! Sends spans to a collector by OTLP over HTTP, as JSON. Who makes spans never waits: a queue that is full drops them, and
//! what a collector does not take within a few tries is dropped; both are counted.

use std::time::Duration;

use reqwest::Url;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::span::{self, Span};
use crate::{error::chain, metrics};

/// How many spans wait at most.
const QUEUE: usize = 8192;
/// How many are sent at once.
const BATCH: usize = 512;
/// How long spans are gathered.
const GATHER: Duration = Duration::from_secs(1);
/// Longest wait for the collector.
const LIMIT: Duration = Duration::from_secs(10);
/// How often a batch is tried.
const TRIES: u32 = 3;

/// Takes spans; clones share a queue. The usual one takes none.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Sender<Span>>);

/// The other end of a tracer's queue.
pub struct Exporter {
    url: Url,
    spans: Receiver<Span>,
    client: reqwest::Client,
}

impl Tracer {
    /// A tracer whose spans go to a collector at `endpoint`, as in `http://127.0.0.1:4318`.
    ///
    /// # Errors
    /// When there is no client for it.
    pub fn new(endpoint: &Url) -> Result<(Self, Exporter), reqwest::Error> {
        let (sender, spans) = mpsc::channel(QUEUE);
        let mut url = endpoint.clone();
        url.set_path(&format!("{}/v1/traces", endpoint.path().trim_end_matches('/')));
        let client = reqwest::Client::builder().timeout(LIMIT).build()?;
        Ok((Self(Some(sender)), Exporter { url, spans, client }))
    }

    /// Whether anybody wants spans.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Tells spans.
    pub fn tell(&self, spans: impl IntoIterator<Item = Span>) {
        let Some(queue) = &self.0 else { return };
        for span in spans {
            if queue.try_send(span).is_err() {
                metrics::spans_dropped(1);
            }
        }
    }
}

impl Exporter {
    /// Sends spans until `stop`, and then what is left.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let first = tokio::select! {
                span = self.spans.recv() => span,
                () = stop.cancelled() => None,
            };
            let Some(first) = first else { break };
            batch.push(first);
            let until = tokio::time::Instant::now() + GATHER;
            while batch.len() < BATCH && !stop.is_cancelled() {
                match tokio::time::timeout_at(until, self.spans.recv()).await {
                    Ok(Some(span)) => batch.push(span),
                    _ => break,
                }
            }
            self.send(&batch).await;
            batch.clear();
        }
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            self.send(&batch).await;
        }
    }

    async fn send(&self, batch: &[Span]) {
        let body = span::request(batch);
        let mut failure = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::time::sleep(GATHER * attempt).await;
            }
            match self.client.post(self.url.clone()).json(&body).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => failure = format!("it answered {}", answer.status()),
                Err(e) => failure = chain(&e.without_url()),
            }
        }
        metrics::spans_dropped(batch.len() as u64);
        warn!(
            spans = batch.len(),
            failure, "the collector of SLIPWAY_OTLP_ENDPOINT did not take spans; they are dropped"
        );
    }
}
