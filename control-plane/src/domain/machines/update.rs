//! What operators change of a machine: what it is called, how it boots, how it is reached, and what it is said to be.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use chrono::{DateTime, Utc};
use slipway_protocol::{ids::MacAddr, inventory::FirmwareKind, order::BmcDriver, seal::Secret};

use super::{
    AddressBook, bmc_place, check_bmc, check_bmc_is_its_own, check_labels, check_name, check_ports, in_use,
    object, seen_by, told,
};
use crate::{
    access::{Actor, Caller, Permission, Target},
    app::App,
    domain::{
        bmc_passwords::{after_change, is_rotating},
        machine_types,
    },
    error::ApiError,
    store::{
        Database, audit, bmc_states,
        events::{self, NewEvent},
        machine_types as types,
        machines::{self, BmcDetails, Class, Machine},
        sites,
    },
    workflow::state::MachineState,
};

/// What is to be changed of a machine; what is left out stays.
#[derive(Default)]
pub struct Update {
    /// Its name.
    pub name: Option<String>,
    /// Labels to be set, or removed where there is no value; the others stay.
    pub labels: BTreeMap<String, Option<String>>,
    /// How it boots.
    pub firmware: Option<FirmwareKind>,
    /// The address it is given.
    pub address: Option<Ipv4Addr>,
    /// All its ports.
    pub macs: Option<Vec<MacAddr>>,
    /// Its BMC.
    pub bmc: Option<BmcUpdate>,
    /// The type an operator gives it; `Some(None)` leaves it to rules again.
    pub machine_type: Option<Option<String>>,
}

/// What is to be changed of a BMC.
pub enum BmcUpdate {
    /// There is none any more.
    Remove,
    /// What is left out stays.
    Set {
        /// Its protocol.
        driver: Option<BmcDriver>,
        /// Where the edge reaches it.
        address: Option<SocketAddr>,
        /// User name.
        username: Option<String>,
        /// Password.
        password: Option<Secret>,
    },
}

/// Changes a machine, if it still has the version the caller saw.
///
/// # Errors
/// When there is none, it was changed meanwhile, something is taken or does not fit, or it is in use and its ports, address
/// or firmware would change under its instance.
pub async fn update(
    app: &App,
    caller: &Caller,
    key: String,
    seen: Option<u64>,
    wanted: Update,
) -> Result<Machine, ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    let former = super::get(app, &caller, key).await?;
    caller.require(Permission::MachinesWrite, Target::site(former.site.as_str()))?;
    let mut wanted = wanted;
    let password = match &mut wanted.bmc {
        Some(BmcUpdate::Set { password, .. }) => password.take(),
        _ => None,
    };
    let given = password.is_some();
    let password = news(app, &former, password)?;
    let machine = app
        .store
        .transaction(move |db| {
            sites::hold(db, former.site.as_str())?;
            let former = seen_by(db, &caller, &former.id.to_string())?;
            let mut next = applied(former.clone(), &wanted)?;
            check_bmc_password(&former, &next, given)?;
            next.bmc_password = password.or(next.bmc_password);
            next.bmc_candidates = after_change(&former, &next);
            check_use(db, &former, &next)?;
            if let Some(wish) = wanted.machine_type {
                pin(db, &next, wish, now)?;
            }
            write(
                db,
                (&former, &next),
                seen.unwrap_or(former.version),
                (&caller.actor, now),
            )
        })
        .await?;
    app.work.notify_one();
    Ok(machine)
}

/// A password encrypted, if it is another than the one on record.
fn news(app: &App, machine: &Machine, password: Option<Secret>) -> Result<Option<String>, ApiError> {
    let place = bmc_place(machine.id);
    let kept = machine.bmc_password.as_ref();
    let kept = kept.map(|text| app.vault.decrypt(&place, text)).transpose()?;
    let other = password.filter(|password| kept.as_ref() != Some(password));
    Ok(other
        .map(|password| app.vault.encrypt(&place, &password))
        .transpose()?)
}

/// Writes what changed of a machine, if it still has `version`; decides its type anew, and tells of it.
pub(super) fn write(
    db: &mut Database,
    (former, next): (&Machine, &Machine),
    version: u64,
    (by, now): (&Actor, DateTime<Utc>),
) -> Result<Machine, ApiError> {
    if former.details.bmc != next.details.bmc {
        check_bmc_is_its_own(db, next)?;
    }
    if !machines::update(db, next, version)? {
        return Err(ApiError::Changed);
    }
    if former.details.bmc != next.details.bmc {
        bmc_states::forget(db, next.id, now)?;
    }
    let read = |db: &mut Database| {
        let found = machines::get(db, &next.id.to_string())?;
        found.ok_or_else(|| ApiError::NotFound("machine", next.name.clone()))
    };
    let machine = read(db)?;
    machine_types::assign(db, &machine, now)?;
    let machine = read(db)?;
    let (before, mut after) = (Some(told(former)), Some(told(&machine)));
    if former.bmc_password != machine.bmc_password
        && let Some(after) = &mut after
    {
        after["bmc_password"] = "set anew".into();
    }
    audit::done(
        db,
        by,
        now,
        audit::Change::new("machine.update", object(&machine), before, after),
    )?;
    let event = NewEvent::new("machine.changed", now)
        .site(&machine.site)
        .machine(machine.id);
    events::append(db, &event.text(&machine.name))?;
    Ok(machine)
}

/// The machine as it is to be.
fn applied(machine: Machine, wanted: &Update) -> Result<Machine, ApiError> {
    let mut next = machine;
    if let Some(name) = &wanted.name {
        check_name(name)?;
        next.name.clone_from(name);
    }
    for (name, value) in &wanted.labels {
        match value {
            Some(value) => drop(next.details.labels.insert(name.clone(), value.clone())),
            None => drop(next.details.labels.remove(name)),
        }
    }
    check_labels(&next.details.labels)?;
    next.details.firmware = wanted.firmware.unwrap_or(next.details.firmware);
    next.address = wanted.address.unwrap_or(next.address);
    if let Some(macs) = &wanted.macs {
        check_ports(macs)?;
        next.details.macs.clone_from(macs);
    }
    match &wanted.bmc {
        None => {}
        Some(BmcUpdate::Remove) => (next.details.bmc, next.bmc_password) = (None, None),
        Some(wanted) => {
            let bmc = bmc_of(next.details.bmc.take(), wanted)?;
            let password = match wanted {
                BmcUpdate::Set { password, .. } => password.as_ref(),
                BmcUpdate::Remove => None,
            };
            check_bmc(&bmc, password)?;
            next.details.bmc = Some(bmc);
        }
    }
    Ok(next)
}

fn bmc_of(former: Option<BmcDetails>, wanted: &BmcUpdate) -> Result<BmcDetails, ApiError> {
    let BmcUpdate::Set {
        driver,
        address,
        username,
        ..
    } = wanted
    else {
        return Err(ApiError::Bad("bmc", "there is no BMC to be changed".to_owned()));
    };
    let missing = |what: &str| ApiError::Bad("bmc", format!("the machine has no BMC yet: give its {what}"));
    let kept = former.as_ref();
    Ok(BmcDetails {
        driver: driver
            .or(kept.map(|b| b.driver))
            .ok_or_else(|| missing("driver"))?,
        address: address
            .or(kept.map(|b| b.address))
            .ok_or_else(|| missing("address"))?,
        username: username
            .clone()
            .or_else(|| kept.map(|b| b.username.clone()))
            .ok_or_else(|| missing("username"))?,
    })
}

/// Refuses to have a password that is kept sent to another address: who may change machines may not know their passwords,
/// and would be told them by a BMC of their own.
pub(super) fn check_bmc_password(former: &Machine, next: &Machine, given: bool) -> Result<(), ApiError> {
    let place = |m: &Machine| m.details.bmc.as_ref().map(|bmc| (bmc.driver, bmc.address));
    let moved = place(next).is_some() && place(former) != place(next);
    if moved && former.bmc_password.is_some() && !given {
        let detail = format!(
            "the BMC of machine `{}` gets another address: give its password anew, the one that is kept is not sent there",
            former.name
        );
        return Err(ApiError::Bad("bmc_password", detail));
    }
    Ok(())
}

/// Refuses what cannot be changed now, and an address that does not fit the site.
pub(super) fn check_use(db: &mut Database, former: &Machine, next: &Machine) -> Result<(), ApiError> {
    if former.state == MachineState::Retired {
        let detail = format!("machine `{}` is retired: it stays as it was", former.name);
        return Err(ApiError::Conflict("machine_retired", detail));
    }
    let bmc = |m: &Machine| (m.details.bmc.clone(), m.bmc_password.clone());
    if bmc(former) != bmc(next) && is_rotating(former) {
        let detail = format!(
            "the BMC of machine `{}` is being given a new password: wait for its job to end, or cancel it",
            former.name
        );
        return Err(ApiError::Conflict("machine_busy", detail));
    }
    let wiring = |m: &Machine| (m.address, m.details.macs.clone(), m.details.firmware);
    if wiring(former) != wiring(next) && in_use(former) {
        let detail = format!(
            "machine `{}` is in use: its address, ports and firmware can be changed when its instance is released",
            former.name
        );
        return Err(ApiError::Conflict("machine_in_use", detail));
    }
    if former.address == next.address {
        return Ok(());
    }
    AddressBook::open(db, &next.site)?
        .take(Some(next.address))
        .map(|_| ())
}

/// Gives a machine a type by hand, or leaves it to rules again.
fn pin(
    db: &mut Database,
    machine: &Machine,
    wish: Option<String>,
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    if let Some(name) = &wish
        && types::get(db, name)?.is_none()
    {
        return Err(ApiError::NotFound("machine type", name.clone()));
    }
    let class = Class {
        pinned: wish.is_some(),
        machine_type: wish.clone(),
        reason: None,
        // Rules decide anew of a machine that is left to them.
        revision: if wish.is_some() {
            machine.class.revision
        } else {
            -1
        },
    };
    types::set_class(db, machine.id, &class)?;
    if let Some(name) = wish {
        let event = NewEvent::new("machine.classified", now)
            .site(&machine.site)
            .machine(machine.id);
        let data = serde_json::json!({ "machine_type": name, "pinned": true, "reason": null });
        events::append(db, &event.text(&name).data(data))?;
    }
    Ok(())
}
