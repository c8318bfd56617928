//! What the boot services see, sorted: of known machines to the runner's timeline, of unknown ones to the control plane,
//! at most once a minute each.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    ids::MacAddr,
    report::{AgentHello, EventSource, MachineSeen, TimelineEvent},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    context::Context,
    dhcp::server::Sighting,
    metrics,
    runner::actor::{Input, Runner},
    sightings::Thinned,
    tftp::server::Ended,
    uplink::Word,
};

/// How often an unknown machine is told of.
const TELL_EVERY: TimeDelta = TimeDelta::minutes(1);
/// How many unknown machines are told of in that time.
const MOST_UNKNOWN: usize = 10_000;
/// How many ports of an unknown machine are told of.
const MOST_PORTS: usize = 64;
/// How often repeats of sightings are passed on.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Serves until `stop`.
///
/// # Errors
/// Never; the type is that of all tasks.
pub async fn run(
    context: Arc<Context>,
    runner: Runner,
    (mut sightings, mut unknown): (mpsc::Receiver<Sighting>, mpsc::Receiver<Box<AgentHello>>),
    words: mpsc::Sender<Word>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut told = Told::default();
    let mut thinned = Thinned::default();
    let mut flush = tokio::time::interval(FLUSH_EVERY);
    flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let passing = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(hello) = unknown.recv() => {
                for nic in hello.inventory.nics.iter().take(MOST_PORTS) {
                    tell(&context, &words, nic.mac, Some(&hello)).await;
                }
                continue;
            }
            _ = flush.tick() => thinned.due(Instant::now()),
            Some(sighting) = sightings.recv() => match thinned.take(sighting, Instant::now()) {
                Some(sighting) => vec![sighting],
                None => {
                    metrics::sighting_dropped("repeat");
                    continue;
                }
            },
        };
        for sighting in passing {
            let (mac, at) = (sighting.mac, sighting.event.at);
            if !sighting.unknown {
                let Sighting { event, system, .. } = sighting;
                // What orders and agents need of the runner never waits for this.
                if !runner.tell_if_idle(Input::Seen { mac, event, system }) {
                    metrics::sighting_dropped("busy");
                }
            } else if told.is_due(mac, at) {
                info!(%mac, address = %sighting.address, "an unknown machine boots");
                tell(&context, &words, mac, None).await;
            }
        }
    }
}

/// Which unknown machines were told of lately.
#[derive(Debug, Default)]
struct Told(HashMap<MacAddr, DateTime<Utc>>);

impl Told {
    /// Whether an unknown machine is to be told of again; that it is told now is noted.
    fn is_due(&mut self, mac: MacAddr, at: DateTime<Utc>) -> bool {
        if self
            .0
            .get(&mac)
            .is_some_and(|last| (at - *last).abs() < TELL_EVERY)
        {
            return false;
        }
        if self.0.len() >= MOST_UNKNOWN {
            self.0.retain(|_, last| (at - *last).abs() < TELL_EVERY);
        }
        let has_room = self.0.len() < MOST_UNKNOWN;
        if has_room {
            self.0.insert(mac, at);
        }
        has_room
    }
}

async fn tell(context: &Context, words: &mpsc::Sender<Word>, mac: MacAddr, hello: Option<&AgentHello>) {
    let Some(address) = context.table.address_of(mac) else {
        return;
    };
    let inventory = hello.map(|hello| hello.inventory.clone());
    let seen = MachineSeen {
        at: (context.now)(),
        address,
        inventory,
    };
    // The uplink being gone means that this process is ending.
    let _ = words.send(Word::Seen(mac, Box::new(seen))).await;
}

/// TFTP transfers as sightings of the port that has the reader's address.
///
/// # Errors
/// Never; the type is that of all tasks.
pub async fn tftp(
    context: Arc<Context>,
    mut ended: mpsc::Receiver<Ended>,
    sightings: mpsc::Sender<Sighting>,
) -> anyhow::Result<()> {
    while let Some(transfer) = ended.recv().await {
        let std::net::IpAddr::V4(address) = transfer.peer.ip() else {
            continue;
        };
        let Some(mac) = context.table.port_at(address) else {
            continue;
        };
        let (code, how) = match transfer.failure {
            None => (
                "file",
                format!("{} bytes in {} ms", transfer.bytes, transfer.millis),
            ),
            Some(reason) => ("file_failed", reason.to_owned()),
        };
        let text = format!("{}: {how}", transfer.file);
        let event = TimelineEvent {
            at: (context.now)(),
            source: EventSource::Tftp,
            code: code.to_owned(),
            text,
        };
        let unknown = context.table.entry(mac).is_none();
        // A full queue means that nobody keeps up with watching; the machine boots all the same.
        let _ = sightings.try_send(Sighting {
            mac,
            address,
            unknown,
            event,
            system: false,
        });
    }
    Ok(())
}
