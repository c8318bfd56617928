//! Work on an instance that has its machine: switch it, install it anew, give it back, try again what failed. Each asks
//! the state table first, compiles its order outside the transaction, and puts it in force inside one.

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::JobId,
    inventory::DiskRule,
    order::Order,
    seal::{SealingKey, Secret},
};
use uuid::Uuid;

use super::{
    JOB_LIFE, both,
    create::{check_host_name, check_user, ssh_keys},
    object,
    orders::{install_order, password_order, release_order, rescue_order, switch_order},
    own, password, queue, tell_started, told, user_data, user_data_place,
};
use crate::{
    access::{Actor, Caller, Permission},
    app::App,
    error::ApiError,
    store::{
        Database, audit,
        events::{self, NewEvent},
        instances::{self, Instance},
        jobs::{self, Job},
        machines::{self, Machine},
        orders, sites,
    },
    workflow::{
        power::Switch,
        state::{InstanceEvent, InstanceState, JobKind, JobState, MachineState, after},
    },
};

/// What an instance is installed anew with; what is left out stays.
#[derive(Default)]
pub struct Anew {
    /// Image by id or name.
    pub image: Option<String>,
    /// Which disk.
    pub disk: Option<DiskRule>,
    /// The user to make.
    pub user: Option<String>,
    /// Its public keys, or names of the caller's own.
    pub ssh_keys: Option<Vec<String>>,
    /// Tenant's user-data.
    pub user_data: Option<Secret>,
    /// What is looked at of it.
    pub user_data_check: user_data::Check,
    /// Whether its other disks are made to read as zeros; they keep what they hold otherwise.
    pub wipe_data_disks: bool,
}

/// What is to be done with an instance.
pub enum Work {
    /// Switch it on.
    Start,
    /// Switch it off; its system is given so many seconds.
    Stop(u32),
    /// Switch it off and on; its system is given so many seconds.
    Restart(u32),
    /// Install it anew. Only the disk that is chosen is written, unless the others are to be wiped.
    Reinstall(Box<Anew>),
    /// Boot the LiveOS and let the holders of these keys in, or of the instance's own if none are given.
    Rescue(Vec<String>),
    /// Give a user a new password, its hash being as `/etc/shadow` has it; the instance's own user if none is named.
    ResetPassword(Option<String>, Secret),
    /// Take its machine back.
    Release,
}

impl Work {
    fn kind(&self) -> JobKind {
        match self {
            Self::Start => JobKind::Start,
            Self::Stop(_) => JobKind::Stop,
            Self::Restart(_) => JobKind::Restart,
            Self::Reinstall(_) => JobKind::Reinstall,
            Self::Rescue(_) => JobKind::Rescue,
            Self::ResetPassword(..) => JobKind::ResetPassword,
            Self::Release => JobKind::Release,
        }
    }
}

/// Begins work on an instance.
///
/// # Errors
/// When there is none, it is locked, or it stands where that cannot be done.
pub async fn work(app: &App, caller: &Caller, key: String, what: Work) -> Result<(Instance, Job), ApiError> {
    let instance = own(app, caller, key).await?;
    let (now, job, kind) = ((app.now)(), JobId(Uuid::now_v7()), what.kind());
    let next = may_begin(&instance, kind)?;
    let Some(machine) = instance.machine else {
        return leave(app, caller, instance, (kind, next), now).await;
    };
    let (last, machine, to) = app
        .store
        .transaction({
            let (site, last) = (instance.site.clone(), instance.job);
            move |db| {
                let last = jobs::get(db, &last.to_string())?;
                let machine = machines::get(db, &machine.to_string())?
                    .ok_or_else(|| ApiError::NotFound("machine", machine.to_string()))?;
                let to = sites::get(db, site.as_str())?.and_then(|site| site.sealing_key);
                let detail = || format!("no edge has joined site {site}");
                let to = to.ok_or_else(|| ApiError::Conflict("site_not_joined", detail()))?;
                Ok::<_, ApiError>((last, machine, to))
            }
        })
        .await?;
    is_installed(&instance, last.as_ref(), kind)?;
    let former = instance.clone();
    let (instance, order) = compile(app, caller, (instance, &machine), (job, to), what).await?;
    let begun = Begun {
        by: caller.actor.clone(),
        former,
        instance,
        next,
        order,
        kind,
    };
    let made = app.store.transaction(move |db| begin(db, begun, now)).await?;
    app.poke_site(made.0.site.as_str());
    Ok(made)
}

pub(super) fn may_begin(instance: &Instance, kind: JobKind) -> Result<InstanceState, ApiError> {
    if instance.locked {
        let detail = format!("instance `{}` is locked; unlock it first", instance.name);
        return Err(ApiError::Conflict("instance_locked", detail));
    }
    let event = if instance.machine.is_none() && kind == JobKind::Release {
        InstanceEvent::Left
    } else {
        InstanceEvent::Asked(kind)
    };
    after(instance.state, event).ok_or_else(|| {
        let detail = format!(
            "instance `{}` is {}: that cannot be done now; wait for its job to end, or cancel it",
            instance.name,
            instance.state.word()
        );
        ApiError::Conflict("instance_busy", detail)
    })
}

/// Nothing that failed to be installed is switched on as if it were.
fn is_installed(instance: &Instance, last: Option<&Job>, kind: JobKind) -> Result<(), ApiError> {
    let broken = instance.state == InstanceState::Failed && last.is_some_and(|job| job.kind.installs());
    if broken && ![JobKind::Reinstall, JobKind::Rescue, JobKind::Release].contains(&kind) {
        let detail = format!(
            "instance `{}` was not installed; retry its job, reinstall it, or release it",
            instance.name
        );
        return Err(ApiError::Conflict("not_installed", detail));
    }
    Ok(())
}

async fn compile(
    app: &App,
    caller: &Caller,
    (instance, machine): (Instance, &Machine),
    (job, to): (JobId, SealingKey),
    what: Work,
) -> Result<(Instance, Order), ApiError> {
    let (both, now) = ((job, to), (app.now)());
    let order = match what {
        // It is on, but not in its own system.
        Work::Start if instance.state == InstanceState::Rescue => switch_order(
            app,
            (&instance, machine),
            both,
            Switch::Restart { grace_s: 0 },
            now,
        )?,
        Work::Start => switch_order(app, (&instance, machine), both, Switch::Start, now)?,
        Work::Stop(grace_s) => switch_order(app, (&instance, machine), both, Switch::Stop { grace_s }, now)?,
        Work::Restart(grace_s) => {
            switch_order(app, (&instance, machine), both, Switch::Restart { grace_s }, now)?
        }
        Work::Release => release_order(app, machine, both, now)?,
        Work::Rescue(keys) => {
            let keys = keys_to_let_in(app, caller, &instance, keys).await?;
            rescue_order(app, (&instance, machine), both, keys, now)?
        }
        Work::ResetPassword(user, hash) => {
            let user = user.unwrap_or_else(|| instance.wish.user.clone());
            check_user(&user)?;
            password_order(app, (&instance, machine), both, (user, &hash), now)?
        }
        Work::Reinstall(anew) => {
            let wipe = anew.wipe_data_disks;
            let instance = renewed(app, caller, instance, *anew).await?;
            let instance = Instance { job, ..instance };
            let order = install_order(app, (&instance, machine), to, wipe, now)?;
            return Ok((instance, order));
        }
    };
    Ok((Instance { job, ..instance }, order))
}

async fn keys_to_let_in(
    app: &App,
    caller: &Caller,
    instance: &Instance,
    given: Vec<String>,
) -> Result<Vec<String>, ApiError> {
    let user = caller.user.clone();
    let mut keys = app.store.read(move |db| ssh_keys(db, &user, given)).await?;
    if keys.is_empty() {
        keys.clone_from(&instance.wish.ssh_keys);
    }
    if keys.is_empty() {
        let detail = format!(
            "instance `{}` has no SSH key; name one to be let in by",
            instance.name
        );
        return Err(ApiError::Bad("no_ssh_key", detail));
    }
    Ok(keys)
}

/// Gives a user of an instance's system a new password, one of the caller's or one that is made; answers it. It is kept
/// nowhere, and its hash goes sealed to the site.
///
/// # Errors
/// When the password will not do, or the work cannot be begun.
pub async fn reset_password(
    app: &App,
    caller: &Caller,
    key: String,
    (user, password): (Option<String>, Option<Secret>),
) -> Result<((Instance, Job), Secret), ApiError> {
    let password = password.map_or_else(password::generate, Ok)?;
    let hash = password::hash(&password)?;
    let begun = work(app, caller, key, Work::ResetPassword(user, hash)).await?;
    Ok((begun, password))
}

/// The instance with what it is to be installed anew with.
pub(super) async fn renewed(
    app: &App,
    caller: &Caller,
    instance: Instance,
    anew: Anew,
) -> Result<Instance, ApiError> {
    let mut instance = instance;
    if let Some(user) = anew.user {
        check_user(&user)?;
        instance.wish.user = user;
    }
    if let Some(disk) = anew.disk {
        instance.wish.disk = disk;
    }
    if let Some(data) = user_data::taken(anew.user_data.as_ref(), anew.user_data_check)? {
        instance.wish.user_data = Some(app.vault.encrypt(&user_data_place(instance.id), &data)?);
    }
    let (user, image, keys) = (caller.user.clone(), anew.image, anew.ssh_keys);
    app.store
        .transaction(move |db| {
            if let Some(image) = image {
                let found = crate::domain::images::find_for(db, &image, instance.machine)?;
                instance.image = found.id;
            }
            if let Some(keys) = keys {
                instance.wish.ssh_keys = ssh_keys(db, &user, keys)?;
            }
            Ok(instance)
        })
        .await
}

/// Work that is ready to be put in force.
struct Begun {
    by: Actor,
    former: Instance,
    instance: Instance,
    next: InstanceState,
    order: Order,
    kind: JobKind,
}

fn begin(db: &mut Database, begun: Begun, now: DateTime<Utc>) -> Result<(Instance, Job), ApiError> {
    let Begun {
        by,
        former,
        instance,
        next,
        order,
        kind,
    } = begun;
    let (id, job, machine) = (instance.id, instance.job, order.machine);
    if !instances::advance(db, id, former.state, next)? {
        return Err(ApiError::Changed);
    }
    instances::set_job(db, id, job)?;
    if former.wish != instance.wish || former.image != instance.image {
        instances::set_wish(db, id, instance.image, &instance.wish)?;
    }
    let queued = queue(db, &instance, (kind, 0), now)?;
    if !machines::take(db, machine, MachineState::Allocated, job)? || !jobs::start(db, job, machine)? {
        let detail = format!("the machine of instance `{}` is being worked on", instance.name);
        return Err(ApiError::Conflict("machine_busy", detail));
    }
    let word = format!("instance.{}", next.word());
    events::append(db, &NewEvent::new(&word, now).on(&queued).entered(&next)?)?;
    let revision = orders::put(db, &instance.site, &order)?;
    tell_started(db, job, revision, now)?;
    let action = format!("instance.{}", kind.word());
    audit::done(
        db,
        &by,
        now,
        audit::Change::new(
            &action,
            object(&instance),
            Some(told(&former)),
            Some(told(&Instance {
                state: next,
                ..instance.clone()
            })),
        ),
    )?;
    both(db, &id.to_string(), job)
}

/// Gives back an instance that never got a machine; there is nothing else to be done with one.
async fn leave(
    app: &App,
    caller: &Caller,
    instance: Instance,
    (kind, next): (JobKind, InstanceState),
    now: DateTime<Utc>,
) -> Result<(Instance, Job), ApiError> {
    if kind != JobKind::Release {
        let detail = format!(
            "instance `{}` has no machine; retry its job or release it",
            instance.name
        );
        return Err(ApiError::Conflict("no_machine", detail));
    }
    let by = caller.actor.clone();
    app.store
        .transaction(move |db| {
            if !instances::advance(db, instance.id, instance.state, next)? {
                return Err(ApiError::Changed);
            }
            let event = NewEvent::new("instance.released", now)
                .instance(instance.id)
                .site(&instance.site);
            events::append(db, &event.entered(&next)?)?;
            if jobs::finish(db, instance.job, JobState::Cancelled, None, now)? {
                let event = NewEvent::new("job.cancelled", now)
                    .instance(instance.id)
                    .site(&instance.site);
                let event = event.job(instance.job).text("its instance was given back");
                events::append(db, &event.entered(&JobState::Cancelled)?)?;
            }
            let (before, after) = (
                Some(json!({ "state": instance.state })),
                Some(json!({ "state": next })),
            );
            audit::done(
                db,
                &by,
                now,
                audit::Change::new("instance.release", object(&instance), before, after),
            )?;
            both(db, &instance.id.to_string(), instance.job)
        })
        .await
}

/// What may change of an instance without work on its machine.
#[derive(Default)]
pub struct Change {
    /// Its name. The host name of the installed system follows when it is installed anew.
    pub name: Option<String>,
    /// Whether it is locked against change.
    pub locked: Option<bool>,
}

/// Renames, locks or unlocks an instance.
///
/// # Errors
/// When there is none, it is locked and stays so, or the name is taken.
pub async fn update(app: &App, caller: &Caller, key: String, wanted: Change) -> Result<Instance, ApiError> {
    let former = own(app, caller, key).await?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let name = wanted.name.unwrap_or_else(|| former.name.clone());
            let locked = wanted.locked.unwrap_or(former.locked);
            if name != former.name {
                if former.locked && locked {
                    let detail = format!("instance `{}` is locked; unlock it first", former.name);
                    return Err(ApiError::Conflict("instance_locked", detail));
                }
                check_host_name(&name)?;
                if instances::name_taken(db, &former.project, &name)? {
                    let detail = format!("project `{}` has an instance `{name}` already", former.project);
                    return Err(ApiError::Conflict("taken", detail));
                }
            }
            instances::rename(db, former.id, &name, locked)?;
            let view = |name: &str, locked: bool| Some(json!({ "name": name, "locked": locked }));
            let (before, after) = (view(&former.name, former.locked), view(&name, locked));
            audit::done(
                db,
                &by,
                now,
                audit::Change::new("instance.update", object(&former), before, after),
            )?;
            let found = instances::by_id(db, former.id)?;
            found.ok_or_else(|| ApiError::NotFound("instance", former.id.to_string()))
        })
        .await
}

/// Takes a failed job up again at the step that failed; one that found no machine waits for one anew.
///
/// # Errors
/// When there is no such job, it has not failed, or its instance has another job since.
pub async fn retry(app: &App, caller: &Caller, id: String) -> Result<Job, ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    let job = app
        .store
        .transaction(move |db| {
            let (job, project) =
                crate::domain::jobs::seen_by(db, &caller.visible(Permission::JobsRead), &id)?;
            let target = crate::domain::jobs::target(&job, project.as_deref());
            caller.require(Permission::JobsWrite, target)?;
            take_up(db, &job, now)?;
            let change = audit::Change {
                action: "job.retry",
                object: format!("job/{id}"),
                before: Some(json!({ "state": job.state, "failure": job.failure })),
                after: None,
            };
            audit::done(db, &caller.actor, now, change)?;
            jobs::get(db, &id)?.ok_or_else(|| ApiError::NotFound("job", id))
        })
        .await?;
    app.work.notify_one();
    app.poke_site(job.site.as_str());
    Ok(job)
}

fn take_up(db: &mut Database, job: &Job, now: DateTime<Utc>) -> Result<(), ApiError> {
    let refuse = |code, why: &str| Err(ApiError::Conflict(code, format!("job `{}` {why}", job.id)));
    if job.state != JobState::Failed {
        return refuse(
            "job_not_failed",
            "has not failed, so there is nothing to try again",
        );
    }
    let Some(instance) = job.instance else {
        let how = crate::domain::machine_jobs::advice(job.kind, job.machine);
        return refuse("job_not_retried", &format!("is not taken up again: {how}"));
    };
    let instance = instances::by_id(db, instance)?.filter(|instance| instance.job == job.id);
    let Some(instance) = instance else {
        return refuse(
            "job_superseded",
            "is not the last one of its instance; look at that one",
        );
    };
    let (event, state) = match job.machine {
        Some(_) => (InstanceEvent::Retried(job.kind), JobState::Running),
        None => (InstanceEvent::Requeued, JobState::Queued),
    };
    let deadline = now + JOB_LIFE;
    let next = after(instance.state, event).ok_or(ApiError::Changed)?;
    if !jobs::reopen(db, job.id, state, deadline)?
        || !instances::advance(db, instance.id, instance.state, next)?
    {
        return Err(ApiError::Changed);
    }
    let word = format!("instance.{}", next.word());
    events::append(
        db,
        &NewEvent::new(&word, now)
            .on(job)
            .text("tried again")
            .entered(&next)?,
    )?;
    events::append(db, &NewEvent::new("job.retried", now).on(job).entered(&state)?)?;
    let Some(machine) = job.machine else {
        return Ok(());
    };
    let row = orders::get(db, machine)?.filter(|row| row.order.job == job.id && !row.order.steps.is_empty());
    let Some(row) = row else {
        return refuse(
            "job_withdrawn",
            "was withdrawn from its site; reinstall or release the instance",
        );
    };
    if !machines::take(db, machine, MachineState::Allocated, job.id)? {
        return refuse("machine_busy", "has its machine worked on by another job");
    }
    let order = Order {
        retry: row.order.retry + 1,
        deadline,
        ..row.order
    };
    let revision = orders::put(db, &row.site, &order)?;
    Ok(tell_started(db, job.id, revision, now)?)
}
