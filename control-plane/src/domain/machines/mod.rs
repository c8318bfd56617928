//! Machines: added, seen, changed, removed.

mod address;
mod check;
mod import;
mod life;
mod other_port;
mod row;
mod update;

use std::{collections::BTreeMap, net::Ipv4Addr};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use slipway_protocol::{
    ids::{JobId, MacAddr, MachineId, SiteId},
    inventory::{FirmwareKind, Inventory},
    report::MachineSeen,
    seal::Secret,
};
use tracing::error;
use uuid::Uuid;

pub use import::{Action, Given, How, Line, MOST_ROWS, import};
pub use life::{move_by, quarantine, settled};
pub use row::{ImportRow, RowError};
pub use update::{BmcUpdate, Update, update};

use address::AddressBook;
pub(super) use address::fits;
use check::{check_bmc, check_bmc_is_its_own, check_labels, check_name, check_ports};

use crate::{
    access::{Actor, Caller, Permission, Target},
    app::App,
    domain::machine_types,
    error::{ApiError, chain},
    store::{
        Database, StoreResult,
        audit::{self, Change},
        discovered,
        events::{self, NewEvent},
        machines::{self, BmcDetails, Class, Hold, Machine, MachineDetails},
        reports, sites,
    },
    workflow::state::MachineState,
};

/// A machine to be added.
pub struct NewMachine {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub site: SiteId,
    /// Its ports.
    pub macs: Vec<MacAddr>,
    /// How it boots.
    pub firmware: FirmwareKind,
    /// The address it is given; one is chosen otherwise.
    pub address: Option<Ipv4Addr>,
    /// Its BMC and its password.
    pub bmc: Option<(BmcDetails, Secret)>,
    /// For operators.
    pub labels: BTreeMap<String, String>,
    /// Whether it is kept off the shelf, given to nobody, until it is unshelved.
    pub shelved: bool,
}

/// The place a BMC's password is encrypted for.
#[must_use]
pub fn bmc_place(machine: MachineId) -> String {
    format!("machine/{machine}/bmc")
}

/// Adds a machine; it is free at once, unless it is to be shelved.
///
/// # Errors
/// When something does not fit the site or is taken.
pub async fn create(app: &App, caller: &Caller, new: NewMachine) -> Result<Machine, ApiError> {
    caller.require(Permission::MachinesWrite, Target::site(new.site.as_str()))?;
    check_ports(&new.macs)?;
    check_name(&new.name)?;
    check_labels(&new.labels)?;
    if let Some((bmc, password)) = &new.bmc {
        check_bmc(bmc, Some(password))?;
    }
    let id = MachineId(Uuid::now_v7());
    let (bmc, password) = new
        .bmc
        .map_or((None, None), |(bmc, password)| (Some(bmc), Some(password)));
    let bmc_password = password
        .map(|p| app.vault.encrypt(&bmc_place(id), &p))
        .transpose()?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    let machine = app
        .store
        .transaction(move |db| {
            sites::hold(db, new.site.as_str())?;
            let address = AddressBook::open(db, &new.site)?.take(new.address)?;
            // An agent may have looked at it before anybody enrolled it.
            let inventory = discovered::inventory_of(db, &new.site, &new.macs)?;
            let details = MachineDetails {
                macs: new.macs,
                firmware: new.firmware,
                bmc,
                labels: new.labels,
                inventory,
            };
            let machine = Machine {
                id,
                name: new.name,
                site: new.site,
                state: if new.shelved {
                    MachineState::Enrolled
                } else {
                    MachineState::Available
                },
                address,
                details,
                bmc_password,
                bmc_candidates: Vec::new(),
                bmc_state: None,
                class: Class::default(),
                hold: Hold::default(),
                live_job: None,
                version: 1,
                created_at: now,
            };
            add(db, machine, (&by, now))
        })
        .await?;
    app.work.notify_one();
    Ok(machine)
}

/// Puts a machine that fits into the store, with its type, and tells of it.
fn add(db: &mut Database, machine: Machine, (by, now): (&Actor, DateTime<Utc>)) -> Result<Machine, ApiError> {
    check_bmc_is_its_own(db, &machine)?;
    let class = machine_types::class_of_new(db, &machine)?;
    let machine = Machine { class, ..machine };
    machines::insert(db, &machine)?;
    let change = Change::new("machine.create", object(&machine), None, Some(told(&machine)));
    audit::done(db, by, now, change)?;
    let event = NewEvent::new("machine.added", now)
        .site(&machine.site)
        .machine(machine.id);
    events::append(db, &event.text(&machine.name).entered(&machine.state)?)?;
    Ok(machine)
}

/// One machine that the caller may see, by id or name.
///
/// # Errors
/// When there is none, or the caller may not see it: who may not know is told the same.
pub async fn get(app: &App, caller: &Caller, key: String) -> Result<Machine, ApiError> {
    let caller = caller.clone();
    app.store.read(move |db| seen_by(db, &caller, &key)).await
}

fn seen_by(db: &mut Database, caller: &Caller, key: &str) -> Result<Machine, ApiError> {
    let found = machines::get(db, key)?;
    found
        .filter(|m| caller.may(Permission::MachinesRead, Target::site(m.site.as_str())))
        .ok_or_else(|| ApiError::NotFound("machine", key.to_owned()))
}

/// Whether a job works on a machine, or an instance holds it.
fn in_use(machine: &Machine) -> bool {
    let held = [MachineState::Allocated, MachineState::Erasing];
    machine.live_job.is_some() || held.contains(&machine.state)
}

/// Takes the hardware an agent found in a job: if it is news, it is kept and told, and the machine's type decided anew.
///
/// # Errors
/// When the store fails.
pub fn found(
    db: &mut Database,
    (machine, job): (MachineId, JobId),
    inventory: &Inventory,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let key = machine.to_string();
    let Some(machine) = machines::get(db, &key)? else {
        return Ok(());
    };
    let mut inventory = inventory.clone();
    if let Some(former) = &machine.details.inventory {
        inventory.keep_neighbours(former);
    }
    if machine.details.inventory.as_ref() == Some(&inventory) {
        return Ok(());
    }
    machines::set_inventory(db, machine.id, &inventory)?;
    let event = NewEvent::new("machine.inventory", now)
        .site(&machine.site)
        .machine(machine.id);
    events::append(db, &event.job(job))?;
    // Read again, as its row is held now: whoever changed its labels did so before, or waits.
    if let Some(machine) = machines::get(db, &key)? {
        machine_types::assign(db, &machine, now)?;
    }
    Ok(())
}

/// What the audit log calls a machine.
fn object(m: &Machine) -> String {
    format!("machine/{}", m.name)
}

/// A machine as the audit log keeps it: without secrets, and without what agents found.
fn told(m: &Machine) -> Value {
    json!({
        "name": m.name, "site": m.site, "address": m.address, "macs": m.details.macs,
        "firmware": m.details.firmware, "bmc": m.details.bmc, "labels": m.details.labels,
        "machine_type": m.class.machine_type, "type_pinned": m.class.pinned,
    })
}

/// Whether a site may speak of a machine: it is the site's, or was when it was deleted. Of a machine that is gone the last
/// report stays, and a newer one takes its place, so that edge and control plane hold the same.
///
/// # Errors
/// When the store fails.
pub fn is_of_site(db: &mut Database, site: &SiteId, machine: MachineId) -> StoreResult<bool> {
    match machines::site_of(db, machine)? {
        Some(owner) => Ok(owner == *site),
        None => Ok(reports::site_of(db, machine)?.is_some_and(|owner| owner == *site)),
    }
}

/// Notes that a port was seen booting; the first time it is an event. `false` if it is a port of another site's machine.
///
/// # Errors
/// When the store fails.
pub fn seen(
    db: &mut Database,
    site: &SiteId,
    mac: MacAddr,
    seen: &MachineSeen,
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    if machines::site_of_port(db, mac)?.is_some_and(|owner| owner != *site) {
        return Ok(false);
    }
    if let Some(inventory) = &seen.inventory {
        other_port::tell(db, site, (mac, inventory), now)?;
    }
    if discovered::put(db, site, mac, seen, now)? {
        let event = NewEvent::new("machine.discovered", now).site(site);
        let data = json!({ "mac": mac, "address": seen.address });
        events::append(db, &event.text(mac.to_string()).data(data))?;
    }
    Ok(true)
}

/// Forgets unknown ports that were not seen for a month.
pub async fn prune_discovered(app: &App) {
    let before = (app.now)() - discovered::KEPT_FOR;
    if let Err(failure) = app
        .store
        .transaction(move |db| discovered::prune(db, before))
        .await
    {
        error!(error = %chain(&failure), "unknown ports of long ago cannot be removed; trying again in an hour");
    }
}

/// Removes a machine that is free.
///
/// # Errors
/// When there is none, or it is in use.
pub async fn delete(app: &App, caller: &Caller, key: String) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let machine = seen_by(db, &caller, &key)?;
            caller.require(Permission::MachinesWrite, Target::site(machine.site.as_str()))?;
            if in_use(&machine) {
                let detail = format!("machine `{key}` is in use; release its instance first");
                return Err(ApiError::Conflict("machine_in_use", detail));
            }
            machines::delete(db, machine.id)?;
            let event = NewEvent::new("machine.deleted", now).site(&machine.site);
            events::append(db, &event.machine(machine.id).text(&machine.name))?;
            let before = Some(told(&machine));
            Ok(audit::done(
                db,
                &caller.actor,
                now,
                Change::new("machine.delete", object(&machine), before, None),
            )?)
        })
        .await
}
