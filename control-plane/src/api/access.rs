//! Set-up, joining, health.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    body::Bytes,
    extract::{ConnectInfo, State},
    http::header,
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use slipway_protocol::{seal::Secret, site::ProvenJoinRequest};
use utoipa::ToSchema;

use super::{Body, Path};
use crate::{access::caller::address_word, app::App, domain, error::ApiError};

/// What the set-up link's page sends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The one-time token printed at the first start.
    pub token: String,
    /// The name of the first administrator: 1 to 63 of a-z, 0-9 and '-'.
    pub name: String,
    /// Their password, of 12 characters or more; without one they work by key alone.
    pub password: Option<String>,
}

/// Whether this control plane is still to be set up.
#[derive(Debug, Serialize, ToSchema)]
pub struct SetupView {
    /// Whether there is no user yet: the set-up token was not used.
    pub needed: bool,
    /// Whether people log in by single sign-on, at `/api/v1/auth/oidc/login`.
    pub single_sign_on: bool,
}

/// Says whether there is nobody yet who could log in; open to all, so that a page knows what to show first.
#[utoipa::path(get, path = "/api/v1/setup", tag = "access", responses((status = 200, body = SetupView)))]
pub async fn setup_state(State(app): State<Arc<App>>) -> Result<Json<SetupView>, ApiError> {
    let needed = domain::accounts::setup_needed(&app).await?;
    Ok(Json(SetupView {
        needed,
        single_sign_on: app.sso.is_some(),
    }))
}

/// An API token; it is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiToken {
    /// Send it as `Authorization: Bearer TOKEN`.
    pub token: String,
}

/// Uses the set-up token up: makes the first administrator and gives an API key of theirs.
#[utoipa::path(post, path = "/api/v1/setup", tag = "access", request_body = Setup,
    responses((status = 200, body = ApiToken), (status = 400),
        (status = 401, description = "the token is wrong or was used")))]
pub async fn setup(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(body): Body<Setup>,
) -> Result<Json<ApiToken>, ApiError> {
    let (password, address) = (body.password.map(Secret::new), address_word(Some(peer.ip())));
    let key = domain::accounts::set_up(&app, &body.token, body.name, password, address).await?;
    Ok(Json(ApiToken {
        token: key.reveal().to_owned(),
    }))
}

/// Lets an edge join with a one-time token; the answer is a signed envelope.
#[utoipa::path(post, path = "/api/v1/join", tag = "access", request_body = Object,
    responses((status = 200, description = "signed envelope with certificates and configuration"),
        (status = 400, description = "the token or a certificate request is refused")))]
pub async fn join(
    State(app): State<Arc<App>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(body): Body<ProvenJoinRequest>,
) -> Result<impl IntoResponse, ApiError> {
    let payload = domain::edges::join(&app, body, address_word(Some(peer.ip()))).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], payload))
}

/// Renews an edge's certificates; request and answer are signed envelopes.
#[utoipa::path(post, path = "/api/v1/sites/{site}/renew", tag = "access", request_body = Object,
    params(("site" = String, Path)),
    responses((status = 200, description = "signed envelope with certificates"),
        (status = 400, description = "the request is not the edge's own, or too old"), (status = 404)))]
pub async fn renew(
    State(app): State<Arc<App>>,
    Path(site): Path<String>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Result<impl IntoResponse, ApiError> {
    let payload = domain::edges::renew(&app, site, &body, address_word(Some(peer.ip()))).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], payload))
}

/// Says how an edge stands with its site, for one that cannot connect: the answer is a signed envelope.
#[utoipa::path(get, path = "/api/v1/sites/{site}/edges/{report_key}", tag = "access",
    params(("site" = String, Path), ("report_key" = String, Path, description = "the key of its reports, base64url")),
    responses((status = 200, description = "signed envelope that says `current`, `revoked` or `unknown`"),
        (status = 400), (status = 404)))]
pub async fn standing(
    State(app): State<Arc<App>>,
    Path((site, report_key)): Path<(String, String)>,
) -> Result<impl IntoResponse, ApiError> {
    let payload = domain::edges::standing(&app, site, &report_key).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], payload))
}

/// Says that the process lives and reaches its database.
#[utoipa::path(get, path = "/healthz", tag = "access", responses((status = 200, description = "ok")))]
pub async fn healthz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    app.store
        .transaction(|db| crate::store::settings::get(db, "health"))
        .await?;
    Ok("ok\n")
}

/// Says whether this control plane can do its work: a write, a message through its broker and a file were tried just now. For load
/// balancers; `/healthz` says that the process lives.
#[utoipa::path(get, path = "/readyz", tag = "access", responses((status = 200, description = "ready"),
    (status = 503, description = "`code` says what is not there: `database`, `broker`, `no_space`")))]
pub async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    domain::readiness::check(&app).await?;
    Ok("ready\n")
}

/// Metrics in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", tag = "access", responses((status = 200, description = "metrics", body = String)))]
pub async fn metrics(State(app): State<Arc<App>>) -> Result<String, ApiError> {
    Ok(app.metrics.render() + &domain::measures::text(&app).await?)
}
