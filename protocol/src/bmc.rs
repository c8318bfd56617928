//! What a machine's BMC said of itself and of the machine's power when it was last asked. It is what was so at one moment:
//! nothing here may be taken for what is so now.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How a machine's BMC is, as an edge read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmcState {
    /// Whether the machine was on.
    pub power: Power,
    /// When that was read, by the edge's clock.
    pub seen_at: DateTime<Utc>,
    /// IANA enterprise number of the BMC's maker; left out if the BMC was not asked or does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<u32>,
    /// The maker's product number; left out likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<u16>,
    /// Firmware revision of the BMC as `major.minor`; left out likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<String>,
    /// The protection of the link to the BMC, e.g. `cipher suite 17`; left out likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security: Option<String>,
}

/// Whether a machine's main power is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// It is powered; says nothing about what runs on it.
    On,
    /// It is off.
    Off,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

impl BmcState {
    /// The machine's power alone: the BMC was not asked about itself.
    #[must_use]
    pub fn of_power(power: Power, seen_at: DateTime<Utc>) -> Self {
        Self {
            power,
            seen_at,
            manufacturer: None,
            product: None,
            firmware: None,
            security: None,
        }
    }

    /// This state, with what a former one tells of the BMC itself where this one does not: a step that only switched the power
    /// asked for no more.
    #[must_use]
    pub fn completed_by(self, former: &Self) -> Self {
        Self {
            manufacturer: self.manufacturer.or(former.manufacturer),
            product: self.product.or(former.product),
            firmware: self.firmware.or_else(|| former.firmware.clone()),
            security: self.security.or_else(|| former.security.clone()),
            ..self
        }
    }
}
