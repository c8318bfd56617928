//! The log of a job at its site: what the edge does and what the agent says come out on the machine's log topic, signed, in
//! pieces that follow each other; and what is not the job's agent's does not.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use slipway_bus::{Event, Publish, PublishError};
use slipway_edge::{agents, job_log::ship, uplink::Word};
use slipway_protocol::{
    ids::{BootId, JobId, MachineId},
    keys::{Expect, KeyRing, Signer},
    log::LogHeld,
    report::LogChunk,
    sync::SyncRequest,
    topic::Topic,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::edge::{Edge, Nowhere, centre, machine, now, order, site, stamp, started};

/// The control plane's broker: what was said on it, and whether it is there.
#[derive(Clone, Default)]
struct Central(Arc<Mutex<Heard>>);

#[derive(Default)]
struct Heard {
    away: bool,
    chunks: Vec<LogChunk>,
}

impl Publish for Central {
    fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        let mut heard = self.0.lock().unwrap();
        if heard.away {
            return Err(PublishError::Offline);
        }
        let topic: Topic = topic.parse().unwrap();
        assert_eq!(topic, Topic::Log(site(), machine()));
        let ring = KeyRing::new([Signer::from_seed(&[3; 32]).unwrap().verifying_key()]);
        let expect = Expect {
            now: now(),
            held: None,
        };
        let chunk = ring.open::<LogChunk>(&topic, &payload, expect).unwrap();
        heard.chunks.push(chunk.into_body());
        Ok(())
    }
}

impl Central {
    fn text(&self) -> String {
        let heard = self.0.lock().unwrap();
        heard.chunks.iter().map(|chunk| chunk.text.as_str()).collect()
    }

    /// Waits until what was said holds this.
    async fn until(&self, what: &str) {
        let wait = async {
            while !self.text().contains(what) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "not in time: {what}; said: {}", self.text());
    }
}

fn chunk(job: JobId, offset: u64, text: &str) -> LogChunk {
    LogChunk {
        job,
        boot: Some(BootId(Uuid::from_u128(5))),
        offset,
        text: text.to_owned(),
    }
}

async fn says(agents: &mpsc::Sender<Event>, signer: &Signer, machine: MachineId, chunk: &LogChunk) {
    let topic = Topic::AgentLog(site(), machine);
    let payload = Bytes::from(signer.seal(&topic, stamp(1), chunk));
    let topic = topic.to_string();
    agents.send(Event::Message { topic, payload }).await.unwrap();
}

/// The edge's log task and its agents' door, at a control plane's broker.
fn open(edge: &Edge) -> (Central, mpsc::Sender<Event>, mpsc::Receiver<Word>) {
    let central = Central::default();
    let logs = ship::run(
        Arc::clone(&edge.context),
        Arc::new(central.clone()),
        Arc::new(Nowhere),
        edge.stop.clone(),
    );
    tokio::spawn(logs);
    let (agents, events) = mpsc::channel(16);
    let (unknown, _) = mpsc::channel(1);
    let (_, words) = mpsc::channel(1);
    let context = Arc::clone(&edge.context);
    tokio::spawn(agents::listen(context, edge.runner.clone(), events, unknown));
    (central, agents, words)
}

#[tokio::test]
async fn what_edge_and_agent_say_of_a_job_comes_out_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let job = order(1).job;
    let boot = edge.context.boots.ensure(machine(), job).unwrap();
    let (agent, stranger) = (boot.token.signer().unwrap(), Signer::from_seed(&[9; 32]).unwrap());
    let (central, agents, _words) = open(&edge);
    central.until("INFO the job is done\n").await;
    for (signer, chunk) in [
        (&stranger, chunk(job, 0, "a stranger\n")),
        (&agent, chunk(order(2).job, 0, "another job\n")),
        (&agent, chunk(job, 0, "agent one\n")),
        (&agent, chunk(job, 0, "agent one\nagent two\n")),
        (&agent, chunk(job, 30, "agent three\n")),
    ] {
        says(&agents, signer, machine(), &chunk).await;
    }
    central.until("agent three\n").await;
    let text = central.text();
    let own: Vec<&str> = text.lines().filter(|line| line.starts_with("edge  ")).collect();
    let said = [
        "step begins step=bind-address attempt=1",
        "step done step=bind-address attempt=1",
        "the job is done",
    ];
    assert_eq!(own.len(), said.len(), "{text}");
    assert!(
        own.iter().zip(said).all(|(line, said)| line.contains(said)),
        "{text}"
    );
    let of_agent = "agent one\nagent two\n[10 bytes of the agent's log are missing]\nagent three\n";
    assert!(text.ends_with(of_agent), "{text}");
    let mut end = 0;
    for chunk in &central.0.lock().unwrap().chunks {
        assert_eq!(
            (chunk.job, chunk.offset),
            (job, end),
            "each follows the one before"
        );
        end += chunk.text.len() as u64;
    }
}

#[tokio::test]
async fn a_cut_and_a_restart_lose_nothing_that_is_still_held() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let job = order(1).job;
    let (central, ..) = open(&edge);
    central.until("the job is done\n").await;
    let all = central.text();
    central.0.lock().unwrap().away = true;
    edge.context
        .logs
        .say(machine(), job, &["edge  while it was cut off\n".into()]);
    // The control plane has lost all but the first ten bytes, and says so when the edge says hello.
    assert_eq!(edge.context.logs.told().len(), 1);
    let lost = SyncRequest::Logs {
        held: vec![LogHeld { job, end: 10 }],
    };
    edge.send(
        &Topic::Sync(site()),
        centre().seal(&Topic::Sync(site()), stamp(1), &lost),
    )
    .await;
    let kept = format!("{all}edge  while it was cut off\n");
    let confirmed = |store: &slipway_edge::store::Store| {
        let logs = store.logs().unwrap();
        logs.iter()
            .any(|(_, log)| log.confirmed == 10 && log.tail.end() == kept.len() as u64)
    };
    edge.until("it is on disk", confirmed).await;
    drop(edge);
    let edge = Edge::start(dir.path());
    edge.context.logs.take_up(edge.store.logs().unwrap());
    let (central, ..) = open(&edge);
    central.until("while it was cut off\n").await;
    assert_eq!(central.text(), kept[10..]);
}
