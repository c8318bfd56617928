//! Why a BMC did not do what it was asked. Messages name the BMC's address and what to do; they never hold a
//! password.

use slipway_protocol::report::PASSWORD_REFUSED;

use super::BootDevice;

/// Failure of one BMC call. `bmc` is the BMC's address as given in its configuration.
#[derive(Debug, thiserror::Error)]
pub enum BmcError {
    /// Nothing came back within the driver's limits.
    #[error("BMC {bmc} did not answer '{operation}': {}", silence(*heard, operation))]
    Timeout {
        /// Address of the BMC.
        bmc: String,
        /// What was being asked.
        operation: &'static str,
        /// Whether it had answered other things shortly before.
        heard: bool,
    },
    /// The local network refused the packet.
    #[error("BMC {bmc} cannot be reached from this edge: check routes and firewall")]
    Network {
        /// Address of the BMC.
        bmc: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// The BMC refused user or password, or proved not to know the password itself.
    #[error("BMC {bmc} refused the credentials ({reason}): check user name and password")]
    Credentials {
        /// Address of the BMC.
        bmc: String,
        /// What exactly was refused.
        reason: &'static str,
    },
    /// None of the cipher suites this product accepts (17, 3) is offered.
    #[error("BMC {bmc} offers neither cipher suite 17 nor 3: enable one of them")]
    SuitesRefused {
        /// Address of the BMC.
        bmc: String,
    },
    /// All session slots are taken.
    #[error("BMC {bmc} has no free session: it will be tried again; reset the BMC if this lasts")]
    NoFreeSession {
        /// Address of the BMC.
        bmc: String,
    },
    /// The session's privilege does not allow the command, or the user may not become administrator.
    #[error(
        "BMC {bmc} does not allow '{operation}' to this user: power and boot need the OPERATOR privilege on the LAN channel, \
         passwords and a reset of the BMC need ADMINISTRATOR"
    )]
    Privilege {
        /// Address of the BMC.
        bmc: String,
        /// What was being asked.
        operation: &'static str,
    },
    /// The BMC kept answering "busy" (0xC0) or "timed out inside" (0xC3).
    #[error("BMC {bmc} is busy and did not do '{operation}': it will be tried again")]
    Busy {
        /// Address of the BMC.
        bmc: String,
        /// What was being asked.
        operation: &'static str,
    },
    /// The command needs the machine to be on (0xD5 to a cycle or a reset).
    #[error("BMC {bmc}: the machine is off, '{operation}' needs it on: power it on instead")]
    PowerIsOff {
        /// Address of the BMC.
        bmc: String,
        /// What was being asked.
        operation: &'static str,
    },
    /// The BMC forgot the session (restart, idle timeout); a new one is opened by the next call.
    #[error("BMC {bmc} dropped the session during '{operation}': it will be tried again")]
    SessionLost {
        /// Address of the BMC.
        bmc: String,
        /// What was being asked.
        operation: &'static str,
    },
    /// Any other completion code (IPMI 2.0 table 5-2).
    #[error(
        "BMC {bmc} refused '{operation}' with completion code 0x{completion:02x}{}", meaning(*completion)
    )]
    Completion {
        /// Address of the BMC.
        bmc: String,
        /// What was being asked.
        operation: &'static str,
        /// The completion code.
        completion: u8,
    },
    /// An answer that is not what the specification says.
    #[error(
        "BMC {bmc} answered '{operation}' with something unreadable ({detail}): its firmware may need an update"
    )]
    Malformed {
        /// Address of the BMC.
        bmc: String,
        /// What was being asked.
        operation: &'static str,
        /// What was wrong.
        detail: &'static str,
    },
    /// What was asked of the power was accepted several times, and did not happen.
    #[error(
        "the BMC accepted '{operation}' for a minute and the machine's power did not change: look at its power supplies and front panel"
    )]
    PowerNotTaken {
        /// What was asked.
        operation: &'static str,
    },
    /// The boot device read back is not the one set.
    #[error(
        "BMC {bmc} accepted boot device {wanted:?} but reports {found:?}: its firmware may need an update"
    )]
    BootDeviceNotTaken {
        /// Address of the BMC.
        bmc: String,
        /// What was set.
        wanted: BootDevice,
        /// What it reports.
        found: BootDevice,
    },
    /// The BMC refused a new password, and proved afterwards that the former one is in force.
    #[error("BMC {bmc} keeps its former password ({reason}): look at its rules for passwords and users")]
    PasswordRefused {
        /// Address of the BMC.
        bmc: String,
        /// What it refused, and how.
        reason: String,
    },
    /// After a change the BMC proves neither the new password nor the former one.
    #[error("BMC {bmc} proves neither its new password nor the former one: set one at the BMC, then here")]
    PasswordUnknown {
        /// Address of the BMC.
        bmc: String,
    },
    /// The BMC names no user like the one that is logged in.
    #[error(
        "BMC {bmc} does not name the user that is logged in among its users: change the password at the BMC"
    )]
    NoSuchUser {
        /// Address of the BMC.
        bmc: String,
    },
    /// The local random source failed.
    #[error("this edge has no random numbers to open a session to BMC {bmc}: check /dev/urandom")]
    Random {
        /// Address of the BMC.
        bmc: String,
    },
}

impl BmcError {
    /// Whether the same call may well succeed later without anyone changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { .. }
            | Self::Network { .. }
            | Self::NoFreeSession { .. }
            | Self::Busy { .. }
            | Self::SessionLost { .. }
            | Self::Malformed { .. }
            | Self::PowerNotTaken { .. }
            | Self::Random { .. } => true,
            // 0xD5 not in this state, which may be another one soon; 0xFF unspecified
            Self::Completion { completion, .. } => matches!(completion, 0xd5 | 0xff),
            Self::Credentials { .. }
            | Self::SuitesRefused { .. }
            | Self::Privilege { .. }
            | Self::PowerIsOff { .. }
            | Self::PasswordRefused { .. }
            | Self::PasswordUnknown { .. }
            | Self::NoSuchUser { .. }
            | Self::BootDeviceNotTaken { .. } => false,
        }
    }

    /// A name for this kind of failure that never changes; goes into reports and the API.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "bmc_timeout",
            Self::Network { .. } => "bmc_unreachable",
            Self::Credentials { .. } => "bmc_credentials",
            Self::SuitesRefused { .. } => "bmc_cipher_suite",
            Self::NoFreeSession { .. } => "bmc_no_session",
            Self::Privilege { .. } => "bmc_privilege",
            Self::Busy { .. } => "bmc_busy",
            Self::PowerIsOff { .. } => "bmc_power_is_off",
            Self::PowerNotTaken { .. } => "bmc_power_not_taken",
            Self::SessionLost { .. } => "bmc_session_lost",
            Self::Completion { .. } => "bmc_completion_code",
            Self::Malformed { .. } => "bmc_malformed_answer",
            Self::BootDeviceNotTaken { .. } => "bmc_boot_device_not_taken",
            Self::PasswordRefused { .. } => PASSWORD_REFUSED,
            Self::PasswordUnknown { .. } => "bmc_password_unknown",
            Self::NoSuchUser { .. } => "bmc_user_unknown",
            Self::Random { .. } => "edge_random",
        }
    }
}

/// What to do about a BMC that says nothing.
fn silence(heard: bool, operation: &str) -> &'static str {
    match (heard, operation) {
        (false, _) => {
            "nothing answers there; check its address, its cabling and that IPMI over LAN is enabled"
        }
        (true, "log in (RAKP 1)" | "log in (RAKP 3)") => {
            "it answers, but not to this login; check the user name, and that this user may use IPMI over LAN"
        }
        (true, _) => {
            "it answers, but not to this; it will be tried again, and its firmware may not know this command"
        }
    }
}

/// A completion code in words (IPMI 2.0 table 5-2).
fn meaning(completion: u8) -> &'static str {
    match completion {
        0x80 => " (parameter not supported): this BMC cannot do that",
        0xc1 | 0xc2 => " (invalid command): its firmware does not know this command",
        0xc7 | 0xc8 => " (wrong length): its firmware wants this command in another form",
        0xc9 | 0xcc => " (invalid field): its firmware takes this command, but not this value",
        0xca | 0xcb => " (not present): it has no such thing",
        0xd3 => " (destination unavailable): a part of the machine does not answer its BMC",
        0xd5 => " (not in the present state): look at the machine's power and whether its BMC is updating",
        0xd6 => " (disabled): switch this on at the BMC",
        _ => ": see IPMI 2.0 table 5-2 and the maker's list",
    }
}
