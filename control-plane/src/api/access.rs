//! Set-up, joining, health.

use std::sync::Arc;

use axum::{Json, extract::State, http::header, response::IntoResponse};
use serde::{Deserialize, Serialize};
use slipway_protocol::site::ProvenJoinRequest;
use utoipa::ToSchema;

use super::Body;
use crate::{app::App, auth, domain, error::ApiError, store::credentials};

/// What the set-up link's page sends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The one-time token printed at the first start.
    pub token: String,
    /// Who gets the API token.
    pub name: String,
}

/// An API token; it is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApiToken {
    /// Send it as `Authorization: Bearer TOKEN`.
    pub token: String,
}

/// Uses the set-up token up and gives an API token.
#[utoipa::path(post, path = "/api/v1/setup", tag = "access", request_body = Setup,
    responses((status = 200, body = ApiToken), (status = 401, description = "the token is wrong or was used")))]
pub async fn setup(State(app): State<Arc<App>>, Body(body): Body<Setup>) -> Result<Json<ApiToken>, ApiError> {
    let token = auth::new_token("slipway-api-")?;
    let (setup, api, now) = (auth::hash(&body.token), auth::hash(token.reveal()), (app.now)());
    app.store
        .transaction(move |db| {
            credentials::holder(db, &setup, "setup")?.ok_or(ApiError::Unauthorized)?;
            if !credentials::use_up(db, &setup, now)? {
                return Err(ApiError::Unauthorized);
            }
            Ok(credentials::insert(db, &api, "api", &body.name, now)?)
        })
        .await?;
    Ok(Json(ApiToken {
        token: token.reveal().to_owned(),
    }))
}

/// Lets an edge join with a one-time token; the answer is a signed envelope.
#[utoipa::path(post, path = "/api/v1/join", tag = "access", request_body = Object,
    responses((status = 200, description = "signed envelope with certificates and configuration"),
        (status = 400, description = "the token or a certificate request is refused")))]
pub async fn join(
    State(app): State<Arc<App>>,
    Body(body): Body<ProvenJoinRequest>,
) -> Result<impl IntoResponse, ApiError> {
    let payload = domain::sites::join(&app, body).await?;
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

/// Metrics in Prometheus' text form.
#[utoipa::path(get, path = "/metrics", tag = "access", responses((status = 200, description = "metrics", body = String)))]
pub async fn metrics(State(app): State<Arc<App>>) -> String {
    app.metrics.render()
}
