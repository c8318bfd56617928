//! `/api/v1/instances/plan` and `/api/v1/instances/{instance}/reinstall/plan`: what would be done, before it is.

use std::sync::Arc;

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use slipway_protocol::inventory::Disk;
use utoipa::ToSchema;

use super::{
    Body, Path,
    instances::{ImageRef, MachineRef, NewInstanceBody, ReinstallBody, into_new},
};
use crate::{
    access::Caller,
    app::App,
    domain::{
        self,
        instances::{Held, On, Plan},
    },
    error::ApiError,
    store::images,
};

/// Why no disk can be named.
#[derive(Debug, Serialize, ToSchema)]
pub struct NoDiskView {
    /// `not_inspected`, or what the job would fail with: `disk_ambiguous`, `disk_not_found`, `disk_nameless`.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

/// What was installed on the disk last.
#[derive(Debug, Serialize, ToSchema)]
pub struct LastInstallView {
    /// Name of the instance; null if it was one that the caller may not see.
    pub instance: Option<String>,
    /// Name of its image.
    pub image: Option<String>,
    /// The job that wrote it; null likewise.
    pub job: Option<String>,
    /// How that job stands; one that failed may have written a part. Null likewise.
    pub job_state: Option<String>,
    /// When it was asked for.
    pub at: DateTime<Utc>,
}

/// A step that would be taken.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanStep {
    /// Its id.
    pub id: String,
    /// Who does it: `driver`, `dhcp`, `boot`, `image`, `agent`.
    #[schema(value_type = String)]
    pub role: slipway_protocol::order::Role,
    /// The steps that must be done before.
    pub needs: Vec<String>,
}

/// What would be done now. Nothing was.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlanView {
    /// The instance's name.
    pub name: String,
    /// Where.
    pub site: String,
    /// The machine that would be taken.
    pub machine: Option<MachineRef>,
    /// Why none would be, yet.
    pub waiting: Option<String>,
    /// The disk that would be written, by what an agent last saw of the machine.
    #[schema(value_type = Option<Object>)]
    pub disk: Option<Disk>,
    /// Why none can be named.
    pub no_disk: Option<NoDiskView>,
    /// What Slipway itself wrote to that disk last; null does not say that it is empty.
    pub held: Option<LastInstallView>,
    /// The image that would be written.
    pub image: ImageRef,
    /// The steps, in their order; none without a machine.
    pub steps: Vec<PlanStep>,
}

fn held(last: Held) -> LastInstallView {
    match last {
        Held::Known(last) => LastInstallView {
            instance: Some(last.instance),
            image: last.image,
            job: Some(last.job),
            job_state: Some(last.state),
            at: last.at,
        },
        Held::OfOthers { at } => LastInstallView {
            instance: None,
            image: None,
            job: None,
            job_state: None,
            at,
        },
    }
}

fn view(plan: Plan, image: Option<String>) -> PlanView {
    let mut view = PlanView {
        name: plan.instance.name,
        site: plan.instance.site.to_string(),
        machine: None,
        waiting: None,
        disk: None,
        no_disk: None,
        held: None,
        image: ImageRef {
            id: plan.instance.image.to_string(),
            name: image,
        },
        steps: Vec::new(),
    };
    match plan.on {
        Err(why) => view.waiting = Some(why),
        Ok(on) => {
            let On {
                machine,
                disk,
                held: last,
                steps,
            } = *on;
            view.machine = Some(MachineRef {
                id: machine.id.to_string(),
                name: machine.name,
                address: machine.address.to_string(),
            });
            match disk {
                Ok(disk) => view.disk = Some(disk),
                Err((code, detail)) => view.no_disk = Some(NoDiskView { code, detail }),
            }
            view.held = last.map(held);
            let step = |step: slipway_protocol::order::Step| PlanStep {
                id: step.id.to_string(),
                role: step.role,
                needs: step.needs.iter().map(ToString::to_string).collect(),
            };
            view.steps = steps.into_iter().map(step).collect();
        }
    }
    view
}

async fn named(app: &App, plan: Plan) -> Result<Json<PlanView>, ApiError> {
    let image = plan.instance.image.to_string();
    let mut names = app
        .store
        .read({
            let image = image.clone();
            move |db| images::names(db, vec![image])
        })
        .await?;
    Ok(Json(view(plan, names.remove(&image))))
}

/// Says what asking for an instance would do now: machine, disk, what is on it, steps. Changes nothing. Those that wait
/// with a higher priority, and the limits of the site, are not looked at.
#[utoipa::path(post, path = "/api/v1/instances/plan", tag = "instances", request_body = NewInstanceBody,
    responses((status = 200, body = PlanView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(new): Body<NewInstanceBody>,
) -> Result<Json<PlanView>, ApiError> {
    let new = into_new(vec![new.name.clone()], new)?;
    named(&app, domain::instances::plan_create(&app, &caller, new).await?).await
}

/// Says what installing an instance anew would do now. Changes nothing.
#[utoipa::path(post, path = "/api/v1/instances/{instance}/reinstall/plan", tag = "instances",
    params(("instance" = String, Path)), request_body = ReinstallBody,
    responses((status = 200, body = PlanView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn reinstall(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<ReinstallBody>,
) -> Result<Json<PlanView>, ApiError> {
    let plan = domain::instances::plan_reinstall(&app, &caller, key, body.into()).await?;
    named(&app, plan).await
}
