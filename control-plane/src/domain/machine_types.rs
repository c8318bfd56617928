//! Machine types: made and changed by operators, applied to machines by rules. Which type fits is decided in
//! [`crate::workflow::classify`]; here it is kept up to date. A type that changed is applied at once, batch by batch; what
//! a crash left undone is found by the scheduler's next tick, as a machine's type says by which revision it was decided.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::names::check as check_name;
use crate::{
    access::{Actor, Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        images, instances, machine_lists,
        machine_types::{self, MachineType},
        machines::{Class, Machine},
        projects,
    },
    workflow::classify::{Candidate, Known, Rules, classify},
};

/// Most types there are.
const MOST_TYPES: usize = 200;
/// Machines classified anew in one transaction.
const BATCH: i64 = 500;
/// Machines a preview reads at once.
const PAGE: i64 = 1000;
/// Machines a preview names at most.
const SHOWN: usize = 1000;

/// What an operator says of a type.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// For people.
    pub description: String,
    /// Its rank among types that fit: the highest wins.
    pub priority: i64,
    /// What its machines are like.
    pub rules: Rules,
}

fn missing(name: &str) -> ApiError {
    ApiError::NotFound("machine type", name.to_owned())
}

fn told(t: &MachineType) -> Value {
    json!({ "description": t.description, "priority": t.priority, "rules": t.rules })
}

fn check(rules: &Rules, priority: i64) -> Result<(), ApiError> {
    if !(-1000..=1000).contains(&priority) {
        let detail = "the priority of a machine type is between -1000 and 1000".to_owned();
        return Err(ApiError::Bad("priority", detail));
    }
    rules.check().map_err(|e| ApiError::Bad("rules", e.to_string()))
}

/// One type and how many machines are of it.
///
/// # Errors
/// When there is none of that name.
pub async fn get(app: &App, name: String) -> Result<(MachineType, i64), ApiError> {
    app.store
        .read(move |db| {
            let found = machine_types::get(db, &name)?.ok_or_else(|| missing(&name))?;
            let machines = machine_types::machines_of(db, &name)?;
            Ok((found, machines))
        })
        .await
}

/// Makes or replaces a type, and applies it to all machines.
///
/// # Errors
/// When the name or the rules will not do.
pub async fn set(app: &App, caller: &Caller, name: String, wanted: Wanted) -> Result<(), ApiError> {
    caller.require(Permission::MachinesWrite, Target::GLOBAL)?;
    check_name(&name)?;
    check(&wanted.rules, wanted.priority)?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| put(db, name, wanted, (&by, now)))
        .await?;
    reclassify(app).await
}

fn put(
    db: &mut Database,
    name: String,
    wanted: Wanted,
    (by, now): (&Actor, DateTime<Utc>),
) -> Result<(), ApiError> {
    let former = machine_types::get(db, &name)?;
    if former.is_none() && machine_types::all(db)?.len() >= MOST_TYPES {
        let detail = format!("there are {MOST_TYPES} machine types already; delete one that is not needed");
        return Err(ApiError::Conflict("too_many_machine_types", detail));
    }
    let wanted = MachineType {
        name,
        description: wanted.description,
        priority: wanted.priority,
        rules: wanted.rules,
        created_at: now,
    };
    machine_types::put(db, &wanted)?;
    let change = Change {
        action: "machine_type.put",
        object: format!("machine-type/{}", wanted.name),
        before: former.as_ref().map(told),
        after: Some(told(&wanted)),
    };
    audit::done(db, by, now, change)?;
    Ok(events::append(
        db,
        &NewEvent::new("machine_type.changed", now).text(&wanted.name),
    )?)
}

/// Removes a type; its machines get another one, or none.
///
/// # Errors
/// When there is none, or something still names it.
pub async fn delete(app: &App, caller: &Caller, name: String) -> Result<(), ApiError> {
    caller.require(Permission::MachinesWrite, Target::GLOBAL)?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let former = machine_types::get(db, &name)?.ok_or_else(|| missing(&name))?;
            if let Some(machine) = machine_types::pinned_to(db, &name)? {
                let detail = format!(
                    "machine `{machine}` was given the type `{name}` by hand; give it another type first, or unpin it"
                );
                return Err(ApiError::Conflict("machine_type_in_use", detail));
            }
            if let Some(project) = projects::with_quota_of(db, &name)? {
                let detail = format!("project `{project}` has a quota for the type `{name}`; lift it first");
                return Err(ApiError::Conflict("machine_type_in_use", detail));
            }
            if let Some(image) = images::bound_to(db, &name)? {
                let detail = format!("image `{image}` is bound to the type `{name}`; unbind it first");
                return Err(ApiError::Conflict("machine_type_in_use", detail));
            }
            if let Some(instance) = instances::waiting_for_type(db, &name)? {
                let detail = format!(
                    "instance `{instance}` waits for a machine of the type `{name}`; release it, or wait until it has one"
                );
                return Err(ApiError::Conflict("machine_type_in_use", detail));
            }
            machine_types::delete(db, &name)?;
            let change = Change {
                action: "machine_type.delete",
                object: format!("machine-type/{name}"),
                before: Some(told(&former)),
                after: None,
            };
            audit::done(db, &by, now, change)?;
            Ok(events::append(db, &NewEvent::new("machine_type.deleted", now).text(&name))?)
        })
        .await?;
    reclassify(app).await
}

/// All types at one revision.
struct Types {
    revision: i64,
    all: Vec<MachineType>,
}

/// The revision is read first: types that changed in between are then applied once more, never missed.
fn types(db: &mut Database) -> StoreResult<Types> {
    Ok(Types {
        revision: machine_types::revision(db)?,
        all: machine_types::all(db)?,
    })
}

impl Types {
    fn class_of(&self, machine: &Machine) -> Class {
        let revision = self.revision;
        if machine.class.pinned {
            return Class {
                revision,
                ..machine.class.clone()
            };
        }
        let candidates: Vec<Candidate<'_>> = self.all.iter().map(candidate).collect();
        let (machine_type, reason) = match classify(&candidates, known(machine)) {
            Ok(name) => (name.map(str::to_owned), None),
            Err(why) => (None, Some(why)),
        };
        Class {
            machine_type,
            pinned: false,
            reason,
            revision,
        }
    }
}

fn candidate(t: &MachineType) -> Candidate<'_> {
    Candidate {
        name: &t.name,
        priority: t.priority,
        rules: &t.rules,
    }
}

fn known(machine: &Machine) -> Known<'_> {
    Known {
        firmware: machine.details.firmware,
        labels: &machine.details.labels,
        inventory: machine.details.inventory.as_ref(),
    }
}

/// The type of a machine that is not there yet.
///
/// # Errors
/// When the store fails.
pub(super) fn class_of_new(db: &mut Database, machine: &Machine) -> StoreResult<Class> {
    Ok(types(db)?.class_of(machine))
}

/// Decides the type of a machine of which something changed, unless an operator gave it one. Whoever calls this has
/// written the machine's row in the same transaction, and so holds it.
///
/// # Errors
/// When the store fails.
pub fn assign(db: &mut Database, machine: &Machine, now: DateTime<Utc>) -> StoreResult<Class> {
    let class = types(db)?.class_of(machine);
    if class == machine.class {
        return Ok(class);
    }
    machine_types::set_class(db, machine.id, &class)?;
    if (&class.machine_type, &class.reason) != (&machine.class.machine_type, &machine.class.reason) {
        let text = class
            .machine_type
            .clone()
            .or_else(|| class.reason.clone())
            .unwrap_or_default();
        let event = NewEvent::new("machine.classified", now)
            .site(&machine.site)
            .machine(machine.id);
        let data =
            json!({ "machine_type": class.machine_type, "pinned": class.pinned, "reason": class.reason });
        events::append(db, &event.text(text).data(data))?;
    }
    Ok(class)
}

/// Gives every machine whose type was decided by older rules its type by those of now, batch by batch.
///
/// # Errors
/// When the store fails; the scheduler goes on where this ended.
pub async fn reclassify(app: &App) -> Result<(), ApiError> {
    let mut any = false;
    while app.store.read(is_behind).await? {
        app.store.transaction(batch).await?;
        any = true;
    }
    if any {
        // Who waits for a machine of a type may have got one.
        app.work.notify_one();
    }
    Ok(())
}

fn is_behind(db: &mut Database) -> StoreResult<bool> {
    let revision = machine_types::revision(db)?;
    Ok(!machine_types::classed_before(db, revision, 1)?.is_empty())
}

fn batch(db: &mut Database) -> StoreResult<()> {
    let types = types(db)?;
    // Most machines stay of the type they are: those of one revision are noted by one statement.
    let mut same: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for machine in machine_types::classed_before(db, types.revision, BATCH)? {
        let (former, class) = (&machine.class, types.class_of(&machine));
        if (&former.machine_type, &former.reason) == (&class.machine_type, &class.reason) {
            same.entry(former.revision)
                .or_default()
                .push(machine.id.to_string());
        } else {
            machine_types::reclass(db, &machine, &class)?;
        }
    }
    for (former, ids) in same {
        machine_types::keep(db, ids, (former, types.revision))?;
    }
    Ok(())
}

/// A machine that a type would fit.
#[derive(Debug, Clone)]
pub struct Fitting {
    /// The machine as it is.
    pub machine: Machine,
    /// The type it would have.
    pub becomes: Class,
}

/// Which machines a type fits, or would fit with other rules: how many, and the first thousand by name. Changes nothing.
///
/// # Errors
/// When no rules are given and there is no such type, or the rules will not do.
pub async fn preview(
    app: &App,
    caller: &Caller,
    name: String,
    wanted: Option<Wanted>,
) -> Result<(usize, Vec<Fitting>), ApiError> {
    check_name(&name)?;
    if let Some(wanted) = &wanted {
        check(&wanted.rules, wanted.priority)?;
    }
    let (sites, now) = (caller.visible(Permission::MachinesRead).sites(None), (app.now)());
    app.store
        .read(move |db| {
            let mut types = types(db)?;
            if let Some(wanted) = wanted {
                types.all.retain(|t| t.name != name);
                types.all.push(MachineType {
                    name: name.clone(),
                    description: wanted.description,
                    priority: wanted.priority,
                    rules: wanted.rules,
                    created_at: now,
                });
            }
            let rules = types.all.iter().find(|t| t.name == name).map(|t| t.rules.clone());
            let rules = rules.ok_or_else(|| missing(&name))?;
            Ok(fitting(db, &types, &rules, sites)?)
        })
        .await
}

fn fitting(
    db: &mut Database,
    types: &Types,
    rules: &Rules,
    sites: Option<Vec<String>>,
) -> StoreResult<(usize, Vec<Fitting>)> {
    let (mut count, mut shown, mut after) = (0, Vec::new(), String::new());
    let seen = machine_lists::Filter {
        sites,
        ..machine_lists::Filter::default()
    };
    loop {
        let page = machine_lists::page(db, &seen, &after, PAGE)?;
        let Some(last) = page.last() else {
            return Ok((count, shown));
        };
        after.clone_from(&last.name);
        for machine in page.into_iter().filter(|m| rules.fit(known(m))) {
            count += 1;
            if shown.len() < SHOWN {
                let becomes = types.class_of(&machine);
                shown.push(Fitting { machine, becomes });
            }
        }
    }
}
