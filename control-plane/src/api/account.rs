//! `/api/v1/login`, `/api/v1/logout` and `/api/v1/me`: the caller's own account.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::seal::Secret;
use utoipa::ToSchema;

use super::{Body, List, Path};
use crate::{
    access::{
        Caller, Permission,
        authenticate::{self, COOKIE, SESSION_LIFE},
        caller::address_word,
    },
    app::App,
    domain::accounts::{self, LoggedIn, NewKey},
    error::ApiError,
    store::logins,
};

/// Name and password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The user's name.
    pub name: String,
    /// Their password.
    pub password: String,
}

/// A session was begun; its cookie came along.
#[derive(Debug, Serialize, ToSchema)]
pub struct SessionView {
    /// Send it in `X-CSRF-Token` with each changing request.
    pub csrf: String,
    /// Who it is.
    pub name: String,
}

/// Begins a session: the answer sets its cookie.
#[utoipa::path(post, path = "/api/v1/login", tag = "account", request_body = Login,
    responses((status = 200, body = SessionView), (status = 400), (status = 401), (status = 429)))]
pub async fn login(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(body): Body<Login>,
) -> Result<Response, ApiError> {
    let address = address_word(Some(peer.ip()));
    let begun = accounts::log_in(&app, body.name, Secret::new(body.password), address).await?;
    let cookie = session_cookie_of(&app, &begun)?;
    let view = SessionView {
        csrf: begun.csrf,
        name: begun.user.name,
    };
    Ok(with_cookie(cookie, Json(view)))
}

/// The cookie of a session that begins.
pub(super) fn session_cookie_of(app: &App, begun: &LoggedIn) -> Result<HeaderValue, ApiError> {
    let secure = if app.config.public_url.starts_with("https:") {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!(
        "{COOKIE}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
        begun.cookie.reveal(),
        SESSION_LIFE.num_seconds()
    );
    HeaderValue::from_str(&cookie).map_err(|e| ApiError::Internal(e.into()))
}

fn with_cookie(cookie: HeaderValue, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

/// Ends the session of the request's cookie.
#[utoipa::path(post, path = "/api/v1/logout", tag = "account", responses((status = 204), (status = 401)))]
pub async fn logout(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    accounts::log_out(&app, &caller, authenticate::session_cookie(&headers)).await?;
    let cookie = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    let cookie = HeaderValue::from_str(&cookie).map_err(|e| ApiError::Internal(e.into()))?;
    Ok(with_cookie(cookie, StatusCode::NO_CONTENT))
}

/// What the caller holds in one scope.
#[derive(Debug, Serialize, ToSchema)]
pub struct HeldView {
    /// `global`, `site:NAME` or `project:NAME`.
    pub scope: String,
    /// What is allowed there.
    pub permissions: BTreeSet<Permission>,
}

/// The caller.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// Their id.
    pub id: String,
    /// Their name.
    pub name: String,
    /// Where mail reaches them.
    pub email: Option<String>,
    /// What they may do where; for a key, what the key may.
    pub held: Vec<HeldView>,
    /// The session's second half, for pages that were loaded anew.
    pub csrf: Option<String>,
}

/// Shows who the caller is and what they may do.
#[utoipa::path(get, path = "/api/v1/me", tag = "account", responses((status = 200, body = Me), (status = 401)))]
pub async fn me(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Json<Me>, ApiError> {
    let user = crate::domain::users::get(&app, caller.user.clone()).await?;
    let csrf = match authenticate::session_cookie(&headers) {
        Some(cookie) => accounts::csrf_of(&app, cookie).await?,
        None => None,
    };
    let held = caller.held.iter().map(|held| HeldView {
        scope: held.scope.to_string(),
        permissions: held.permissions.clone(),
    });
    Ok(Json(Me {
        id: user.id,
        name: user.name,
        email: user.email,
        held: held.collect(),
        csrf,
    }))
}

/// A new password of one's own.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MeChange {
    /// The present one; empty if there is none.
    #[serde(default)]
    pub password: String,
    /// The new one: 12 characters or more.
    pub new_password: String,
}

/// Changes the caller's password; all their sessions end.
#[utoipa::path(patch, path = "/api/v1/me", tag = "account", request_body = MeChange,
    responses((status = 204), (status = 400), (status = 401), (status = 403), (status = 429)))]
pub async fn change(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(body): Body<MeChange>,
) -> Result<StatusCode, ApiError> {
    let (former, new) = (Secret::new(body.password), Secret::new(body.new_password));
    accounts::change_password(&app, &caller, former, new).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An API key to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKeyBody {
    /// Its name.
    pub name: String,
    /// What it is narrowed to; all its holder may if left out.
    pub permissions: Option<BTreeSet<Permission>>,
    /// When it ends; never if left out.
    pub expires_at: Option<DateTime<Utc>>,
}

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it is narrowed to.
    pub permissions: Option<BTreeSet<Permission>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
    /// The key itself; shown once, when it is made.
    pub key: Option<String>,
}

pub(super) fn key_view(key: logins::ApiKey, secret: Option<&Secret>) -> KeyView {
    KeyView {
        id: key.id,
        name: key.name,
        permissions: key.permissions,
        created_at: key.created_at,
        expires_at: key.expires_at,
        key: secret.map(|secret| secret.reveal().to_owned()),
    }
}

/// Lists the caller's API keys.
#[utoipa::path(get, path = "/api/v1/me/keys", tag = "account",
    responses((status = 200, body = List<KeyView>), (status = 401)))]
pub async fn keys(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<List<KeyView>>, ApiError> {
    let rows = app
        .store
        .read(move |db| logins::keys_of(db, &caller.user))
        .await?;
    let items = rows.into_iter().map(|key| key_view(key, None)).collect();
    Ok(Json(List { items, next: None }))
}

/// Makes an API key; its secret is shown this once.
#[utoipa::path(post, path = "/api/v1/me/keys", tag = "account", request_body = NewKeyBody,
    responses((status = 201, body = KeyView), (status = 400), (status = 401), (status = 409)))]
pub async fn make_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(body): Body<NewKeyBody>,
) -> Result<impl IntoResponse, ApiError> {
    let new = NewKey {
        name: body.name,
        permissions: body.permissions,
        expires_at: body.expires_at,
    };
    let (key, secret) = accounts::make_key(&app, &caller, new).await?;
    Ok((StatusCode::CREATED, Json(key_view(key, Some(&secret)))))
}

/// Removes an API key, by id or name.
#[utoipa::path(delete, path = "/api/v1/me/keys/{key}", tag = "account", params(("key" = String, Path)),
    responses((status = 204), (status = 401), (status = 404)))]
pub async fn remove_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    accounts::remove_key(&app, &caller, key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// An SSH key to be added.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSshKeyBody {
    /// Its name.
    pub name: String,
    /// One line of OpenSSH's public form.
    pub public_key: String,
}

/// An SSH key.
#[derive(Debug, Serialize, ToSchema)]
pub struct SshKeyView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// One line of OpenSSH's public form.
    pub public_key: String,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

fn ssh_key_view(key: logins::SshKey) -> SshKeyView {
    SshKeyView {
        id: key.id,
        name: key.name,
        public_key: key.public_key,
        created_at: key.created_at,
    }
}

/// Lists the caller's SSH keys.
#[utoipa::path(get, path = "/api/v1/me/ssh-keys", tag = "account",
    responses((status = 200, body = List<SshKeyView>), (status = 401)))]
pub async fn ssh_keys(
    State(app): State<Arc<App>>,
    caller: Caller,
) -> Result<Json<List<SshKeyView>>, ApiError> {
    let rows = app
        .store
        .read(move |db| logins::ssh_keys_of(db, &caller.user))
        .await?;
    let items = rows.into_iter().map(ssh_key_view).collect();
    Ok(Json(List { items, next: None }))
}

/// Adds an SSH key, to be named when instances are asked for.
#[utoipa::path(post, path = "/api/v1/me/ssh-keys", tag = "account", request_body = NewSshKeyBody,
    responses((status = 201, body = SshKeyView), (status = 400), (status = 401), (status = 409)))]
pub async fn add_ssh_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(body): Body<NewSshKeyBody>,
) -> Result<impl IntoResponse, ApiError> {
    let key = accounts::add_ssh_key(&app, &caller, body.name, body.public_key).await?;
    Ok((StatusCode::CREATED, Json(ssh_key_view(key))))
}

/// Removes an SSH key, by id or name.
#[utoipa::path(delete, path = "/api/v1/me/ssh-keys/{key}", tag = "account", params(("key" = String, Path)),
    responses((status = 204), (status = 401), (status = 404)))]
pub async fn remove_ssh_key(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    accounts::remove_ssh_key(&app, &caller, key).await?;
    Ok(StatusCode::NO_CONTENT)
}
