//! Signing and the one verification. [`Signer::seal`] makes the bytes that travel; [`KeyRing::open`] is the only
//! function in the product that verifies, and the only maker of a [`Verified`].
//!
//! The bytes are JSON a person can read: `{"key":"<id>","sig":"<base64url Ed25519>","msg":{...}}`. The signature covers
//! the domain tag, the topic and the exact bytes of `msg` as sent; they are never re-serialised to verify.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    ids::{KeyId, SiteId},
    limits::{Body, is_plausible},
    topic::{Kind, Topic},
    version,
};

/// Separates our signatures from any other use of the same key.
const DOMAIN: &[u8] = b"slipway/v1/message\0";

/// Why bytes were not accepted. Every variant has a stable [`code`](OpenError::code) for metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not an envelope, or its `msg` is not of the expected form.
    #[error("message on `{topic}` cannot be read: {reason}")]
    Malformed {
        /// Where it came in.
        topic: String,
        /// What the parser said.
        reason: String,
    },
    /// No such key is trusted here.
    #[error("message on `{topic}` is signed by key {key}, which is not trusted here")]
    UnknownKey {
        /// Where it came in.
        topic: String,
        /// The id the message names.
        key: String,
    },
    /// The signature does not fit the bytes and the topic.
    #[error("message on `{topic}` has a signature that does not fit its bytes")]
    BadSignature {
        /// Where it came in.
        topic: String,
    },
    /// The signed text is for another topic, site, kind or subject.
    #[error("message on `{topic}` was made for {made_for}")]
    Misaddressed {
        /// Where it came in.
        topic: String,
        /// What the message says of itself.
        made_for: String,
    },
    /// A version this build does not speak.
    #[error(
        "message on `{topic}` has version {version}, supported are {} to {}",
        version::MIN,
        version::CURRENT
    )]
    Version {
        /// Where it came in.
        topic: String,
        /// The version it has.
        version: u16,
    },
    /// Its body, a number or a time in it is beyond what one of its kind may hold.
    #[error("message on `{topic}` is beyond the limits of its kind: {reason}")]
    OutOfBounds {
        /// Where it came in.
        topic: String,
        /// What holds too much.
        reason: String,
    },
    /// Its time is over.
    #[error("message on `{topic}` expired at {expired_at}")]
    Expired {
        /// Where it came in.
        topic: String,
        /// When it expired.
        expired_at: DateTime<Utc>,
    },
    /// A higher revision was accepted before.
    #[error("message on `{topic}` has revision {revision}, but {held} is held already")]
    Stale {
        /// Where it came in.
        topic: String,
        /// Its revision.
        revision: u64,
        /// The revision held.
        held: u64,
    },
}

impl OpenError {
    /// A stable word for metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::UnknownKey { .. } => "unknown_key",
            Self::BadSignature { .. } => "bad_signature",
            Self::Misaddressed { .. } => "misaddressed",
            Self::Version { .. } => "version",
            Self::OutOfBounds { .. } => "out_of_bounds",
            Self::Expired { .. } => "expired",
            Self::Stale { .. } => "stale",
        }
    }
}

/// A key that could not be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The system's random source failed.
    #[error("cannot make a key: the system's random source failed")]
    Random,
    /// The bytes are no PKCS#8 Ed25519 key.
    #[error("cannot read the signing key: it is not an Ed25519 key in PKCS#8 form")]
    Private,
    /// The text is no Ed25519 public key.
    #[error("cannot read the verifying key: 32 bytes in base64url are expected")]
    Public,
}

/// An Ed25519 public key, in JSON as base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey(pub [u8; 32]);

impl VerifyingKey {
    /// The id by which messages name it.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let digest = crate::ids::Digest::of(&self.0).to_string();
        KeyId::new(&digest[..16]).expect("hexadecimal digits are a name")
    }
}

impl std::fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::str::FromStr for VerifyingKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::Public)?;
        bytes.try_into().map(Self).map_err(|_| KeyError::Public)
    }
}

impl Serialize for VerifyingKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VerifyingKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What every message carries besides its body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Wire version.
    pub v: u16,
    /// What the message is about.
    pub kind: Kind,
    /// The site it is for or from.
    pub site: SiteId,
    /// Which document of that kind.
    pub subject: String,
    /// Grows with each change of the document; the higher one wins.
    pub revision: u64,
    /// When it was signed.
    pub issued_at: DateTime<Utc>,
    /// From when on it is refused.
    pub expires_at: DateTime<Utc>,
}

#[derive(Serialize)]
struct OutgoingMsg<'a, T> {
    #[serde(flatten)]
    header: &'a Header,
    body: &'a T,
}

#[derive(Serialize)]
struct OutgoingEnvelope<'a> {
    key: &'a KeyId,
    sig: String,
    msg: &'a RawValue,
}

#[derive(Deserialize)]
struct IncomingEnvelope<'a> {
    key: String,
    sig: String,
    #[serde(borrow)]
    msg: &'a RawValue,
}

/// `Header` and body in one object. Spelled out, since serde's `flatten` cannot keep the body's bytes raw.
#[derive(Deserialize)]
struct IncomingMsg<'a> {
    v: u16,
    kind: Kind,
    site: SiteId,
    subject: String,
    revision: u64,
    issued_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl IncomingMsg<'_> {
    fn header(&self) -> Header {
        Header {
            v: self.v,
            kind: self.kind,
            site: self.site.clone(),
            subject: self.subject.clone(),
            revision: self.revision,
            issued_at: self.issued_at,
            expires_at: self.expires_at,
        }
    }
}

/// Validity and revision to write into a message.
#[derive(Debug, Clone, Copy)]
pub struct Stamp {
    /// The document's revision.
    pub revision: u64,
    /// When it is signed.
    pub issued_at: DateTime<Utc>,
    /// From when on it is to be refused.
    pub expires_at: DateTime<Utc>,
}

/// A signing key. Has no `Debug`: it must not reach a log.
pub struct Signer {
    pair: Ed25519KeyPair,
    id: KeyId,
}

impl Signer {
    /// Makes a new key; returns its PKCS#8 form to be stored by the caller, readable by nobody else.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn generate() -> Result<(Self, Vec<u8>), KeyError> {
        let pkcs8 =
            Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).map_err(|_| KeyError::Random)?;
        let pkcs8 = pkcs8.as_ref().to_vec();
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// Reads a key that [`generate`](Self::generate) made.
    ///
    /// # Errors
    /// When the bytes are no such key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Private)?;
        let public: [u8; 32] = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyError::Private)?;
        Ok(Self {
            pair,
            id: VerifyingKey(public).id(),
        })
    }

    /// The key that belongs to a 32-byte seed: an agent's key follows from its one-time boot token.
    ///
    /// # Errors
    /// When the seed is not 32 bytes long.
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Private)?;
        let public: [u8; 32] = pair
            .public_key()
            .as_ref()
            .try_into()
            .map_err(|_| KeyError::Private)?;
        Ok(Self {
            pair,
            id: VerifyingKey(public).id(),
        })
    }

    /// The id by which messages name it.
    #[must_use]
    pub fn key_id(&self) -> &KeyId {
        &self.id
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        let public = self.pair.public_key().as_ref();
        VerifyingKey(public.try_into().expect("an Ed25519 public key is 32 bytes long"))
    }

    /// Signs `body` for `topic`; the result is the MQTT payload.
    ///
    /// # Panics
    /// Never for the types of this crate: they all serialise.
    pub fn seal<T: Serialize>(&self, topic: &Topic, stamp: Stamp, body: &T) -> Vec<u8> {
        let header = Header {
            v: version::CURRENT,
            kind: topic.kind(),
            site: topic.site().clone(),
            subject: topic.subject(),
            revision: stamp.revision,
            issued_at: stamp.issued_at,
            expires_at: stamp.expires_at,
        };
        let msg = serde_json::value::to_raw_value(&OutgoingMsg {
            header: &header,
            body,
        })
        .expect("wire types have string keys and serialise");
        let sig = self.pair.sign(&signed_bytes(topic, &msg));
        let envelope = OutgoingEnvelope {
            key: &self.id,
            sig: URL_SAFE_NO_PAD.encode(sig.as_ref()),
            msg: &msg,
        };
        serde_json::to_vec(&envelope).expect("wire types have string keys and serialise")
    }
}

/// A body whose signature, topic, site, validity and revision were checked. Only [`KeyRing::open`] makes one.
#[derive(Debug, Clone)]
pub struct Verified<T> {
    header: Header,
    key: KeyId,
    body: T,
}

impl<T> Verified<T> {
    /// What the signer said besides the body.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Who signed.
    #[must_use]
    pub fn key(&self) -> &KeyId {
        &self.key
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &T {
        &self.body
    }

    /// The body, for keeps.
    #[must_use]
    pub fn into_body(self) -> T {
        self.body
    }
}

/// What is held already, and the time: the receiver's side of the checks.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// The receiver's clock.
    pub now: DateTime<Utc>,
    /// The highest revision held for this topic's kind and subject; a lower one is refused, the same one accepted
    /// again (a repeat is harmless).
    pub held: Option<u64>,
}

impl Expect {
    /// For a message that was verified when it came and kept since. Its expiry bounds how long it may travel, so that an
    /// old one cannot be played again; what it says stays in force until something newer comes.
    #[must_use]
    pub const fn kept() -> Self {
        Self {
            now: DateTime::<Utc>::MIN_UTC,
            held: None,
        }
    }
}

/// The keys a receiver trusts.
#[derive(Debug, Clone, Default)]
pub struct KeyRing {
    keys: BTreeMap<KeyId, VerifyingKey>,
}

impl KeyRing {
    /// A ring of these keys.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        Self {
            keys: keys.into_iter().map(|key| (key.id(), key)).collect(),
        }
    }

    /// Opens a payload that came in on `topic`: the one verification of the product.
    ///
    /// # Errors
    /// The first check that failed, in the order: form, key, signature, version, address, times, validity, revision, size,
    /// body, limits of the body.
    pub fn open<T: Body>(
        &self,
        topic: &Topic,
        payload: &[u8],
        expect: Expect,
    ) -> Result<Verified<T>, OpenError> {
        let at = || topic.to_string();
        let malformed = |e: serde_json::Error| OpenError::Malformed {
            topic: at(),
            reason: e.to_string(),
        };
        let envelope: IncomingEnvelope = serde_json::from_slice(payload).map_err(malformed)?;
        let (key, public) = KeyId::new(envelope.key.as_str())
            .ok()
            .and_then(|id| self.keys.get_key_value(&id))
            .ok_or_else(|| OpenError::UnknownKey {
                topic: at(),
                key: envelope.key.clone(),
            })?;
        let signature = URL_SAFE_NO_PAD
            .decode(&envelope.sig)
            .map_err(|_| OpenError::BadSignature { topic: at() })?;
        UnparsedPublicKey::new(&ED25519, &public.0)
            .verify(&signed_bytes(&topic.signed_as(), envelope.msg), &signature)
            .map_err(|_| OpenError::BadSignature { topic: at() })?;
        let msg: IncomingMsg = serde_json::from_str(envelope.msg.get()).map_err(malformed)?;
        let header = msg.header();
        check_header(topic, &header, expect)?;
        let out_of_bounds = |reason: String| OpenError::OutOfBounds { topic: at(), reason };
        let size = msg.body.get().len();
        if size > T::MAX_BYTES {
            return Err(out_of_bounds(format!(
                "{size} bytes, at most {} are taken",
                T::MAX_BYTES
            )));
        }
        let body: T = serde_json::from_str(msg.body.get()).map_err(malformed)?;
        body.check().map_err(|excess| out_of_bounds(excess.to_string()))?;
        Ok(Verified {
            header,
            key: key.clone(),
            body,
        })
    }
}

fn check_header(topic: &Topic, header: &Header, expect: Expect) -> Result<(), OpenError> {
    let at = || topic.to_string();
    if !version::is_supported(header.v) {
        return Err(OpenError::Version {
            topic: at(),
            version: header.v,
        });
    }
    let fits =
        header.kind == topic.kind() && &header.site == topic.site() && header.subject == topic.subject();
    if !fits {
        let made_for = format!("{:?} {} of site {}", header.kind, header.subject, header.site);
        return Err(OpenError::Misaddressed {
            topic: at(),
            made_for,
        });
    }
    if !is_plausible(header.issued_at) || !is_plausible(header.expires_at) {
        return Err(OpenError::OutOfBounds {
            topic: at(),
            reason: "it was signed, or expires, before 1970 or after 9999".to_owned(),
        });
    }
    if header.expires_at <= expect.now {
        return Err(OpenError::Expired {
            topic: at(),
            expired_at: header.expires_at,
        });
    }
    match expect.held {
        Some(held) if header.revision < held => Err(OpenError::Stale {
            topic: at(),
            revision: header.revision,
            held,
        }),
        _ => Ok(()),
    }
}

fn signed_bytes(topic: &Topic, msg: &RawValue) -> Vec<u8> {
    let topic = topic.to_string();
    let mut bytes = Vec::with_capacity(DOMAIN.len() + topic.len() + 1 + msg.get().len());
    bytes.extend_from_slice(DOMAIN);
    bytes.extend_from_slice(topic.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(msg.get().as_bytes());
    bytes
}
