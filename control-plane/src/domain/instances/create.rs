//! Instances asked for: the wish is checked and noted; the scheduler does the rest.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    guest,
    ids::{ImageId, InstanceId, JobId, SiteId},
    inventory::DiskRule,
    seal::Secret,
};
use uuid::Uuid;

use super::{both, object, queue, told, user_data, user_data_place};
use crate::{
    access::{Caller, Permission, Target, Visible},
    app::App,
    domain::{images, names},
    error::ApiError,
    store::{
        Database,
        audit::{self, Change},
        events::{self, NewEvent},
        idempotency::{self, Given},
        instances::{self, Instance, Wish},
        jobs::Job,
        logins, machine_types,
        machines::{self, Machine},
        projects, sites,
    },
    workflow::state::{InstanceState, JobKind},
};

/// Instances to be made, alike but for their names.
pub struct NewInstance {
    /// The project it is in.
    pub project: String,
    /// Its rank among those that wait: higher ones go first.
    pub priority: i64,
    /// Host names: one for each instance that is to be made.
    pub names: Vec<String>,
    /// Where.
    pub site: SiteId,
    /// A machine by id or name, or any.
    pub machine: Option<String>,
    /// A machine of this type.
    pub machine_type: Option<String>,
    /// A machine with these labels.
    pub labels: BTreeMap<String, String>,
    /// Image by id or name.
    pub image: String,
    /// Which disk.
    pub disk: DiskRule,
    /// The user to make.
    pub user: String,
    /// Its public keys.
    pub ssh_keys: Vec<String>,
    /// Tenant's user-data.
    pub user_data: Option<Secret>,
    /// What is looked at of it.
    pub user_data_check: user_data::Check,
}

/// A request that may come again, under a key of its sender's.
pub struct Repeatable {
    /// The sender's key.
    pub key: String,
    /// Digest of the request.
    pub request: String,
}

/// Notes the wish for each name; the scheduler does the rest. All are made, or none. The same request under the same key
/// makes nothing new.
///
/// # Errors
/// When the image, machine, type, site or project is not there, a name or key is not usable, or the project's quota is full.
pub async fn create(
    app: &App,
    caller: &Caller,
    new: NewInstance,
    repeatable: Option<Repeatable>,
) -> Result<Vec<(Instance, Job)>, ApiError> {
    let (asked, now) = (ask(app, caller, &new, repeatable)?, (app.now)());
    let made = app.store.transaction(move |db| note(db, new, asked, now)).await?;
    app.work.notify_one();
    Ok(made)
}

/// What comes with a wish that may be made as far as can be told without the store.
pub(super) fn ask(
    app: &App,
    caller: &Caller,
    new: &NewInstance,
    repeatable: Option<Repeatable>,
) -> Result<Asked, ApiError> {
    check(new)?;
    let target = Target {
        site: Some(new.site.as_str()),
        project: Some(&new.project),
    };
    caller.require(Permission::InstancesWrite, target)?;
    let user_data = user_data::taken(new.user_data.as_ref(), new.user_data_check)?;
    let mut each = Vec::with_capacity(new.names.len());
    for name in &new.names {
        let id = InstanceId(Uuid::now_v7());
        let encrypt = |data| app.vault.encrypt(&user_data_place(id), data);
        each.push(Each {
            name: name.clone(),
            id,
            job: JobId(Uuid::now_v7()),
            user_data: user_data.as_ref().map(encrypt).transpose()?,
        });
    }
    Ok(Asked {
        caller: caller.clone(),
        each,
        repeatable: repeatable.map(|r| (format!("{}/{}", caller.user, r.key), r.request)),
    })
}

/// One of the instances to be made.
struct Each {
    name: String,
    id: InstanceId,
    job: JobId,
    user_data: Option<String>,
}

/// What comes with a wish.
pub(super) struct Asked {
    caller: Caller,
    each: Vec<Each>,
    repeatable: Option<(String, String)>,
}

/// Notes the wishes.
pub(super) fn note(
    db: &mut Database,
    new: NewInstance,
    asked: Asked,
    now: DateTime<Utc>,
) -> Result<Vec<(Instance, Job)>, ApiError> {
    if let Some((key, request)) = &asked.repeatable
        && let Some(ids) = given_before(db, key, request, now)?
    {
        return ids.split(',').map(|id| made_before(db, id)).collect();
    }
    let common = common(db, &new, &asked.caller)?;
    let mut made = Vec::with_capacity(asked.each.len());
    for each in asked.each {
        made.push(make(db, (&new, &common), each, (&asked.caller, now))?);
    }
    if let Some((key, request)) = asked.repeatable {
        let ids: Vec<String> = made.iter().map(|(instance, _)| instance.id.to_string()).collect();
        let given = Given {
            request,
            status: 202,
            body: ids.join(","),
        };
        idempotency::put(db, &key, &given, now)?;
    }
    Ok(made)
}

fn made_before(db: &mut Database, id: &str) -> Result<(Instance, Job), ApiError> {
    let gone = || ApiError::NotFound("instance", id.to_owned());
    let instance = instances::get(db, id, &Visible::All)?.ok_or_else(gone)?;
    both(db, id, instance.job)
}

/// What all that are made have in common, looked up.
struct Common {
    image: ImageId,
    ssh_keys: Vec<String>,
    machine: Option<Machine>,
}

fn common(db: &mut Database, new: &NewInstance, caller: &Caller) -> Result<Common, ApiError> {
    let ssh_keys = ssh_keys(db, &caller.user, new.ssh_keys.clone())?;
    projects::get(db, &new.project)?.ok_or_else(|| ApiError::NotFound("project", new.project.clone()))?;
    let image = images::find(db, &new.image)?;
    sites::get(db, new.site.as_str())?.ok_or_else(|| ApiError::NotFound("site", new.site.to_string()))?;
    if let Some(name) = &new.machine_type {
        machine_types::get(db, name)?.ok_or_else(|| ApiError::NotFound("machine type", name.clone()))?;
    }
    let machine = match &new.machine {
        Some(key) => Some(named_machine(db, key.clone(), &new.site)?),
        None => None,
    };
    let named_type = machine.as_ref().and_then(|m| m.class.machine_type.as_deref());
    let machine_type = new.machine_type.as_deref().or(named_type);
    // Of any other machine its type is not known yet: the scheduler chooses one that the image is for.
    if machine.is_some() || machine_type.is_some() {
        images::check_type(&image, machine_type)?;
    }
    projects::hold(db, &new.project)?;
    room_in(db, new, machine_type)?;
    Ok(Common {
        image: image.id,
        ssh_keys,
        machine,
    })
}

/// Whether the project may hold as many more.
fn room_in(db: &mut Database, new: &NewInstance, machine_type: Option<&str>) -> Result<(), ApiError> {
    let project = &new.project;
    let asked = i64::try_from(new.names.len()).unwrap_or(i64::MAX);
    for (kind, limit) in projects::quotas_of(db, project)? {
        let of_type = match kind.as_str() {
            projects::ALL_TYPES => String::new(),
            kind if Some(kind) == machine_type => format!(" of type `{kind}`"),
            _ => continue,
        };
        let held = projects::instances_of_type(db, project, &kind)?;
        if held.saturating_add(asked) > limit {
            let detail = format!(
                "project `{project}` holds {held} of the {limit} machines{of_type} its quota allows, and {asked} more \
                 are asked for; release some or have the quota raised"
            );
            return Err(ApiError::Conflict("quota", detail));
        }
    }
    Ok(())
}

fn make(
    db: &mut Database,
    (new, common): (&NewInstance, &Common),
    each: Each,
    (caller, now): (&Caller, DateTime<Utc>),
) -> Result<(Instance, Job), ApiError> {
    if instances::name_taken(db, &new.project, &each.name)? {
        let detail = format!(
            "project `{}` has an instance `{}` already",
            new.project, each.name
        );
        return Err(ApiError::Conflict("taken", detail));
    }
    let wish = Wish {
        machine: common.machine.as_ref().map(|m| m.id),
        machine_type: new.machine_type.clone(),
        labels: new.labels.clone(),
        disk: new.disk.clone(),
        user: new.user.clone(),
        ssh_keys: common.ssh_keys.clone(),
        user_data: each.user_data,
    };
    let instance = Instance {
        id: each.id,
        name: each.name,
        site: new.site.clone(),
        machine: None,
        image: common.image,
        state: InstanceState::Requested,
        job: each.job,
        wish,
        created_at: now,
        project: new.project.clone(),
        locked: false,
    };
    instances::insert(db, &instance)?;
    if let Some(machine) = &common.machine {
        instances::count_as(db, instance.id, machine.class.machine_type.as_deref())?;
    }
    let job = queue(db, &instance, (JobKind::Install, new.priority), now)?;
    let event = NewEvent::new("instance.requested", now)
        .on(&job)
        .text(&instance.name);
    events::append(db, &event.entered(&instance.state)?)?;
    let change = Change::new("instance.create", object(&instance), None, Some(told(&instance)));
    audit::done(db, &caller.actor, now, change)?;
    Ok((instance, job))
}

/// The ids of what the same request made under the same key.
fn given_before(
    db: &mut Database,
    key: &str,
    request: &str,
    now: DateTime<Utc>,
) -> Result<Option<String>, ApiError> {
    match idempotency::get(db, key, now)? {
        Some(given) if given.request != request => {
            let detail = "this Idempotency-Key was used for another request".to_owned();
            Err(ApiError::Conflict("idempotency_key", detail))
        }
        given => Ok(given.map(|given| given.body)),
    }
}

/// Keys given as such, and the caller's own given by name.
pub(super) fn ssh_keys(db: &mut Database, user: &str, given: Vec<String>) -> Result<Vec<String>, ApiError> {
    let own = logins::ssh_keys_of(db, user)?;
    let key = |text: String| match own.iter().find(|key| key.name == text) {
        Some(key) => Ok(key.public_key.clone()),
        None => check_ssh_key(&text).map(|()| text),
    };
    given.into_iter().map(key).collect()
}

fn check(new: &NewInstance) -> Result<(), ApiError> {
    if !(-100..=100).contains(&new.priority) {
        return Err(ApiError::Bad(
            "priority",
            "a priority is between -100 and 100".to_owned(),
        ));
    }
    for name in &new.names {
        check_host_name(name)?;
    }
    if new.names.iter().collect::<BTreeSet<_>>().len() < new.names.len() {
        return Err(ApiError::Bad("names", "a name is given twice".to_owned()));
    }
    if new.machine.is_some() && new.names.len() > 1 {
        let detail = "one machine is for one instance: leave `machine` out".to_owned();
        return Err(ApiError::Bad("machine", detail));
    }
    if new.machine.is_some() && (new.machine_type.is_some() || !new.labels.is_empty()) {
        let detail = "a machine that is named needs no type and no labels: leave them out".to_owned();
        return Err(ApiError::Bad("machine", detail));
    }
    if new.labels.len() > MOST_LABELS {
        return Err(ApiError::Bad(
            "label",
            format!("at most {MOST_LABELS} labels can be asked for"),
        ));
    }
    check_user(&new.user)
}

/// Most labels that can be asked for: each is one more condition of a query.
const MOST_LABELS: usize = 16;

pub(super) fn check_host_name(name: &str) -> Result<(), ApiError> {
    // `/api/v1/instances/batch` and `/api/v1/instances/plan` are other addresses.
    if ["batch", "plan"].contains(&name) {
        let detail = format!("`{name}` cannot be an instance's name");
        return Err(ApiError::Bad("name", detail));
    }
    if SiteId::new(name).is_err() {
        let detail = format!("`{name}` is not a host name: use 1 to 63 of a-z, 0-9 and '-'");
        return Err(ApiError::Bad("name", detail));
    }
    names::check_is_no_id(name)
}

/// Whether the system that is installed can make such a user.
pub(super) fn check_user(user: &str) -> Result<(), ApiError> {
    guest::check_user(user).map_err(|error| ApiError::Bad("user", error.to_string()))
}

/// Whether a text is a public SSH key that a server would take.
///
/// # Errors
/// When it is not.
pub fn check_ssh_key(key: &str) -> Result<(), ApiError> {
    let looks_like_a_name = !key.contains(' ') && key.len() <= 63;
    if looks_like_a_name {
        let detail = "an SSH key is neither the name of one of yours (`slipway ssh-key list`) nor one line of OpenSSH's \
                      public form, as in `ssh-ed25519 AAAAC3Nz.. name`";
        return Err(ApiError::Bad("ssh_key", detail.to_owned()));
    }
    guest::check_ssh_key(key).map_err(|error| ApiError::Bad("ssh_key", error.to_string()))
}

fn named_machine(db: &mut Database, key: String, site: &SiteId) -> Result<Machine, ApiError> {
    let machine = machines::get(db, &key)?.ok_or_else(|| ApiError::NotFound("machine", key.clone()))?;
    if machine.site != *site {
        let detail = format!(
            "machine `{key}` stands at site `{}`, not at `{site}`",
            machine.site
        );
        return Err(ApiError::Bad("machine_site", detail));
    }
    Ok(machine)
}
