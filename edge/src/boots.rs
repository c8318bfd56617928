//! Boot tokens: which agent may connect, and by which key its messages are verified. A token is bound to one machine and one job,
//! is handed out once, and is gone when the job is over. Who fetches the overlay again gets a new token, and the agent that has
//! the former one is put out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use slipway_protocol::{
    boot::BootToken,
    ids::{JobId, MachineId},
    keys::{KeyRing, VerifyingKey},
};
use tokio_util::sync::CancellationToken;
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

/// The most machines that nobody knows and that have a token: who needs one more takes the place of another.
const MOST_UNKNOWN: usize = 10_000;

/// All tokens.
pub struct Boots {
    store: Store,
    by_machine: RwLock<HashMap<MachineId, Boot>>,
    sessions: Mutex<HashMap<MachineId, Session>>,
}

/// What has become of a machine's token.
#[derive(Debug, Clone, Default)]
struct Session {
    handed_out: bool,
    /// Whether a boot was ordered since: it is given a token of its own, and that is nothing to be told.
    due: bool,
    /// Ends the connections of agents that have the token.
    leave: CancellationToken,
    /// Lives as long as an agent's connection does.
    connected: Weak<()>,
}

/// What was handed out.
#[derive(Clone)]
pub struct HandedOut {
    /// With the token.
    pub boot: Boot,
    /// Whether an earlier one was handed out for the same job, whose agent has been put out now.
    pub again: bool,
}

/// A token is not handed out: an agent that has it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentAtWork;

impl Boots {
    /// The tokens the store holds.
    ///
    /// # Errors
    /// When the store fails.
    pub fn load(store: Store) -> Result<Self, StoreError> {
        let boots = store.boots()?;
        let handed_out = |boot: &Boot| {
            let session = Session {
                handed_out: true,
                ..Session::default()
            };
            (boot.machine, session)
        };
        let sessions = boots.iter().map(handed_out).collect();
        let by_machine = boots.into_iter().map(|boot| (boot.machine, boot)).collect();
        Ok(Self {
            store,
            // Whether those were handed out before this process began is not known: who fetches one gets a new one.
            sessions: Mutex::new(sessions),
            by_machine: RwLock::new(by_machine),
        })
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<MachineId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a machine's token out: the first time as it is, and each time after that a new one, which puts out whoever has the
    /// former. `None` while an agent that has it is connected: then no boot is waited for.
    ///
    /// # Errors
    /// When a new token cannot be made or kept.
    pub fn hand_out(&self, boot: Boot) -> Result<Result<HandedOut, AgentAtWork>, BootsError> {
        let mut sessions = self.sessions();
        let session = sessions.entry(boot.machine).or_default();
        if session.connected.upgrade().is_some() {
            return Ok(Err(AgentAtWork));
        }
        if !session.handed_out {
            session.handed_out = true;
            return Ok(Ok(HandedOut { boot, again: false }));
        }
        let again = !std::mem::take(&mut session.due);
        let boot = Boot {
            token: BootToken::from_bytes(random()?),
            ..boot
        };
        std::mem::take(&mut session.leave).cancel();
        if let Some(other) = self.keep(&boot)? {
            sessions.remove(&other);
        }
        Ok(Ok(HandedOut { boot, again }))
    }

    /// The machine is about to be booted from the network: whoever came in by an earlier boot's token is put out, however long it
    /// would stay connected, and the boot is given a token of its own.
    pub fn boot_ordered(&self, machine: MachineId) {
        let mut sessions = self.sessions();
        if let Some(session) = sessions.get_mut(&machine).filter(|session| session.handed_out) {
            session.due = true;
            session.connected = Weak::new();
            std::mem::take(&mut session.leave).cancel();
        }
    }

    /// Lets an agent in that `judge` finds to have a machine's token, which it looks up itself: what was found, what ends the agent's
    /// connection, and what it is to hold as long as it is connected. No token is handed out meanwhile.
    ///
    /// # Errors
    /// What `judge` says against it.
    pub fn agent_enters<T, E>(
        &self,
        judge: impl FnOnce(&dyn Fn(MachineId) -> Option<Boot>) -> Result<(MachineId, T), E>,
    ) -> Result<(T, CancellationToken, Arc<()>), E> {
        let mut sessions = self.sessions();
        let (machine, found) = judge(&|machine| self.get(machine))?;
        let session = sessions.entry(machine).or_default();
        let connected = session.connected.upgrade().unwrap_or_default();
        session.connected = Arc::downgrade(&connected);
        Ok((found, session.leave.clone(), connected))
    }

    /// Keeps a token; gives back which machine's made room for it.
    fn keep(&self, boot: &Boot) -> Result<Option<MachineId>, BootsError> {
        // A machine nobody knows has no job; its token need not outlive this process.
        if boot.job != unknown_job() {
            self.store.put_boot(boot)?;
        }
        let mut by_machine = self.by_machine.write().unwrap_or_else(PoisonError::into_inner);
        let mut made_room = None;
        if boot.job == unknown_job() && !by_machine.contains_key(&boot.machine) {
            let unknown = |(_, held): &(&MachineId, &Boot)| held.job == unknown_job();
            let held = by_machine.iter().filter(unknown).count();
            let other = by_machine.iter().find(unknown).map(|(machine, _)| *machine);
            if let Some(other) = other.filter(|_| held >= MOST_UNKNOWN) {
                by_machine.remove(&other);
                made_room = Some(other);
            }
        }
        by_machine.insert(boot.machine, boot.clone());
        Ok(made_room)
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
        let mut sessions = self.sessions();
        if let Some(other) = self.keep(&boot)? {
            sessions.remove(&other);
        }
        // A new job's first token has been handed out to nobody; whoever is in by a former job's is put out.
        if let Some(former) = sessions.remove(&machine) {
            former.leave.cancel();
        }
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
        // An agent that is in stays until the next job: a rescue goes on after its own.
        let mut sessions = self.sessions();
        let is_in = |session: &Session| session.connected.upgrade().is_some();
        if !sessions.get(&machine).is_some_and(is_in) {
            sessions.remove(&machine);
        }
        drop(sessions);
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
