//! Events that several use-cases tell in the same words. It changes nothing but the event stream.

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::ids::JobId;

use crate::{
    error::ApiError,
    store::{
        Database,
        events::{self, NewEvent},
        instances::Instance,
        jobs,
    },
    workflow::state::{InstanceState, MachineState},
};

/// Tells that a job took its machine and that its order is in force.
pub(super) fn started(
    db: &mut Database,
    job: JobId,
    revision: u64,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let Some(job) = jobs::get(db, &job.to_string())? else {
        return Ok(());
    };
    let event = |kind| NewEvent::new(kind, now).on(&job);
    events::append(db, &event("machine.taken").entered(&MachineState::Allocated)?)?;
    events::append(db, &event("job.running").entered(&job.state)?)?;
    let order = event("machine.order").text(format!("job {} order {revision}", job.id));
    Ok(events::append(db, &order.data(json!({ "revision": revision })))?)
}

/// Tells that an instance is given back.
pub(super) fn released(
    db: &mut Database,
    instance: &Instance,
    next: InstanceState,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let kind = match next {
        InstanceState::Released => "instance.released",
        _ => "instance.erasing",
    };
    let mut event = NewEvent::new(kind, now)
        .instance(instance.id)
        .site(&instance.site);
    if let Some(machine) = instance.machine {
        event = event.machine(machine);
    }
    Ok(events::append(db, &event.entered(&next)?)?)
}
