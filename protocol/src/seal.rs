//! Secrets to one site: a BMC password or user-data inside a signed message, readable by that site's edge alone, so
//! that neither broker nor debug tool sees it.
//!
//! X25519 with a fresh key a secret, HKDF-SHA256, ChaCha20-Poly1305. The context text (which document, which field) is
//! bound as additional data: a sealed password moved into another machine's order does not open.
//! The static half of the agreement is x25519-dalek's, as ring has no importable private key (ADR 0002).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
    rand::{SecureRandom, SystemRandom},
};
use serde::{Deserialize, Serialize};
use x25519_dalek::{PublicKey, StaticSecret};

/// Separates our derived keys from any other use of X25519.
const DOMAIN: &[u8] = b"slipway/v1/seal";

/// Why a secret was not sealed or opened. Never says what the secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The system's random source failed.
    #[error("cannot seal: the system's random source failed")]
    Random,
    /// Not for this site's key, not for this place, or changed on the way.
    #[error("cannot open a sealed secret: it was made for another key or place, or was changed")]
    NotForUs,
    /// Not of the form `seal` makes.
    #[error("cannot read a sealing key or secret: 32 bytes in base64url are expected")]
    Form,
}

/// The public half of a site's sealing key, in JSON as base64url.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealingKey(pub [u8; 32]);

impl std::fmt::Display for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl std::str::FromStr for SealingKey {
    type Err = SealError;
    fn from_str(text: &str) -> Result<Self, SealError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Form)?;
        bytes.try_into().map(Self).map_err(|_| SealError::Form)
    }
}

impl Serialize for SealingKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SealingKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The private half, kept on the edge. Has no `Debug`.
pub struct OpeningKey(StaticSecret);

impl OpeningKey {
    /// Makes a new key; the 32 bytes are to be stored by the caller, readable by nobody else.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn generate() -> Result<(Self, [u8; 32]), SealError> {
        let bytes = random()?;
        Ok((Self::from_bytes(bytes), bytes))
    }

    /// Reads a stored key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(StaticSecret::from(bytes))
    }

    /// The public half.
    #[must_use]
    pub fn sealing_key(&self) -> SealingKey {
        SealingKey(PublicKey::from(&self.0).to_bytes())
    }

    /// Opens what was sealed for this key and `context`.
    ///
    /// # Errors
    /// [`SealError::NotForUs`] for another key, another context or changed bytes.
    pub fn open(&self, sealed: &Sealed, context: &str) -> Result<Secret, SealError> {
        let ephemeral: [u8; 32] = decode(&sealed.ephemeral)?
            .try_into()
            .map_err(|_| SealError::Form)?;
        let shared = self.0.diffie_hellman(&PublicKey::from(ephemeral));
        let key = derive(shared.as_bytes(), &ephemeral, &self.sealing_key().0);
        let mut bytes = decode(&sealed.ciphertext)?;
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let plain = key
            .open_in_place(nonce, Aad::from(context.as_bytes()), &mut bytes)
            .map_err(|_| SealError::NotForUs)?;
        String::from_utf8(plain.to_vec())
            .map(Secret)
            .map_err(|_| SealError::NotForUs)
    }
}

/// A secret text in memory. Its `Debug` shows nothing; it serialises, since agents get it over their own TLS link.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text. Not for logs, arguments or command lines.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A sealed secret as it stands in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The one-time public key, base64url.
    pub ephemeral: String,
    /// Ciphertext and tag, base64url.
    pub ciphertext: String,
}

/// Seals `secret` for one site's key and one place.
///
/// # Errors
/// When the system's random source fails.
pub fn seal(to: SealingKey, context: &str, secret: &Secret) -> Result<Sealed, SealError> {
    let ephemeral = StaticSecret::from(random()?);
    let public = PublicKey::from(&ephemeral).to_bytes();
    let shared = ephemeral.diffie_hellman(&PublicKey::from(to.0));
    let key = derive(shared.as_bytes(), &public, &to.0);
    let mut bytes = secret.0.as_bytes().to_vec();
    // The key is used for this one secret only, so a fixed nonce is never repeated under it.
    let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
    key.seal_in_place_append_tag(nonce, Aad::from(context.as_bytes()), &mut bytes)
        .map_err(|_| SealError::Form)?;
    Ok(Sealed {
        ephemeral: URL_SAFE_NO_PAD.encode(public),
        ciphertext: URL_SAFE_NO_PAD.encode(bytes),
    })
}

fn derive(shared: &[u8], ephemeral: &[u8], receiver: &[u8]) -> LessSafeKey {
    let prk = Salt::new(HKDF_SHA256, DOMAIN).extract(shared);
    let info = [ephemeral, receiver];
    let okm = prk
        .expand(&info, &CHACHA20_POLY1305)
        .expect("HKDF-SHA256 can give 32 bytes");
    LessSafeKey::new(UnboundKey::from(okm))
}

fn random() -> Result<[u8; 32], SealError> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| SealError::Random)?;
    Ok(bytes)
}

fn decode(text: &str) -> Result<Vec<u8>, SealError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_with_its_key_context_and_bytes() {
        let (key, stored) = OpeningKey::generate().unwrap();
        let (other, _) = OpeningKey::generate().unwrap();
        let secret = Secret::new("hunter2");
        let sealed = seal(key.sealing_key(), "order/m1/bmc", &secret).unwrap();
        assert_eq!(
            OpeningKey::from_bytes(stored).open(&sealed, "order/m1/bmc"),
            Ok(secret)
        );
        assert_eq!(key.open(&sealed, "order/m2/bmc"), Err(SealError::NotForUs));
        assert_eq!(other.open(&sealed, "order/m1/bmc"), Err(SealError::NotForUs));
        let mut flipped = sealed.clone();
        let first = if flipped.ciphertext.starts_with('A') {
            "B"
        } else {
            "A"
        };
        flipped.ciphertext.replace_range(..1, first);
        assert_eq!(key.open(&flipped, "order/m1/bmc"), Err(SealError::NotForUs));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(..)");
    }
}
