//! Somebody who reads the live event stream all through a run, as a user interface does: connected again after each outage,
//! going on from the last number heard. What was heard must have no gap, and tell the whole life of every job.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;

/// How long the last events may take.
const TAIL_LIMIT: Duration = Duration::from_secs(30);

/// What was heard.
#[derive(Debug, Default)]
struct Heard {
    first: Option<u64>,
    last: u64,
    /// Job and kind of event, how often.
    jobs: BTreeMap<(String, String), u32>,
    broken: Vec<String>,
}

impl Heard {
    fn take(&mut self, event: &Value) {
        let seq = event["seq"].as_u64().unwrap_or(0);
        if self.first.get_or_insert(seq) != &seq && seq != self.last + 1 {
            self.broken
                .push(format!("event {seq} came after event {}", self.last));
        }
        self.last = seq;
        if let (Some(job), Some(kind)) = (event["job"].as_str(), event["kind"].as_str())
            && kind.starts_with("job.")
        {
            *self.jobs.entry((job.to_owned(), kind.to_owned())).or_default() += 1;
        }
    }

    fn faults(mut self, installs: usize) -> Vec<String> {
        for kind in ["job.queued", "job.running", "job.done"] {
            let of_kind = self.jobs.iter().filter(|((_, k), _)| k == kind);
            let (told, twice) = of_kind.fold((0, 0), |(told, twice), (_, n)| {
                (told + 1, twice + u32::from(*n > 1))
            });
            if told != installs || twice > 0 {
                self.broken.push(format!(
                    "{kind} was told of {told} jobs of {installs}, of {twice} more than once"
                ));
            }
        }
        self.broken
    }
}

/// A reader of the stream.
pub struct Listener {
    task: JoinHandle<Heard>,
    stop: CancellationToken,
}

impl Listener {
    /// Begins with the first event there is.
    #[must_use]
    pub fn start(api: &Api) -> Self {
        let (api, stop) = (api.clone(), CancellationToken::new());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut heard = Heard::default();
            while !stopped.is_cancelled() {
                let stream = read(&api, &mut heard);
                tokio::select! {
                    () = stopped.cancelled() => {}
                    // An outage: the next connection goes on where this one ended.
                    _ = stream => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
            // What was committed and not told live yet.
            let limit = tokio::time::Instant::now() + TAIL_LIMIT;
            while tokio::time::Instant::now() < limit {
                match rest(&api, &mut heard).await {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
            heard
        });
        Self { task, stop }
    }

    /// Ends it; how many events were heard, and what is wrong with them after that many installs.
    ///
    /// # Errors
    /// When the reader itself failed.
    pub async fn stop(self, installs: usize) -> anyhow::Result<(u64, Vec<String>)> {
        self.stop.cancel();
        let heard = self.task.await?;
        let count = heard.last - heard.first.map_or(heard.last, |first| first - 1);
        Ok((count, heard.faults(installs)))
    }
}

/// Reads the live stream until it breaks off.
async fn read(api: &Api, heard: &mut Heard) -> anyhow::Result<()> {
    let mut answer = api.stream("/api/v1/events", Some(heard.last)).await?;
    let mut text = String::new();
    while let Some(chunk) = answer.chunk().await? {
        text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some((message, rest)) = text.split_once("\n\n") {
            let data = message.lines().find_map(|line| line.strip_prefix("data: "));
            if let Some(event) = data.and_then(|data| serde_json::from_str(data).ok()) {
                heard.take(&event);
            }
            text = rest.to_owned();
        }
    }
    Ok(())
}

/// Reads what comes after the last event by the page.
async fn rest(api: &Api, heard: &mut Heard) -> anyhow::Result<usize> {
    let page = api
        .get(&format!("/api/v1/events?after={}&limit=1000", heard.last))
        .await?;
    let items = page["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().for_each(|event| heard.take(event));
    Ok(items.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_gap_a_repeat_and_a_job_without_an_end_are_told() {
        let told = |events: &[(u64, &str)]| {
            let mut heard = Heard::default();
            for (seq, kind) in events {
                heard.take(&json!({ "seq": seq, "job": "a", "kind": kind }));
            }
            heard.faults(1)
        };
        let whole = [
            (7, "job.queued"),
            (8, "job.running"),
            (9, "step.done"),
            (10, "job.done"),
        ];
        assert_eq!(told(&whole), Vec::<String>::new());
        assert_eq!(told(&whole[..3]).len(), 1, "no end");
        let gap = [(7, "job.queued"), (9, "job.running"), (10, "job.done")];
        assert!(told(&gap)[0].contains("9 came after event 7"));
        let twice = [
            (7, "job.queued"),
            (8, "job.running"),
            (8, "job.running"),
            (9, "job.done"),
        ];
        assert_eq!(told(&twice).len(), 2);
    }
}
