//! Jobs of a machine alone, done by its BMC: what all kinds need to begin, and what becomes of the machine when they end. What is
//! asked of the BMC, and what its answer means, is each kind's own.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use slipway_protocol::{ids::MachineId, order::Order, report::Failure, seal::SealingKey};

use super::{bmc_passwords, machines as domain_machines};
use crate::{
    access::Actor,
    error::ApiError,
    store::{
        Database, StoreResult,
        audit::{self, Change},
        bmc_passwords::{self as passwords, BmcCandidate},
        events::{self, NewEvent},
        instances::{self, Instance},
        jobs::{self, Job},
        machines::{self, Machine},
        orders, sites, traces,
    },
    workflow::{
        machine_job::{self, Refusal},
        state::{JobKind, JobState, MachineState},
    },
};

/// A machine with the instance that holds it.
pub(super) type Seen = (Machine, Option<Instance>);

/// What is begun.
pub(super) struct Beginning {
    /// The job's kind.
    pub(super) kind: JobKind,
    /// What the audit log calls it.
    pub(super) action: &'static str,
    /// What it keeps of it, besides the job.
    pub(super) told: Value,
    /// What the BMC's password may be from now on instead of the one on record.
    pub(super) candidates: Vec<BmcCandidate>,
}

/// The machine with its instance and its site's key, if a job of its own may begin.
///
/// # Errors
/// Why none may, with a stable code.
pub(super) fn standing(db: &mut Database, machine: Machine) -> Result<(Seen, SealingKey), ApiError> {
    let conflict = |code, detail: String| Err(ApiError::Conflict(code, detail));
    let instance = instances::on_machine(db, &machine.site, machine.id)?;
    let state = instance.as_ref().map(|instance| instance.state);
    let name = &machine.name;
    if let Err(refusal) = machine_job::may_begin(machine.state, machine.live_job, state) {
        let code = match refusal {
            Refusal::Busy => "machine_busy",
            Refusal::Retired => "machine_retired",
            Refusal::Unsettled => "instance_unsettled",
        };
        return conflict(code, format!("machine `{name}` {refusal}"));
    }
    if machine.details.bmc.is_none() || machine.bmc_password.is_none() {
        let how = "give it with `slipway machine set`";
        return conflict(
            "no_bmc",
            format!("machine `{name}` has no BMC with a password: {how}"),
        );
    }
    let site = sites::get(db, machine.site.as_str())?;
    let Some((site, to)) = site.and_then(|site| Some((site.online, site.sealing_key?))) else {
        let detail = format!("no edge has joined site {}", machine.site);
        return conflict("site_not_joined", detail);
    };
    if !site {
        let detail = format!("site {} is cut off: try again when it is back", machine.site);
        return conflict("site_offline", detail);
    }
    Ok(((machine, instance), to))
}

/// Gives the machine to the job, if all is as it was seen, and puts its order in force.
///
/// # Errors
/// When the machine was changed or taken meanwhile, or the store fails.
pub(super) fn begin(
    db: &mut Database,
    (machine, instance): &Seen,
    beginning: Beginning,
    order: &Order,
    (by, now): (&Actor, DateTime<Utc>),
) -> Result<Job, ApiError> {
    let changed = || {
        let detail = format!(
            "machine `{}` was changed or taken just now: try again",
            machine.name
        );
        Err(ApiError::Conflict("machine_busy", detail))
    };
    if !passwords::begin(db, machine, order.job, &beginning.candidates)? {
        return changed();
    }
    // The machine is this job's from here on; what was seen before must still be so.
    let held = instances::on_machine(db, &machine.site, machine.id)?;
    let stands = |i: &Instance| (i.id, i.state, i.name.clone());
    let found = machines::get(db, &machine.id.to_string())?;
    let same = found.is_some_and(|found| found.state == machine.state);
    if !same || held.as_ref().map(stands) != instance.as_ref().map(stands) {
        return changed();
    }
    let job = Job {
        id: order.job,
        instance: None,
        site: machine.site.clone(),
        machine: Some(machine.id),
        kind: beginning.kind,
        priority: 0,
        waiting: None,
        state: JobState::Queued,
        failure: None,
        deadline: order.deadline,
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &job)?;
    jobs::start(db, job.id, machine.id)?;
    let revision = orders::put(db, &machine.site, order)?;
    traces::ordered(db, &job, now)?;
    let job = Job {
        state: JobState::Running,
        ..job
    };
    let event = |kind| NewEvent::new(kind, now).on(&job);
    events::append(db, &event("job.running").entered(&job.state)?)?;
    let told = event("machine.order").text(format!("job {} order {revision}", job.id));
    events::append(db, &told.data(json!({ "revision": revision })))?;
    let mut after = beginning.told;
    after["job"] = json!(job.id);
    let object = format!("machine/{}", machine.name);
    let change = Change::new(beginning.action, object, None, Some(after));
    audit::done(db, by, now, change)?;
    Ok(job)
}

/// Such a job has ended: what it proved of the BMC's password is kept, and the machine is free for other work again.
///
/// # Errors
/// When the store fails.
pub(super) fn ended(
    db: &mut Database,
    job: &Job,
    (end, failure): (JobState, Option<&Failure>),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let Some(id) = job.machine else { return Ok(()) };
    // First, so that nobody else changes the row until this is over.
    let left = passwords::leave(db, id, job.id)?;
    let Some(machine) = machines::get(db, &id.to_string())? else {
        return Ok(());
    };
    if job.kind == JobKind::RotateBmcPassword {
        bmc_passwords::ended(db, &machine, (job, end, failure), now)?;
    }
    let held = [MachineState::Allocated, MachineState::Erasing].contains(&machine.state);
    if left && machine.hold.quarantine && !held {
        let reason = machine.hold.reason.unwrap_or_default();
        domain_machines::quarantine(db, id, &reason, now)?;
    }
    Ok(())
}

/// What such a job that failed leaves to be done, for people.
#[must_use]
pub fn advice(kind: JobKind, machine: Option<MachineId>) -> String {
    let machine = machine.map_or_else(|| "MACHINE".to_owned(), |machine| machine.to_string());
    match kind {
        JobKind::SwitchPower => {
            format!("ask anew with `slipway machine power {machine} on|off|restart|read`")
        }
        _ => format!("rotate again with `slipway machine rotate-bmc {machine}`"),
    }
}
