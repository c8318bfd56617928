//! Requested instances given a machine and their order put in force.

use slipway_protocol::{
    ids::{InstanceId, SiteId},
    seal::SealingKey,
};

use super::{orders::install_order, tell_started};
use crate::{
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        events::{self, NewEvent},
        free::{self, Selector},
        images,
        instances::{self, Instance},
        jobs,
        machines::{self, Machine},
        orders, projects, sites,
    },
    workflow::state::{InstanceEvent, InstanceState, MachineState, after},
};

/// Why an instance still waits, for people.
pub type Waiting = String;

/// Gives a requested instance its machine and puts the order in force, all in one short transaction.
///
/// # Errors
/// When the store or a secret fails. That there is nothing to do yet is `Ok(Err(why))`.
pub async fn dispatch(app: &App, id: InstanceId) -> Result<Result<SiteId, Waiting>, ApiError> {
    let now = (app.now)();
    let prepared = app.store.read(move |db| find_machine(db, id)).await?;
    let (instance, machine, sealing_key) = match prepared {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    let order = install_order(app, (&instance, &machine), sealing_key, false, now)?;
    order.check().map_err(|e| ApiError::Internal(e.into()))?;
    let site = instance.site.clone();
    let dispatched = app
        .store
        .transaction(move |db| {
            let next =
                after(InstanceState::Requested, InstanceEvent::Dispatched).unwrap_or(InstanceState::Failed);
            let won = machines::take(db, machine.id, MachineState::Available, instance.job)?
                && instances::advance(db, id, InstanceState::Requested, next)?
                && jobs::start(db, instance.job, machine.id)?;
            if !won {
                // Another replica was quicker, or it was called off; the transaction leaves no trace.
                return Err(ApiError::Changed);
            }
            instances::set_machine(db, id, machine.id)?;
            let revision = orders::put(db, &instance.site, &order)?;
            tell_started(db, instance.job, revision, now)?;
            let event = NewEvent::new("instance.installing", now)
                .instance(id)
                .site(&instance.site);
            let event = event.machine(machine.id).job(instance.job).text(&machine.name);
            events::append(db, &event.entered(&next)?)?;
            Ok(())
        })
        .await;
    match dispatched {
        Ok(()) => {
            app.poke_site(site.as_str());
            Ok(Ok(site))
        }
        Err(ApiError::Changed) => Ok(Err("it is being dispatched".to_owned())),
        Err(error) => Err(error),
    }
}

type Found = Result<(Instance, Machine, SealingKey), Waiting>;

pub(super) fn find_machine(db: &mut Database, id: InstanceId) -> Result<Found, ApiError> {
    let Some(instance) = instances::by_id(db, id)? else {
        return Ok(Err("it is gone".to_owned()));
    };
    let site = sites::get(db, instance.site.as_str())?;
    let Some(sealing_key) = site.and_then(|site| site.sealing_key) else {
        return Ok(Err(format!("no edge has joined site {}", instance.site)));
    };
    let machine = match instance.wish.machine {
        Some(machine) => machines::get(db, &machine.to_string())?,
        None => {
            let wanted = selector(db, &instance)?;
            free::any(db, &instance.site, &wanted)?
        }
    };
    match machine {
        None => Ok(Err(none_free(&instance, types(db, &instance)?))),
        Some(m) if m.state != MachineState::Available || m.live_job.is_some() => {
            Ok(Err(format!("machine {} is not free", m.name)))
        }
        Some(machine) => Ok(Ok((instance, machine, sealing_key))),
    }
}

/// Which machines an instance may have. One that asks for no type gets none of a type its project has used up: that quota
/// was not looked at when it was made.
fn selector(db: &mut Database, instance: &Instance) -> StoreResult<Selector> {
    let mut except = Vec::new();
    if instance.wish.machine_type.is_none() {
        for (kind, limit) in projects::quotas_of(db, &instance.project)? {
            if kind != projects::ALL_TYPES
                && projects::instances_of_type(db, &instance.project, &kind)? >= limit
            {
                except.push(kind);
            }
        }
    }
    Ok(Selector {
        types: types(db, instance)?,
        except,
        labels: instance.wish.labels.clone(),
    })
}

/// The types that will do, if not all: the one asked for, and those that the image is for.
fn types(db: &mut Database, instance: &Instance) -> StoreResult<Option<Vec<String>>> {
    let bound = images::types_of(db, instance.image)?;
    Ok(match &instance.wish.machine_type {
        Some(name) if bound.is_empty() || bound.contains(name) => Some(vec![name.clone()]),
        Some(_) => Some(Vec::new()),
        None if bound.is_empty() => None,
        None => Some(bound),
    })
}

/// That no machine will do, for people.
fn none_free(instance: &Instance, types: Option<Vec<String>>) -> String {
    let mut text = format!("site {} has no free machine", instance.site);
    match types {
        None => {}
        Some(types) if types.is_empty() => {
            return "its image is no longer for machines of the type it asks for".to_owned();
        }
        Some(types) => text.push_str(&format!(" of type {}", types.join(" or "))),
    }
    let labels: Vec<String> = instance
        .wish
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if !labels.is_empty() {
        text.push_str(&format!(" with labels {}", labels.join(", ")));
    }
    text
}
