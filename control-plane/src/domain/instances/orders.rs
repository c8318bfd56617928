//! The orders of instances' jobs, with their secrets sealed to the site. Compiles and seals; stores nothing.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{Digest, JobId},
    order::{BmcAccess, Hardware, Order, secret_context},
    seal::{self, Sealed, SealingKey, Secret},
};

use super::{JOB_LIFE, user_data_place};
use crate::{
    app::App,
    error::ApiError,
    store::{instances::Instance, machines::Machine},
    vault,
    workflow::{
        install::{self, Install},
        power::{self, Installed, Switch},
        release,
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

    fn add_bmc(&mut self) -> Result<(), ApiError> {
        let Some(kept) = &self.machine.bmc_password else {
            return Ok(());
        };
        let password = self
            .app
            .vault
            .decrypt(&crate::domain::machines::bmc_place(self.machine.id), kept)?;
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

pub(super) fn install_order(
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

/// The order that switches an installed machine.
pub(super) fn switch_order(
    app: &App,
    (instance, machine): (&Instance, &Machine),
    (job, to): (JobId, SealingKey),
    switch: Switch,
    now: DateTime<Utc>,
) -> Result<Order, ApiError> {
    let installed = Installed {
        machine: machine.id,
        job,
        deadline: now + JOB_LIFE,
        hardware: hardware(machine),
        address: machine.address,
        hostname: instance.name.clone(),
        secrets: bmc_secrets(app, machine, (job, to))?,
    };
    Ok(power::compile(installed, switch))
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
