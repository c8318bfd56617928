//! Instances: asked for, dispatched to a machine, worked on, given back. One file a use-case; here is what they share.

mod create;
mod dispatch;
mod offers;
mod orders;
mod password;
mod plan;
mod user_data;
mod work;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use slipway_protocol::ids::{InstanceId, JobId};

pub use create::{NewInstance, Repeatable, check_ssh_key, create};
pub use dispatch::{Waiting, dispatch};
pub(super) use offers::{offer_order, offered};
pub(super) use orders::{power_order, rotation_order};
pub use plan::{Held, NoDisk, On, Plan, plan_create, plan_reinstall};
pub use user_data::Check as UserDataCheck;
pub use work::{Anew, Change as InstanceChange, Work, reset_password, retry, update, work};

use crate::{
    access::{Caller, Permission, Target, Visible},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        instances::{self, Instance},
        jobs::{self, Job},
    },
    workflow::state::{JobKind, JobState, MachineState},
};

/// How long a job may take at most, waiting for a machine included.
pub(crate) const JOB_LIFE: TimeDelta = TimeDelta::hours(2);

/// The place an instance's user-data is encrypted for.
fn user_data_place(instance: InstanceId) -> String {
    format!("instance/{instance}/user-data")
}

/// An instance as the audit log keeps it: without user-data.
fn told(i: &Instance) -> Value {
    json!({
        "name": i.name, "project": i.project, "site": i.site, "image": i.image.to_string(),
        "state": i.state, "user": i.wish.user, "ssh_keys": i.wish.ssh_keys,
    })
}

/// What the audit log calls an instance.
fn object(i: &Instance) -> String {
    format!("instance/{}", i.id)
}

/// Makes the instance's job.
fn queue(
    db: &mut Database,
    instance: &Instance,
    (kind, priority): (JobKind, i64),
    now: DateTime<Utc>,
) -> Result<Job, ApiError> {
    let job = Job {
        id: instance.job,
        kind,
        priority,
        waiting: None,
        instance: Some(instance.id),
        site: instance.site.clone(),
        machine: instance.machine,
        state: JobState::Queued,
        failure: None,
        deadline: now + JOB_LIFE,
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &job)?;
    events::append(
        db,
        &NewEvent::new("job.queued", now).on(&job).entered(&job.state)?,
    )?;
    Ok(job)
}

/// Notes in the audit log that work on one of many instances was refused; a call for one alone notes it by itself.
///
/// # Errors
/// When the store fails.
pub async fn note_refusal(
    app: &App,
    caller: &Caller,
    instance: &str,
    code: &'static str,
) -> Result<(), ApiError> {
    let (by, now, object) = (caller.actor.clone(), (app.now)(), format!("instance/{instance}"));
    let noted = app.store.transaction(move |db| {
        let change = Change {
            action: "instance.work",
            object,
            before: None,
            after: None,
        };
        audit::refused(db, &by, now, code, change)
    });
    Ok(noted.await?)
}

/// One instance that the caller may see, by id or name.
///
/// # Errors
/// When there is none, or the caller may not see it: who may not know is told the same.
pub async fn get(app: &App, caller: &Caller, key: String) -> Result<Instance, ApiError> {
    let visible = caller.visible(Permission::InstancesRead);
    app.store
        .read(move |db| {
            instances::get(db, &key, &visible)?.ok_or_else(|| ApiError::NotFound("instance", key))
        })
        .await
}

/// The same, if the caller may also work on it.
async fn own(app: &App, caller: &Caller, key: String) -> Result<Instance, ApiError> {
    let instance = get(app, caller, key).await?;
    let target = Target {
        site: Some(instance.site.as_str()),
        project: Some(&instance.project),
    };
    caller.require(Permission::InstancesWrite, target)?;
    Ok(instance)
}

/// Tells that a job took its machine and that its order is in force.
pub(super) fn tell_started(
    db: &mut Database,
    job: JobId,
    revision: u64,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let Some(job) = jobs::get(db, &job.to_string())? else {
        return Ok(());
    };
    crate::store::traces::ordered(db, &job, now)?;
    let event = |kind| NewEvent::new(kind, now).on(&job);
    events::append(db, &event("machine.taken").entered(&MachineState::Allocated)?)?;
    events::append(db, &event("job.running").entered(&job.state)?)?;
    let order = event("machine.order").text(format!("job {} order {revision}", job.id));
    events::append(db, &order.data(json!({ "revision": revision })))
}

fn both(db: &mut Database, instance: &str, job: JobId) -> Result<(Instance, Job), ApiError> {
    let gone = || ApiError::NotFound("instance", instance.to_owned());
    let found = instances::get(db, instance, &Visible::All)?.ok_or_else(gone)?;
    let job = jobs::get(db, &job.to_string())?.ok_or_else(gone)?;
    Ok((found, job))
}
