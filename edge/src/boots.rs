//! The boot tokens in force: which agent may connect, and by which key its messages are verified. A token is bound to
//! one machine and one job, and gone when the job is over.

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use slipway_protocol::{
    boot::BootToken,
    ids::{JobId, MachineId},
    keys::{KeyRing, VerifyingKey},
};
use uuid::Uuid;

use crate::store::{Boot, Store, StoreError};

/// A token could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum BootsError {
    /// The system's random source failed.
    #[error("cannot make a boot token: the system's random source failed")]
    Random,
    /// It cannot be kept.
    #[error("cannot keep a boot token")]
    Store(#[from] StoreError),
}

/// All tokens in force.
pub struct Boots {
    store: Store,
    by_machine: RwLock<HashMap<MachineId, Boot>>,
}

impl Boots {
    /// The tokens the store holds.
    ///
    /// # Errors
    /// When the store fails.
    pub fn load(store: Store) -> Result<Self, StoreError> {
        let boots = store.boots()?;
        let by_machine = boots.into_iter().map(|boot| (boot.machine, boot)).collect();
        Ok(Self {
            store,
            by_machine: RwLock::new(by_machine),
        })
    }

    /// The token of a machine's job, made if there is none.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub fn ensure(&self, machine: MachineId, job: JobId) -> Result<Boot, BootsError> {
        if let Some(boot) = self.get(machine).filter(|boot| boot.job == job) {
            return Ok(boot);
        }
        let key: [u8; 32] = random()?;
        let boot = Boot {
            machine,
            job,
            boot_key: hex::encode(&key[..16]),
            token: BootToken::from_bytes(random()?),
        };
        // A machine nobody knows has no job; its token need not outlive this process.
        if job != unknown_job() {
            self.store.put_boot(&boot)?;
        }
        self.by_machine
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(machine, boot.clone());
        Ok(boot)
    }

    /// The token of a machine.
    #[must_use]
    pub fn get(&self, machine: MachineId) -> Option<Boot> {
        self.by_machine
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&machine)
            .cloned()
    }

    /// Ends a machine's token.
    ///
    /// # Errors
    /// When the store fails.
    pub fn end(&self, machine: MachineId) -> Result<(), StoreError> {
        let removed = self
            .by_machine
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&machine);
        if removed.is_some() {
            self.store.drop_boot(machine)
        } else {
            Ok(())
        }
    }

    /// The ring that verifies one agent; empty without a token.
    #[must_use]
    pub fn key_ring(&self, machine: MachineId) -> KeyRing {
        let key: Option<VerifyingKey> = self
            .get(machine)
            .and_then(|b| b.token.signer().ok())
            .map(|s| s.verifying_key());
        KeyRing::new(key)
    }
}

/// Stands for the job of a machine nobody knows.
#[must_use]
pub fn unknown_job() -> JobId {
    JobId(Uuid::nil())
}

fn random<const N: usize>() -> Result<[u8; N], BootsError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| BootsError::Random)?;
    Ok(bytes)
}
