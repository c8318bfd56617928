//! The power of machines, whoever holds them or nobody: switched and read on request, and kept as reports tell of it. An
//! instance's power is its owner's affair, and is not switched here.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use slipway_protocol::{
    bmc::BmcState,
    ids::{JobId, SiteId},
    report::Report,
};
use uuid::Uuid;

use super::{
    instances::power_order,
    machine_jobs::{self, Beginning},
    machines as domain_machines,
};
use crate::{
    access::{Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult, bmc_states, instances,
        jobs::Job,
        machines::{self, Machine},
    },
    workflow::{
        machine_job::LIFE,
        machine_power::Ask,
        state::{JobKind, MachineState},
    },
};

/// Asks a machine's BMC to switch it, or to say how it is; a system is given `grace_s` seconds to shut down.
///
/// # Errors
/// When there is no such machine, an instance holds it, it has no BMC, its site is away, or it cannot be worked on now.
pub async fn ask(
    app: &App,
    caller: &Caller,
    key: String,
    (ask, grace_s): (Ask, u32),
) -> Result<Job, ApiError> {
    let machine = domain_machines::get(app, caller, key).await?;
    caller.require(Permission::MachinesWrite, Target::site(machine.site.as_str()))?;
    let read = app.store.read(move |db| {
        check_free(db, &machine, ask)?;
        machine_jobs::standing(db, machine)
    });
    let (seen, to) = read.await?;
    let (now, job) = ((app.now)(), JobId(Uuid::now_v7()));
    let deadline = now + LIFE + TimeDelta::seconds(grace_s.into());
    let order = power_order(
        app,
        (seen.1.as_ref(), &seen.0),
        (job, to),
        deadline,
        (ask, grace_s),
    )?;
    order.check().map_err(|e| ApiError::Internal(e.into()))?;
    let beginning = Beginning {
        kind: JobKind::SwitchPower,
        action: "machine.power",
        told: json!({ "do": ask, "grace_s": grace_s }),
        candidates: seen.0.bmc_candidates.clone(),
    };
    let (by, site) = (caller.actor.clone(), seen.0.site.clone());
    let begin = app
        .store
        .transaction(move |db| machine_jobs::begin(db, &seen, beginning, &order, (&by, now)));
    let job = begin.await?;
    app.poke_site(site.as_str());
    Ok(job)
}

/// Refuses to switch what an instance runs on: its owner would find it off, and nobody had told the instance.
fn check_free(db: &mut Database, machine: &Machine, ask: Ask) -> Result<(), ApiError> {
    if !ask.switches() {
        return Ok(());
    }
    let instance = instances::on_machine(db, &machine.site, machine.id)?;
    if instance.is_none() && machine.state != MachineState::Allocated {
        return Ok(());
    }
    let name = instance.map_or_else(|| "NAME".to_owned(), |instance| instance.name);
    let detail = format!(
        "machine `{}` holds an instance: use `slipway instance {} {name}`",
        machine.name,
        ask.of_instance()
    );
    Err(ApiError::Conflict("machine_allocated", detail))
}

/// Keeps what a report newly says of a machine's BMC, if that is newer than what is known; a site speaks for its own machines
/// alone.
///
/// # Errors
/// When the store fails.
pub(super) fn told(
    db: &mut Database,
    site: &SiteId,
    (former, report): (Option<&Report>, &Report),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let Some(state) = &report.bmc else { return Ok(()) };
    // A level is told again and again; only what is new is looked at.
    if former.and_then(|former| former.bmc.as_ref()) == Some(state) {
        return Ok(());
    }
    let found = machines::get(db, &report.machine.to_string())?;
    let Some(machine) = found.filter(|machine| machine.site == *site) else {
        return Ok(());
    };
    let state = BmcState {
        // An edge whose clock is ahead would else have the last word until that time has come.
        seen_at: state.seen_at.min(now),
        ..state.clone()
    };
    let state = match &machine.bmc_state {
        Some(known) => state.completed_by(known),
        None => state,
    };
    bmc_states::put(db, machine.id, &state)?;
    Ok(())
}
