//! TLS configurations from PEM texts, always on ring and never on the system's store of authorities.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};

/// PEM that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text is not the PEM it should be.
    #[error("cannot read the {what}: it is not valid PEM")]
    Pem {
        /// Which text.
        what: &'static str,
    },
    /// The parts do not fit together.
    #[error("cannot use the TLS certificate and key together")]
    Config(#[source] rustls::Error),
    /// The authority cannot verify clients.
    #[error("cannot verify clients by this authority")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
}

/// A certificate chain and its private key, PEM. Has no `Debug`.
#[derive(Clone)]
pub struct Identity {
    /// Certificate chain, leaf first.
    pub certificate: String,
    /// PKCS#8 private key.
    pub key: String,
}

/// A certificate and key that can be exchanged while connections are open: those that come later show the new one. Both
/// sides of TLS can show it. Has no `Debug`.
#[derive(Clone)]
pub struct Shown(Arc<RwLock<Arc<CertifiedKey>>>);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shown")
    }
}

impl Shown {
    /// Shows this.
    ///
    /// # Errors
    /// When a PEM text cannot be used.
    pub fn new(identity: &Identity) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(RwLock::new(certified(identity)?))))
    }

    /// Shows this from now on.
    ///
    /// # Errors
    /// When a PEM text cannot be used; the former one is shown then.
    pub fn set(&self, identity: &Identity) -> Result<(), TlsError> {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = certified(identity)?;
        Ok(())
    }

    fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, TlsError> {
    let (chain, key) = (chain(&identity.certificate)?, key(&identity.key)?);
    let certified = CertifiedKey::from_der(chain, key, &provider()).map_err(TlsError::Config)?;
    Ok(Arc::new(certified))
}

/// Makes ring the process's provider. Call first in `main`; harmless when repeated.
pub fn install_provider() {
    // An error only says that one is installed already, which is what is wanted.
    let _ = default_provider().install_default();
}

/// A client that trusts `ca` alone and shows `identity`, if it has one.
///
/// # Errors
/// When a PEM text cannot be used.
pub fn client_config(ca: &str, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(roots(ca)?);
    let config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(chain(&identity.certificate)?, key(&identity.key)?)
            .map_err(TlsError::Config)?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// A client that trusts `ca` alone and shows what `shown` shows at each connection.
///
/// # Errors
/// When a PEM text cannot be used.
pub fn renewed_client_config(ca: &str, shown: Shown) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_root_certificates(roots(ca)?)
        .with_client_cert_resolver(Arc::new(shown));
    // A resumed session would go on as who it was before the renewal.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A server that takes any client, and shows what `shown` shows at each connection.
///
/// # Errors
/// When the protocol cannot be set up.
pub fn renewed_server_config(shown: Shown) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    Ok(Arc::new(config))
}

/// A server that shows `identity` and, given `client_ca`, takes only clients with a certificate by that authority.
///
/// # Errors
/// When a PEM text cannot be used.
pub fn server_config(identity: &Identity, client_ca: Option<&str>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?;
    let builder = match client_ca {
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
                .build()
                .map_err(TlsError::Verifier)?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let config = builder
        .with_single_cert(chain(&identity.certificate)?, key(&identity.key)?)
        .map_err(TlsError::Config)?;
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

fn roots(ca: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(ca)? {
        roots.add(certificate).map_err(TlsError::Config)?;
    }
    Ok(roots)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |_| TlsError::Pem { what: "certificate" };
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(bad)?;
    if chain.is_empty() {
        Err(TlsError::Pem { what: "certificate" })
    } else {
        Ok(chain)
    }
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| TlsError::Pem { what: "private key" })
}
