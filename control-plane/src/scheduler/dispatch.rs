//! Gives requested instances their machines, in the order that [`super::plan`] decides, and tells those that wait why.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use slipway_protocol::ids::{ImageId, InstanceId, JobId, SiteId};
use tracing::{debug, error, info};

use super::plan::{Candidate, Standing, plan};
use crate::{
    app::App,
    domain,
    error::{ApiError, chain},
    store::{
        Database, StoreResult,
        instances::{self, Cursor, Instance},
        jobs, sites,
    },
    workflow::state::InstanceState,
};

/// Instances read at once.
const PAGE: i64 = 500;
/// Sites worked on at once: dispatches at different sites have nothing to do with each other but the database, and most
/// of a dispatch is waiting for it. Most of the database is left to requests and reports.
fn parallel(app: &App) -> usize {
    (app.store.writers() / 4).max(1)
}

/// How long a failed install counts against its site.
const OF_LATE: TimeDelta = TimeDelta::minutes(30);

/// What those that wait were last told, so that nothing is written twice.
pub(super) type Told = HashMap<JobId, String>;

/// Decides who goes, lets them go, and tells the others why not.
pub(super) async fn reconcile(app: &App, told: &mut Told) -> Result<(), ApiError> {
    let waiting = all_waiting(app).await?;
    if waiting.is_empty() {
        told.clear();
        return Ok(());
    }
    let now = (app.now)();
    let most = app.config.max_installs;
    let (standing, ranks) = app.store.read(move |db| standing(db, most, now)).await?;
    let candidate = |i: &Instance| Candidate {
        instance: i.id,
        site: i.site.clone(),
        project: i.project.clone(),
        priority: ranks.get(&i.job).copied().unwrap_or(0),
        since: i.created_at,
    };
    let plan = plan(waiting.iter().map(candidate).collect(), &standing, now);
    let by_id: HashMap<InstanceId, Instance> = waiting.into_iter().map(|i| (i.id, i)).collect();
    let mut by_site: BTreeMap<SiteId, Vec<Instance>> = BTreeMap::new();
    for instance in plan.go.iter().filter_map(|id| by_id.get(id)) {
        by_site
            .entry(instance.site.clone())
            .or_default()
            .push(instance.clone());
    }
    let sites = by_site
        .into_values()
        .map(|waiting| dispatch_at_site(app, waiting));
    let refused: Vec<Vec<(InstanceId, String)>> = futures::stream::iter(sites)
        .buffer_unordered(parallel(app))
        .collect()
        .await;
    let why = plan.wait.into_iter().chain(refused.into_iter().flatten());
    let why: Told = why
        .filter_map(|(id, why)| Some((by_id.get(&id)?.job, why)))
        .collect();
    tell(app, told, why).await
}

async fn all_waiting(app: &App) -> Result<Vec<Instance>, ApiError> {
    let (mut all, mut after): (Vec<Instance>, Cursor) = (Vec::new(), None);
    loop {
        let read = move |db: &mut _| instances::in_state(db, InstanceState::Requested, after, PAGE);
        let mut page = app.store.read(read).await?;
        let Some(last) = page.last() else {
            return Ok(all);
        };
        after = Some((last.created_at, last.id));
        all.append(&mut page);
    }
}

fn standing(
    db: &mut Database,
    most: usize,
    now: DateTime<Utc>,
) -> StoreResult<(Standing, HashMap<JobId, i64>)> {
    let standing = Standing {
        running: jobs::installing(db)?,
        failed: jobs::failed_since(db, now - OF_LATE)?,
        limits: sites::limits(db)?.into_iter().collect(),
        most,
    };
    Ok((standing, jobs::priorities(db)?.into_iter().collect()))
}

/// Writes down what is new of why jobs wait.
async fn tell(app: &App, told: &mut Told, why: Told) -> Result<(), ApiError> {
    let news: Vec<(JobId, String)> = why
        .iter()
        .filter(|(job, why)| told.get(job) != Some(*why))
        .map(|(job, why)| (*job, why.clone()))
        .collect();
    if !news.is_empty() {
        let write = move |db: &mut _| {
            news.iter()
                .try_for_each(|(job, why)| jobs::set_waiting(db, *job, why))
        };
        app.store.transaction(write).await?;
    }
    *told = why;
    Ok(())
}

/// What those have in common that the same machines will do for: project, image, type and labels.
type Alike = (String, ImageId, Option<String>, BTreeMap<String, String>);

fn alike(instance: &Instance) -> Alike {
    let (machine_type, labels) = (instance.wish.machine_type.clone(), instance.wish.labels.clone());
    (instance.project.clone(), instance.image, machine_type, labels)
}

/// Dispatches what may go at one site; answers who could not, and why.
async fn dispatch_at_site(app: &App, waiting: Vec<Instance>) -> Vec<(InstanceId, String)> {
    let mut refused = Vec::new();
    let mut full: HashMap<Alike, String> = HashMap::new();
    for instance in waiting {
        // A site without a free machine has none for the next one that asks for the same; there may be thousands that wait.
        let any_machine = instance.wish.machine.is_none();
        let alike = any_machine.then(|| alike(&instance));
        if let Some(why) = alike.as_ref().and_then(|alike| full.get(alike)) {
            refused.push((instance.id, why.clone()));
            continue;
        }
        match domain::instances::dispatch(app, instance.id).await {
            Ok(Ok(site)) => info!(instance = %instance.id, job = %instance.job, %site, "dispatched"),
            Ok(Err(why)) => {
                debug!(instance = %instance.id, why, "waiting");
                refused.push((instance.id, why.clone()));
                if let Some(alike) = alike {
                    full.insert(alike, why);
                }
            }
            // One that cannot be dispatched must not hold up all that came after it.
            Err(failure) => {
                error!(instance = %instance.id, error = %chain(&failure), "cannot be dispatched; trying again");
                refused.push((
                    instance.id,
                    "it cannot be dispatched; the control plane's log says why".to_owned(),
                ));
            }
        }
    }
    refused
}
