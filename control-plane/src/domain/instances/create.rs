//! Instances asked for: the wish is checked and noted; the scheduler does the rest.

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{InstanceId, JobId, SiteId},
    inventory::DiskRule,
    seal::Secret,
};
use uuid::Uuid;

use super::{both, change, queue, told, user_data_place};
use crate::{
    access::{Caller, Permission, Target, Visible},
    app::App,
    error::ApiError,
    store::{
        Database, audit,
        events::{self, NewEvent},
        idempotency::{self, Given},
        images,
        instances::{self, Instance, Wish},
        jobs::Job,
        logins,
        machines::{self, Machine},
        projects, sites,
    },
    workflow::state::{InstanceState, JobKind},
};

/// An instance to be made.
pub struct NewInstance {
    /// The project it is in.
    pub project: String,
    /// Its rank among those that wait: higher ones go first.
    pub priority: i64,
    /// Host name.
    pub name: String,
    /// Where.
    pub site: SiteId,
    /// A machine by id or name, or any.
    pub machine: Option<String>,
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
}

/// A request that may come again, under a key of its sender's.
pub struct Repeatable {
    /// The sender's key.
    pub key: String,
    /// Digest of the request.
    pub request: String,
}

/// Notes the wish; the scheduler does the rest. The same request under the same key makes nothing new.
///
/// # Errors
/// When the image, machine, site or project is not there, a name or key is not usable, or the project's quota is full.
pub async fn create(
    app: &App,
    caller: &Caller,
    new: NewInstance,
    repeatable: Option<Repeatable>,
) -> Result<(Instance, Job), ApiError> {
    check(&new)?;
    let target = Target {
        site: Some(new.site.as_str()),
        project: Some(&new.project),
    };
    caller.require(Permission::InstancesWrite, target)?;
    let (id, job_id) = (InstanceId(Uuid::now_v7()), JobId(Uuid::now_v7()));
    let user_data = new
        .user_data
        .as_ref()
        .map(|data| app.vault.encrypt(&user_data_place(id), data))
        .transpose()?;
    let now = (app.now)();
    let asked = Asked {
        caller: caller.clone(),
        ids: (id, job_id),
        user_data,
        repeatable: repeatable.map(|r| (format!("{}/{}", caller.user, r.key), r.request)),
    };
    let made = app.store.transaction(move |db| note(db, new, asked, now)).await?;
    app.work.notify_one();
    Ok(made)
}

/// What comes with a wish.
struct Asked {
    caller: Caller,
    ids: (InstanceId, JobId),
    user_data: Option<String>,
    repeatable: Option<(String, String)>,
}

fn note(
    db: &mut Database,
    new: NewInstance,
    asked: Asked,
    now: DateTime<Utc>,
) -> Result<(Instance, Job), ApiError> {
    let (id, job_id) = asked.ids;
    if let Some((key, request)) = &asked.repeatable
        && let Some(id) = given_before(db, key, request, now)?
    {
        let job = instances::get(db, &id, &Visible::All)?.map(|i| i.job);
        return both(db, &id, job.unwrap_or(job_id));
    }
    let ssh_keys = ssh_keys(db, &asked.caller.user, new.ssh_keys)?;
    room_in(db, &new.project, &new.name)?;
    let image = images::get(db, &new.image)?.ok_or_else(|| ApiError::NotFound("image", new.image.clone()))?;
    sites::get(db, new.site.as_str())?.ok_or_else(|| ApiError::NotFound("site", new.site.to_string()))?;
    let machine = match new.machine {
        Some(key) => Some(named_machine(db, key, &new.site)?.id),
        None => None,
    };
    let wish = Wish {
        machine,
        disk: new.disk,
        user: new.user,
        ssh_keys,
        user_data: asked.user_data,
    };
    let instance = Instance {
        id,
        name: new.name,
        site: new.site,
        machine: None,
        image: image.id,
        state: InstanceState::Requested,
        job: job_id,
        wish,
        created_at: now,
        project: new.project,
        locked: false,
    };
    instances::insert(db, &instance)?;
    let job = queue(db, &instance, (JobKind::Install, new.priority), now)?;
    let event = NewEvent::new("instance.requested", now)
        .on(&job)
        .text(&instance.name);
    events::append(db, &event.entered(&instance.state)?)?;
    let change = change("instance.create", &instance, None, Some(told(&instance)));
    audit::done(db, &asked.caller.actor, now, change)?;
    if let Some((key, request)) = asked.repeatable {
        let given = Given {
            request,
            status: 202,
            body: id.to_string(),
        };
        idempotency::put(db, &key, &given, now)?;
    }
    Ok((instance, job))
}

/// The instance that the same request made under the same key.
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

/// Whether the project is there, has no instance of that name, and may hold one more.
fn room_in(db: &mut Database, project: &str, name: &str) -> Result<(), ApiError> {
    projects::get(db, project)?.ok_or_else(|| ApiError::NotFound("project", project.to_owned()))?;
    if instances::name_taken(db, project, name)? {
        let detail = format!("project `{project}` has an instance `{name}` already");
        return Err(ApiError::Conflict("taken", detail));
    }
    let quotas = projects::quotas_of(db, project)?;
    let limit = quotas.iter().find(|(kind, _)| kind == projects::ALL_TYPES);
    if let Some((_, limit)) = limit
        && projects::instances_of(db, project)? >= *limit
    {
        let detail = format!(
            "project `{project}` holds the {limit} machines its quota allows; release one or have the quota raised"
        );
        return Err(ApiError::Conflict("quota", detail));
    }
    Ok(())
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
    check_host_name(&new.name)?;
    check_user(&new.user)
}

pub(super) fn check_host_name(name: &str) -> Result<(), ApiError> {
    if SiteId::new(name).is_err() {
        let detail = format!("`{name}` is not a host name: use 1 to 63 of a-z, 0-9 and '-'");
        return Err(ApiError::Bad("name", detail));
    }
    Ok(())
}

pub(super) fn check_user(user: &str) -> Result<(), ApiError> {
    let user_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if user.is_empty() || user.len() > 32 || !user.chars().all(user_ok) {
        return Err(ApiError::Bad(
            "user",
            format!("`{user}` is not a user name: use 1 to 32 of a-z, 0-9, '_', '-'"),
        ));
    }
    Ok(())
}

/// Whether a text is a public SSH key.
///
/// # Errors
/// When it is not.
pub fn check_ssh_key(key: &str) -> Result<(), ApiError> {
    let known = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|prefix| key.starts_with(prefix));
    if !known || key.chars().any(char::is_control) || key.split(' ').count() < 2 {
        let detail = "an SSH key is neither the name of one of yours (`slipway ssh-key list`) nor one line of OpenSSH's \
                      public form, as in `ssh-ed25519 AAAA.. name`";
        return Err(ApiError::Bad("ssh_key", detail.to_owned()));
    }
    Ok(())
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
