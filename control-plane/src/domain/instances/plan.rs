//! What an install would do, without doing any of it: the code that makes an instance and finds its machine runs in a
//! transaction that is rolled back, so a plan refuses what the real thing refuses. The disk is chosen by the function the
//! agent chooses by, from what an agent last saw; the agent looks again and has the last word.

use std::convert::Infallible;

use chrono::{DateTime, Utc};
use slipway_protocol::{inventory::Disk, order::Step};

use super::{
    create::{self, NewInstance},
    dispatch::{Waiting, find_machine},
    orders::install_steps,
    own,
    work::{Anew, may_begin, renewed},
};
use crate::{
    access::{Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database, StoreError, StoreResult,
        instances::Instance,
        last_installs::{self, LastInstall},
        machines::{self, Machine},
    },
    workflow::state::JobKind,
};

/// Why no disk can be named: a stable code, and a sentence.
pub type NoDisk = (&'static str, String);

/// What was written to a disk last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// By an instance that the caller may see.
    Known(Box<LastInstall>),
    /// By one that the caller may not see.
    OfOthers {
        /// When it was asked for.
        at: DateTime<Utc>,
    },
}

/// What would be done on a machine.
#[derive(Debug, Clone)]
pub struct On {
    /// The machine.
    pub machine: Machine,
    /// The disk that would be written, or why none can be named.
    pub disk: Result<Disk, NoDisk>,
    /// What was written to that disk last, as far as is known.
    pub held: Option<Held>,
    /// The steps, in their order.
    pub steps: Vec<Step>,
}

/// What an install would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The instance as it would be.
    pub instance: Instance,
    /// On which machine and how, or why on none yet.
    pub on: Result<Box<On>, Waiting>,
}

/// How a transaction ends that must leave nothing behind.
enum Undone {
    Planned(Box<Plan>),
    Failed(ApiError),
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ApiError> for Undone {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// The disk a rule chooses from what an agent last saw.
fn disk_of(instance: &Instance, machine: &Machine) -> Result<Disk, NoDisk> {
    let Some(inventory) = &machine.details.inventory else {
        let detail = format!(
            "no agent has looked at machine {} yet; its disk is chosen when it has booted the LiveOS",
            machine.name
        );
        return Err(("not_inspected", detail));
    };
    let chosen = instance.wish.disk.choose(&inventory.disks);
    let chosen = chosen.map_err(|error| (error.code(), error.to_string()))?;
    Ok(inventory.disks[chosen].clone())
}

fn on(
    db: &mut Database,
    caller: &Caller,
    instance: &Instance,
    machine: Machine,
    wipe: bool,
) -> StoreResult<Box<On>> {
    let disk = disk_of(instance, &machine);
    let last = last_installs::on(db, &machine)?;
    let is_it = |last: &LastInstall| {
        disk.as_ref()
            .is_ok_and(|disk| disk.identity() == last.disk.identity())
    };
    // What another tenant had on the disk is nobody else's to know; that there was something is.
    let site = machine.site.clone();
    let of_caller = |last: &LastInstall| {
        let target = Target {
            site: Some(site.as_str()),
            project: Some(&last.project),
        };
        caller.may(Permission::InstancesRead, target)
    };
    let held = last.filter(is_it).map(|last| {
        if of_caller(&last) {
            Held::Known(Box::new(last))
        } else {
            Held::OfOthers { at: last.at }
        }
    });
    Ok(Box::new(On {
        held,
        steps: install_steps(instance, &machine, wipe),
        disk,
        machine,
    }))
}

/// Says what making an instance would do now, and makes none.
///
/// # Errors
/// What making it would be refused for.
pub async fn plan_create(app: &App, caller: &Caller, new: NewInstance) -> Result<Plan, ApiError> {
    let asked = create::ask(app, caller, &new, None)?;
    let (by, now) = (caller.clone(), (app.now)());
    let undone = app.store.transaction(move |db| -> Result<Infallible, Undone> {
        let mut made = create::note(db, new, asked, now)?;
        let lost = || ApiError::Internal("no instance was planned, and nothing said why".into());
        let (instance, _) = made.pop().ok_or_else(lost)?;
        let on = match find_machine(db, instance.id)? {
            Ok((instance, machine, _)) => Ok(on(db, &by, &instance, machine, false)?),
            Err(why) => Err(why),
        };
        Err(Undone::Planned(Box::new(Plan { instance, on })))
    });
    match undone.await {
        Ok(never) => match never {},
        Err(Undone::Planned(plan)) => Ok(*plan),
        Err(Undone::Failed(error)) => Err(error),
    }
}

/// Says what installing an instance anew would do now, and does not.
///
/// # Errors
/// What that would be refused for.
pub async fn plan_reinstall(app: &App, caller: &Caller, key: String, anew: Anew) -> Result<Plan, ApiError> {
    let instance = own(app, caller, key).await?;
    may_begin(&instance, JobKind::Reinstall)?;
    let Some(id) = instance.machine else {
        let detail = format!(
            "instance `{}` has no machine; retry its job or release it",
            instance.name
        );
        return Err(ApiError::Conflict("no_machine", detail));
    };
    let wipe = anew.wipe_data_disks;
    let instance = renewed(app, caller, instance, anew).await?;
    let by = caller.clone();
    let planned = app.store.read(move |db| {
        let machine = machines::get(db, &id.to_string())?;
        let machine = machine.ok_or_else(|| ApiError::NotFound("machine", id.to_string()))?;
        if machine.live_job.is_some() {
            let detail = format!("the machine of instance `{}` is being worked on", instance.name);
            return Err(ApiError::Conflict("machine_busy", detail));
        }
        let on = Ok(on(db, &by, &instance, machine, wipe)?);
        Ok(Plan { instance, on })
    });
    planned.await
}
