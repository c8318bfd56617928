//! Secrets at rest: BMC passwords, user-data and join secrets are encrypted in the database under a key that lies beside
//! it in a file of its own, so that a leaked database or backup alone tells nothing. Has no `Debug`.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use slipway_protocol::seal::Secret;

/// A secret could not be encrypted or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
    /// Encrypted under another key or for another place, or changed.
    #[error("a stored secret cannot be read: was the vault key replaced?")]
    Unreadable,
}

/// The key.
pub struct Vault(LessSafeKey);

impl Vault {
    /// A vault with this key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("ChaCha20-Poly1305 keys are 32 bytes long");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts a secret for one place (`machine/ID/bmc`).
    ///
    /// # Errors
    /// When there is no random nonce.
    pub fn encrypt(&self, place: &str, secret: &Secret) -> Result<String, VaultError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut bytes = secret.reveal().as_bytes().to_vec();
        self.0
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut bytes,
            )
            .map_err(|_| VaultError::Unreadable)?;
        Ok(URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat()))
    }

    /// Reads it back.
    ///
    /// # Errors
    /// When it was made by another key or for another place.
    pub fn decrypt(&self, place: &str, text: &str) -> Result<Secret, VaultError> {
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| VaultError::Unreadable)?;
        let (nonce, rest) = bytes.split_at_checked(NONCE_LEN).ok_or(VaultError::Unreadable)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Unreadable)?;
        let mut rest = rest.to_vec();
        let plain = self
            .0
            .open_in_place(nonce, Aad::from(place.as_bytes()), &mut rest);
        let plain = plain.map_err(|_| VaultError::Unreadable)?.to_vec();
        String::from_utf8(plain)
            .map(Secret::new)
            .map_err(|_| VaultError::Unreadable)
    }
}

/// Random bytes.
///
/// # Errors
/// When the system's random source fails.
pub fn random<const N: usize>() -> Result<[u8; N], VaultError> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| VaultError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_in_its_place_and_by_its_key_alone() {
        let vault = Vault::new(&[1; 32]);
        let text = vault.encrypt("machine/1/bmc", &Secret::new("hunter2")).unwrap();
        assert!(!text.contains("hunter2"));
        assert_eq!(vault.decrypt("machine/1/bmc", &text), Ok(Secret::new("hunter2")));
        assert_eq!(vault.decrypt("machine/2/bmc", &text), Err(VaultError::Unreadable));
        assert_eq!(
            Vault::new(&[2; 32]).decrypt("machine/1/bmc", &text),
            Err(VaultError::Unreadable)
        );
        assert_eq!(vault.decrypt("machine/1/bmc", "AA"), Err(VaultError::Unreadable));
    }
}
