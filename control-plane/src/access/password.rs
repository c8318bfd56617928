//! Passwords: Argon2id with the parameters of RFC 9106's second recommendation as far as the crate's default follows it
//! (19 MiB, 2 passes), checked on a thread of its own and a few at a time, so that log-ins cannot use up the machine.

use std::sync::LazyLock;

use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use slipway_protocol::seal::Secret;
use tokio::sync::Semaphore;

use crate::error::ApiError;

/// Least length of a password, in characters.
pub const MIN_LENGTH: usize = 12;
/// Greatest length, in bytes: hashing must stay cheap to refuse.
const MAX_BYTES: usize = 1024;

/// Passwords hashed at once; each takes 19 MiB.
static PLACES: Semaphore = Semaphore::const_new(2);

/// What a password is compared with that nobody has: an unknown name takes as long to refuse as a wrong password.
static NOBODY: LazyLock<String> = LazyLock::new(|| hash_now("nobody has this password").unwrap_or_default());

/// Whether a new password will do.
///
/// # Errors
/// When it is too short or too long.
pub fn check(password: &str) -> Result<(), ApiError> {
    if password.chars().count() < MIN_LENGTH || password.len() > MAX_BYTES {
        let detail = format!("a password has {MIN_LENGTH} characters or more, and at most {MAX_BYTES} bytes");
        return Err(ApiError::Bad("password", detail));
    }
    Ok(())
}

fn hash_now(password: &str) -> Result<String, String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|e| e.to_string())
}

fn fits(password: &str, kept: &str) -> bool {
    PasswordHash::new(kept).is_ok_and(|kept| {
        Argon2::default()
            .verify_password(password.as_bytes(), &kept)
            .is_ok()
    })
}

/// A password as it is kept, in PHC form.
///
/// # Errors
/// When it will not do or cannot be hashed.
pub async fn hash(password: Secret) -> Result<String, ApiError> {
    check(password.reveal())?;
    let hashed = apart(move || hash_now(password.reveal())).await?;
    hashed.map_err(|e| ApiError::Internal(e.into()))
}

/// Whether a password is the one that was kept. Without one that was kept the answer is no, after as long a time.
///
/// # Errors
/// When the task that compares is lost.
pub async fn verify(password: Secret, kept: Option<String>) -> Result<bool, ApiError> {
    if password.reveal().len() > MAX_BYTES {
        return Ok(false);
    }
    apart(move || match kept {
        Some(kept) => fits(password.reveal(), &kept),
        None => {
            fits(password.reveal(), &NOBODY);
            false
        }
    })
    .await
}

async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let _place = PLACES.acquire().await.map_err(|e| ApiError::Internal(e.into()))?;
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| ApiError::Internal(e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let hashed = hash(Secret::new("correct horse battery")).await.unwrap();
        assert!(hashed.starts_with("$argon2id$"), "{hashed}");
        let fits = |password: &str, kept: Option<&String>| verify(Secret::new(password), kept.cloned());
        assert!(fits("correct horse battery", Some(&hashed)).await.unwrap());
        assert!(!fits("correct horse", Some(&hashed)).await.unwrap());
        assert!(!fits("nobody has this password", None).await.unwrap());
        assert!(hash(Secret::new("short")).await.is_err());
        assert!(check(&"x".repeat(2000)).is_err());
    }
}
