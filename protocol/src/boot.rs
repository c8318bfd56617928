//! What an edge puts into the overlay initramfs of a booting machine, and what follows from its boot token.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::{
    ids::{Digest, MacAddr, MachineId, SiteId},
    keys::{KeyError, Signer, VerifyingKey},
    seal::Secret,
};

/// Path of the boot configuration in the LiveOS, laid there by the overlay.
pub const BOOT_CONFIG_PATH: &str = "/slipway/boot.json";

/// All an agent knows before it connects.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BootConfig {
    /// The site.
    pub site: SiteId,
    /// The machine, or for an unknown one an id made from its MAC.
    pub machine: MachineId,
    /// The port it booted from.
    pub mac: MacAddr,
    /// The address it has, and the prefix length of its network.
    pub address: Ipv4Addr,
    /// Prefix length of the network.
    pub prefix: u8,
    /// The router, if there is one.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// The edge: broker host (also the name in its certificate).
    pub edge: Ipv4Addr,
    /// TLS port of the edge's broker.
    pub mqtt_port: u16,
    /// Port of the edge's HTTP server (image chunks, phone-home).
    pub http_port: u16,
    /// The authority of the edge's certificate, PEM.
    pub ca: String,
    /// The keys orders may be signed by.
    pub verifying_keys: Vec<VerifyingKey>,
    /// The key releases are signed by.
    pub edge_key: VerifyingKey,
    /// One-time token of this boot.
    pub token: BootToken,
    /// The edge's time, seconds since 1970: a floor for a clock that has stopped.
    pub edge_time_s: i64,
}

/// A one-time token of 32 random bytes, in hexadecimal. Bound by the edge to one machine and one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootToken(Secret);

impl BootToken {
    /// A token of these bytes, which the caller took from a random source.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::new(hex::encode(bytes)))
    }

    /// The key the agent signs its reports by.
    ///
    /// # Errors
    /// When the token is not 32 bytes in hexadecimal.
    pub fn signer(&self) -> Result<Signer, KeyError> {
        let seed = hex::decode(self.0.reveal()).map_err(|_| KeyError::Private)?;
        Signer::from_seed(&seed)
    }

    /// The agent's password at the edge's broker; does not give the token away.
    #[must_use]
    pub fn mqtt_password(&self) -> Secret {
        Secret::new(Digest::of(format!("slipway/v1/mqtt/{}", self.0.reveal()).as_bytes()).to_string())
    }
}
