//! `/api/v1/instances`

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::{Digest, JobId},
    inventory::DiskRule,
    seal::Secret,
};
use utoipa::{IntoParams, ToSchema};

use super::{Body, Path, Query, jobs::JobView, parse, since};
use crate::{
    access::Caller,
    app::App,
    domain::{
        self,
        instances::{Anew, InstanceChange, NewInstance, Repeatable, UserDataCheck, Work},
        limits::limit_s,
    },
    error::ApiError,
    store::{
        Database, StoreError, StoreResult, images,
        instances::Instance,
        jobs::{self, Job},
        machines,
    },
    workflow::state::{InstanceState, JobKind},
};

/// An instance to be made.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInstanceBody {
    /// The project it is in; `default` if left out.
    #[serde(default = "default_project")]
    pub project: String,
    /// Its rank among those that wait, -100 to 100: higher ones go first.
    #[serde(default)]
    pub priority: i64,
    /// Host name.
    #[serde(default)]
    #[schema(required = true)]
    pub name: String,
    /// Where.
    pub site: String,
    /// Image by id or name.
    pub image: String,
    /// A machine by id or name; any free one that fits otherwise.
    pub machine: Option<String>,
    /// Only a machine of this type.
    #[serde(default)]
    pub machine_type: Option<String>,
    /// Only a machine with these labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Which disk; it must fit exactly one. A kernel name such as sda cannot be given.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub disk: DiskRule,
    /// The user to make.
    #[serde(default = "default_user")]
    pub user: String,
    /// Public SSH keys for that user, or names of the caller's own.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// cloud-init user-data; a byte order mark and blank lines before its first line are taken off.
    pub user_data: Option<String>,
    /// Whether it is looked at as cloud-init would; `off` if it is for something else.
    #[serde(default)]
    pub user_data_check: UserDataCheck,
}

fn default_project() -> String {
    "default".to_owned()
}

fn default_user() -> String {
    "debian".to_owned()
}

/// The machine an instance is on.
#[derive(Debug, Serialize, ToSchema)]
pub struct MachineRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: String,
}

/// The image of an instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct ImageRef {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
}

/// An instance.
#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceView {
    /// Its id.
    pub id: String,
    /// The project it is in.
    pub project: String,
    /// Host name.
    pub name: String,
    /// Where.
    pub site: String,
    /// On which machine.
    pub machine: Option<MachineRef>,
    /// Its image.
    pub image: ImageRef,
    /// Its state.
    pub state: InstanceState,
    /// Since when it is in its state; null where nothing tells.
    pub state_since: Option<DateTime<Utc>>,
    /// For how many seconds it may be in its state; longer, and it is stuck. Null for a state of rest.
    pub state_limit_s: Option<i64>,
    /// Whether it is locked against change.
    pub locked: bool,
    /// What it failed during, if it has failed.
    pub failed_during: Option<JobKind>,
    /// Why it failed.
    pub reason: Option<String>,
    /// Why it waits, if it does.
    pub waiting: Option<String>,
    /// Its last job.
    pub job: String,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
}

fn view(db: &mut Database, instance: Instance) -> StoreResult<InstanceView> {
    let gone = || StoreError::Row("an instance is lost on its way".to_owned());
    views(db, vec![instance])?.pop().ok_or_else(gone)
}

/// The views of a page, by four queries however long it is.
pub(super) fn views(db: &mut Database, page: Vec<Instance>) -> StoreResult<Vec<InstanceView>> {
    let ids = page.iter().filter_map(|i| i.machine.map(|id| id.to_string()));
    let machines = machines::names(db, ids.collect())?;
    let images = images::names(db, page.iter().map(|i| i.image.to_string()).collect())?;
    let jobs = jobs::of_ids(db, page.iter().map(|i| i.job.to_string()).collect())?;
    let jobs: HashMap<JobId, Job> = jobs.into_iter().map(|job| (job.id, job)).collect();
    let view = |instance: Instance| {
        let machine = instance.machine.and_then(|id| {
            let id = id.to_string();
            let (name, address) = machines.get(&id)?.clone();
            Some(MachineRef { id, name, address })
        });
        let image = instance.image.to_string();
        let job = jobs.get(&instance.job);
        let failed = job.filter(|_| instance.state == InstanceState::Failed);
        let failure = job.and_then(|job| job.failure.as_ref());
        InstanceView {
            id: instance.id.to_string(),
            project: instance.project,
            name: instance.name,
            site: instance.site.to_string(),
            machine,
            image: ImageRef {
                name: images.get(&image).cloned(),
                id: image,
            },
            state: instance.state,
            state_since: None,
            state_limit_s: limit_s("instance", instance.state.word()),
            locked: instance.locked,
            failed_during: failed.map(|job| job.kind),
            waiting: job.and_then(|job| job.waiting.clone()),
            reason: failure.map(|f| format!("{}: {}", f.code, f.message)),
            job: instance.job.to_string(),
            created_at: instance.created_at,
        }
    };
    let mut views: Vec<InstanceView> = page.into_iter().map(view).collect();
    since::date(db, &mut views)?;
    Ok(views)
}

/// An instance and the job that works on it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Accepted {
    /// The instance.
    pub instance: InstanceView,
    /// The job.
    pub job: JobView,
}

pub(super) async fn accepted(
    app: &App,
    (instance, job): (Instance, jobs::Job),
) -> Result<Accepted, ApiError> {
    let read = app.store.read(move |db| {
        let mut job = super::jobs::view((job, None));
        since::date(db, std::slice::from_mut(&mut job))?;
        let instance = view(db, instance)?;
        Ok::<_, ApiError>(Accepted { instance, job })
    });
    read.await
}

/// The same for many, by as many queries.
pub(super) async fn accepted_all(app: &App, made: Vec<(Instance, Job)>) -> Result<Vec<Accepted>, ApiError> {
    let (instances, jobs): (Vec<Instance>, Vec<Job>) = made.into_iter().unzip();
    let read = app.store.read(move |db| {
        let mut jobs: Vec<JobView> = jobs
            .into_iter()
            .map(|job| super::jobs::view((job, None)))
            .collect();
        since::date(db, &mut jobs)?;
        Ok::<_, ApiError>((views(db, instances)?, jobs))
    });
    let (views, jobs) = read.await?;
    let pairs = views.into_iter().zip(jobs);
    Ok(pairs.map(|(instance, job)| Accepted { instance, job }).collect())
}

fn answer(accepted: &Accepted) -> Response {
    let location = format!("/api/v1/jobs/{}", accepted.job.id);
    (
        StatusCode::ACCEPTED,
        [(header::LOCATION, location)],
        Json(accepted),
    )
        .into_response()
}

/// Asks for an instance; a job does the work.
#[utoipa::path(post, path = "/api/v1/instances", tag = "instances", request_body = NewInstanceBody,
    params(("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Accepted), (status = 400), (status = 404), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    headers: HeaderMap,
    Body(new): Body<NewInstanceBody>,
) -> Result<Response, ApiError> {
    let repeatable = repeatable(&headers, &new)?;
    let new = into_new(vec![new.name.clone()], new)?;
    let mut made = domain::instances::create(&app, &caller, new, repeatable).await?;
    let lost = || ApiError::Internal("no instance was made, and nothing said why".into());
    Ok(answer(&accepted(&app, made.pop().ok_or_else(lost)?).await?))
}

/// The sender's key, if the request has one.
pub(super) fn repeatable(headers: &HeaderMap, body: &impl Serialize) -> Result<Option<Repeatable>, ApiError> {
    let request = serde_json::to_vec(body).map_err(|e| ApiError::Internal(e.into()))?;
    let key = headers.get("idempotency-key").and_then(|v| v.to_str().ok());
    Ok(key.map(|key| Repeatable {
        key: key.to_owned(),
        request: Digest::of(&request).to_string(),
    }))
}

/// What is asked for, under these names.
pub(super) fn into_new(names: Vec<String>, new: NewInstanceBody) -> Result<NewInstance, ApiError> {
    Ok(NewInstance {
        project: new.project,
        priority: new.priority,
        names,
        site: parse("name", &new.site)?,
        machine: new.machine,
        machine_type: new.machine_type,
        labels: new.labels,
        image: new.image,
        disk: new.disk,
        user: new.user,
        ssh_keys: new.ssh_keys,
        user_data: new.user_data.map(Secret::new),
        user_data_check: new.user_data_check,
    })
}

/// Shows an instance, by id or name.
#[utoipa::path(get, path = "/api/v1/instances/{instance}", tag = "instances", params(("instance" = String, Path)),
    responses((status = 200, body = InstanceView), (status = 404)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<InstanceView>, ApiError> {
    let instance = domain::instances::get(&app, &caller, key).await?;
    Ok(Json(app.store.read(move |db| view(db, instance)).await?))
}

/// Gives an instance back: its machine is switched off and becomes free. Its disk is not erased yet.
#[utoipa::path(delete, path = "/api/v1/instances/{instance}", tag = "instances", params(("instance" = String, Path)),
    responses((status = 202, body = Accepted), (status = 404), (status = 409)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Response, ApiError> {
    begin(&app, &caller, key, Work::Release).await
}

pub(super) async fn begin(app: &App, caller: &Caller, key: String, what: Work) -> Result<Response, ApiError> {
    let begun = domain::instances::work(app, caller, key, what).await?;
    Ok(answer(&accepted(app, begun).await?))
}

/// What may change of an instance without work on its machine.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InstanceChangeBody {
    /// Its name; the installed system's host name follows when it is installed anew.
    pub name: Option<String>,
    /// Whether it is locked: then nothing is done with it until it is unlocked.
    pub locked: Option<bool>,
}

/// Renames, locks or unlocks an instance.
#[utoipa::path(patch, path = "/api/v1/instances/{instance}", tag = "instances", params(("instance" = String, Path)),
    request_body = InstanceChangeBody,
    responses((status = 200, body = InstanceView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<InstanceChangeBody>,
) -> Result<Json<InstanceView>, ApiError> {
    let change = InstanceChange {
        name: body.name,
        locked: body.locked,
    };
    let instance = domain::instances::update(&app, &caller, key, change).await?;
    Ok(Json(app.store.read(move |db| view(db, instance)).await?))
}

/// Switches an instance on.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/start", tag = "instances",
    params(("instance" = String, Path)),
    responses((status = 202, body = Accepted), (status = 403), (status = 404), (status = 409)))]
pub async fn start(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Response, ApiError> {
    begin(&app, &caller, key, Work::Start).await
}

/// The longest a system may be given to shut down, in seconds.
const MOST_GRACE_S: u32 = 3600;

/// How an instance is switched off.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct Grace {
    /// Seconds its system is given to shut down, 0 to 3600, 60 by default; 0 cuts the power at once
    pub grace_s: Option<u32>,
}

impl Grace {
    pub(super) fn seconds(&self) -> Result<u32, ApiError> {
        grace_or(self.grace_s, 60)
    }
}

/// How many seconds a system is given to shut down, `usual` if nothing is said.
///
/// # Errors
/// `grace_s` for more than an hour.
pub(super) fn grace_or(given: Option<u32>, usual: u32) -> Result<u32, ApiError> {
    let seconds = given.unwrap_or(usual);
    if seconds > MOST_GRACE_S {
        let detail = format!("a grace is at most {MOST_GRACE_S} s");
        return Err(ApiError::Bad("grace_s", detail));
    }
    Ok(seconds)
}

/// Switches an instance off.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/stop", tag = "instances",
    params(("instance" = String, Path), Grace),
    responses((status = 202, body = Accepted), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn stop(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Query(grace): Query<Grace>,
) -> Result<Response, ApiError> {
    begin(&app, &caller, key, Work::Stop(grace.seconds()?)).await
}

/// Switches an instance off and on.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/restart", tag = "instances",
    params(("instance" = String, Path), Grace),
    responses((status = 202, body = Accepted), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn restart(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Query(grace): Query<Grace>,
) -> Result<Response, ApiError> {
    begin(&app, &caller, key, Work::Restart(grace.seconds()?)).await
}

/// What an instance is installed anew with; what is left out stays.
#[derive(Clone, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReinstallBody {
    /// Image by id or name.
    pub image: Option<String>,
    /// Which disk.
    #[schema(value_type = Option<Object>)]
    pub disk: Option<DiskRule>,
    /// The user to make.
    pub user: Option<String>,
    /// Public SSH keys for that user, or names of the caller's own.
    pub ssh_keys: Option<Vec<String>>,
    /// cloud-init user-data; a byte order mark and blank lines before its first line are taken off.
    pub user_data: Option<String>,
    /// Whether it is looked at as cloud-init would; `off` if it is for something else.
    pub user_data_check: UserDataCheck,
    /// Whether its other disks are made to read as zeros first; they keep what they hold otherwise.
    pub wipe_data_disks: bool,
}

impl From<ReinstallBody> for Anew {
    fn from(body: ReinstallBody) -> Self {
        Self {
            image: body.image,
            disk: body.disk,
            user: body.user,
            ssh_keys: body.ssh_keys,
            user_data: body.user_data.map(Secret::new),
            user_data_check: body.user_data_check,
            wipe_data_disks: body.wipe_data_disks,
        }
    }
}

/// Installs an instance anew on its machine. Only the disk that is chosen is written, unless the others are to be wiped.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/reinstall", tag = "instances",
    params(("instance" = String, Path)), request_body = ReinstallBody,
    responses((status = 202, body = Accepted), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn reinstall(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<ReinstallBody>,
) -> Result<Response, ApiError> {
    begin(&app, &caller, key, Work::Reinstall(Box::new(body.into()))).await
}
