//! `/api/v1/jobs/{job}/log`

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Path, Query};
use crate::{access::Caller, app::App, domain, error::ApiError};

/// Which part of a log.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct Which {
    /// What follows this place, in bytes: `next` of the part before; 0 for the begin
    pub after: u64,
    /// Wait at most so many seconds for something to follow it, up to 60
    pub wait_s: u64,
}

/// A part of a job's log. A log is for people: it may have gaps.
#[derive(Debug, Serialize, ToSchema)]
pub struct LogView {
    /// The text, whole lines as a rule; at most 64 KiB of it.
    pub text: String,
    /// Where it begins in the job's log, in bytes.
    pub offset: u64,
    /// Where it ends: ask for what follows this.
    pub next: u64,
    /// How many bytes before it are missing: they were lost on the way, or fell out of a log that is too long.
    pub missing: u64,
    /// The job has ended, and nothing follows any more.
    pub ended: bool,
}

/// Shows what edge and agent said while they worked on a job; waits for more if asked to. Kept for 30 days after the job's
/// end, the newest 256 KiB.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/log", tag = "jobs", params(("job" = String, Path), Which),
    responses((status = 200, body = LogView), (status = 404)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<LogView>, ApiError> {
    let wait = Duration::from_secs(which.wait_s.min(60));
    let part = domain::job_logs::follow(&app, &caller, id, which.after, wait).await?;
    Ok(Json(LogView {
        offset: part.piece.offset,
        next: part.piece.end(),
        missing: part.missing,
        ended: part.ended,
        text: part.piece.text,
    }))
}
