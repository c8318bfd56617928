//! Instances: asked for, dispatched to a machine, given back.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    ids::{Digest, InstanceId, JobId, SiteId},
    inventory::DiskRule,
    order::{BmcAccess, Hardware, Order, secret_context},
    seal::{self, Sealed, SealingKey, Secret},
};
use uuid::Uuid;

use crate::{
    app::App,
    error::ApiError,
    store::{
        Database, history, images,
        instances::{self, Instance, Wish},
        jobs::{self, Job},
        machines::{self, Machine},
        orders, sites,
    },
    vault,
    workflow::{
        install::{self, Install},
        release,
        state::{InstanceEvent, InstanceState, JobState, MachineState, after},
    },
};

/// How long a job may take at most, waiting for a machine included.
const JOB_LIFE: TimeDelta = TimeDelta::hours(2);

/// An instance to be made.
pub struct NewInstance {
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

/// The place an instance's user-data is encrypted for.
fn user_data_place(instance: InstanceId) -> String {
    format!("instance/{instance}/user-data")
}

/// Notes the wish; the scheduler does the rest.
///
/// # Errors
/// When the image, machine or site is not there, or a name or key is not usable.
pub async fn create(app: &App, new: NewInstance) -> Result<(Instance, Job), ApiError> {
    check(&new)?;
    let (id, job_id) = (InstanceId(Uuid::now_v7()), JobId(Uuid::now_v7()));
    let user_data = new
        .user_data
        .map(|data| app.vault.encrypt(&user_data_place(id), &data))
        .transpose()?;
    let now = (app.now)();
    let made = app
        .store
        .transaction(move |db| {
            let image =
                images::get(db, &new.image)?.ok_or_else(|| ApiError::NotFound("image", new.image.clone()))?;
            sites::get(db, new.site.as_str())?
                .ok_or_else(|| ApiError::NotFound("site", new.site.to_string()))?;
            let machine = match new.machine {
                Some(key) => Some(named_machine(db, key, &new.site)?.id),
                None => None,
            };
            let wish = Wish {
                machine,
                disk: new.disk,
                user: new.user,
                ssh_keys: new.ssh_keys,
                user_data,
            };
            let instance = Instance {
                id,
                name: new.name,
                site: new.site.clone(),
                machine: None,
                image: image.id,
                state: InstanceState::Requested,
                job: job_id,
                wish,
                created_at: now,
            };
            instances::insert(db, &instance)?;
            let job = queue(db, &instance, job_id, now)?;
            history::append(db, &format!("instance/{id}"), "requested", &instance.name, now)?;
            Ok::<_, ApiError>((instance, job))
        })
        .await?;
    app.work.notify_one();
    Ok(made)
}

fn queue(db: &mut Database, instance: &Instance, id: JobId, now: DateTime<Utc>) -> Result<Job, ApiError> {
    let job = Job {
        id,
        instance: instance.id,
        site: instance.site.clone(),
        machine: instance.machine,
        state: JobState::Queued,
        failure: None,
        deadline: now + JOB_LIFE,
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &job)?;
    Ok(job)
}

fn check(new: &NewInstance) -> Result<(), ApiError> {
    if SiteId::new(new.name.as_str()).is_err() {
        let detail = format!(
            "`{}` is not a host name: use 1 to 63 of a-z, 0-9 and '-'",
            new.name
        );
        return Err(ApiError::Bad("name", detail));
    }
    let user_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    if new.user.is_empty() || new.user.len() > 32 || !new.user.chars().all(user_ok) {
        return Err(ApiError::Bad(
            "user",
            format!(
                "`{}` is not a user name: use 1 to 32 of a-z, 0-9, '_', '-'",
                new.user
            ),
        ));
    }
    for key in &new.ssh_keys {
        let known = ["ssh-", "ecdsa-", "sk-"]
            .iter()
            .any(|prefix| key.starts_with(prefix));
        if !known || key.chars().any(char::is_control) || key.split(' ').count() < 2 {
            let detail =
                "an SSH key is not one line of OpenSSH's public form, as in `ssh-ed25519 AAAA.. name`";
            return Err(ApiError::Bad("ssh_key", detail.to_owned()));
        }
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
    let order = install_order(app, &instance, &machine, sealing_key, now)?;
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
            let detail = format!("job {} order {revision}", instance.job);
            history::append(db, &format!("machine/{}", machine.id), "order", &detail, now)?;
            history::append(db, &format!("instance/{id}"), "installing", &machine.name, now)?;
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

fn find_machine(db: &mut Database, id: InstanceId) -> Result<Found, ApiError> {
    let Some(instance) = instances::get(db, &id.to_string())? else {
        return Ok(Err("it is gone".to_owned()));
    };
    let site = sites::get(db, instance.site.as_str())?;
    let Some(sealing_key) = site.and_then(|site| site.sealing_key) else {
        return Ok(Err(format!("no edge has joined site {}", instance.site)));
    };
    let machine = match instance.wish.machine {
        Some(machine) => machines::get(db, &machine.to_string())?,
        None => machines::any_available(db, &instance.site)?,
    };
    match machine {
        None => Ok(Err(format!("site {} has no free machine", instance.site))),
        Some(m) if m.state != MachineState::Available || m.live_job.is_some() => {
            Ok(Err(format!("machine {} is not free", m.name)))
        }
        Some(machine) => Ok(Ok((instance, machine, sealing_key))),
    }
}

/// Seals the secrets of one job to its site.
struct Sealer<'a> {
    app: &'a App,
    machine: &'a Machine,
    job: JobId,
    to: SealingKey,
    secrets: BTreeMap<String, Sealed>,
}

impl Sealer<'_> {
    fn add(&mut self, name: &str, secret: &Secret) -> Result<(), ApiError> {
        let place = secret_context(&self.machine.site, self.machine.id, self.job, name);
        let sealed = seal::seal(self.to, &place, secret).map_err(|e| ApiError::Internal(e.into()))?;
        self.secrets.insert(name.to_owned(), sealed);
        Ok(())
    }

    fn add_bmc(&mut self) -> Result<(), ApiError> {
        let Some(kept) = &self.machine.bmc_password else {
            return Ok(());
        };
        let password = self
            .app
            .vault
            .decrypt(&super::machines::bmc_place(self.machine.id), kept)?;
        self.add(install::BMC_PASSWORD, &password)
    }
}

fn hardware(machine: &Machine) -> Hardware {
    let bmc = machine.details.bmc.as_ref().map(|bmc| BmcAccess {
        driver: bmc.driver,
        address: bmc.address,
        username: bmc.username.clone(),
        password: install::BMC_PASSWORD.to_owned(),
    });
    Hardware {
        macs: machine.details.macs.clone(),
        firmware: machine.details.firmware,
        bmc,
    }
}

fn install_order(
    app: &App,
    instance: &Instance,
    machine: &Machine,
    to: SealingKey,
    now: DateTime<Utc>,
) -> Result<Order, ApiError> {
    let nonce = Secret::new(hex::encode(vault::random::<32>()?));
    let mut sealer = Sealer {
        app,
        machine,
        job: instance.job,
        to,
        secrets: BTreeMap::new(),
    };
    sealer.add_bmc()?;
    sealer.add(install::PHONE_HOME, &nonce)?;
    if let Some(kept) = &instance.wish.user_data {
        let data = app.vault.decrypt(&user_data_place(instance.id), kept)?;
        sealer.add(install::USER_DATA, &data)?;
    }
    Ok(install::compile(Install {
        machine: machine.id,
        job: instance.job,
        deadline: now + JOB_LIFE,
        hardware: hardware(machine),
        address: machine.address,
        image: instance.image,
        disk: instance.wish.disk.clone(),
        instance_id: instance.id.to_string(),
        hostname: instance.name.clone(),
        user: instance.wish.user.clone(),
        ssh_keys: instance.wish.ssh_keys.clone(),
        nonce_sha256: Digest::of(nonce.reveal().as_bytes()),
        secrets: sealer.secrets,
    }))
}

/// One instance, by id or name.
///
/// # Errors
/// When there is none.
pub async fn get(app: &App, key: String) -> Result<Instance, ApiError> {
    app.store
        .transaction(move |db| instances::get(db, &key)?.ok_or_else(|| ApiError::NotFound("instance", key)))
        .await
}

/// Gives an instance back: its machine is switched off and becomes free.
///
/// # Errors
/// When there is none, or a job works on it.
pub async fn release(app: &App, key: String) -> Result<(Instance, Job), ApiError> {
    let instance = get(app, key).await?;
    let now = (app.now)();
    let Some(next) = after(instance.state, InstanceEvent::ReleaseAsked) else {
        let detail = format!(
            "instance `{}` is {:?}; cancel its job or wait for it to end",
            instance.name, instance.state
        );
        return Err(ApiError::Conflict("instance_busy", detail.to_lowercase()));
    };
    let order = match instance.machine {
        Some(machine) => Some(release_order(app, &instance, machine.to_string(), now).await?),
        None => None,
    };
    let key = instance.id.to_string();
    let made = app
        .store
        .transaction(move |db| {
            let id = instance.id;
            if !instances::advance(db, id, instance.state, next)? {
                return Err(ApiError::Changed);
            }
            history::append(db, &format!("instance/{id}"), "release asked", "", now)?;
            let Some((machine, order)) = order else {
                jobs::finish(db, instance.job, JobState::Cancelled, None, now)?;
                return both(db, &key, instance.job);
            };
            let job = order.job;
            queue(db, &instance, job, now)?;
            if !machines::take(db, machine.id, MachineState::Allocated, job)?
                || !jobs::start(db, job, machine.id)?
            {
                return Err(ApiError::Conflict(
                    "machine_busy",
                    format!("machine `{}` is being worked on", machine.name),
                ));
            }
            instances::set_job(db, id, job)?;
            let revision = orders::put(db, &instance.site, &order)?;
            history::append(
                db,
                &format!("machine/{}", machine.id),
                "order",
                &format!("job {job} order {revision}"),
                now,
            )?;
            both(db, &key, job)
        })
        .await?;
    app.poke_site(made.0.site.as_str());
    Ok(made)
}

fn both(db: &mut Database, instance: &str, job: JobId) -> Result<(Instance, Job), ApiError> {
    let gone = || ApiError::NotFound("instance", instance.to_owned());
    let found = instances::get(db, instance)?.ok_or_else(gone)?;
    let job = jobs::get(db, &job.to_string())?.ok_or_else(gone)?;
    Ok((found, job))
}

async fn release_order(
    app: &App,
    instance: &Instance,
    machine: String,
    now: DateTime<Utc>,
) -> Result<(Machine, Order), ApiError> {
    let machine = super::machines::get(app, machine).await?;
    let site = super::sites::get(app, instance.site.to_string()).await?;
    let to = site.sealing_key.ok_or_else(|| {
        ApiError::Conflict(
            "site_not_joined",
            format!("no edge has joined site {}", instance.site),
        )
    })?;
    let job = JobId(Uuid::now_v7());
    let mut sealer = Sealer {
        app,
        machine: &machine,
        job,
        to,
        secrets: BTreeMap::new(),
    };
    sealer.add_bmc()?;
    let secrets = sealer.secrets;
    let order = release::compile(machine.id, job, now + JOB_LIFE, hardware(&machine), secrets);
    Ok((machine, order))
}
