//! `/api/v1/projects`

use std::{collections::HashMap, sync::Arc};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, List, Page, Path, Query};
use crate::{
    access::{Caller, Permission, Scope, Visible},
    app::App,
    domain,
    error::ApiError,
    store::{
        Database, StoreError, StoreResult,
        projects::{self, Project},
        users,
    },
};

/// A project to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProjectBody {
    /// Its name: 1 to 63 of a-z, 0-9 and '-'.
    pub id: String,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// Somebody who is in a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemberView {
    /// The user.
    pub user: String,
    /// Their role in it.
    pub role: String,
}

/// How many machines a project may hold.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuotaView {
    /// Of which type; `*` for all together.
    pub machine_type: String,
    /// At most.
    pub machines: i64,
    /// How many it holds, those it waits for included.
    pub used: i64,
}

/// A project.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProjectView {
    /// Its name.
    pub id: String,
    /// For people.
    pub description: String,
    /// Who is in it.
    pub members: Vec<MemberView>,
    /// How much it may hold.
    pub quotas: Vec<QuotaView>,
    /// How many instances it has.
    pub instances: i64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

fn view(db: &mut Database, project: Project) -> StoreResult<ProjectView> {
    let gone = || StoreError::Row("a project is lost on its way".to_owned());
    views(db, vec![project])?.pop().ok_or_else(gone)
}

/// The views of a page: three queries however long it is, and one more for each quota.
fn views(db: &mut Database, page: Vec<Project>) -> StoreResult<Vec<ProjectView>> {
    let ids: Vec<String> = page.iter().map(|project| project.id.clone()).collect();
    let scopes: Vec<Scope> = ids.iter().cloned().map(Scope::Project).collect();
    let instances = projects::instances_of_each(db, &ids)?;
    let mut members: HashMap<String, Vec<MemberView>> = HashMap::new();
    for (scope, user, role) in users::members_of_each(db, &scopes)? {
        members.entry(scope).or_default().push(MemberView { user, role });
    }
    let mut quotas: HashMap<String, Vec<QuotaView>> = HashMap::new();
    for (project, machine_type, machines) in projects::quotas_of_each(db, &ids)? {
        let used = projects::instances_of_type(db, &project, &machine_type)?;
        quotas.entry(project).or_default().push(QuotaView {
            machine_type,
            machines,
            used,
        });
    }
    let view = |(project, scope): (Project, Scope)| ProjectView {
        instances: instances.get(&project.id).copied().unwrap_or(0),
        members: members.remove(&scope.to_string()).unwrap_or_default(),
        quotas: quotas.remove(&project.id).unwrap_or_default(),
        id: project.id,
        description: project.description,
        created_at: project.created_at,
    };
    Ok(page.into_iter().zip(scopes).map(view).collect())
}

/// Lists the projects the caller may see, by name.
#[utoipa::path(get, path = "/api/v1/projects", tag = "projects", params(Page),
    responses((status = 200, body = List<ProjectView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<List<ProjectView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let only = match caller.visible(Permission::ProjectsRead) {
        Visible::All => None,
        Visible::Only { projects, .. } => Some(projects.into_iter().collect()),
    };
    let items = app.store.read(move |db| {
        let rows = projects::list(db, only, &cursor, limit)?;
        views(db, rows)
    });
    Ok(Json(List::page(items.await?, limit, |p: &ProjectView| {
        p.id.clone()
    })))
}

/// Makes a project.
#[utoipa::path(post, path = "/api/v1/projects", tag = "projects", request_body = NewProjectBody,
    responses((status = 201, body = ProjectView), (status = 400), (status = 403), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(body): Body<NewProjectBody>,
) -> Result<impl IntoResponse, ApiError> {
    let made = domain::projects::create(&app, &caller, body.id, body.description).await?;
    Ok((
        StatusCode::CREATED,
        Json(app.store.read(move |db| view(db, made)).await?),
    ))
}

/// Shows a project.
#[utoipa::path(get, path = "/api/v1/projects/{project}", tag = "projects", params(("project" = String, Path)),
    responses((status = 200, body = ProjectView), (status = 404)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ProjectView>, ApiError> {
    shown(&app, caller, id).await
}

async fn shown(app: &App, caller: Caller, id: String) -> Result<Json<ProjectView>, ApiError> {
    let found = app.store.read(move |db| {
        let project = domain::projects::get(db, &caller, &id)?;
        Ok::<_, ApiError>(view(db, project)?)
    });
    Ok(Json(found.await?))
}

/// What may change of a project.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectChangeBody {
    /// For people.
    pub description: String,
}

/// Changes a project.
#[utoipa::path(patch, path = "/api/v1/projects/{project}", tag = "projects", params(("project" = String, Path)),
    request_body = ProjectChangeBody,
    responses((status = 200, body = ProjectView), (status = 400), (status = 403), (status = 404)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<ProjectChangeBody>,
) -> Result<Json<ProjectView>, ApiError> {
    let project = domain::projects::describe(&app, &caller, id, body.description).await?;
    Ok(Json(app.store.read(move |db| view(db, project)).await?))
}

/// Removes a project that has no instances.
#[utoipa::path(delete, path = "/api/v1/projects/{project}", tag = "projects", params(("project" = String, Path)),
    responses((status = 204), (status = 403), (status = 404), (status = 409)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    domain::projects::delete(&app, &caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A user's role in a project.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberBody {
    /// `owner`, `member`, `viewer` or a custom role.
    pub role: String,
}

/// Lets a user into a project, or changes their role in it.
#[utoipa::path(put, path = "/api/v1/projects/{project}/members/{user}", tag = "projects",
    params(("project" = String, Path), ("user" = String, Path)), request_body = MemberBody,
    responses((status = 200, body = ProjectView), (status = 400), (status = 403), (status = 404)))]
pub async fn set_member(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
    Body(body): Body<MemberBody>,
) -> Result<Json<ProjectView>, ApiError> {
    domain::projects::set_member(&app, &caller, id.clone(), user, body.role).await?;
    shown(&app, caller, id).await
}

/// Takes a user out of a project.
#[utoipa::path(delete, path = "/api/v1/projects/{project}/members/{user}", tag = "projects",
    params(("project" = String, Path), ("user" = String, Path)),
    responses((status = 204), (status = 403), (status = 404)))]
pub async fn remove_member(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((id, user)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    domain::projects::remove_member(&app, &caller, id, user).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many machines a project may hold.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaBody {
    /// At most; no limit if null.
    pub machines: Option<u32>,
}

/// Sets how many machines of a type (`*`: of all together) a project may hold.
#[utoipa::path(put, path = "/api/v1/projects/{project}/quotas/{machine_type}", tag = "projects",
    params(("project" = String, Path), ("machine_type" = String, Path)), request_body = QuotaBody,
    responses((status = 200, body = ProjectView), (status = 400), (status = 403), (status = 404)))]
pub async fn set_quota(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((id, machine_type)): Path<(String, String)>,
    Body(body): Body<QuotaBody>,
) -> Result<Json<ProjectView>, ApiError> {
    domain::projects::set_quota(&app, &caller, id.clone(), machine_type, body.machines).await?;
    shown(&app, caller, id).await
}
