//! The orders of instances' jobs, with their secrets sealed to the site. Compiles and seals; stores nothing.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{Digest, JobId},
    order::{BmcAccess, Hardware, Order, Step, secret_context},
    seal::{self, Sealed, SealingKey, Secret},
};

use super::{JOB_LIFE, user_data_place};
use crate::{
    app::App,
    domain::machines::bmc_place,
    error::ApiError,
    store::{instances::Instance, machines::Machine},
    vault,
    workflow::{
        bmc_password,
        install::{self, Install},
        machine_job::Frame,
        machine_power::{self, Ask},
        power::{self, Installed, Switch},
        release, rescue,
    },
};

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

    /// Whatever may be the BMC's password: the one on record, and those of changes whose end is not known.
    fn add_bmc(&mut self) -> Result<(), ApiError> {
        let machine = self.machine;
        let Some(kept) = &machine.bmc_password else {
            return Ok(());
        };
        let place = bmc_place(machine.id);
        let password = self.app.vault.decrypt(&place, kept)?;
        self.add(install::BMC_PASSWORD, &password)?;
        for (candidate, name) in machine.bmc_candidates.iter().zip(candidate_names(machine)) {
            let password = self.app.vault.decrypt(&place, &candidate.password)?;
            self.add(&name, &password)?;
        }
        Ok(())
    }
}

/// What an order calls the passwords that may be in force instead of the one on record.
fn candidate_names(machine: &Machine) -> Vec<String> {
    let count = machine.bmc_candidates.len();
    (1..=count).map(|n| format!("new-bmc-password-{n}")).collect()
}

fn hardware(machine: &Machine) -> Hardware {
    let bmc = machine.details.bmc.as_ref().map(|bmc| BmcAccess {
        driver: bmc.driver,
        address: bmc.address,
        username: bmc.username.clone(),
        password: install::BMC_PASSWORD.to_owned(),
        other_passwords: candidate_names(machine),
    });
    Hardware {
        macs: machine.details.macs.clone(),
        firmware: machine.details.firmware,
        bmc,
    }
}

/// The order of an install; `wipe` has all disks but the chosen one read as zeros.
pub(super) fn install_order(
    app: &App,
    (instance, machine): (&Instance, &Machine),
    to: SealingKey,
    wipe: bool,
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
    let mut order = install_without_secrets(instance, machine, wipe);
    order.deadline = now + JOB_LIFE;
    order.nonce_sha256 = Digest::of(nonce.reveal().as_bytes());
    order.secrets = sealer.secrets;
    Ok(install::compile(order))
}

/// The steps of an install, as they would be; without secrets, which no step holds.
pub(super) fn install_steps(instance: &Instance, machine: &Machine, wipe: bool) -> Vec<Step> {
    install::compile(install_without_secrets(instance, machine, wipe)).steps
}

fn install_without_secrets(instance: &Instance, machine: &Machine, wipe: bool) -> Install {
    Install {
        machine: machine.id,
        job: instance.job,
        deadline: DateTime::<Utc>::MAX_UTC,
        hardware: hardware(machine),
        address: machine.address,
        image: instance.image,
        disk: instance.wish.disk.clone(),
        wipe_data_disks: wipe,
        instance_id: instance.id.to_string(),
        hostname: instance.name.clone(),
        user: instance.wish.user.clone(),
        ssh_keys: instance.wish.ssh_keys.clone(),
        nonce_sha256: Digest::of(&[]),
        secrets: BTreeMap::new(),
    }
}

/// An instance's machine as orders see it that leave its system in place.
fn installed(
    app: &App,
    (instance, machine): (&Instance, &Machine),
    (job, to): (JobId, SealingKey),
    now: DateTime<Utc>,
) -> Result<Installed, ApiError> {
    Ok(Installed {
        machine: machine.id,
        job,
        deadline: now + JOB_LIFE,
        hardware: hardware(machine),
        address: machine.address,
        hostname: instance.name.clone(),
        secrets: bmc_secrets(app, machine, (job, to))?,
    })
}

/// The order that switches an installed machine.
pub(super) fn switch_order(
    app: &App,
    on: (&Instance, &Machine),
    both: (JobId, SealingKey),
    switch: Switch,
    now: DateTime<Utc>,
) -> Result<Order, ApiError> {
    Ok(power::compile(installed(app, on, both, now)?, switch))
}

/// The order that lets an instance's owner into the LiveOS on its machine.
pub(super) fn rescue_order(
    app: &App,
    on: (&Instance, &Machine),
    both: (JobId, SealingKey),
    ssh_keys: Vec<String>,
    now: DateTime<Utc>,
) -> Result<Order, ApiError> {
    Ok(rescue::rescue(installed(app, on, both, now)?, ssh_keys))
}

/// The order that gives a user of the installed system a new password; `hash` is as `/etc/shadow` has it.
pub(super) fn password_order(
    app: &App,
    (instance, machine): (&Instance, &Machine),
    (job, to): (JobId, SealingKey),
    (user, hash): (String, &Secret),
    now: DateTime<Utc>,
) -> Result<Order, ApiError> {
    let mut installed = installed(app, (instance, machine), (job, to), now)?;
    let mut sealer = Sealer {
        app,
        machine,
        job,
        to,
        secrets: installed.secrets,
    };
    sealer.add(rescue::PASSWORD, hash)?;
    installed.secrets = sealer.secrets;
    Ok(rescue::reset_password(
        installed,
        user,
        instance.wish.disk.clone(),
    ))
}

/// The order that takes a machine back.
pub(super) fn release_order(
    app: &App,
    machine: &Machine,
    (job, to): (JobId, SealingKey),
    now: DateTime<Utc>,
) -> Result<Order, ApiError> {
    let secrets = bmc_secrets(app, machine, (job, to))?;
    Ok(release::compile(
        machine.id,
        job,
        now + JOB_LIFE,
        hardware(machine),
        secrets,
    ))
}

/// What frames the orders of a machine's own jobs; what the instance on it needs stays.
fn frame(
    app: &App,
    (instance, machine): (Option<&Instance>, &Machine),
    (job, to): (JobId, SealingKey),
    deadline: DateTime<Utc>,
) -> Result<Frame, ApiError> {
    Ok(Frame {
        machine: machine.id,
        job,
        deadline,
        hardware: hardware(machine),
        keeps: instance.map(|instance| (machine.address, instance.name.clone())),
        secrets: bmc_secrets(app, machine, (job, to))?,
    })
}

/// The order that gives a machine's BMC the last of its candidates as its password.
pub(in crate::domain) fn rotation_order(
    app: &App,
    on: (Option<&Instance>, &Machine),
    both: (JobId, SealingKey),
    deadline: DateTime<Utc>,
) -> Result<Order, ApiError> {
    let password = candidate_names(on.1).pop().unwrap_or_default();
    Ok(bmc_password::compile(frame(app, on, both, deadline)?, password))
}

/// The order that has a machine's BMC switch it, or say how it is.
pub(in crate::domain) fn power_order(
    app: &App,
    on: (Option<&Instance>, &Machine),
    both: (JobId, SealingKey),
    deadline: DateTime<Utc>,
    (ask, grace_s): (Ask, u32),
) -> Result<Order, ApiError> {
    Ok(machine_power::compile(
        frame(app, on, both, deadline)?,
        ask,
        grace_s,
    ))
}

fn bmc_secrets(
    app: &App,
    machine: &Machine,
    (job, to): (JobId, SealingKey),
) -> Result<BTreeMap<String, Sealed>, ApiError> {
    let mut sealer = Sealer {
        app,
        machine,
        job,
        to,
        secrets: BTreeMap::new(),
    };
    sealer.add_bmc()?;
    Ok(sealer.secrets)
}
