//! `/api/v1/overview`

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    access::Caller,
    app::App,
    domain::overview::{self, SiteTally, Tally},
    error::ApiError,
    store::overview::Stuck,
};

/// Jobs, counted.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobCounts {
    /// That wait for a machine.
    pub queued: i64,
    /// That are under way.
    pub running: i64,
    /// That failed within the last 24 hours.
    pub failed_24h: i64,
}

/// An object that is in a state of work for longer than it may.
#[derive(Debug, Serialize, ToSchema)]
pub struct StuckView {
    /// `machine`, `instance` or `job`.
    pub kind: &'static str,
    /// Its id.
    pub id: String,
    /// Its name; a job's is its id.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl From<Stuck> for StuckView {
    fn from(stuck: Stuck) -> Self {
        Self {
            kind: stuck.kind,
            id: stuck.id,
            name: stuck.name,
            state: stuck.state,
            since: stuck.since,
        }
    }
}

/// A site and what is counted there. What the caller may not see is not counted.
#[derive(Debug, Serialize, ToSchema)]
pub struct SiteOverview {
    /// Its name.
    pub name: String,
    /// Whether its edge is connected.
    pub online: bool,
    /// When its edge was last heard; null if no edge has joined.
    pub last_seen: Option<DateTime<Utc>>,
    /// For how many seconds it was not heard; an edge that is connected says something every 30 seconds.
    pub lag_s: Option<i64>,
    /// Machines, in each state that has some.
    pub machines: BTreeMap<String, i64>,
    /// Jobs.
    pub jobs: JobCounts,
    /// Alerts that are open.
    pub open_alerts: i64,
    /// What has been stuck longest.
    pub oldest_stuck: Option<StuckView>,
}

/// The same over all sites.
#[derive(Debug, Serialize, ToSchema)]
pub struct Totals {
    /// Sites.
    pub sites: usize,
    /// Sites whose edge is connected.
    pub online: usize,
    /// Machines, in each state that has some.
    pub machines: BTreeMap<String, i64>,
    /// Jobs.
    pub jobs: JobCounts,
    /// Alerts that are open, those about nothing at a site too.
    pub open_alerts: i64,
    /// What has been stuck longest.
    pub oldest_stuck: Option<StuckView>,
}

/// Everything the caller may see, counted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Overview {
    /// Each site, by name.
    pub sites: Vec<SiteOverview>,
    /// All of them.
    pub totals: Totals,
}

fn jobs(tally: &Tally) -> JobCounts {
    JobCounts {
        queued: tally.queued,
        running: tally.running,
        failed_24h: tally.failed,
    }
}

fn site(site: SiteTally) -> SiteOverview {
    SiteOverview {
        name: site.name,
        online: site.online,
        last_seen: site.last_seen,
        lag_s: site.lag_s,
        jobs: jobs(&site.tally),
        machines: site.tally.machines,
        open_alerts: site.tally.open_alerts,
        oldest_stuck: site.tally.stuck.map(StuckView::from),
    }
}

/// Counts what the caller may see, site by site and over all sites: machines by state, jobs, alerts, what is stuck.
#[utoipa::path(get, path = "/api/v1/overview", tag = "overview", responses((status = 200, body = Overview)))]
pub async fn get(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<Overview>, ApiError> {
    let (sites, totals) = overview::get(&app, &caller).await?;
    let totals = Totals {
        sites: sites.len(),
        online: sites.iter().filter(|site| site.online).count(),
        jobs: jobs(&totals),
        machines: totals.machines,
        open_alerts: totals.open_alerts,
        oldest_stuck: totals.stuck.map(StuckView::from),
    };
    let sites = sites.into_iter().map(site).collect();
    Ok(Json(Overview { sites, totals }))
}
