//! One run: many installs asked for at once, followed to their ends while the API is timed and, if asked for, processes are
//! killed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::{
    chaos::{self, Chaos},
    judge,
    listener::Listener,
    probe::{Probe, Times},
    process::Usage,
    refused::Refused,
    world::{Fleet, IMAGE, PARALLEL, Part},
};
use crate::api::Api;

/// Between two looks at the jobs.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Between two tries of a request, as long as the control plane is dead.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a request is tried again.
const OUTAGE_LIMIT: Duration = Duration::from_secs(60);

/// What is asked of a fleet.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Installs asked for at once.
    pub installs: usize,
    /// What goes wrong once all are accepted.
    pub chaos: Option<Chaos>,
    /// How long all may take.
    pub limit: Duration,
}

/// What came of it.
#[derive(Debug)]
pub struct Summary {
    /// Seconds until every request was accepted.
    pub accepted_s: f64,
    /// Seconds until every job had its machine.
    pub dispatched_s: f64,
    /// Seconds until every job had ended.
    pub ended_s: f64,
    /// Jobs by state, failed ones by code.
    pub jobs: BTreeMap<String, usize>,
    /// What the control plane used during the run.
    pub control_plane: Usage,
    /// What all edges used during the run.
    pub edges: Usage,
    /// What this process, with all simulated machines, used since it began.
    pub simulator: Usage,
    /// How long the API took.
    pub api: Vec<Times>,
    /// What was refused, by reason.
    pub refused: Refused,
    /// Kills of the control plane and of edges.
    pub kills: (u32, u32),
    /// Events heard live.
    pub events: u64,
    /// Promises that were broken.
    pub faults: Vec<String>,
}

/// Moments of a run, in seconds after its begin.
struct Moments {
    dispatched_s: f64,
    ended_s: f64,
    faults: Vec<String>,
}

/// Runs `plan` on a fleet.
///
/// # Errors
/// When requests are refused, or nothing is known of the jobs within the limit. Broken promises are no error but
/// [`Summary::faults`].
pub async fn run(fleet: &Fleet, plan: Plan) -> anyhow::Result<Summary> {
    let before = (fleet.control_plane_usage().cpu_s, fleet.edge_usage().cpu_s);
    let begun = Instant::now();
    let listener = Listener::start(&fleet.api);
    let first = ask_all(fleet, plan.installs).await?;
    let accepted_s = begun.elapsed().as_secs_f64();
    let probe = Probe::default();
    let kills = plan
        .chaos
        .map(|chaos| chaos.plan(fleet.spec.sites, fleet.spec.replicas))
        .unwrap_or_default();
    let kill_all = async {
        chaos::carry_out(fleet, &kills).await?;
        anyhow::Ok(std::future::pending::<Moments>().await)
    };
    let moments = tokio::select! {
        followed = follow(&fleet.api, begun, plan.limit) => followed?,
        () = probe.run(&fleet.api, &first) => bail!("the probe ended"),
        killed = kill_all => killed?,
    };
    let jobs = all_jobs(&fleet.api).await?;
    let mut faults = moments.faults;
    faults.extend(judge::faults(plan.installs, &jobs));
    faults.extend(fleet.ended());
    let (events, broken) = listener.stop(plan.installs).await?;
    faults.extend(broken);
    let (mut control_plane, mut edges) = (fleet.control_plane_usage(), fleet.edge_usage());
    control_plane.cpu_s -= before.0;
    edges.cpu_s -= before.1;
    Ok(Summary {
        accepted_s,
        dispatched_s: moments.dispatched_s,
        ended_s: moments.ended_s,
        jobs: judge::states(&jobs),
        control_plane,
        edges,
        simulator: Usage::of(std::process::id()),
        api: probe.times(),
        refused: fleet.refused().await,
        kills: (killed(&fleet.control_planes), killed(&fleet.edges)),
        events,
        faults,
    })
}

fn killed(parts: &[Part]) -> u32 {
    parts.iter().map(|part| part.process().kills()).sum()
}

/// Asks for all installs, spread over the sites; gives back one of the jobs.
async fn ask_all(fleet: &Fleet, installs: usize) -> anyhow::Result<String> {
    let sites = usize::from(fleet.spec.sites);
    let ask = |number: usize| async move {
        let name = format!("i-{number:05}");
        let body = json!({ "name": name, "site": format!("site-{:03}", number % sites), "image": IMAGE });
        let accepted = fleet.api.post_once("/api/v1/instances", &body, &name).await?;
        anyhow::Ok(
            accepted["job"]["id"]
                .as_str()
                .context("no job in the answer")?
                .to_owned(),
        )
    };
    let jobs: Vec<String> = futures::stream::iter((0..installs).map(ask))
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    jobs.into_iter().next().context("no install was asked for")
}

/// Follows all jobs to their ends. Outages of the control plane in between are waited out.
async fn follow(api: &Api, begun: Instant, limit: Duration) -> anyhow::Result<Moments> {
    let mut dispatched_s = None;
    let mut faults = Vec::new();
    while begun.elapsed() < limit {
        tokio::time::sleep(LOOK_EVERY).await;
        let Ok(queued) = api.get("/api/v1/jobs?state=queued&limit=1").await else {
            continue;
        };
        let Ok(running) = api.get("/api/v1/jobs?state=running&limit=1000").await else {
            continue;
        };
        let empty: Vec<Value> = Vec::new();
        let is_empty = |page: &Value| page["items"].as_array().is_some_and(Vec::is_empty);
        if is_empty(&queued) {
            dispatched_s.get_or_insert(begun.elapsed().as_secs_f64());
        }
        faults.extend(judge::shared_machines(
            running["items"].as_array().unwrap_or(&empty),
        ));
        if is_empty(&queued) && is_empty(&running) {
            break;
        }
    }
    Ok(Moments {
        dispatched_s: dispatched_s.unwrap_or(f64::INFINITY),
        ended_s: begun.elapsed().as_secs_f64(),
        faults,
    })
}

/// Every job, with its steps.
async fn all_jobs(api: &Api) -> anyhow::Result<Vec<Value>> {
    let mut jobs = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = patient(api, &format!("/api/v1/jobs?limit=500&cursor={cursor}")).await?;
        let ids = page["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|job| job["id"].as_str());
        let gets = ids.map(|id| {
            let path = format!("/api/v1/jobs/{id}");
            async move { patient(api, &path).await }
        });
        let got: Vec<Value> = futures::stream::iter(gets)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        jobs.extend(got);
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return Ok(jobs),
        }
    }
}

/// A `GET` that waits for a control plane that is dead.
async fn patient(api: &Api, path: &str) -> anyhow::Result<Value> {
    let begun = Instant::now();
    loop {
        match api.get(path).await {
            Err(error) if begun.elapsed() > OUTAGE_LIMIT => return Err(error),
            Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
            Ok(value) => return Ok(value),
        }
    }
}
