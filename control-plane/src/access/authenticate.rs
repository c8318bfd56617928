//! The one place where a request is let through: finds out who asks, by API key or by session, and whether they may use
//! the route at all. Changing requests that are refused are noted in the audit log.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::{
    extract::{ConnectInfo, MatchedPath, Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use chrono::{DateTime, TimeDelta, Utc};

use super::{
    caller::{Actor, Caller, Credential, Held, Target, Via, address_word, forbidden},
    permission::Permission,
    routes::{self, Needs},
    throttle::network_of,
};
use crate::{
    app::App,
    auth,
    error::ApiError,
    metrics,
    store::{
        Database, StoreResult, audit,
        logins::{self, Session},
        users,
    },
};

/// Name of the session's cookie.
pub const COOKIE: &str = "slipway_session";
/// Header that carries the session's second half on changing requests.
pub const CSRF: &str = "x-csrf-token";
/// How long a session lasts.
pub const SESSION_LIFE: TimeDelta = TimeDelta::hours(12);
/// How long it may lie unused.
const SESSION_IDLE: TimeDelta = TimeDelta::hours(2);

/// By what a request says who asks.
enum Proof {
    Key(String),
    Session { cookie: String, csrf: Option<String> },
}

/// The middleware of all routes but the open ones.
///
/// # Errors
/// Never: refusals are answers.
pub async fn guard(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let address = peer(request.extensions().get());
    let stranger = Actor {
        name: "nobody".to_owned(),
        via: Via::Nothing,
        address: address_word(address),
    };
    let proof = proof(request.headers());
    let caller = match who(&app, proof, &method, &stranger).await {
        Ok(caller) => caller,
        Err(error) => return refuse(&app, &stranger, (&method, &route), error).await,
    };
    if let Err(error) = may_use(&caller, &method, &route) {
        return refuse(&app, &caller.actor, (&method, &route), error).await;
    }
    let actor = caller.actor.clone();
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    // Refused by the handler for this object, having passed the door.
    if response.status() == axum::http::StatusCode::FORBIDDEN {
        note(&app, &actor, (&method, &route), "forbidden").await;
    }
    response
}

/// The address of the other end of the connection.
#[must_use]
pub fn peer(info: Option<&ConnectInfo<SocketAddr>>) -> Option<IpAddr> {
    info.map(|ConnectInfo(address)| address.ip())
}

fn may_use(caller: &Caller, method: &Method, route: &str) -> Result<(), ApiError> {
    match routes::needs(method, route) {
        Some(Needs::Nothing | Needs::Login) => Ok(()),
        Some(Needs::Global(permission)) => caller.require(permission, Target::GLOBAL),
        Some(Needs::Permission(permission)) if caller.may_somewhere(permission) => Ok(()),
        Some(Needs::Permission(permission)) => Err(forbidden(&caller.actor.name, permission, Target::GLOBAL)),
        // Of a path that has other methods the router says which.
        None if routes::has_path(route) => Ok(()),
        None => Err(ApiError::Forbidden(format!("nobody may {method} {route}"))),
    }
}

/// Answers a refusal, and notes it if it would have changed something.
async fn refuse(app: &App, actor: &Actor, on: (&Method, &str), error: ApiError) -> Response {
    // Whoever knocks without end is answered, and written down only now and then.
    if actor.via == Via::Nothing && !app.strangers.take(&network_of(&actor.address), Instant::now()) {
        return ApiError::TooMany("too many requests without valid credentials".to_owned()).into_response();
    }
    note(app, actor, on, error.code()).await;
    error.into_response()
}

async fn note(app: &App, actor: &Actor, (method, route): (&Method, &str), code: &'static str) {
    if actor.via == Via::Nothing {
        // Anybody can be refused without end: that is counted, and kept nowhere.
        metrics::stranger_refused(code);
        return;
    }
    if method.is_safe() {
        return;
    }
    let (actor, now, action) = (actor.clone(), (app.now)(), format!("{method} {route}"));
    let noted = app.store.transaction(move |db| {
        let change = audit::Change {
            action: &action,
            object: String::new(),
            before: None,
            after: None,
        };
        audit::refused(db, &actor, now, code, change)
    });
    if let Err(error) = noted.await {
        tracing::error!(error = %crate::error::chain(&error), "a refusal could not be written to the audit log");
    }
}

fn proof(headers: &HeaderMap) -> Option<Proof> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok()?.strip_prefix("Bearer ")?;
        return Some(Proof::Key(auth::hash(token)));
    }
    let cookie = session_cookie(headers)?;
    let csrf = headers.get(CSRF).and_then(|v| v.to_str().ok()).map(str::to_owned);
    Some(Proof::Session {
        cookie: auth::hash(&cookie),
        csrf,
    })
}

/// The session's cookie, if the request has one.
#[must_use]
pub fn session_cookie(headers: &HeaderMap) -> Option<String> {
    cookie_named(headers, COOKIE)
}

/// A cookie of the request by its name.
#[must_use]
pub fn cookie_named(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).into_iter();
    let pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == wanted)
        .map(|(_, value)| value.to_owned())
}

async fn who(app: &App, proof: Option<Proof>, method: &Method, stranger: &Actor) -> Result<Caller, ApiError> {
    let (now, address) = ((app.now)(), stranger.address.clone());
    // Looked up by a hash, so the time taken says nothing of a token that is held.
    match proof.ok_or(ApiError::Unauthorized)? {
        Proof::Key(hash) => app.store.read(move |db| by_key(db, &hash, address, now)).await,
        Proof::Session { cookie, csrf } => {
            let key = cookie.clone();
            let (caller, session) = app
                .store
                .read(move |db| by_session(db, &key, address, now))
                .await?;
            let fits = csrf.is_some_and(|csrf| auth::hash(&csrf) == auth::hash(&session.csrf));
            if !method.is_safe() && !fits {
                return Err(ApiError::Forbidden(format!(
                    "a changing request of a session carries its token in the header {CSRF}"
                )));
            }
            if now - session.used_at > TimeDelta::minutes(1) {
                let touch = app
                    .store
                    .transaction(move |db| logins::touch_session(db, &cookie, now));
                touch.await?;
            }
            Ok(caller)
        }
    }
}

fn by_key(db: &mut Database, hash: &str, address: String, now: DateTime<Utc>) -> Result<Caller, ApiError> {
    let key = logins::key_by_hash(db, hash)?.ok_or(ApiError::Unauthorized)?;
    if key.expires_at.is_some_and(|end| end <= now) {
        return Err(ApiError::Unauthorized);
    }
    let credential = Credential::Key(hash.to_owned());
    caller(db, &key.holder, (credential, address), key.permissions.as_ref())
}

/// The same caller by what holds now: their key or session may have been taken back since, and so may their grants.
///
/// # Errors
/// [`ApiError::Unauthorized`] when they would not be let in any more.
pub fn judged_again(db: &mut Database, before: &Caller, now: DateTime<Utc>) -> Result<Caller, ApiError> {
    let address = before.actor.address.clone();
    match &before.credential {
        Credential::Key(hash) => by_key(db, hash, address, now),
        Credential::Session(hash) => by_session(db, hash, address, now).map(|(caller, _)| caller),
        Credential::None => Ok(before.clone()),
    }
}

/// The caller of a session.
fn by_session(
    db: &mut Database,
    hash: &str,
    address: String,
    now: DateTime<Utc>,
) -> Result<(Caller, Session), ApiError> {
    let session = logins::session(db, hash)?.ok_or(ApiError::Unauthorized)?;
    if session.expires_at <= now || session.used_at + SESSION_IDLE <= now {
        return Err(ApiError::Unauthorized);
    }
    let credential = Credential::Session(hash.to_owned());
    let caller = caller(db, &session.holder, (credential, address), None)?;
    Ok((caller, session))
}

fn caller(
    db: &mut Database,
    user: &str,
    (credential, address): (Credential, String),
    narrowed: Option<&BTreeSet<Permission>>,
) -> Result<Caller, ApiError> {
    let user = users::get(db, user)?
        .filter(|user| !user.disabled)
        .ok_or(ApiError::Unauthorized)?;
    let mut held = held_by(db, &user.id)?;
    if let Some(narrowed) = narrowed {
        for one in &mut held {
            one.permissions.retain(|permission| narrowed.contains(permission));
        }
    }
    let via = match &credential {
        Credential::Key(_) => Via::Key,
        Credential::Session(_) => Via::Session,
        Credential::None => Via::Nothing,
    };
    let actor = Actor {
        name: user.name,
        via,
        address,
    };
    Ok(Caller {
        user: user.id,
        actor,
        held: held.into(),
        narrowed: narrowed.is_some(),
        credential,
    })
}

/// What a user holds: their grants with the permissions of the roles.
///
/// # Errors
/// When the database fails.
pub fn held_by(db: &mut Database, user: &str) -> StoreResult<Vec<Held>> {
    let mut held = Vec::new();
    for grant in users::grants_of(db, user)? {
        // A role that was removed allows nothing.
        let permissions = users::role(db, &grant.role)?.unwrap_or_default();
        held.push(Held {
            scope: grant.scope,
            permissions,
        });
    }
    Ok(held)
}
