//! The order: everything that is to be done on one machine, in one signed document. It is a level, not an event: the
//! order with the highest revision is what holds, however often or late it arrives. An order without steps says
//! "leave the machine to its disk".

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{
    ids::{Digest, ImageId, JobId, MacAddr, MachineId, SiteId, StepId},
    inventory::{DiskRule, FirmwareKind},
    report::Outcome,
    seal::Sealed,
};

/// What is to be done on one machine. Its revision stands in the message header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The machine.
    pub machine: MachineId,
    /// The job this order is for; the answer names it.
    pub job: JobId,
    /// When the job fails, whatever it is doing.
    pub deadline: DateTime<Utc>,
    /// How often the job was taken up again after it had failed: a higher number than the report's begins anew what
    /// had not been done.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retry: u32,
    /// How the job has ended, when the control plane knows it: an edge that lost what it knew, or was put back to an older
    /// state, takes the work for done and does not do it a second time. Left out while the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<Outcome>,
    /// How the machine is known on the wire and out of band.
    pub hardware: Hardware,
    /// Secrets by name, each sealed to the site's key under [`secret_context`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub secrets: BTreeMap<String, Sealed>,
    /// What to do, in an order that `needs` makes precise.
    pub steps: Vec<Step>,
}

/// For fields that came later and are left out while they say nothing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde asks for")]
pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How a machine is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The ports it may boot from.
    pub macs: Vec<MacAddr>,
    /// How it boots; decides what a BMC is told.
    pub firmware: FirmwareKind,
    /// Its BMC, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcAccess>,
}

/// Access to a BMC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmcAccess {
    /// The protocol it speaks.
    pub driver: BmcDriver,
    /// Address and port, as the edge reaches it.
    pub address: SocketAddr,
    /// User name.
    pub username: String,
    /// Which of the order's secrets is the password.
    pub password: String,
    /// Which others may be it instead: those of a change whose end nobody knows. The BMC says which one it is before any is
    /// sent to it, so a wrong one counts as no failed login.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_passwords: Vec<String>,
}

/// The protocol of a BMC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BmcDriver {
    /// IPMI 2.0 over RMCP+.
    Ipmi,
}

/// One step of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its name, unique in the order.
    pub id: StepId,
    /// Who does it.
    pub role: Role,
    /// What is done.
    pub action: Action,
    /// The steps that must be done before.
    #[serde(default)]
    pub needs: Vec<StepId>,
    /// How long it may go without progress before the attempt has failed, in seconds.
    pub no_progress_timeout_s: u32,
    /// How often it is tried again after a failure that may pass.
    #[serde(default)]
    pub retries: u32,
}

/// Who does a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The edge's BMC driver.
    Driver,
    /// The edge's DHCP server.
    Dhcp,
    /// The edge's boot services.
    Boot,
    /// The edge's image cache.
    Image,
    /// The agent on the machine.
    Agent,
    /// A switch driver.
    Switch,
}

/// What a step does. Append-only; an action this build does not know is read as [`Action::Unknown`] and refused by
/// name when its turn comes, so that a newer control plane gets a clear answer from an older edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Action {
    /// Have an image's chunks in the site's cache.
    ImageEnsure {
        /// Which image.
        image: ImageId,
    },
    /// Give the machine this address.
    DhcpBind {
        /// The address.
        address: Ipv4Addr,
        /// The name sent with it.
        hostname: Option<String>,
    },
    /// Answer the machine's network boot with the LiveOS.
    BootLiveos,
    /// Answer it with "boot your disk".
    BootLocal,
    /// Set the next boot device and switch the machine on, or reset it if it is on.
    DriverBoot {
        /// What to boot next.
        device: BootDevice,
    },
    /// Switch the machine on or off.
    DriverPower {
        /// The state to reach.
        on: bool,
    },
    /// Ask the operating system to shut down, and cut the power if it has not after the grace.
    DriverShutdown {
        /// How long it is given, in seconds; 0 cuts the power at once.
        grace_s: u32,
    },
    /// Give the user of the BMC by whom it is reached a new password.
    DriverSetPassword {
        /// Which of the order's secrets it is.
        password: String,
    },
    /// Read how the BMC is and whether the machine is on; change nothing.
    DriverRead,
    /// Report the hardware.
    AgentInventory,
    /// Choose the disk to write and bind all later steps to it.
    AgentChooseDisk {
        /// By what.
        rule: DiskRule,
    },
    /// Write an image onto the chosen disk and verify it.
    AgentWriteImage {
        /// Which image.
        image: ImageId,
    },
    /// Write the guest's first-boot data (a NoCloud volume).
    AgentConfigure {
        /// Host name, users and keys.
        guest: GuestConfig,
    },
    /// Make every disk but the chosen one read as zeros.
    AgentWipeDisks,
    /// Give a user of the system on the chosen disk a new password.
    AgentSetPassword {
        /// Whose.
        user: String,
        /// Which of the order's secrets is the hash, as crypt(5) has it in `/etc/shadow`.
        password: String,
    },
    /// Let the holders of keys into the LiveOS by SSH, as root.
    AgentRescue {
        /// Public SSH keys.
        ssh_keys: Vec<String>,
    },
    /// Reboot the machine from the agent.
    AgentReboot,
    /// Wait for the installed system to say which one it is.
    GuestVerify {
        /// SHA-256 of the nonce the guest must send.
        nonce_sha256: Digest,
    },
    /// An action of a later version.
    #[serde(untagged)]
    Unknown(UnknownAction),
}

/// An action this build does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownAction {
    /// What it is called.
    #[serde(rename = "do")]
    pub name: String,
}

/// What a machine boots next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootDevice {
    /// The network.
    Pxe,
    /// The disk.
    Disk,
}

/// What the installed system is told at its first boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestConfig {
    /// Instance id for cloud-init: a new one makes it run its first-boot work.
    pub instance_id: String,
    /// Host name.
    pub hostname: String,
    /// The user to make.
    pub user: String,
    /// Public SSH keys for the user.
    pub ssh_keys: Vec<String>,
    /// Which of the order's secrets is the tenant's user-data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Which of the order's secrets is the nonce of the phone-home.
    pub phone_home: String,
}

/// All actions but [`Action::Unknown`], for reading. Kept beside [`Action`] so that an unknown name and a known name
/// with bad parameters are told apart.
#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
enum KnownAction {
    ImageEnsure {
        image: ImageId,
    },
    DhcpBind {
        address: Ipv4Addr,
        #[serde(default)]
        hostname: Option<String>,
    },
    BootLiveos,
    BootLocal,
    DriverBoot {
        device: BootDevice,
    },
    DriverPower {
        on: bool,
    },
    DriverShutdown {
        grace_s: u32,
    },
    DriverSetPassword {
        password: String,
    },
    DriverRead,
    AgentInventory,
    AgentChooseDisk {
        rule: DiskRule,
    },
    AgentWriteImage {
        image: ImageId,
    },
    AgentConfigure {
        guest: GuestConfig,
    },
    AgentWipeDisks,
    AgentSetPassword {
        user: String,
        password: String,
    },
    AgentRescue {
        ssh_keys: Vec<String>,
    },
    AgentReboot,
    GuestVerify {
        nonce_sha256: Digest,
    },
}

/// The actions this build knows, by their names on the wire.
pub const KNOWN_ACTIONS: [&str; 18] = [
    "image_ensure",
    "dhcp_bind",
    "boot_liveos",
    "boot_local",
    "driver_boot",
    "driver_power",
    "driver_shutdown",
    "driver_set_password",
    "driver_read",
    "agent_inventory",
    "agent_choose_disk",
    "agent_write_image",
    "agent_configure",
    "agent_wipe_disks",
    "agent_set_password",
    "agent_rescue",
    "agent_reboot",
    "guest_verify",
];

impl<'de> Deserialize<'de> for Action {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(d)?;
        let name = value
            .get("do")
            .and_then(|v| v.as_str())
            .ok_or_else(|| D::Error::missing_field("do"))?;
        if !KNOWN_ACTIONS.contains(&name) {
            return Ok(Self::Unknown(UnknownAction {
                name: name.to_owned(),
            }));
        }
        let known = serde_json::from_value(value).map_err(D::Error::custom)?;
        Ok(match known {
            KnownAction::ImageEnsure { image } => Self::ImageEnsure { image },
            KnownAction::DhcpBind { address, hostname } => Self::DhcpBind { address, hostname },
            KnownAction::BootLiveos => Self::BootLiveos,
            KnownAction::BootLocal => Self::BootLocal,
            KnownAction::DriverBoot { device } => Self::DriverBoot { device },
            KnownAction::DriverPower { on } => Self::DriverPower { on },
            KnownAction::DriverShutdown { grace_s } => Self::DriverShutdown { grace_s },
            KnownAction::DriverSetPassword { password } => Self::DriverSetPassword { password },
            KnownAction::DriverRead => Self::DriverRead,
            KnownAction::AgentInventory => Self::AgentInventory,
            KnownAction::AgentChooseDisk { rule } => Self::AgentChooseDisk { rule },
            KnownAction::AgentWriteImage { image } => Self::AgentWriteImage { image },
            KnownAction::AgentConfigure { guest } => Self::AgentConfigure { guest },
            KnownAction::AgentWipeDisks => Self::AgentWipeDisks,
            KnownAction::AgentSetPassword { user, password } => Self::AgentSetPassword { user, password },
            KnownAction::AgentRescue { ssh_keys } => Self::AgentRescue { ssh_keys },
            KnownAction::AgentReboot => Self::AgentReboot,
            KnownAction::GuestVerify { nonce_sha256 } => Self::GuestVerify { nonce_sha256 },
        })
    }
}

impl Action {
    /// Who does it.
    #[must_use]
    pub fn role(&self) -> Role {
        match self {
            Self::ImageEnsure { .. } => Role::Image,
            Self::DhcpBind { .. } => Role::Dhcp,
            Self::BootLiveos | Self::BootLocal | Self::GuestVerify { .. } | Self::Unknown(_) => Role::Boot,
            Self::DriverBoot { .. }
            | Self::DriverPower { .. }
            | Self::DriverShutdown { .. }
            | Self::DriverSetPassword { .. }
            | Self::DriverRead => Role::Driver,
            Self::AgentInventory
            | Self::AgentChooseDisk { .. }
            | Self::AgentWriteImage { .. }
            | Self::AgentConfigure { .. }
            | Self::AgentWipeDisks
            | Self::AgentSetPassword { .. }
            | Self::AgentRescue { .. }
            | Self::AgentReboot => Role::Agent,
        }
    }
}

/// The place a secret of an order is bound to when it is sealed.
#[must_use]
pub fn secret_context(site: &SiteId, machine: MachineId, job: JobId, name: &str) -> String {
    format!("order/{site}/{machine}/{job}/{name}")
}

/// An order whose steps do not make sense together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Two steps have one name.
    #[error("step `{0}` stands twice in the order")]
    Twice(StepId),
    /// A step needs one that is not there or comes later, so `needs` could form a ring.
    #[error("step `{step}` needs `{needs}`, which does not stand before it in the order")]
    Needs {
        /// The step.
        step: StepId,
        /// What it needs.
        needs: StepId,
    },
    /// A secret is named that the order does not carry.
    #[error("step `{step}` names secret `{secret}`, which the order does not carry")]
    Secret {
        /// The step.
        step: StepId,
        /// The secret.
        secret: String,
    },
}

impl Order {
    /// Checks the steps: names unique, `needs` pointing backwards, secrets present.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self) -> Result<(), OrderError> {
        for (index, step) in self.steps.iter().enumerate() {
            let before = &self.steps[..index];
            if before.iter().any(|other| other.id == step.id) {
                return Err(OrderError::Twice(step.id.clone()));
            }
            if let Some(needs) = step
                .needs
                .iter()
                .find(|need| !before.iter().any(|other| other.id == **need))
            {
                return Err(OrderError::Needs {
                    step: step.id.clone(),
                    needs: needs.clone(),
                });
            }
            if let Some(secret) = secrets_of(&step.action).find(|name| !self.secrets.contains_key(*name)) {
                return Err(OrderError::Secret {
                    step: step.id.clone(),
                    secret: secret.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// The step of that name.
    #[must_use]
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == *id)
    }
}

/// Which secrets an action needs.
pub fn secrets_of(action: &Action) -> impl Iterator<Item = &str> {
    let (first, second) = match action {
        Action::AgentConfigure { guest } => (Some(guest.phone_home.as_str()), guest.user_data.as_deref()),
        Action::AgentSetPassword { password, .. } | Action::DriverSetPassword { password } => {
            (Some(password.as_str()), None)
        }
        _ => (None, None),
    };
    first.into_iter().chain(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_action_is_kept_by_name_and_bad_parameters_are_an_error() {
        let unknown: Action = serde_json::from_str(r#"{"do":"agent_polish","with":1}"#).unwrap();
        assert_eq!(
            unknown,
            Action::Unknown(UnknownAction {
                name: "agent_polish".into()
            })
        );
        assert!(serde_json::from_str::<Action>(r#"{"do":"driver_boot","device":"cassette"}"#).is_err());
        assert!(serde_json::from_str::<Action>("{}").is_err());
    }

    #[test]
    fn every_known_action_reads_back() {
        let image = ImageId::of(b"i");
        let guest = GuestConfig {
            instance_id: "i".into(),
            hostname: "h".into(),
            user: "u".into(),
            ssh_keys: vec![],
            user_data: None,
            phone_home: "p".into(),
        };
        let all = [
            Action::ImageEnsure { image },
            Action::DhcpBind {
                address: Ipv4Addr::LOCALHOST,
                hostname: None,
            },
            Action::BootLiveos,
            Action::BootLocal,
            Action::DriverBoot {
                device: BootDevice::Pxe,
            },
            Action::DriverPower { on: true },
            Action::DriverShutdown { grace_s: 60 },
            Action::DriverSetPassword { password: "p".into() },
            Action::DriverRead,
            Action::AgentInventory,
            Action::AgentChooseDisk {
                rule: DiskRule::default(),
            },
            Action::AgentWriteImage { image },
            Action::AgentConfigure { guest },
            Action::AgentWipeDisks,
            Action::AgentSetPassword {
                user: "u".into(),
                password: "p".into(),
            },
            Action::AgentRescue {
                ssh_keys: vec!["k".into()],
            },
            Action::AgentReboot,
            Action::GuestVerify { nonce_sha256: image },
        ];
        assert_eq!(all.len(), KNOWN_ACTIONS.len());
        for action in all {
            let text = serde_json::to_string(&action).unwrap();
            assert_eq!(serde_json::from_str::<Action>(&text).unwrap(), action, "{text}");
        }
    }
}
