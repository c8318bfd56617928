//! What a site can ask of a server's management controller (BMC), whatever protocol it speaks.
//!
//! Holds the trait and its plain types. It must never decide *when* to switch a machine: that is the order
//! runner's work. Drivers live in their own modules ([`ipmi`]).

pub mod error;
pub mod event_log;
pub mod ipmi;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    order::{BmcAccess, BmcDriver},
    seal::Secret,
};

use std::sync::Arc;

use self::ipmi::{Credentials, IpmiBmc, Reached, Timing};

pub use error::BmcError;
use event_log::{Bounds, EventLog, Mark};

/// Whether the server's main power is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// The host is powered; says nothing about what runs on it.
    On,
    /// The host is off (S4/S5).
    Off,
}

/// A change of power that a BMC can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerAction {
    /// Switch on; does nothing when it is on.
    On,
    /// Cut the power at once; does nothing when it is off.
    Off,
    /// Off, a pause, on. Fails with [`BmcError::PowerIsOff`] when the machine is off.
    Cycle,
    /// Hard reset without cutting power. Fails with [`BmcError::PowerIsOff`] when the machine is off.
    Reset,
    /// Ask the operating system to shut down (ACPI power button); nothing guarantees that it does.
    Soft,
}

/// What the server shall boot from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootDevice {
    /// The network, by the firmware's PXE client.
    Pxe,
    /// The first disk in the firmware's own order.
    Disk,
}

/// The firmware type that the next boot shall use, where the machine has both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firmware {
    /// Legacy PC BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// What the BMC says about itself; all of it comes from the BMC and proves nothing about the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmcInfo {
    /// The protocol this was learnt by, e.g. `ipmi`.
    pub protocol: String,
    /// IANA enterprise number of the maker (IPMI "manufacturer ID"), 0 when not told.
    pub manufacturer: u32,
    /// The maker's product number, 0 when not told.
    pub product: u16,
    /// Firmware revision as `major.minor`.
    pub firmware: String,
    /// The link protection in use, e.g. `cipher suite 17`.
    pub security: String,
}

/// Makes the handle to a server's BMC. [`Drivers`] is the real one.
pub trait Reach: Send + Sync {
    /// A handle by which this BMC is asked. Nothing is sent yet.
    /// Of several passwords the one that is in force is used, and the others are not tried on it.
    fn reach(&self, access: &BmcAccess, passwords: &[Secret]) -> Box<dyn Bmc>;
}

/// The drivers of this product, over the site's network.
#[derive(Default)]
pub struct Drivers {
    reached: Arc<Reached>,
}

impl Reach for Drivers {
    fn reach(&self, access: &BmcAccess, passwords: &[Secret]) -> Box<dyn Bmc> {
        let credentials = Credentials {
            user: access.username.clone(),
            passwords: passwords.iter().map(|p| p.reveal().to_owned()).collect(),
        };
        match access.driver {
            BmcDriver::Ipmi => {
                let bmc = IpmiBmc::new(access.address, credentials, Timing::default());
                Box::new(bmc.with(self.reached.clone()))
            }
        }
    }
}

/// One server's BMC. Every call is bounded in time by the driver's own limits, and may be made again after an
/// error for which [`BmcError::is_transient`] is true. Drivers open and re-open sessions by themselves.
#[async_trait]
pub trait Bmc: Send + Sync {
    /// Reads the present power state.
    async fn power_state(&self) -> Result<PowerState, BmcError>;

    /// Asks for a change of power. Returns when the BMC has accepted it, not when it has happened: read
    /// [`Bmc::power_state`] until it is as wanted.
    async fn power(&self, action: PowerAction) -> Result<(), BmcError>;

    /// Sets the device for the next boot only, then reads it back; an answer that names another device is
    /// [`BmcError::BootDeviceNotTaken`] (one that names none is accepted: not every BMC can tell).
    async fn set_next_boot(&self, device: BootDevice, firmware: Firmware) -> Result<(), BmcError>;

    /// The boot device override in force, or `None` when there is none, or one this product has no name for.
    async fn next_boot(&self) -> Result<Option<BootDevice>, BmcError>;

    /// Has the BMC itself start anew, which leaves the machine's power as it is. Returns when it was asked, not when it is
    /// back: ask [`Bmc::device`] until it answers, which may take minutes. All its sessions are lost.
    async fn restart(&self) -> Result<(), BmcError>;

    /// Gives the user this logs in as a new password. `Ok`: a session was opened with it, whether this call set it or an
    /// earlier one. [`BmcError::PasswordRefused`]: one was opened with the former password after the BMC had refused. After
    /// any other error either may be in force.
    async fn change_password(&self, new: &Secret) -> Result<(), BmcError>;

    /// What the BMC says about itself.
    async fn device(&self) -> Result<BmcInfo, BmcError>;

    /// What the BMC's own log holds after what was `since` seen, within bounds; all of it, or the newest entries, if nothing
    /// was, or if the log was cleared or began anew. `None`: the BMC keeps no log. Nothing in the log is changed.
    async fn event_log(&self, since: Option<&Mark>, bounds: Bounds) -> Result<Option<EventLog>, BmcError>;

    /// Ends the session, if one is open; BMCs have few. Errors are of no use to the caller and are dropped.
    async fn close(&self);
}
