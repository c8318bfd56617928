//! A site's configuration as the control plane sends it, and the enrolment of its edge.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{KeyId, SiteId},
    keys::VerifyingKey,
    seal::{Sealed, SealingKey, Secret},
};

/// What an edge must know besides orders and images (`cmd/config`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteConfig {
    /// The networks it serves.
    pub subnets: Vec<SubnetConfig>,
    /// The keys orders may be signed by, the current one first.
    pub verifying_keys: Vec<VerifyingKey>,
    /// Whether unknown machines are booted into the LiveOS to be looked at.
    pub discover: bool,
    /// DHCP relays that are believed although they are on none of the subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dhcp_relays: Vec<Ipv4Addr>,
    /// The Argon2id hash (PHC form) of the code that local operations ask for; none may be done without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emergency_code: Option<String>,
}

/// An emergency code as it is hashed and compared: small letters and digits alone, however a person typed it.
#[must_use]
pub fn emergency_code_text(typed: &str) -> String {
    let letters = typed.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|c| c.to_ascii_lowercase()).collect()
}

/// A network on which machines boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// The network.
    pub network: Ipv4Net,
    /// The edge's own address on it.
    pub server: Ipv4Addr,
    /// Its router, if it has one.
    #[serde(default)]
    pub gateway: Option<Ipv4Addr>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
    /// First and last address for machines nobody has reserved one for.
    #[serde(default)]
    pub pool: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Lease time in seconds.
    pub lease_seconds: u32,
}

/// What an operator gives an edge so that it may join: made once by the control plane, shown once.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinToken {
    /// The site.
    pub site: SiteId,
    /// Base URL of the control plane's API.
    pub url: String,
    /// Which token this is, so that it can be used up.
    pub id: String,
    /// Proves the holder: requests carry an HMAC by it, never the secret itself. Base64url.
    pub secret: String,
    /// The control plane's key: the answer must be signed by it.
    pub verifying_key: VerifyingKey,
    /// HOST:PORT of the central broker, so that the way to it can be looked at first. Older control planes leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
}

/// Starts every token, so that a person sees what it is.
const TOKEN_PREFIX: &str = "slipway-join-";

/// A text that is no join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not a join token: copy the whole text that starts with `slipway-join-`")]
pub struct TokenError;

impl JoinToken {
    /// The text an operator copies.
    #[must_use]
    pub fn to_text(&self) -> String {
        use base64::Engine as _;
        let json = serde_json::to_vec(self).expect("a token has string keys and serialises");
        format!(
            "{TOKEN_PREFIX}{}",
            base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json)
        )
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When the text is not a whole token.
    pub fn from_text(text: &str) -> Result<Self, TokenError> {
        use base64::Engine as _;
        let encoded = text.trim().strip_prefix(TOKEN_PREFIX).ok_or(TokenError)?;
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| TokenError)?;
        serde_json::from_slice(&json).map_err(|_| TokenError)
    }

    /// The proof for a request: HMAC-SHA256 by the token's secret over the request's own text.
    #[must_use]
    pub fn proof(&self, request: &JoinRequest) -> String {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, self.secret.as_bytes());
        let text = serde_json::to_vec(request).expect("a request has string keys and serialises");
        hex::encode(ring::hmac::sign(&key, &text))
    }
}

/// What an edge asks with. Its keys were made on the box and never leave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's id.
    pub token: String,
    /// The site it is for.
    pub site: SiteId,
    /// Certificate request, PEM, for the edge's mutual TLS.
    pub csr: String,
    /// Certificate request, PEM, for the edge's own broker, with the site addresses agents use.
    pub agent_csr: String,
    /// By what its reports are verified.
    pub report_key: VerifyingKey,
    /// To what secrets are sealed.
    pub sealing_key: SealingKey,
    /// The key the answer is to be signed by: the one the token named, which may not be the newest any more. Left out by
    /// edges older than key rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusts: Option<KeyId>,
}

/// A request with its proof, as posted to `/api/v1/join`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProvenJoinRequest {
    /// The request.
    pub request: JoinRequest,
    /// [`JoinToken::proof`] of it.
    pub proof: String,
}

/// What the edge gets back: the body of an envelope signed on the site's config topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    /// The edge's client certificate, PEM.
    pub certificate: String,
    /// The certificate of the edge's own broker, PEM.
    pub agent_certificate: String,
    /// The authority both are signed by, PEM; also the broker's.
    pub ca: String,
    /// Host of the central broker.
    pub broker_host: String,
    /// Port of the central broker.
    pub broker_port: u16,
    /// Key by which the edge proves itself when it fetches image chunks (see [`chunk_proof`]), sealed to the edge
    /// under [`chunk_key_context`].
    pub chunk_key: Sealed,
    /// The site's configuration as of now.
    pub config: SiteConfig,
}

/// What an edge asks with when its certificates are to be renewed: the body of an envelope signed by the key of its
/// reports, posted to `/api/v1/sites/{site}/renew`. Its TLS keys are made anew on the box.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// As in [`JoinRequest`].
    pub csr: String,
    /// As in [`JoinRequest`].
    pub agent_csr: String,
}

/// What it gets back: the body of an envelope signed by the control plane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewAnswer {
    /// The edge's client certificate, PEM.
    pub certificate: String,
    /// The certificate of the edge's own broker, PEM.
    pub agent_certificate: String,
    /// The authority both are signed by, PEM.
    pub ca: String,
}

/// Whether an edge still is its site's: the body of an envelope signed by the control plane, on [`Topic::Standing`]. An edge that
/// cannot connect asks for it by HTTP, at `/api/v1/sites/{site}/edges/{report_key}`.
///
/// [`Topic::Standing`]: crate::topic::Topic::Standing
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeStanding {
    /// The edge, by the key of its reports. Such a key is never used again, so that an answer that says `revoked` stays true.
    pub report_key: VerifyingKey,
    /// How it stands.
    pub standing: Standing,
}

/// How an edge stands with its control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It is its site's edge.
    Current,
    /// It was revoked, or another one joined in its place: it must not work at the site any more.
    Revoked,
    /// Nothing is known of it, as after the restore of an old backup: it goes on.
    Unknown,
}

/// The place a site's chunk key is bound to when it is sealed.
#[must_use]
pub fn chunk_key_context(site: &SiteId) -> String {
    format!("join/{site}/chunk-key")
}

/// Value of the `Authorization` header with which an edge fetches `path` from the control plane: HMAC-SHA256 by the
/// site's chunk key. It opens that one path and nothing else.
#[must_use]
pub fn chunk_proof(site: &SiteId, chunk_key: &Secret, path: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, chunk_key.reveal().as_bytes());
    format!(
        "Slipway-Edge {site}:{}",
        hex::encode(ring::hmac::sign(&key, path.as_bytes()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_half_a_token_does_not() {
        let (signer, _) = crate::keys::Signer::generate().unwrap();
        let token = JoinToken {
            site: SiteId::new("bj-1").unwrap(),
            url: "http://127.0.0.1:8080".into(),
            id: "t1".into(),
            secret: "s".into(),
            verifying_key: signer.verifying_key(),
            broker: None,
        };
        let text = token.to_text();
        assert_eq!(
            JoinToken::from_text(&format!(" {text}\n")).unwrap().site,
            token.site
        );
        assert!(JoinToken::from_text(&text[..text.len() - 5]).is_err());
        assert!(JoinToken::from_text("hello").is_err());
    }
}
