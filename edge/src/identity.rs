//! Who this edge is: its keys, certificates and what the control plane told it when it joined. Files in the data
//! folder, readable by their owner alone. Has no `Debug`: it holds private keys.

use std::{
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use slipway_bus::tls::Identity as TlsIdentity;
use slipway_protocol::{
    ids::SiteId,
    keys::{KeyError, Signer, VerifyingKey},
    seal::{OpeningKey, Sealed},
};

/// The identity cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// This box has not joined.
    #[error(
        "this edge has not joined a site: no {path}; run `slipway-edge join TOKEN` with a token from `slipway site token SITE`"
    )]
    NotJoined {
        /// Where the identity would be.
        path: String,
    },
    /// A file cannot be written or read.
    #[error("cannot keep or read {path}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what `join` wrote.
    #[error("{path} is damaged: {reason}; join anew with a fresh token")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong.
        reason: String,
    },
}

/// What is kept, as JSON.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The site.
    pub site: SiteId,
    /// Base URL of the control plane's API.
    pub url: String,
    /// Central broker.
    pub broker_host: String,
    /// Its port.
    pub broker_port: u16,
    /// The authority of all certificates, PEM.
    pub ca: String,
    /// Client certificate for the central broker, PEM.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
    /// Certificate of this edge's own broker, PEM.
    pub agent_certificate: String,
    /// Its key, PEM.
    pub agent_key: String,
    /// Signing key for reports, PKCS#8 in hexadecimal.
    pub report_key: String,
    /// Private half of the sealing key, in hexadecimal.
    pub opening_key: String,
    /// Key for chunk fetches, still sealed.
    pub chunk_key: Sealed,
    /// This box's addresses on the site's networks, that its agents' broker is certified for.
    pub addresses: Vec<IpAddr>,
    /// The control plane's keys as told at joining; later ones come with the configuration.
    pub verifying_keys: Vec<VerifyingKey>,
}

fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join("identity.json")
}

impl Identity {
    /// Whether this box has joined.
    #[must_use]
    pub fn is_there(data_dir: &Path) -> bool {
        path_in(data_dir).exists()
    }

    /// Reads it.
    ///
    /// # Errors
    /// When this box has not joined, or the file is damaged.
    pub fn load(data_dir: &Path) -> Result<Self, IdentityError> {
        let path = path_in(data_dir);
        let shown = path.display().to_string();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(IdentityError::NotJoined { path: shown });
            }
            Err(source) => return Err(IdentityError::File { path: shown, source }),
        };
        serde_json::from_slice(&text).map_err(|e| IdentityError::Damaged {
            path: shown,
            reason: e.to_string(),
        })
    }

    /// Keeps it, readable by this user alone; whole or not at all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, data_dir: &Path) -> Result<(), IdentityError> {
        let path = path_in(data_dir);
        let file_error = |source| IdentityError::File {
            path: path.display().to_string(),
            source,
        };
        std::fs::create_dir_all(data_dir).map_err(file_error)?;
        let text = serde_json::to_vec_pretty(self).map_err(|e| IdentityError::Damaged {
            path: path.display().to_string(),
            reason: e.to_string(),
        })?;
        let partial = path.with_extension("part");
        let write = || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&partial)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&partial, &path)
        };
        write().map_err(file_error)
    }

    /// The key that signs reports and releases.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn signer(&self) -> Result<Signer, KeyError> {
        Signer::from_pkcs8(&hex::decode(&self.report_key).map_err(|_| KeyError::Private)?)
    }

    /// The key that opens secrets.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn opening_key(&self) -> Result<OpeningKey, KeyError> {
        let bytes = hex::decode(&self.opening_key).map_err(|_| KeyError::Private)?;
        Ok(OpeningKey::from_bytes(
            bytes.try_into().map_err(|_| KeyError::Private)?,
        ))
    }

    /// Certificate and key for the central broker.
    #[must_use]
    pub fn uplink_tls(&self) -> TlsIdentity {
        TlsIdentity {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
        }
    }

    /// Certificate and key of this edge's own broker.
    #[must_use]
    pub fn agent_tls(&self) -> TlsIdentity {
        TlsIdentity {
            certificate: self.agent_certificate.clone(),
            key: self.agent_key.clone(),
        }
    }
}
