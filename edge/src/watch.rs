//! What the boot services see, sorted: of known machines to the runner's timeline, of unknown ones to the control plane,
//! at most once a minute each. Keeps the leases on disk.

use std::{collections::HashMap, sync::Arc, time::Duration};

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
    runner::actor::{Input, Runner},
    tftp::server::Ended,
    uplink::Word,
};

/// Setting that holds the leases.
pub const LEASES_SETTING: &str = "leases";
/// How often an unknown machine is told of.
const TELL_EVERY: TimeDelta = TimeDelta::minutes(1);
/// How often changed leases are written.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// Serves until `stop`.
///
/// # Errors
/// When the leases cannot be written.
pub async fn run(
    context: Arc<Context>,
    runner: Runner,
    (mut sightings, mut unknown): (mpsc::Receiver<Sighting>, mpsc::Receiver<Box<AgentHello>>),
    words: mpsc::Sender<Word>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut told: HashMap<MacAddr, DateTime<Utc>> = HashMap::new();
    let mut saved = String::new();
    let mut save = tokio::time::interval(SAVE_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return save_leases(&context, &mut saved),
            _ = save.tick() => save_leases(&context, &mut saved)?,
            Some(hello) = unknown.recv() => {
                for nic in &hello.inventory.nics {
                    tell(&context, &words, nic.mac, Some(&hello)).await;
                }
            }
            Some(sighting) = sightings.recv() => {
                let (mac, at) = (sighting.mac, sighting.event.at);
                if !sighting.unknown {
                    let Sighting { event, system, .. } = sighting;
                    runner.tell(Input::Seen { mac, event, system }).await;
                } else if told.get(&mac).is_none_or(|last| at - *last >= TELL_EVERY) {
                    info!(%mac, address = %sighting.address, "an unknown machine boots");
                    told.insert(mac, at);
                    tell(&context, &words, mac, None).await;
                }
            }
        }
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

fn save_leases(context: &Context, saved: &mut String) -> anyhow::Result<()> {
    let text = serde_json::to_string(&context.table.leases())?;
    if text != *saved {
        context.store.put_setting(LEASES_SETTING, &text)?;
        *saved = text;
    }
    Ok(())
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
