//! What people do with their own account: set the first one up, log in, change their password, make keys.

use std::{collections::BTreeSet, time::Instant};

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::seal::Secret;
use uuid::Uuid;

use crate::{
    access::{
        Actor, Caller, Permission, Scope, Via, authenticate::SESSION_LIFE, password, throttle::network_of,
    },
    app::App,
    auth,
    error::ApiError,
    metrics,
    store::{
        Database, StoreResult,
        audit::{self, Change},
        credentials,
        logins::{self, ApiKey, Session, SshKey},
        users::{self, Grant, User, UserPatch},
    },
};

/// Whether there is no user yet.
///
/// # Errors
/// When the store fails.
pub async fn setup_needed(app: &App) -> Result<bool, ApiError> {
    Ok(!app.store.read(users::any).await?)
}

/// Makes a user administrator everywhere, with a first key.
fn make_administrator(db: &mut Database, user: &str, key_hash: &str, now: DateTime<Utc>) -> StoreResult<()> {
    let grant = Grant {
        id: Uuid::now_v7().to_string(),
        holder: user.to_owned(),
        role: "admin".to_owned(),
        scope: Scope::Global,
    };
    users::insert_grant(db, &grant, now)?;
    let first = ApiKey {
        id: Uuid::now_v7().to_string(),
        holder: user.to_owned(),
        name: "first".to_owned(),
        permissions: None,
        created_at: now,
        expires_at: None,
    };
    logins::insert_key(db, key_hash, &first)
}

/// Uses the set-up token up: makes the first administrator, with a key and, if one is given, a password.
///
/// # Errors
/// [`ApiError::Unauthorized`] when the token is wrong or was used.
pub async fn set_up(
    app: &App,
    token: &str,
    name: String,
    password: Option<Secret>,
    address: String,
) -> Result<Secret, ApiError> {
    if !app
        .logins
        .take(&format!("set-up {}", network_of(&address)), Instant::now())
    {
        return Err(ApiError::TooMany(
            "too many tries to set this control plane up".to_owned(),
        ));
    }
    super::names::check(&name)?;
    // Hashing costs much, so nobody has a password hashed by a token that is not known.
    let token_hash = auth::hash(token);
    let known = app
        .store
        .read(move |db| credentials::holder(db, &token_hash, "setup"));
    known.await?.ok_or(ApiError::Unauthorized)?;
    let password = match password {
        Some(password) => Some(password::hash(password).await?),
        None => None,
    };
    let key = auth::new_token("slipway-api-")?;
    let (setup, hash, now) = (auth::hash(token), auth::hash(key.reveal()), (app.now)());
    app.store
        .transaction(move |db| {
            credentials::holder(db, &setup, "setup")?.ok_or(ApiError::Unauthorized)?;
            if !credentials::use_up(db, &setup, now)? {
                return Err(ApiError::Unauthorized);
            }
            let user = User {
                id: Uuid::now_v7().to_string(),
                name,
                email: None,
                password,
                subject: None,
                disabled: false,
                created_at: now,
            };
            users::insert(db, &user)?;
            make_administrator(db, &user.id, &hash, now)?;
            let by = Actor {
                name: "set-up".to_owned(),
                via: Via::Token,
                address,
            };
            let change = Change {
                action: "setup",
                object: format!("user/{}", user.name),
                before: None,
                after: Some(json!({ "name": user.name, "role": "admin" })),
            };
            Ok(audit::done(db, &by, now, change)?)
        })
        .await?;
    Ok(key)
}

/// What a log-in gives: the session's cookie and its second half.
pub struct LoggedIn {
    /// Value of the cookie.
    pub cookie: Secret,
    /// What changing requests must carry besides.
    pub csrf: String,
    /// Who it is.
    pub user: User,
}

/// Logs in with name and password.
///
/// # Errors
/// [`ApiError::Unauthorized`] when they do not fit or the user is shut out; [`ApiError::TooMany`] when tried too often.
pub async fn log_in(
    app: &App,
    name: String,
    password: Secret,
    address: String,
) -> Result<LoggedIn, ApiError> {
    // By address alone: a limit by name would let a stranger shut its owner out.
    if !app.logins.take(&network_of(&address), Instant::now()) {
        return Err(ApiError::TooMany("too many log-ins".to_owned()));
    }
    let key = name.clone();
    let found: Option<User> = app
        .store
        .transaction(move |db| users::get(db, &key))
        .await
        .map_err(ApiError::from)?;
    let found = found.filter(|user| !user.disabled && user.name == name);
    let kept = found.as_ref().and_then(|user| user.password.clone());
    let fits = password::verify(password, kept).await?;
    match found.filter(|_| fits) {
        Some(user) => begin_session(app, user, address).await,
        None => {
            refused_log_in(app, &name, address).await?;
            Err(ApiError::Unauthorized)
        }
    }
}

/// Begins a session of somebody who proved who they are.
///
/// # Errors
/// When the random source or the store fails.
pub async fn begin_session(app: &App, user: User, address: String) -> Result<LoggedIn, ApiError> {
    let (cookie, csrf) = (auth::new_token("s-")?, auth::new_token("c-")?.reveal().to_owned());
    let now = (app.now)();
    let session = Session {
        hash: auth::hash(cookie.reveal()),
        holder: user.id.clone(),
        csrf: csrf.clone(),
        used_at: now,
        expires_at: now + SESSION_LIFE,
        address: address.clone(),
    };
    let by = Actor {
        name: user.name.clone(),
        via: Via::Session,
        address,
    };
    let proved = user.clone();
    app.store
        .transaction(move |db| {
            // What was proved may have been taken back while it was looked at.
            if !is_unchanged(db, &proved)? {
                return Err(ApiError::Unauthorized);
            }
            logins::remove_old_sessions(db, now)?;
            logins::insert_session(db, &session, now)?;
            let change = Change::new("login", format!("user/{}", by.name), None, None);
            Ok(audit::done(db, &by, now, change)?)
        })
        .await?;
    Ok(LoggedIn { cookie, csrf, user })
}

/// Whether a user is still there, not shut out, and proves who they are by the same as when they were read.
fn is_unchanged(db: &mut Database, read: &User) -> Result<bool, ApiError> {
    let now = users::get(db, &read.id)?.filter(|user| !user.disabled);
    Ok(now.is_some_and(|now| now.password == read.password && now.subject == read.subject))
}

async fn refused_log_in(app: &App, name: &str, address: String) -> Result<(), ApiError> {
    let by = Actor {
        name: "nobody".to_owned(),
        via: Via::Nothing,
        address,
    };
    // As it was typed, so bounded: somebody may type a password there.
    let object = format!("user/{}", name.chars().take(32).collect::<String>());
    let now = (app.now)();
    metrics::stranger_refused("login");
    // A flood of them from many networks is counted; the audit log keeps a sample.
    if !app.noted_strangers.take("login", Instant::now()) {
        return Ok(());
    }
    let noted = app.store.transaction(move |db| {
        audit::refused(
            db,
            &by,
            now,
            "unauthorized",
            Change::new("login", object, None, None),
        )
    });
    Ok(noted.await?)
}

/// Ends the session of a cookie.
///
/// # Errors
/// When the store fails.
pub async fn log_out(app: &App, caller: &Caller, cookie: Option<String>) -> Result<(), ApiError> {
    let (by, now) = (caller.actor.clone(), (app.now)());
    let done = app.store.transaction(move |db| {
        if let Some(cookie) = cookie {
            logins::end_session(db, &auth::hash(&cookie))?;
        }
        audit::done(
            db,
            &by,
            now,
            Change::new("logout", format!("user/{}", by.name), None, None),
        )
    });
    Ok(done.await?)
}

/// The second half of a session.
///
/// # Errors
/// When the store fails.
pub async fn csrf_of(app: &App, cookie: String) -> Result<Option<String>, ApiError> {
    let found = app
        .store
        .transaction(move |db| logins::session(db, &auth::hash(&cookie)));
    Ok(found.await?.map(|session| session.csrf))
}

/// Changes one's own password, ending all sessions but none of the keys.
///
/// # Errors
/// When the former one does not fit or the new one will not do.
pub async fn change_password(
    app: &App,
    caller: &Caller,
    former: Secret,
    new: Secret,
) -> Result<(), ApiError> {
    caller.require_whole()?;
    if !app
        .logins
        .take(&format!("name {}", caller.actor.name), Instant::now())
    {
        return Err(ApiError::TooMany("too many tries".to_owned()));
    }
    let user = super::users::get(app, caller.user.clone()).await?;
    if user.password.is_some() && !password::verify(former, user.password.clone()).await? {
        return Err(ApiError::Forbidden("the present password is not that".to_owned()));
    }
    let hashed = password::hash(new).await?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    let done = app.store.transaction(move |db| {
        // Who was shut out meanwhile stays so, and of two changes at once the first one holds.
        if !is_unchanged(db, &user)? {
            return Err(ApiError::Unauthorized);
        }
        let patch = UserPatch {
            password: Some(hashed),
            ..UserPatch::default()
        };
        users::update(db, &user.id, &patch)?;
        logins::end_sessions_of(db, &user.id)?;
        let change = Change::new("user.password", format!("user/{}", user.name), None, None);
        Ok(audit::done(db, &by, now, change)?)
    });
    done.await
}

/// A key to be made.
pub struct NewKey {
    /// Its name.
    pub name: String,
    /// What it is narrowed to.
    pub permissions: Option<BTreeSet<Permission>>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Makes an API key of the caller's; its secret is shown this once.
///
/// # Errors
/// When there is one of that name, or it ends in the past.
pub async fn make_key(app: &App, caller: &Caller, new: NewKey) -> Result<(ApiKey, Secret), ApiError> {
    caller.require_whole()?;
    super::names::check(&new.name)?;
    let now = (app.now)();
    if new.expires_at.is_some_and(|end| end <= now) {
        return Err(ApiError::Bad(
            "expires_at",
            "the key would end in the past".to_owned(),
        ));
    }
    let secret = auth::new_token("slipway-api-")?;
    let hash = auth::hash(secret.reveal());
    let key = ApiKey {
        id: Uuid::now_v7().to_string(),
        holder: caller.user.clone(),
        name: new.name,
        permissions: new.permissions,
        created_at: now,
        expires_at: new.expires_at,
    };
    let by = caller.actor.clone();
    let made = app.store.transaction(move |db| {
        logins::insert_key(db, &hash, &key)?;
        let after = json!({ "permissions": key.permissions, "expires_at": key.expires_at });
        let object = format!("key/{}/{}", by.name, key.name);
        let change = Change::new("key.create", object, None, Some(after));
        audit::done(db, &by, now, change)?;
        Ok::<_, ApiError>(key)
    });
    Ok((made.await?, secret))
}

/// Removes an API key of the caller's.
///
/// # Errors
/// When there is none.
pub async fn remove_key(app: &App, caller: &Caller, key: String) -> Result<(), ApiError> {
    caller.require_whole()?;
    let (by, holder, now) = (caller.actor.clone(), caller.user.clone(), (app.now)());
    let done = app.store.transaction(move |db| {
        if !logins::delete_key(db, &holder, &key)? {
            return Err(ApiError::NotFound("API key", key));
        }
        Ok(audit::done(
            db,
            &by,
            now,
            Change::new("key.delete", format!("key/{}/{key}", by.name), None, None),
        )?)
    });
    done.await
}

/// Adds an SSH key of the caller's.
///
/// # Errors
/// When it is no public key, or there is one of that name.
pub async fn add_ssh_key(
    app: &App,
    caller: &Caller,
    name: String,
    public_key: String,
) -> Result<SshKey, ApiError> {
    caller.require_whole()?;
    super::names::check(&name)?;
    super::instances::check_ssh_key(&public_key)?;
    let now = (app.now)();
    let key = SshKey {
        id: Uuid::now_v7().to_string(),
        holder: caller.user.clone(),
        name,
        public_key,
        created_at: now,
    };
    let by = caller.actor.clone();
    let added = app.store.transaction(move |db| {
        logins::insert_ssh_key(db, &key)?;
        let after = json!({ "public_key": key.public_key });
        let object = format!("sshkey/{}/{}", by.name, key.name);
        let change = Change::new("sshkey.create", object, None, Some(after));
        audit::done(db, &by, now, change)?;
        Ok(key)
    });
    added.await
}

/// Removes an SSH key of the caller's.
///
/// # Errors
/// When there is none.
pub async fn remove_ssh_key(app: &App, caller: &Caller, key: String) -> Result<(), ApiError> {
    caller.require_whole()?;
    let (by, holder, now) = (caller.actor.clone(), caller.user.clone(), (app.now)());
    let done = app.store.transaction(move |db| {
        if !logins::delete_ssh_key(db, &holder, &key)? {
            return Err(ApiError::NotFound("SSH key", key));
        }
        Ok(audit::done(
            db,
            &by,
            now,
            Change::new("sshkey.delete", format!("sshkey/{}/{key}", by.name), None, None),
        )?)
    });
    done.await
}
