//! Joining a site with a one-time token: keys are made here and never leave the box; the answer must be signed by the
//! key the token names.

use std::{net::IpAddr, path::Path, time::Duration};

use chrono::{DateTime, Utc};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use slipway_protocol::{
    keys::{Expect, KeyError, KeyRing, OpenError, Signer},
    seal::{OpeningKey, SealError},
    site::{JoinAnswer, JoinRequest, JoinToken, ProvenJoinRequest},
    topic::Topic,
};

use crate::identity::{Identity, IdentityError};

/// Joining failed. Nothing was kept then, and the token may be used again unless the control plane says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Keys could not be made.
    #[error("cannot make this edge's keys")]
    Key(#[from] KeyError),
    /// Keys could not be made.
    #[error("cannot make this edge's sealing key")]
    Seal(#[from] SealError),
    /// A certificate request could not be made.
    #[error("cannot make a certificate request")]
    Request(#[from] rcgen::Error),
    /// The control plane did not answer.
    #[error("cannot reach the control plane at {url}: {reason}")]
    Unreachable {
        /// Where.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The control plane refused.
    #[error("the control plane refused the token: {0}")]
    Refused(String),
    /// The answer is not by the control plane the token names.
    #[error("the answer is not by the control plane that made the token; is {url} the right address?")]
    Forged {
        /// Where it came from.
        url: String,
        /// What the check said.
        #[source]
        source: OpenError,
    },
    /// The identity could not be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Keys made for a join, before they are known to anybody.
struct NewKeys {
    tls: KeyPair,
    agent_tls: KeyPair,
    report_pkcs8: Vec<u8>,
    report: Signer,
    opening: OpeningKey,
    opening_bytes: [u8; 32],
}

impl NewKeys {
    fn generate() -> Result<Self, JoinError> {
        let (report, report_pkcs8) = Signer::generate()?;
        let (opening, opening_bytes) = OpeningKey::generate()?;
        let tls = KeyPair::generate()?;
        Ok(Self {
            tls,
            agent_tls: KeyPair::generate()?,
            report_pkcs8,
            report,
            opening,
            opening_bytes,
        })
    }
}

/// Joins the site the token names; `addresses` are this box's addresses on the site's networks.
///
/// # Errors
/// See [`JoinError`]; nothing is kept then.
pub async fn join(
    token: &JoinToken,
    addresses: &[IpAddr],
    data_dir: &Path,
    now: DateTime<Utc>,
) -> Result<Identity, JoinError> {
    let keys = NewKeys::generate()?;
    let request = JoinRequest {
        token: token.id.clone(),
        site: token.site.clone(),
        csr: certificate_request(token.site.as_str(), &[], &keys.tls)?,
        agent_csr: certificate_request(token.site.as_str(), addresses, &keys.agent_tls)?,
        report_key: keys.report.verifying_key(),
        sealing_key: keys.opening.sealing_key(),
        trusts: Some(token.verifying_key.id()),
    };
    let proven = ProvenJoinRequest {
        proof: token.proof(&request),
        request,
    };
    let body = serde_json::to_vec(&proven).expect("a request has string keys and serialises");
    let payload = post(&token.url, "/api/v1/join", body).await?;
    let topic = Topic::Config(token.site.clone());
    let answer = KeyRing::new([token.verifying_key])
        .open::<JoinAnswer>(&topic, &payload, Expect { now, held: None })
        .map_err(|source| JoinError::Forged {
            url: token.url.clone(),
            source,
        })?
        .into_body();
    let identity = Identity {
        site: token.site.clone(),
        url: token.url.clone(),
        broker_host: answer.broker_host,
        broker_port: answer.broker_port,
        ca: answer.ca,
        certificate: answer.certificate,
        key: keys.tls.serialize_pem(),
        agent_certificate: answer.agent_certificate,
        agent_key: keys.agent_tls.serialize_pem(),
        report_key: hex::encode(&keys.report_pkcs8),
        opening_key: hex::encode(keys.opening_bytes),
        chunk_key: answer.chunk_key,
        verifying_keys: answer.config.verifying_keys,
        addresses: addresses.to_vec(),
    };
    identity.save(data_dir)?;
    Ok(identity)
}

/// A certificate request, PEM, for a key of this box.
pub(crate) fn certificate_request(
    name: &str,
    addresses: &[IpAddr],
    key: &KeyPair,
) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = addresses.iter().copied().map(SanType::IpAddress).collect();
    params.serialize_request(key)?.pem()
}

/// Posts JSON to the control plane, and gives back what it answers with success.
pub(crate) async fn post(url: &str, path: &str, body: Vec<u8>) -> Result<Vec<u8>, JoinError> {
    let unreachable = |e: reqwest::Error| JoinError::Unreachable {
        url: url.to_owned(),
        reason: e.to_string(),
    };
    let answer = reqwest::Client::new()
        .post(format!("{}{path}", url.trim_end_matches('/')))
        .timeout(Duration::from_secs(30))
        .header(reqwest::header::CONTENT_TYPE, "application/json")
        .body(body)
        .send()
        .await
        .map_err(unreachable)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(unreachable)?;
    if status.is_success() {
        return Ok(body.to_vec());
    }
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = problem
        .get("detail")
        .and_then(|d| d.as_str())
        .unwrap_or("it gave no reason");
    Err(JoinError::Refused(format!("{detail} ({status})")))
}
