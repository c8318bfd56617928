//! `/api/v1/jobs`

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    inventory::Disk,
    report::{Failure, Outcome, StepReport, TimelineEvent},
};
use utoipa::{IntoParams, ToSchema};

use super::{List, Page, Path, Query, ordering, since};
use crate::{
    access::{Caller, Permission},
    app::App,
    domain::{self, jobs::Followed},
    error::ApiError,
    store::{
        job_lists::{self, Filter},
        jobs::Job,
    },
    workflow::state::{JobKind, JobState},
};

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// The instance it is for; none if it works on a machine alone.
    pub instance: Option<String>,
    /// Where.
    pub site: String,
    /// On which machine.
    pub machine: Option<String>,
    /// What it is for.
    pub kind: JobKind,
    /// Its rank among those that wait.
    pub priority: i64,
    /// Why it waits, if it does.
    pub waiting: Option<String>,
    /// Its state.
    pub state: JobState,
    /// Since when it is in its state; null where nothing tells.
    pub state_since: Option<DateTime<Utc>>,
    /// Why it failed.
    #[schema(value_type = Option<Object>)]
    pub failure: Option<Failure>,
    /// When it fails at the latest.
    pub deadline: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// Revision of its last report; 0 before the first.
    pub revision: u64,
    /// How its report says it stands.
    #[schema(value_type = Option<Object>)]
    pub outcome: Option<Outcome>,
    /// The disk that was chosen.
    #[schema(value_type = Option<Object>)]
    pub disk: Option<Disk>,
    /// Every step.
    #[schema(value_type = Vec<Object>)]
    pub steps: Vec<StepReport>,
    /// What was seen of the machine, oldest first.
    #[schema(value_type = Vec<Object>)]
    pub events: Vec<TimelineEvent>,
}

/// A job's view, with its last report.
pub(super) fn view((job, report): Followed) -> JobView {
    let Job {
        id,
        instance,
        site,
        machine,
        state,
        failure,
        deadline,
        created_at,
        finished_at,
        kind,
        priority,
        waiting,
    } = job;
    let (revision, report) = report.map_or((0, None), |(revision, report)| (revision, Some(report)));
    let (outcome, disk, steps, events) = match report {
        Some(report) => (Some(report.outcome), report.disk, report.steps, report.events),
        None => (None, None, Vec::new(), Vec::new()),
    };
    JobView {
        id: id.to_string(),
        instance: instance.map(|i| i.to_string()),
        site: site.to_string(),
        machine: machine.map(|m| m.to_string()),
        kind,
        priority,
        waiting,
        state,
        state_since: None,
        failure,
        deadline,
        created_at,
        finished_at,
        revision,
        outcome,
        disk,
        steps,
        events,
    }
}

/// Which jobs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct JobFilter {
    /// Of one site
    pub site: Option<String>,
    /// In one state
    pub state: Option<JobState>,
    /// Whose id begins with this text, or whose machine's or instance's name holds it, in small or great letters; looks at
    /// each job
    pub q: Option<String>,
    /// Order: `created_at`, `state` or `site`, with a leading `-` for the other way round; newest first if left out. A cursor
    /// goes with its order
    pub sort: Option<String>,
}

/// A job's value of what a list is ordered by.
fn value(job: &JobView, word: &str) -> String {
    match word {
        "state" => job.state.word().to_owned(),
        "site" => job.site.clone(),
        _ => job.created_at.timestamp_micros().to_string(),
    }
}

/// Lists jobs, newest first or in another order, without their steps.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(Page, JobFilter),
    responses((status = 200, body = List<JobView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(page): Query<Page>,
    Query(filter): Query<JobFilter>,
) -> Result<Json<List<JobView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let order = ordering::order(job_lists::KEYS, filter.sort.as_deref(), &cursor)?;
    let asked = order.clone();
    let filter = Filter {
        site: filter.site,
        state: filter.state,
        q: ordering::words(filter.q)?,
    };
    let visible = caller.visible(Permission::JobsRead);
    let items = app.store.read(move |db| {
        let rows = match &asked {
            Some(order) => job_lists::sorted(db, (&filter, &visible), order, limit)?,
            None => job_lists::page(db, (&filter, &visible), &cursor, limit)?,
        };
        let mut views: Vec<JobView> = rows.into_iter().map(|job| view((job, None))).collect();
        since::date(db, &mut views)?;
        Ok::<_, ApiError>(views)
    });
    let next = |job: &JobView| match &order {
        Some(order) => ordering::cursor(order, &value(job, order.key.word), &job.id),
        None => job.id.clone(),
    };
    Ok(Json(List::page(items.await?, limit, next)))
}

/// Waiting for news.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct Wait {
    /// Answer once the report is newer than this
    pub after_revision: Option<u64>,
    /// Wait at most so many seconds, up to 60
    pub wait_s: u64,
}

/// Shows a job with its steps; waits for news if asked to.
#[utoipa::path(get, path = "/api/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path), Wait),
    responses((status = 200, body = JobView), (status = 404)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
) -> Result<Json<JobView>, ApiError> {
    let found = match wait.after_revision {
        Some(after) => {
            domain::jobs::follow(&app, &caller, id, after, Duration::from_secs(wait.wait_s.min(60))).await?
        }
        None => domain::jobs::get(&app, &caller, id).await?,
    };
    Ok(Json(since::dated(&app, view(found)).await?))
}

/// Calls a job off; its machine is left alone from then on.
#[utoipa::path(post, path = "/api/v1/jobs/{job}/cancel", tag = "jobs", params(("job" = String, Path)),
    responses((status = 202, body = JobView), (status = 404), (status = 409)))]
pub async fn cancel(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let job = domain::jobs::cancel(&app, &caller, id).await?;
    let view = since::dated(&app, view((job, None))).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// Takes a failed job up again, at the step that failed.
#[utoipa::path(post, path = "/api/v1/jobs/{job}/retry", tag = "jobs", params(("job" = String, Path)),
    responses((status = 202, body = JobView), (status = 403), (status = 404), (status = 409)))]
pub async fn retry(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let job = domain::instances::retry(&app, &caller, id).await?;
    let view = since::dated(&app, view((job, None))).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}
