//! Who asks. Tokens are random, shown once, and kept as hashes. Every route but those of [`OPEN`] needs one.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::Response,
};
use slipway_protocol::{ids::Digest, seal::Secret};

use crate::{
    app::App,
    error::ApiError,
    store::{StoreError, credentials},
    vault::{self, VaultError},
};

/// Routes that do without a token: the first says only that the process lives, the others carry their own credentials.
pub const OPEN: [&str; 4] = [
    "/healthz",
    "/api/v1/setup",
    "/api/v1/join",
    "/api/v1/chunks/{digest}",
];

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

/// Makes the one-time set-up token if nobody has an API token yet; gives it back to be shown once.
///
/// # Errors
/// When the store or the random source fails.
pub async fn prepare_setup(app: &App) -> Result<Option<Secret>, ApiError> {
    let token = new_token("slipway-setup-")?;
    let (hashed, now) = (hash(token.reveal()), (app.now)());
    let fresh = app
        .store
        .transaction(move |db| {
            if credentials::count(db, "api")? > 0 {
                return Ok::<_, StoreError>(false);
            }
            credentials::insert(db, &hashed, "setup", "setup", now)?;
            Ok(true)
        })
        .await?;
    Ok(fresh.then_some(token))
}

/// The middleware: lets nobody through without a token.
///
/// # Errors
/// [`ApiError::Unauthorized`] without one.
pub async fn require_token(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let token = bearer(request.headers()).ok_or(ApiError::Unauthorized)?;
    let hashed = hash(&token);
    // Looked up by its hash, so the time taken says nothing of a token that is held.
    let holder = app
        .store
        .transaction(move |db| credentials::holder(db, &hashed, "api"))
        .await?;
    holder.ok_or(ApiError::Unauthorized)?;
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(str::to_owned)
}
