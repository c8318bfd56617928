//! `/api/v1/instances/{instance}/rescue` and `.../reset-password`: the ways into an instance whose owner is locked out.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use slipway_protocol::seal::Secret;
use utoipa::ToSchema;

use super::{
    Body, Path,
    instances::{Accepted, accepted, begin},
};
use crate::{
    access::Caller,
    app::App,
    domain::{self, instances::Work},
    error::ApiError,
};

/// Who is let in.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RescueBody {
    /// Public SSH keys, or names of the caller's own; the instance's keys if left out.
    pub ssh_keys: Vec<String>,
}

/// Boots an instance's machine into the LiveOS, where the holders of the keys log in as root by SSH, at the machine's
/// address. Nothing on its disks is changed. A start, restart or stop ends the rescue.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/rescue", tag = "instances",
    params(("instance" = String, Path)), request_body = RescueBody,
    responses((status = 202, body = Accepted), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn rescue(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<RescueBody>,
) -> Result<Response, ApiError> {
    begin(&app, &caller, key, Work::Rescue(body.ssh_keys)).await
}

/// Whose password becomes which.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ResetPasswordBody {
    /// A user of the installed system; the one that was made at its install if left out.
    pub user: Option<String>,
    /// The password, of 8 characters or more; one is made if left out.
    #[schema(format = Password)]
    pub password: Option<String>,
}

/// Work that was begun, and the password it sets.
#[derive(Serialize, ToSchema)]
pub struct PasswordAccepted {
    /// The work.
    #[serde(flatten)]
    pub accepted: Accepted,
    /// The password. It is kept nowhere, so this is the only time it is shown.
    pub password: String,
}

/// Gives a user of an instance's system a new password: the machine restarts by way of the LiveOS, which changes
/// `/etc/shadow`, and boots its disk again. Systems on ext4 or XFS on plain partitions.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/reset-password", tag = "instances",
    params(("instance" = String, Path)), request_body = ResetPasswordBody,
    responses((status = 202, body = PasswordAccepted), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn reset_password(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<ResetPasswordBody>,
) -> Result<Response, ApiError> {
    let wanted = (body.user, body.password.map(Secret::new));
    let (begun, password) = domain::instances::reset_password(&app, &caller, key, wanted).await?;
    let answer = PasswordAccepted {
        accepted: accepted(&app, begun).await?,
        password: password.reveal().to_owned(),
    };
    let headers = [
        (
            header::LOCATION,
            format!("/api/v1/jobs/{}", answer.accepted.job.id),
        ),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((StatusCode::ACCEPTED, headers, Json(answer)).into_response())
}
