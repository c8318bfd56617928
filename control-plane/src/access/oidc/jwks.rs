//! The provider's public keys (RFC 7517) and the three signatures that are taken: RS256, ES256 and EdDSA. Reads bytes and
//! decides; opens no connection. `none` and every algorithm with a shared secret are unknown here.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;

/// A signature that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// By its name in a token's header; `None` for one that is refused.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "ES256" => Self::Es256,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone)]
enum Public {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    public: Public,
}

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        matches!(
            (algorithm, &self.public),
            (Algorithm::Rs256, Public::Rsa { .. })
                | (Algorithm::Es256, Public::P256(_))
                | (Algorithm::EdDsa, Public::Ed25519(_))
        )
    }

    fn verifies(&self, signed: &[u8], signature: &[u8]) -> bool {
        let verified = match &self.public {
            Public::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed, signature)
            }
            Public::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
            Public::Ed25519(point) => UnparsedPublicKey::new(&ED25519, point).verify(signed, signature),
        };
        verified.is_ok()
    }
}

/// A key as it is published.
#[derive(Deserialize)]
struct Published {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Published {
    fn key(self) -> Option<Key> {
        if self.usage.is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?).ok();
        let public = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Public::Rsa {
                n: bytes(self.n)?,
                e: bytes(self.e)?,
            },
            ("EC", Some("P-256")) => Public::P256([vec![4], bytes(self.x)?, bytes(self.y)?].concat()),
            ("OKP", Some("Ed25519")) => Public::Ed25519(bytes(self.x)?),
            _ => return None,
        };
        Some(Key { id: self.kid, public })
    }
}

/// The keys a provider publishes, those of use here.
#[derive(Debug, Clone, Default)]
pub struct KeySet(Vec<Key>);

/// How a signature fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It is the provider's.
    Genuine,
    /// It is not.
    Forged,
    /// No key of that id is known; the provider may have a new one.
    UnknownKey,
}

impl KeySet {
    /// Reads a JWK set; keys of other kinds or uses are left out.
    ///
    /// # Errors
    /// When it is no JWK set.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let set: Set = serde_json::from_slice(json)?;
        let keys = set
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Published>(key).ok()?.key());
        Ok(Self(keys.collect()))
    }

    /// Checks a signature by the key of an id. Without an id there must be one key that fits and no other.
    #[must_use]
    pub fn check(&self, algorithm: Algorithm, id: Option<&str>, signed: &[u8], signature: &[u8]) -> Checked {
        let named = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let mut found = self.0.iter().filter(|key| key.fits(algorithm)).filter(named);
        let (Some(key), None) = (found.next(), found.next()) else {
            return Checked::UnknownKey;
        };
        if key.verifies(signed, signature) {
            Checked::Genuine
        } else {
            Checked::Forged
        }
    }
}
