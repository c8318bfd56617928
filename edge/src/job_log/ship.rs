//! Takes logs of jobs to disk and to the control plane, once a second. What fails is tried again with the next second, and
//! nobody waits for it.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use slipway_bus::Publish;
use slipway_protocol::{keys::Stamp, topic::Topic};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::context::Context;

/// How often; a machine sends at most one chunk in this time.
const EVERY: Duration = Duration::from_secs(1);
/// How long a chunk stays good.
const VALIDITY: TimeDelta = TimeDelta::days(1);

/// Ships logs until `stop`. `central` is the control plane's broker; to `mirror` goes a copy for people with MQTT tools.
pub async fn run(
    context: Arc<Context>,
    central: Arc<dyn Publish>,
    mirror: Arc<dyn Publish>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut disk = Disk::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                disk.keep(&context);
                return;
            }
            _ = tick.tick() => {
                send(&context, &*central, &*mirror);
                disk.keep(&context);
            }
        }
    }
}

fn send(context: &Context, central: &dyn Publish, mirror: &dyn Publish) {
    for (machine, chunk) in context.logs.due() {
        let topic = Topic::Log(context.site.clone(), machine);
        let issued_at = (context.now)();
        let stamp = Stamp {
            revision: issued_at.timestamp_millis().cast_unsigned(),
            issued_at,
            expires_at: issued_at + VALIDITY,
        };
        let payload = context.signer.seal(&topic, stamp, &chunk);
        if central.publish(&topic.to_string(), payload.clone()).is_err() {
            return;
        }
        let _ = mirror.publish(&topic.to_string(), payload);
        context.logs.sent(&chunk);
    }
}

/// Whether the last write went well: a disk that is full is told of once.
#[derive(Default)]
struct Disk {
    failed: bool,
}

impl Disk {
    fn keep(&mut self, context: &Context) {
        let unkept = context.logs.unkept();
        if unkept.logs.is_empty() && unkept.gone.is_empty() {
            return;
        }
        match context.store.put_logs(&unkept) {
            Ok(()) => {
                context.logs.kept(&unkept);
                if std::mem::replace(&mut self.failed, false) {
                    info!("the logs of jobs are written to disk again");
                }
            }
            Err(error) if !std::mem::replace(&mut self.failed, true) => {
                warn!(%error, "the logs of jobs cannot be written to disk: a restart of this edge loses their end");
            }
            Err(_) => {}
        }
    }
}
