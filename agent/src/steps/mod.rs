//! The steps an agent can do, one file each. Every step can be repeated from its start. A step blocks its thread, checks
//! between pieces of work whether it is to go on, and writes to no disk but the one bound by its identity.

mod bound_disk;
mod choose_disk;
mod configure;
mod rescue;
mod set_password;
mod wipe_disks;
mod write_image;

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::Duration,
};

use slipway_protocol::{
    boot::BootConfig,
    ids::JobId,
    inventory::Disk,
    keys::KeyRing,
    order::{Action, Step, secret_context},
    report::{Failure, Progress, Release},
    seal::{OpeningKey, Secret},
};

use crate::{env::Env, fetch::Edge, lldp::Neighbours, log::Log};

/// Tells a step to stop; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<(Mutex<bool>, Condvar)>);

impl Cancel {
    /// Has the step stop, also one that waits.
    pub fn set(&self) {
        let (flag, changed) = &*self.0;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Whether it is to stop.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits that long, or until it is set.
    pub fn wait(&self, limit: Duration) {
        let (flag, changed) = &*self.0;
        let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
        // Either outcome is fine: the caller looks at the flag.
        drop(changed.wait_timeout_while(guard, limit, |set| !*set));
    }
}

/// What does not change during one boot.
pub struct Machine {
    /// Disks, clock, reset.
    pub env: Box<dyn Env>,
    /// Where images come from.
    pub edge: Edge,
    /// What the overlay said.
    pub config: BootConfig,
    /// The control plane's keys.
    pub keys: KeyRing,
    /// Opens the secrets the edge passes on.
    pub opening: OpeningKey,
    /// What is at the other ends of its cables.
    pub neighbours: Neighbours,
    /// What was said on the console.
    pub log: Log,
}

/// One attempt of one step.
pub struct Attempt {
    /// The job.
    pub job: JobId,
    /// The step.
    pub step: Step,
    /// The release it runs by.
    pub release: Release,
    /// The disk it is bound to, if one is chosen.
    pub disk: Option<Disk>,
    /// Set when it is not to go on.
    pub cancel: Cancel,
    /// Hears how far it is.
    pub progress: Box<dyn Fn(Progress) + Send + Sync>,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is done.
    Done,
    /// It is done, and this disk is chosen.
    Chosen(Disk),
    /// It is done as soon as the machine restarts.
    Restart,
}

/// Does one attempt of a step. Blocks.
///
/// # Errors
/// Why it failed, in the words of the report.
pub fn run(machine: &Machine, attempt: &Attempt) -> Result<Outcome, Failure> {
    match &attempt.step.action {
        // the inventory is read anew for every hello; here it is only shown that it can be
        Action::AgentInventory => Ok(Outcome::Done),
        Action::AgentChooseDisk { rule } => choose_disk::run(machine, rule),
        Action::AgentWriteImage { image } => write_image::run(machine, attempt, *image),
        Action::AgentConfigure { guest } => configure::run(machine, attempt, guest),
        Action::AgentWipeDisks => wipe_disks::run(machine, attempt),
        Action::AgentSetPassword { user, password } => set_password::run(machine, attempt, user, password),
        Action::AgentRescue { ssh_keys } => rescue::run(machine, ssh_keys),
        Action::AgentReboot => Ok(Outcome::Restart),
        Action::Unknown(unknown) => {
            let text = format!(
                "this agent does not know the action `{}`; update the LiveOS",
                unknown.name
            );
            Err(lasting("unknown_action", text))
        }
        other => {
            let text = format!(
                "step `{}` is for {:?}, not for an agent",
                attempt.step.id,
                other.role()
            );
            Err(lasting("not_for_agent", text))
        }
    }
}

/// A secret of the order that the edge passed on, opened.
fn secret(machine: &Machine, attempt: &Attempt, name: &str) -> Result<Secret, Failure> {
    let sealed = attempt.release.secrets.get(name).ok_or_else(|| {
        lasting(
            "secret_missing",
            format!("the edge did not pass on the secret `{name}`"),
        )
    })?;
    let place = secret_context(&machine.config.site, machine.config.machine, attempt.job, name);
    let opened = machine.opening.open(sealed, &place);
    opened.map_err(|e| lasting("secret_refused", format!("secret `{name}`: {e}")))
}

/// A failure that trying again does not help.
fn lasting(code: &str, message: impl ToString) -> Failure {
    Failure {
        code: code.to_owned(),
        message: message.to_string(),
        transient: false,
    }
}

/// A failure that may pass.
fn passing(code: &str, message: impl ToString) -> Failure {
    Failure {
        code: code.to_owned(),
        message: message.to_string(),
        transient: true,
    }
}
