//! A log-in that a command line waits for: the browser takes it a code on this host, good once and for a minute, and only
//! with the secret whose hash the command line began with. For both it gets an API key.

use chrono::TimeDelta;
use serde_json::json;
use slipway_protocol::seal::Secret;
use uuid::Uuid;

use super::{Waiting, challenge};
use crate::{
    access::{Actor, Via},
    app::App,
    auth,
    error::ApiError,
    store::{
        audit::{self, Change},
        credentials,
        logins::{self, ApiKey},
        users::{self, User},
    },
};

const KIND: &str = "sso-code";
/// How long a code is good.
const LIFE: TimeDelta = TimeDelta::minutes(1);

/// Makes a code for a command line: the URL by which the browser takes it there.
pub(super) async fn code_for(app: &App, user: &User, waiting: &Waiting) -> Result<String, ApiError> {
    let code = auth::new_token("slipway-code-")?;
    let (hash, now) = (auth::hash(code.reveal()), (app.now)());
    let holder = format!("{} {}", user.id, waiting.challenge);
    app.store
        .transaction(move |db| {
            credentials::remove_old(db, KIND, now - TimeDelta::hours(1))?;
            credentials::insert(db, &hash, KIND, &holder, now)
        })
        .await
        .map_err(ApiError::from)?;
    Ok(format!(
        "http://127.0.0.1:{}/?code={}",
        waiting.port,
        code.reveal()
    ))
}

/// What a command line shows for its key.
pub struct KeyWish {
    /// The code that the browser brought.
    pub code: String,
    /// The secret whose hash it began with.
    pub verifier: String,
    /// What the key is to be named.
    pub name: String,
}

/// Uses a code up: makes an API key, in place of an older one of that name.
///
/// # Errors
/// [`ApiError::Unauthorized`] when code and secret do not fit, or the code was used or is old.
pub async fn key_for_code(app: &App, wish: KeyWish, address: String) -> Result<(ApiKey, Secret), ApiError> {
    crate::domain::names::check(&wish.name)?;
    let secret = auth::new_token("slipway-api-")?;
    let (code, hash, now) = (auth::hash(&wish.code), auth::hash(secret.reveal()), (app.now)());
    let shown = challenge(&wish.verifier);
    let (by_whom, name) = (address.clone(), wish.name);
    let made = app
        .store
        .transaction(move |db| {
            let holder = credentials::recent_holder(db, &code, KIND, now - LIFE)?;
            let holder = holder.ok_or(ApiError::Unauthorized)?;
            let (user, expected) = holder.split_once(' ').ok_or(ApiError::Unauthorized)?;
            if shown != expected || !credentials::use_up(db, &code, now)? {
                return Err(ApiError::Unauthorized);
            }
            let user = users::get(db, user)?
                .filter(|user| !user.disabled)
                .ok_or(ApiError::Unauthorized)?;
            logins::delete_key(db, &user.id, &name)?;
            let key = ApiKey {
                id: Uuid::now_v7().to_string(),
                holder: user.id,
                name,
                permissions: None,
                created_at: now,
                expires_at: None,
            };
            logins::insert_key(db, &hash, &key)?;
            let by = Actor {
                name: user.name,
                via: Via::Sso,
                address: by_whom,
            };
            let change = Change {
                action: "key.create",
                object: format!("key/{}/{}", by.name, key.name),
                before: None,
                after: Some(json!({ "permissions": null, "expires_at": null })),
            };
            audit::done(db, &by, now, change)?;
            Ok(key)
        })
        .await;
    if let Err(error) = &made {
        super::note_refusal(app, error, address).await?;
    }
    Ok((made?, secret))
}
