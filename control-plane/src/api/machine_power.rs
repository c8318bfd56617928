//! `/api/v1/machines/{machine}/power`: a machine's power, by its BMC.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{Body, Path, instances::grace_or, jobs::JobView};
use crate::{access::Caller, app::App, domain, error::ApiError, workflow::machine_power::Ask};

/// How long a system is given to shut down if nothing else is said, in seconds.
const GRACE_S: u32 = 30;

/// What is asked of the machine's BMC.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerBody {
    /// What to do.
    #[serde(rename = "do")]
    pub ask: Ask,
    /// How many seconds a system is given to shut down before its power is cut, for `off` and `restart`; 0 cuts it at once, and
    /// 30 are given if nothing is said.
    #[schema(maximum = 3600)]
    pub grace_s: Option<u32>,
}

/// Switches a machine that holds no instance on or off, or reads how any machine's BMC is; what is read is in the machine's
/// `bmc_state` when the job is done.
#[utoipa::path(post, path = "/api/v1/machines/{machine}/power", tag = "machines",
    params(("machine" = String, Path)), request_body = PowerBody,
    responses((status = 202, body = JobView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn power(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<PowerBody>,
) -> Result<impl IntoResponse, ApiError> {
    let grace_s = grace_or(body.grace_s, GRACE_S)?;
    let job = domain::machine_power::ask(&app, &caller, key, (body.ask, grace_s)).await?;
    Ok((StatusCode::ACCEPTED, Json(super::jobs::view((job, None)))))
}
