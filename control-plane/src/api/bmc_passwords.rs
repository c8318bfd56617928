//! `/api/v1/machines/{machine}/bmc-password`: another password for a machine's BMC. No password goes in, and none comes out.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};

use super::{Path, jobs::JobView};
use crate::{access::Caller, app::App, domain, error::ApiError};

/// Gives a machine's BMC a new password, which is made here and shown to nobody. The machine itself is not touched.
#[utoipa::path(post, path = "/api/v1/machines/{machine}/bmc-password", tag = "machines",
    params(("machine" = String, Path)),
    responses((status = 202, body = JobView), (status = 403), (status = 404), (status = 409)))]
pub async fn rotate(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let job = domain::bmc_passwords::rotate(&app, &caller, key).await?;
    Ok((StatusCode::ACCEPTED, Json(super::jobs::view((job, None)))))
}
