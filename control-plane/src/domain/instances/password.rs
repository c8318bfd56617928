//! Passwords of users of installed systems: made, checked, and hashed as `/etc/shadow` has them. The password itself is
//! kept nowhere.

use sha_crypt::{PasswordHasher as _, ShaCrypt};
use slipway_protocol::seal::Secret;

use crate::{error::ApiError, vault};

/// Characters that are not taken for one another.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// A password of 20 characters, 100 bits.
pub(super) fn generate() -> Result<Secret, ApiError> {
    let bytes = vault::random::<20>()?;
    let letter = |byte: u8| char::from(LETTERS[usize::from(byte % 32)]);
    Ok(Secret::new(bytes.map(letter).iter().collect::<String>()))
}

/// The SHA-512 crypt hash (crypt(5), `$6$`), which every Linux that servers run can check.
pub(super) fn hash(password: &Secret) -> Result<Secret, ApiError> {
    let text = password.reveal();
    if text.chars().count() < 8 || text.len() > 128 || text.chars().any(char::is_control) {
        let detail = "a password has 8 characters or more, at most 128 bytes, and no control characters";
        return Err(ApiError::Bad("password", detail.to_owned()));
    }
    let salt = vault::random::<12>()?;
    let hashed = ShaCrypt::SHA512.hash_password_with_salt(text.as_bytes(), &salt);
    let hashed =
        hashed.map_err(|e| ApiError::Internal(anyhow::anyhow!("cannot hash a password: {e}").into()))?;
    Ok(Secret::new(hashed.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_hash_is_what_crypt_makes_of_the_password() {
        let password = generate().unwrap();
        assert_eq!(password.reveal().len(), 20);
        let hash = hash(&password).unwrap();
        let text = hash.reveal();
        let fields: Vec<&str> = text.split('$').collect();
        let salt = fields[fields.len() - 2];
        let told = Command::new("openssl")
            .args(["passwd", "-6", "-salt", salt, password.reveal()])
            .output()
            .expect("openssl is installed (Debian package openssl)");
        let told = String::from_utf8(told.stdout).unwrap();
        let end = |hash: &str| hash.trim().rsplit('$').next().unwrap().to_owned();
        assert!(text.starts_with("$6$"), "{text}");
        assert_eq!(end(text), end(&told), "{text} against {told}");
    }

    #[test]
    fn what_will_not_do_is_refused() {
        for bad in ["short", "with\na break in it", &"x".repeat(200)] {
            assert_eq!(hash(&Secret::new(bad)).unwrap_err().code(), "password");
        }
    }
}
