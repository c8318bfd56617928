//! `/api/v1/auth/oidc`: logging in by single sign-on.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{
    Body, Query,
    account::{KeyView, key_view, session_cookie_of},
};
use crate::{
    access::{authenticate::cookie_named, caller::address_word},
    app::App,
    domain::sso::{self, Ended, KeyWish, Returned, Waiting},
    error::ApiError,
};

/// Name of the cookie that a log-in is kept in meanwhile.
const COOKIE: &str = "slipway_sso";
/// Where that cookie is sent.
const PATH: &str = "/api/v1/auth/oidc";

/// How a log-in begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LoginQuery {
    /// Where the browser goes afterwards: a path of this site; `/` if left out
    pub next: Option<String>,
    /// Of a command line that waits on 127.0.0.1: its port
    pub port: Option<u16>,
    /// Of a command line: SHA-256 of the secret it will show for the code, base64url without padding
    pub challenge: Option<String>,
}

fn cookie(app: &App, value: &str, seconds: i64) -> Result<HeaderValue, ApiError> {
    let secure = if app.config.public_url.starts_with("https:") {
        "; Secure"
    } else {
        ""
    };
    // Lax: the browser comes back from the provider's site.
    let text = format!("{COOKIE}={value}; Path={PATH}; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).map_err(|e| ApiError::Internal(e.into()))
}

fn redirect(status: StatusCode, to: &str) -> Result<Response, ApiError> {
    let to = HeaderValue::from_str(to).map_err(|e| ApiError::Internal(e.into()))?;
    let headers = [
        (header::LOCATION, to),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((status, headers).into_response())
}

/// Sends the browser to the single sign-on provider.
#[utoipa::path(get, path = "/api/v1/auth/oidc/login", tag = "account", params(LoginQuery),
    responses((status = 302, description = "to the provider"), (status = 400), (status = 409), (status = 429),
        (status = 502)))]
pub async fn login(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Query(query): Query<LoginQuery>,
) -> Result<Response, ApiError> {
    let waiting = match (query.port, query.challenge) {
        (None, None) => None,
        (Some(port), Some(challenge)) => Some(Waiting { port, challenge }),
        _ => {
            return Err(ApiError::Bad(
                "query",
                "`port` and `challenge` go together".to_owned(),
            ));
        }
    };
    // Of another bucket than the log-ins that this leads to: each of them has had its beginning.
    let key = format!("begun {}", address_word(Some(peer.ip())));
    if !app.logins.take(&key, std::time::Instant::now()) {
        return Err(ApiError::TooMany("too many log-ins".to_owned()));
    }
    let (url, kept) = sso::begin(&app, query.next, waiting).await?;
    let mut response = redirect(StatusCode::FOUND, &url)?;
    let kept = cookie(&app, kept.reveal(), sso::PATIENCE.num_seconds())?;
    response.headers_mut().append(header::SET_COOKIE, kept);
    Ok(response)
}

/// What the provider sends the browser back with.
#[derive(Debug, Deserialize, IntoParams)]
pub struct CallbackQuery {
    /// Good for one ID token
    pub code: Option<String>,
    /// As it was sent there
    pub state: Option<String>,
    /// Who says so
    pub iss: Option<String>,
    /// Why there is no code
    pub error: Option<String>,
}

/// Ends a log-in: sets the session's cookie and sends the browser on, or takes a code to a waiting command line.
#[utoipa::path(get, path = "/api/v1/auth/oidc/callback", tag = "account", params(CallbackQuery),
    responses((status = 303, description = "logged in"), (status = 400), (status = 403), (status = 409),
        (status = 429), (status = 502)))]
pub async fn callback(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(query): Query<CallbackQuery>,
) -> Result<Response, ApiError> {
    let returned = Returned {
        code: query.code,
        state: query.state,
        issuer: query.iss,
        error: query.error,
    };
    let kept = cookie_named(&headers, COOKIE);
    let ended = sso::end(&app, kept, returned, address_word(Some(peer.ip()))).await?;
    let mut response = match &ended {
        Ended::Session(_, next) => redirect(StatusCode::SEE_OTHER, next)?,
        Ended::Terminal(url) => redirect(StatusCode::SEE_OTHER, url)?,
    };
    let cookies = response.headers_mut();
    cookies.append(header::SET_COOKIE, cookie(&app, "", 0)?);
    if let Ended::Session(begun, _) = &ended {
        cookies.append(header::SET_COOKIE, session_cookie_of(&app, begun)?);
    }
    Ok(response)
}

/// A code that the browser brought to a command line.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodeBody {
    /// The code.
    pub code: String,
    /// The secret whose SHA-256 the log-in began with.
    pub verifier: String,
    /// Name of the API key; an older one of that name is replaced.
    pub name: String,
}

/// Makes an API key for a command line whose user has logged in by single sign-on.
#[utoipa::path(post, path = "/api/v1/auth/oidc/key", tag = "account", request_body = CodeBody,
    responses((status = 201, body = KeyView), (status = 400), (status = 401), (status = 429)))]
pub async fn key(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(body): Body<CodeBody>,
) -> Result<impl IntoResponse, ApiError> {
    let address = address_word(Some(peer.ip()));
    if !app.logins.take(&address, std::time::Instant::now()) {
        return Err(ApiError::TooMany("too many log-ins".to_owned()));
    }
    let wish = KeyWish {
        code: body.code,
        verifier: body.verifier,
        name: body.name,
    };
    let (key, secret) = sso::key_for_code(&app, wish, address).await?;
    Ok((StatusCode::CREATED, Json(key_view(key, Some(&secret)))))
}
