//! Tokens: random, shown once, kept as hashes. The one-time token that makes the first administrator.

use slipway_protocol::{ids::Digest, seal::Secret};

use crate::{
    app::App,
    error::ApiError,
    store::{StoreError, credentials, users},
    vault::{self, VaultError},
};

/// A new token with a prefix by which people and scanners recognise it.
///
/// # Errors
/// When there are no random bytes.
pub fn new_token(prefix: &str) -> Result<Secret, VaultError> {
    Ok(Secret::new(format!(
        "{prefix}{}",
        hex::encode(vault::random::<24>()?)
    )))
}

/// What is kept of a token.
#[must_use]
pub fn hash(token: &str) -> String {
    Digest::of(token.as_bytes()).to_string()
}

/// Makes the one-time set-up token if there is no administrator yet; gives it back to be shown once.
///
/// # Errors
/// When the store or the random source fails.
pub async fn prepare_setup(app: &App) -> Result<Option<Secret>, ApiError> {
    let token = new_token("slipway-setup-")?;
    let (hashed, now) = (hash(token.reveal()), (app.now)());
    let fresh = app
        .store
        .transaction(move |db| {
            if users::administrators(db)? > 0 {
                return Ok::<_, StoreError>(false);
            }
            credentials::insert(db, &hashed, "setup", "setup", now)?;
            Ok(true)
        })
        .await?;
    Ok(fresh.then_some(token))
}
