//! This control plane's own authority: certificates for its broker, for itself and for the edges that join. Keys lie in
//! files of the data folder, readable by their owner alone.

use std::{
    io::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertificateSigningRequestParams,
    CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, RevokedCertParams, SanType,
};
use slipway_bus::tls::Identity;
use slipway_protocol::keys::{KeyError, Signer};

/// Keys or certificates cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error("cannot read or write {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A certificate cannot be made, or a request cannot be read.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// A signing key cannot be made or read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The request asks for a name that is not the site's.
    #[error("the certificate request asks for {0}, which is not this site's")]
    Foreign(String),
}

/// From when until when a certificate is good.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// From then on,
    pub from: DateTime<Utc>,
    /// until then.
    pub until: DateTime<Utc>,
}

/// A certificate that was made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// PEM.
    pub pem: String,
    /// Its serial number, in lower-case hexadecimal without leading zeros.
    pub serial: String,
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub certificate: String,
}

impl Authority {
    /// Reads the authority of a data folder, or makes it.
    ///
    /// # Errors
    /// When a file or certificate fails.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        let (key_path, certificate_path) = (dir.join("ca.key"), dir.join("ca.pem"));
        if let (Some(key), Some(certificate)) = (read(&key_path)?, read(&certificate_path)?) {
            let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key)?)?;
            return Ok(Self { issuer, certificate });
        }
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named("Slipway control plane");
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let certificate = issuer.pem();
        write(&key_path, key_pem.as_bytes())?;
        write(&certificate_path, certificate.as_bytes())?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, KeyPair::from_pem(&key_pem)?)?;
        Ok(Self { issuer, certificate })
    }

    /// A certificate and key for a part of this control plane.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn identity(&self, name: &str, hosts: &[String]) -> Result<Identity, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(hosts.to_vec())?;
        params.distinguished_name = named(name);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Signs an edge's request: the name becomes `name` whatever it asks for, and of its other names only the addresses that
    /// `allowed` accepts stand in it. A box may have further addresses, as on the way to the control plane: they are left out.
    ///
    /// # Errors
    /// When the request cannot be read, or asks for names of which none is allowed, or for one that is no address.
    pub fn sign(
        &self,
        csr: &str,
        name: &str,
        validity: Validity,
        allowed: impl Fn(IpAddr) -> bool,
    ) -> Result<Issued, PkiError> {
        let mut request = CertificateSigningRequestParams::from_pem(csr)?;
        let asked = std::mem::take(&mut request.params.subject_alt_names);
        let mut foreign = None;
        for name in asked {
            match &name {
                SanType::IpAddress(address) if allowed(*address) => {
                    request.params.subject_alt_names.push(name);
                }
                SanType::IpAddress(_) => drop(foreign.get_or_insert(name)),
                other => return Err(PkiError::Foreign(format!("{other:?}"))),
            }
        }
        if let Some(foreign) = foreign.filter(|_| request.params.subject_alt_names.is_empty()) {
            return Err(PkiError::Foreign(format!("{foreign:?}")));
        }
        // RFC 5280, 4.1.2.2: positive, and at most 20 octets.
        let mut serial = crate::vault::random::<16>().map_err(|_| KeyError::Random)?;
        serial[0] = serial[0] & 0x7f | 0x40;
        request.params.serial_number = Some(serial.to_vec().into());
        request.params.not_before = instant(validity.from);
        request.params.not_after = instant(validity.until);
        request.params.is_ca = IsCa::NoCa;
        request.params.distinguished_name = named(name);
        request.params.key_usages = Vec::new();
        request.params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(Issued {
            pem: request.signed_by(&self.issuer)?.pem(),
            serial: hex::encode(serial),
        })
    }

    /// The list of certificates that were taken back, each with when (RFC 5280, section 5), PEM.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn revocations(
        &self,
        revoked: &[(String, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<String, PkiError> {
        let certificate = |(serial, at): &(String, DateTime<Utc>)| {
            Some(RevokedCertParams {
                serial_number: hex::decode(serial).ok()?.into(),
                revocation_time: instant(*at),
                reason_code: None,
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update: instant(now),
            // Brokers refuse everybody by a list that has run out; this one is made anew when it changes.
            next_update: instant(now + TimeDelta::days(3650)),
            crl_number: now.timestamp().cast_unsigned().into(),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().filter_map(certificate).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }
}

/// A time as certificates have it, in whole seconds.
fn instant(at: DateTime<Utc>) -> time::OffsetDateTime {
    time::OffsetDateTime::from_unix_timestamp(at.timestamp()).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Reads the key orders are signed by, or makes it.
///
/// # Errors
/// When the file or the key fails.
pub fn order_signer(dir: &Path) -> Result<Signer, PkiError> {
    let path = dir.join("order-signing.key");
    match std::fs::read(&path) {
        Ok(pkcs8) => Ok(Signer::from_pkcs8(&pkcs8)?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let (signer, pkcs8) = Signer::generate()?;
            write(&path, &pkcs8)?;
            Ok(signer)
        }
        Err(source) => Err(PkiError::File { path, source }),
    }
}

/// Reads the vault's key, or makes it.
///
/// # Errors
/// When the file fails or there are no random bytes.
pub fn vault_key(dir: &Path) -> Result<[u8; 32], PkiError> {
    let path = dir.join("vault.key");
    match std::fs::read(&path) {
        Ok(bytes) => bytes.try_into().map_err(|_| PkiError::Key(KeyError::Private)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = crate::vault::random().map_err(|_| KeyError::Random)?;
            write(&path, &key)?;
            Ok(key)
        }
        Err(source) => Err(PkiError::File { path, source }),
    }
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Writes a file only its owner can read; whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    let partial = path.with_extension("part");
    let write = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| PkiError::File {
        path: path.to_owned(),
        source,
    })
}
