//! TLS configurations from PEM texts, always on ring and never on the system's store of authorities.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring::default_provider},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
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
