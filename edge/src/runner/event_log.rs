//! What a BMC's own log tells of its machine's hardware, read while a job is there to open the BMC with: after each power
//! action and at the job's end. It stands beside the job and never delays or fails it.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::MachineId,
    order::Order,
    report::{HardwareFault, MAX_HARDWARE_FAULTS, Report},
};
use tracing::{debug, warn};

use super::{
    actor::{Input, Runner},
    steps::driver_boot,
};
use crate::{
    bmc::{
        event_log::{Bounds, Entry, EventLog, Mark, News, Place},
        ipmi::sel::PRE_INIT,
    },
    context::Context,
};

/// All that one reading may take, a silent BMC's repetitions included.
const LIMIT: Duration = Duration::from_secs(60);
/// At first contact a fault is told that is not older than this, in seconds by the BMC's clock.
const FIRST_CONTACT_S: u32 = 24 * 3600;
/// How far ahead of a BMC's clock an entry's time may be, in seconds: the two are not read at once.
const AHEAD_S: u32 = 300;

/// How much of a machine's log is known; kept over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The last entry seen.
    pub mark: Mark,
    /// The end was reached once: what comes after it happened since, whatever its time says.
    pub caught_up: bool,
}

/// Under which name the store keeps it.
fn setting(machine: MachineId) -> String {
    format!("event-log/{machine}")
}

/// Reads a machine's log and tells the runner what is new in it.
pub(super) async fn read(context: Arc<Context>, runner: Runner, order: Order) {
    let machine = order.machine;
    let seen = match seen(&context, machine) {
        Ok(seen) => seen,
        Err(error) => {
            warn!(%machine, error, "cannot tell how far the BMC's event log was read; it is left alone");
            return;
        }
    };
    let Ok(bmc) = driver_boot::connect(&context, &order) else {
        debug!(%machine, "there is no BMC whose event log could be read");
        return;
    };
    let mark = seen.as_ref().map(|seen| &seen.mark);
    let reading = tokio::time::timeout(LIMIT, bmc.event_log(mark, Bounds::default())).await;
    bmc.close().await;
    let log = match reading {
        Ok(Ok(Some(log))) => log,
        Ok(Ok(None)) => return debug!(%machine, "the BMC keeps no event log"),
        Ok(Err(error)) => {
            return warn!(%machine, %error, "cannot read the BMC's event log; the job goes on without");
        }
        Err(_) => {
            return warn!(%machine, "the BMC's event log takes too long to read; the job goes on without");
        }
    };
    let (faults, seen) = news(seen.as_ref(), &log, (context.now)());
    debug!(%machine, entries = log.entries.len(), faults = faults.len(), "read the BMC's event log");
    let input = Input::EventLog {
        machine,
        faults,
        seen: Box::new(seen),
    };
    runner.tell(input).await;
}

fn seen(context: &Context, machine: MachineId) -> Result<Option<Seen>, String> {
    let kept = context
        .store
        .setting(&setting(machine))
        .map_err(|e| e.to_string())?;
    // What another version wrote is as good as nothing: the machine is met for the first time.
    Ok(kept.and_then(|kept| serde_json::from_str(&kept).ok()))
}

/// Keeps how much is known. Only after what was new in it is safe: otherwise a crash would lose it.
pub(super) fn keep(
    context: &Context,
    machine: MachineId,
    seen: &Seen,
) -> Result<(), crate::store::StoreError> {
    let value = serde_json::to_string(seen).unwrap_or_default();
    context.store.put_setting(&setting(machine), &value)
}

/// The faults to tell of what was read, oldest first, and how much is known then. A fault that the log itself says is over
/// is none, and of the same one told again and again the last counts. At first contact a log may be years old: only what
/// happened of late is told then.
#[must_use]
pub fn news(seen: Option<&Seen>, log: &EventLog, now: DateTime<Utc>) -> (Vec<HardwareFault>, Seen) {
    let caught_up = seen.is_some_and(|seen| seen.caught_up);
    let mut open: Vec<(Place, HardwareFault)> = Vec::new();
    for entry in &log.entries {
        match &entry.news {
            News::Over { place } => open.retain(|(at, _)| !place.covers(at)),
            News::Fault { place, .. } => {
                open.retain(|(at, _)| at != place);
                if caught_up || is_recent(entry.time, log.clock) {
                    open.extend(fault(entry, now).map(|fault| (*place, fault)));
                }
            }
            News::Other => {}
        }
    }
    let seen = Seen {
        mark: log.mark.clone(),
        caught_up: caught_up || log.complete,
    };
    let newest = open.split_off(open.len().saturating_sub(MAX_HARDWARE_FAULTS));
    (newest.into_iter().map(|(_, fault)| fault).collect(), seen)
}

fn fault(entry: &Entry, now: DateTime<Utc>) -> Option<HardwareFault> {
    let News::Fault {
        kind, severity, text, ..
    } = &entry.news
    else {
        return None;
    };
    Some(HardwareFault {
        record: entry.record,
        bmc_time: entry.time.unwrap_or(u32::MAX),
        seen_at: now,
        kind: (*kind).to_owned(),
        severity: *severity,
        text: text.clone(),
        raw: entry.raw.clone(),
    })
}

/// Whether an entry is a day old at most. Two times by the BMC's own clock can be compared though it be wrong, unless one
/// counts from the BMC's start.
fn is_recent(time: Option<u32>, clock: Option<u32>) -> bool {
    let (Some(time), Some(clock)) = (time, clock) else {
        return false;
    };
    time >= PRE_INIT
        && clock >= PRE_INIT
        && time <= clock.saturating_add(AHEAD_S)
        && clock.saturating_sub(time) <= FIRST_CONTACT_S
}

/// Adds faults to a report, each once, and leaves the newest ones; answers whether there were new ones.
pub fn add(report: &mut Report, faults: Vec<HardwareFault>) -> bool {
    let held = &mut report.hardware_faults;
    let mut changed = false;
    for fault in faults {
        if !held.iter().any(|known| known.raw == fault.raw) {
            held.push(fault);
            changed = true;
        }
    }
    held.drain(..held.len().saturating_sub(MAX_HARDWARE_FAULTS));
    changed
}
