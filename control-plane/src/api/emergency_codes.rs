//! `/api/v1/sites/{site}/emergency-code`

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::Path;
use crate::{access::Caller, app::App, domain::offline, error::ApiError};

/// An emergency code; it is shown this once.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmergencyCodeView {
    /// What `slipway-edge local` asks for.
    pub code: String,
}

/// Makes the site's emergency code, in place of the one it had: by it, machines are operated at the site while it is cut off.
#[utoipa::path(post, path = "/api/v1/sites/{site}/emergency-code", tag = "sites", params(("site" = String, Path)),
    responses((status = 201, body = EmergencyCodeView), (status = 404)))]
pub async fn make(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let code = offline::make_code(&app, &caller, site).await?;
    let code = code.reveal().to_owned();
    Ok((StatusCode::CREATED, Json(EmergencyCodeView { code })))
}

/// Takes the site's emergency code back: as soon as the site knows, nothing can be done there without the control plane.
#[utoipa::path(delete, path = "/api/v1/sites/{site}/emergency-code", tag = "sites", params(("site" = String, Path)),
    responses((status = 204), (status = 404)))]
pub async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
) -> Result<StatusCode, ApiError> {
    offline::revoke_code(&app, &caller, site).await?;
    Ok(StatusCode::NO_CONTENT)
}
