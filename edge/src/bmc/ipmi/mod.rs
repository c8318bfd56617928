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

use std::net::SocketAddr;

use async_trait::async_trait;
use slipway_protocol::seal::Secret;
use tokio::sync::Mutex;

use super::event_log::{Bounds, EventLog, Mark};
use super::{Bmc, BmcError, BmcInfo, BootDevice, Firmware, PowerAction, PowerState};
use chassis::Command;
use crypto::Suite;
use session::Session;
pub use session::{Credentials, Timing};

/// A BMC spoken to by IPMI. Opens a session when first needed, keeps it, and opens another when it was lost.
/// Calls are made one after the other.
pub struct IpmiBmc {
    address: SocketAddr,
    name: String,
    credentials: Credentials,
    timing: Timing,
    state: Mutex<State>,
}

/// What is known from earlier calls.
#[derive(Default)]
struct State {
    session: Option<Session>,
    suite: Option<Suite>,
}

impl IpmiBmc {
    /// A driver for the BMC at `address` (usually port 623). Nothing is sent before the first call.
    pub fn new(address: SocketAddr, credentials: Credentials, timing: Timing) -> Self {
        Self {
            address,
            name: address.to_string(),
            credentials,
            timing,
            state: Mutex::default(),
        }
    }

    /// Opens a session: suite 17, then 3 if 17 is refused. Silence is not refusal.
    async fn open(&self, known: Option<Suite>) -> Result<Session, BmcError> {
        if let Some(suite) = known {
            return self.open_with(suite).await;
        }
        match self.open_with(Suite::Seventeen).await {
            Err(BmcError::SuitesRefused { .. }) => self.open_with(Suite::Three).await,
            other => other,
        }
    }

    async fn open_with(&self, suite: Suite) -> Result<Session, BmcError> {
        Session::open(self.address, &self.name, &self.credentials, (suite, self.timing)).await
    }

    /// A session of its own, beside the one that is kept, by whichever of these passwords is in force.
    async fn log_in(&self, passwords: Vec<String>) -> Result<Session, BmcError> {
        let credentials = Credentials {
            user: self.credentials.user.clone(),
            passwords,
        };
        let known = self.state.lock().await.suite;
        let open = |suite| Session::open(self.address, &self.name, &credentials, (suite, self.timing));
        match open(known.unwrap_or(Suite::Seventeen)).await {
            Err(BmcError::SuitesRefused { .. }) if known.is_none() => open(Suite::Three).await,
            other => other,
        }
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
                (0xc0 | 0xc3, _) if busy < self.timing.busy_tries => {
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
                    self.open(state.suite).await?
                }
            };
            state.suite = Some(session.suite());
            match session.request(command, data).await {
                // an old session that no longer answers or is unknown (0x87 is some makers' "invalid session")
                Err(BmcError::Timeout { .. } | BmcError::Network { .. }) if !fresh => drop(session),
                Err(error) => return Err(error),
                Ok((0xc0 | 0xc3, _)) if busy < self.timing.busy_tries => {
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

    /// What a completion code other than 0 means.
    fn refused(&self, command: Command, completion: u8) -> BmcError {
        let (bmc, operation) = (self.name.clone(), command.name);
        match completion {
            0xc0 | 0xc3 => BmcError::Busy { bmc, operation },
            0xd4 => BmcError::Privilege { bmc, operation },
            _ => BmcError::Completion {
                bmc,
                operation,
                completion,
            },
        }
    }

    /// "Set in progress" and "boot info acknowledge" are courtesies that many BMCs do not know: whatever the
    /// answer (0xCC, 0x80 "parameter not supported", 0x81 "already in progress"), the flags are set all the same.
    async fn courtesy(&self, data: &[u8]) -> Result<(), BmcError> {
        self.ask(chassis::SET_BOOT, data).await.map(drop)
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
        let data = self.command(chassis::GET_STATUS, &[]).await?;
        chassis::power_state(&data).ok_or_else(|| self.unreadable(chassis::GET_STATUS))
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
            // 0xD5 "not supported in present state": to a cycle, a reset or a soft-off it means that power is off
            Err(BmcError::Completion {
                bmc,
                completion: 0xd5,
                ..
            }) => Err(BmcError::PowerIsOff { bmc, operation }),
            other => other.map(drop),
        }
    }

    async fn set_next_boot(&self, device: BootDevice, firmware: Firmware) -> Result<(), BmcError> {
        self.courtesy(&[chassis::PARAMETER_PROGRESS, 1]).await?;
        self.courtesy(&[chassis::PARAMETER_ACKNOWLEDGE, 1, 1]).await?;
        let set = self
            .command(chassis::SET_BOOT, &chassis::boot_flags(device, firmware))
            .await;
        self.courtesy(&[chassis::PARAMETER_PROGRESS, 0]).await?;
        set?;
        match self.next_boot().await? {
            // some BMCs take the flags but do not give them back as valid: only a contradiction is an error
            None => Ok(()),
            Some(found) if found == device => Ok(()),
            Some(found) => Err(BmcError::BootDeviceNotTaken {
                bmc: self.name.clone(),
                wanted: device,
                found,
            }),
        }
    }

    async fn next_boot(&self) -> Result<Option<BootDevice>, BmcError> {
        let data = self
            .command(chassis::GET_BOOT, &[chassis::PARAMETER_FLAGS, 0, 0])
            .await?;
        chassis::next_boot(&data).ok_or_else(|| self.unreadable(chassis::GET_BOOT))
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
        let data = self.command(chassis::GET_DEVICE_ID, &[]).await?;
        let suite = self.state.lock().await.suite.map_or(0, Suite::id);
        chassis::device(&data, suite).ok_or_else(|| self.unreadable(chassis::GET_DEVICE_ID))
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
