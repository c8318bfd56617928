//! `/api/v1/machine-types`

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, List, Path};
use crate::{
    access::Caller,
    app::App,
    domain::machine_types::{self, Fitting, Wanted},
    error::ApiError,
    store::{
        Database, StoreResult,
        machine_types::{self as table, MachineType},
    },
    workflow::classify::Rules,
};

/// What is said of a machine type.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineTypeBody {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Its rank, -1000 to 1000: of the types that fit a machine the one of the highest priority is its type. If several
    /// of the same priority fit, it has none, and says why.
    #[serde(default)]
    pub priority: i64,
    /// What its machines are like.
    pub rules: Rules,
}

impl From<MachineTypeBody> for Wanted {
    fn from(body: MachineTypeBody) -> Self {
        let MachineTypeBody {
            description,
            priority,
            rules,
        } = body;
        Self {
            description,
            priority,
            rules,
        }
    }
}

/// A machine type.
#[derive(Debug, Serialize, ToSchema)]
pub struct MachineTypeView {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its rank among types that fit.
    pub priority: i64,
    /// What its machines are like.
    pub rules: Rules,
    /// How many machines are of it.
    pub machines: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

fn view((t, machines): (MachineType, i64)) -> MachineTypeView {
    MachineTypeView {
        name: t.name,
        description: t.description,
        priority: t.priority,
        rules: t.rules,
        machines,
        created_at: t.created_at,
    }
}

/// Lists all machine types by name.
#[utoipa::path(get, path = "/api/v1/machine-types", tag = "machine types",
    responses((status = 200, body = List<MachineTypeView>)))]
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<List<MachineTypeView>>, ApiError> {
    let counted = |db: &mut Database, t: MachineType| {
        let machines = table::machines_of(db, &t.name)?;
        Ok(view((t, machines)))
    };
    let items = app.store.read(move |db| {
        let all = table::all(db)?;
        all.into_iter()
            .map(|t| counted(db, t))
            .collect::<StoreResult<Vec<_>>>()
    });
    Ok(Json(List {
        items: items.await?,
        next: None,
    }))
}

/// Shows a machine type.
#[utoipa::path(get, path = "/api/v1/machine-types/{machine_type}", tag = "machine types",
    params(("machine_type" = String, Path)), responses((status = 200, body = MachineTypeView), (status = 404)))]
pub async fn get(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<MachineTypeView>, ApiError> {
    Ok(Json(view(machine_types::get(&app, name).await?)))
}

/// Makes or replaces a machine type, and gives machines their types by it; those an operator gave a type keep it.
#[utoipa::path(put, path = "/api/v1/machine-types/{machine_type}", tag = "machine types",
    params(("machine_type" = String, Path)), request_body = MachineTypeBody,
    responses((status = 200, body = MachineTypeView), (status = 400), (status = 403), (status = 409)))]
pub async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(body): Body<MachineTypeBody>,
) -> Result<Json<MachineTypeView>, ApiError> {
    machine_types::set(&app, &caller, name.clone(), body.into()).await?;
    Ok(Json(view(machine_types::get(&app, name).await?)))
}

/// Removes a machine type; its machines get the next one that fits.
#[utoipa::path(delete, path = "/api/v1/machine-types/{machine_type}", tag = "machine types",
    params(("machine_type" = String, Path)),
    responses((status = 204), (status = 403), (status = 404), (status = 409)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    machine_types::delete(&app, &caller, name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What is to be tried.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreviewBody {
    /// Rules to try; those of the type if left out.
    pub rules: Option<Rules>,
    /// The rank to try the rules with.
    pub priority: i64,
}

/// A machine that fits.
#[derive(Debug, Serialize, ToSchema)]
pub struct FittingView {
    /// The machine.
    pub machine: String,
    /// Where it stands.
    pub site: String,
    /// The type it has now.
    pub machine_type: Option<String>,
    /// Whether an operator gave it its type, so that rules do not change it.
    pub pinned: bool,
    /// The type it would have.
    pub becomes: Option<String>,
    /// Why it would have none.
    pub reason: Option<String>,
}

fn fitting(fitting: Fitting) -> FittingView {
    let Fitting { machine, becomes } = fitting;
    FittingView {
        machine: machine.name,
        site: machine.site.to_string(),
        machine_type: machine.class.machine_type,
        pinned: becomes.pinned,
        becomes: becomes.machine_type,
        reason: becomes.reason,
    }
}

/// What was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct PreviewView {
    /// How many machines fit.
    pub count: usize,
    /// The first 1000 of them, by name.
    pub items: Vec<FittingView>,
}

/// Says which machines a type fits, or would fit with other rules. Changes nothing.
#[utoipa::path(post, path = "/api/v1/machine-types/{machine_type}/preview", tag = "machine types",
    params(("machine_type" = String, Path)), request_body = PreviewBody,
    responses((status = 200, body = PreviewView), (status = 400), (status = 404)))]
pub async fn preview(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(body): Body<PreviewBody>,
) -> Result<Json<PreviewView>, ApiError> {
    let wanted = body.rules.map(|rules| Wanted {
        description: String::new(),
        priority: body.priority,
        rules,
    });
    let (count, found) = machine_types::preview(&app, &caller, name, wanted).await?;
    let items = found.into_iter().map(fitting).collect();
    Ok(Json(PreviewView { count, items }))
}
