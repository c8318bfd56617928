//! IPMI 2.0 over LAN (RMCP+), written for this product: cipher suites 17 and 3, nothing unauthenticated.
//!
//! [`wire`], [`crypto`], [`rakp`], [`chassis`], [`users`], [`sel`] and [`sel_faults`] are pure and serve both sides (the lab's BMC uses
//! them too);
//! [`session`] and its link own the socket. Weaker suites are never offered: 0, 1, 2 and the IPMI 1.5 sessions have no
//! encryption.

pub mod chassis;
pub mod crypto;
mod link;
mod password;
pub mod rakp;
pub mod sel;
pub mod sel_faults;
mod sel_log;
pub mod session;
pub mod users;
pub mod wire;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex as Lock, PoisonError},
};

use async_trait::async_trait;
use slipway_protocol::seal::Secret;
use tokio::{sync::Mutex, time::Instant};

use super::event_log::{Bounds, EventLog, Mark};
use super::{Bmc, BmcError, BmcInfo, BootDevice, Firmware, PowerAction, PowerState};
use chassis::Command;
use link::WRONG_PROOF;
pub use session::{Credentials, Timing};
use session::{Offer, Session};

/// How often something is read that came back unreadable.
const READS: u32 = 3;
/// How many packets are spent on a first offer before the next one is tried, since some BMCs say nothing to what they do not know.
const FIRST_OFFER_TRIES: u32 = 3;

/// The BMCs that this process has spoken with. One that falls silent is waited for; one that never answered is told of at once,
/// since its address may be wrong.
#[derive(Debug, Default)]
pub struct Reached(Lock<HashSet<SocketAddr>>);

impl Reached {
    fn contains(&self, bmc: SocketAddr) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&bmc)
    }

    fn note(&self, bmc: SocketAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(bmc);
    }
}

/// A BMC spoken to by IPMI. Opens a session when first needed, keeps it, and opens another when it was lost.
/// Calls are made one after the other.
pub struct IpmiBmc {
    address: SocketAddr,
    name: String,
    credentials: Credentials,
    timing: Timing,
    reached: Arc<Reached>,
    state: Mutex<State>,
}

/// What is known from earlier calls.
#[derive(Default)]
struct State {
    session: Option<Session>,
    /// What the last session was opened by.
    offer: Option<Offer>,
    /// It says nothing to what it does not know, so it is not asked for courtesies any more.
    is_mute: bool,
}

impl IpmiBmc {
    /// A driver for the BMC at `address` (usually port 623). Nothing is sent before the first call.
    pub fn new(address: SocketAddr, credentials: Credentials, timing: Timing) -> Self {
        Self {
            address,
            name: address.to_string(),
            credentials,
            timing,
            reached: Arc::default(),
            state: Mutex::default(),
        }
    }

    /// With what other drivers of this process have seen of BMCs.
    #[must_use]
    pub fn with(self, reached: Arc<Reached>) -> Self {
        Self { reached, ..self }
    }

    /// Opens a session as it went last, else by the best offer that the BMC takes. One that has no session free, or fell silent, is
    /// asked again until it has forgotten the sessions of others.
    async fn open(&self, known: Option<Offer>, passwords: &[String]) -> Result<Session, BmcError> {
        let until = Instant::now() + self.timing.idle;
        let mut proofs = 0;
        loop {
            let error = match self.open_by_offers(known, passwords).await {
                Ok(session) => {
                    self.reached.note(self.address);
                    return Ok(session);
                }
                Err(error) => error,
            };
            let pause = match &error {
                BmcError::NoFreeSession { .. } => self.timing.idle_pause,
                BmcError::Timeout { .. } | BmcError::Network { .. }
                    if self.reached.contains(self.address) =>
                {
                    self.timing.idle_pause
                }
                // No login was tried, so another look costs nothing; an answer may have been spoilt.
                BmcError::Credentials { reason, .. } if *reason == WRONG_PROOF && proofs == 0 => {
                    proofs += 1;
                    self.timing.busy_pause
                }
                _ => return Err(error),
            };
            if Instant::now() + pause >= until {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn open_by_offers(&self, known: Option<Offer>, passwords: &[String]) -> Result<Session, BmcError> {
        let credentials = Credentials {
            user: self.credentials.user.clone(),
            passwords: passwords.to_vec(),
        };
        let mut offer = known.unwrap_or(Offer::BEST);
        let mut timing = self.timing;
        if known.is_none() {
            timing.tries = timing.tries.min(FIRST_OFFER_TRIES);
        }
        loop {
            let opened = Session::open(self.address, &self.name, &credentials, (offer, timing)).await;
            let error = match opened {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            // A BMC that was spoken with by a suite speaks it, whatever goes wrong now.
            let next = offer
                .after(&error)
                .filter(|next| known.is_none() || next.suite == offer.suite);
            match next {
                Some(next) => offer = next,
                None => return Err(error),
            }
            timing = self.timing;
        }
    }

    /// A session of its own, beside the one that is kept, by whichever of these passwords is in force.
    async fn log_in(&self, passwords: Vec<String>) -> Result<Session, BmcError> {
        let known = self.state.lock().await.offer;
        self.open(known, &passwords).await
    }

    /// One command in a session of the caller's, repeated within the limits of [`Timing`] while the BMC is busy.
    async fn patiently(
        &self,
        session: &mut Session,
        command: Command,
        data: &[u8],
    ) -> Result<(u8, Vec<u8>), BmcError> {
        let mut busy = 0;
        loop {
            match session.request(command, data).await? {
                (completion, _) if is_busy(completion) && busy < self.timing.busy_tries => {
                    busy += 1;
                    tokio::time::sleep(self.timing.busy_pause).await;
                }
                answer => return Ok(answer),
            }
        }
    }

    /// One command with whatever session there is; a session found dead is replaced once. "Busy" is repeated
    /// within the limits of [`Timing`]. Gives every other completion code to the caller.
    async fn ask(&self, command: Command, data: &[u8]) -> Result<(u8, Vec<u8>), BmcError> {
        let mut state = self.state.lock().await;
        let mut fresh = false;
        let mut busy = 0;
        loop {
            let mut session = match state.session.take() {
                Some(session) => session,
                None => {
                    fresh = true;
                    self.open(state.offer, &self.credentials.passwords).await?
                }
            };
            state.offer = Some(session.offer());
            match session.request(command, data).await {
                // an old session that no longer answers or is unknown (0x87 is some makers' "invalid session")
                Err(BmcError::Timeout { .. } | BmcError::Network { .. }) if !fresh => drop(session),
                Ok((0x87, _)) if !fresh => drop(session),
                Err(error) => return Err(error),
                Ok((completion, _)) if is_busy(completion) && busy < self.timing.busy_tries => {
                    state.session = Some(session);
                    busy += 1;
                    tokio::time::sleep(self.timing.busy_pause).await;
                }
                Ok(answer) => {
                    state.session = Some(session);
                    return Ok(answer);
                }
            }
        }
    }

    /// As [`IpmiBmc::ask`], with every completion code but 0 turned into an error.
    async fn command(&self, command: Command, data: &[u8]) -> Result<Vec<u8>, BmcError> {
        match self.ask(command, data).await? {
            (0x00, answer) => Ok(answer),
            (completion, _) => Err(self.refused(command, completion)),
        }
    }

    /// As [`IpmiBmc::command`] of what changes nothing, asked again when the answer cannot be read.
    async fn read<T>(
        &self,
        command: Command,
        data: &[u8],
        parse: fn(&[u8]) -> Option<T>,
    ) -> Result<T, BmcError> {
        for _ in 0..READS {
            if let Some(read) = parse(&self.command(command, data).await?) {
                return Ok(read);
            }
        }
        Err(self.unreadable(command))
    }

    /// What a completion code other than 0 means.
    fn refused(&self, command: Command, completion: u8) -> BmcError {
        let (bmc, operation) = (self.name.clone(), command.name);
        match completion {
            busy if is_busy(busy) => BmcError::Busy { bmc, operation },
            0xd4 => BmcError::Privilege { bmc, operation },
            _ => BmcError::Completion {
                bmc,
                operation,
                completion,
            },
        }
    }

    /// "Set in progress", "boot info acknowledge" and how long the flags are kept are courtesies that many BMCs do not know: whatever
    /// the answer (0xCC, 0x80 "parameter not supported", 0x81 "already in progress"), or if there is none, the flags are set all the
    /// same.
    async fn courtesy(&self, data: &[u8]) -> Result<(), BmcError> {
        if self.state.lock().await.is_mute {
            return Ok(());
        }
        match self.ask(chassis::SET_BOOT, data).await {
            Err(BmcError::Timeout { .. }) => {
                self.state.lock().await.is_mute = true;
                Ok(())
            }
            other => other.map(drop),
        }
    }

    fn unreadable(&self, command: Command) -> BmcError {
        self.nonsense(command, "short answer")
    }

    fn nonsense(&self, command: Command, detail: &'static str) -> BmcError {
        BmcError::Malformed {
            bmc: self.name.clone(),
            operation: command.name,
            detail,
        }
    }
}

#[async_trait]
impl Bmc for IpmiBmc {
    async fn power_state(&self) -> Result<PowerState, BmcError> {
        self.read(chassis::GET_STATUS, &[], chassis::power_state).await
    }

    async fn power(&self, action: PowerAction) -> Result<(), BmcError> {
        let operation = match action {
            PowerAction::On => "power on",
            PowerAction::Off => "power off",
            PowerAction::Cycle => "power cycle",
            PowerAction::Reset => "power reset",
            PowerAction::Soft => "soft power off",
        };
        let command = Command {
            name: operation,
            ..chassis::CONTROL
        };
        match self.command(command, &[chassis::control_value(action)]).await {
            // 0xD5 "not supported in present state": to a cycle, a reset or a soft-off it means that power is off, and otherwise
            // that the power is as wanted already.
            Err(BmcError::Completion {
                bmc,
                completion: 0xd5,
                ..
            }) => match action {
                PowerAction::On | PowerAction::Off => Ok(()),
                PowerAction::Cycle | PowerAction::Reset | PowerAction::Soft => {
                    Err(BmcError::PowerIsOff { bmc, operation })
                }
            },
            other => other.map(drop),
        }
    }

    async fn set_next_boot(&self, device: BootDevice, firmware: Firmware) -> Result<(), BmcError> {
        self.courtesy(&[chassis::PARAMETER_PROGRESS, 1]).await?;
        self.courtesy(&[chassis::PARAMETER_ACKNOWLEDGE, 1, 1]).await?;
        self.courtesy(&chassis::KEEP_FLAGS).await?;
        let set = self
            .command(chassis::SET_BOOT, &chassis::boot_flags(device, firmware))
            .await;
        self.courtesy(&[chassis::PARAMETER_PROGRESS, 0]).await?;
        set?;
        match self.next_boot().await {
            // some BMCs take the flags but do not give them back as valid, or at all: only a contradiction is an error
            Ok(None)
            | Err(BmcError::Completion { .. } | BmcError::Malformed { .. } | BmcError::Privilege { .. }) => {
                Ok(())
            }
            Ok(Some(found)) if found == device => Ok(()),
            Ok(Some(found)) => Err(BmcError::BootDeviceNotTaken {
                bmc: self.name.clone(),
                wanted: device,
                found,
            }),
            Err(error) => Err(error),
        }
    }

    async fn next_boot(&self) -> Result<Option<BootDevice>, BmcError> {
        let asks = [chassis::PARAMETER_FLAGS, 0, 0];
        self.read(chassis::GET_BOOT, &asks, chassis::next_boot).await
    }

    async fn restart(&self) -> Result<(), BmcError> {
        let asked = self.command(chassis::COLD_RESET, &[]).await;
        // Whatever session there is, the BMC forgets it, so nothing is said to end it.
        drop(self.state.lock().await.session.take());
        match asked {
            // Some are gone before they have answered.
            Ok(_) | Err(BmcError::Timeout { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn device(&self) -> Result<BmcInfo, BmcError> {
        let told = self.read(chassis::GET_DEVICE_ID, &[], chassis::device).await?;
        let offer = self.state.lock().await.offer;
        Ok(BmcInfo {
            security: offer.map(Offer::words).unwrap_or_default(),
            ..told
        })
    }

    async fn event_log(&self, since: Option<&Mark>, bounds: Bounds) -> Result<Option<EventLog>, BmcError> {
        sel_log::read(self, since, bounds).await
    }

    async fn change_password(&self, new: &Secret) -> Result<(), BmcError> {
        password::change(self, new).await
    }

    async fn close(&self) {
        let session = self.state.lock().await.session.take();
        if let Some(session) = session {
            session.close().await;
        }
    }
}

/// Completion codes of a BMC that has no time now, or no room, or is updating itself (IPMI 2.0 table 5-2: node busy, timeout, out of
/// space, no response, duplicate, in initialisation or update).
fn is_busy(completion: u8) -> bool {
    matches!(completion, 0xc0 | 0xc3 | 0xc4 | 0xce | 0xcf | 0xd2)
}
