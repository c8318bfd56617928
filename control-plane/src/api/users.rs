//! `/api/v1/users`, `/api/v1/roles` and `/api/v1/permissions`

use std::{collections::BTreeSet, sync::Arc};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::seal::Secret;
use utoipa::ToSchema;

use super::{Body, List, Page, Path, Query};
use crate::{
    access::{
        Caller, Permission, Scope,
        permission::{BUILT_IN, built_in},
    },
    app::App,
    domain::{self, users::UserChange},
    error::ApiError,
    store::{
        Database, StoreResult,
        users::{self, Grant, User},
    },
};

/// A user to be added.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUserBody {
    /// Their name: 1 to 63 of a-z, 0-9 and '-'.
    pub name: String,
    /// Where mail reaches them.
    pub email: Option<String>,
    /// 12 characters or more; without one they log in by single sign-on or not at all.
    pub password: Option<String>,
}

/// A role granted to a user.
#[derive(Debug, Serialize, ToSchema)]
pub struct GrantView {
    /// Its id.
    pub id: String,
    /// The role.
    pub role: String,
    /// `global`, `site:NAME` or `project:NAME`.
    pub scope: String,
}

fn grant_view(grant: Grant) -> GrantView {
    GrantView {
        id: grant.id,
        role: grant.role,
        scope: grant.scope.to_string(),
    }
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserView {
    /// Their id.
    pub id: String,
    /// Their name.
    pub name: String,
    /// Where mail reaches them.
    pub email: Option<String>,
    /// Whether they can log in with a password.
    pub has_password: bool,
    /// Who they are at the single sign-on provider: issuer and subject, separated by a space.
    pub subject: Option<String>,
    /// Whether they are shut out.
    pub disabled: bool,
    /// What is granted to them.
    pub grants: Vec<GrantView>,
    /// When they were added.
    pub created_at: DateTime<Utc>,
}

fn view(db: &mut Database, user: User) -> StoreResult<UserView> {
    let grants = users::grants_of(db, &user.id)?;
    Ok(UserView {
        id: user.id,
        name: user.name,
        email: user.email,
        has_password: user.password.is_some(),
        subject: user.subject,
        disabled: user.disabled,
        grants: grants.into_iter().map(grant_view).collect(),
        created_at: user.created_at,
    })
}

async fn viewed(app: &App, user: User) -> Result<Json<UserView>, ApiError> {
    Ok(Json(app.store.read(move |db| view(db, user)).await?))
}

/// Lists users by name.
#[utoipa::path(get, path = "/api/v1/users", tag = "users", params(Page),
    responses((status = 200, body = List<UserView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
) -> Result<Json<List<UserView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let items = app.store.read(move |db| {
        let rows = users::list(db, &cursor, limit)?;
        rows.into_iter()
            .map(|user| view(db, user))
            .collect::<StoreResult<Vec<_>>>()
    });
    Ok(Json(List::page(items.await?, limit, |user: &UserView| {
        user.name.clone()
    })))
}

/// Adds a user; they may nothing until a role is granted to them.
#[utoipa::path(post, path = "/api/v1/users", tag = "users", request_body = NewUserBody,
    responses((status = 201, body = UserView), (status = 400), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(body): Body<NewUserBody>,
) -> Result<impl IntoResponse, ApiError> {
    let password = body.password.map(Secret::new);
    let user = domain::users::create(&app, &caller, body.name, body.email, password).await?;
    Ok((StatusCode::CREATED, viewed(&app, user).await?))
}

/// Shows a user, by id or name.
#[utoipa::path(get, path = "/api/v1/users/{user}", tag = "users", params(("user" = String, Path)),
    responses((status = 200, body = UserView), (status = 404)))]
pub async fn get(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Json<UserView>, ApiError> {
    let user = domain::users::get(&app, key).await?;
    viewed(&app, user).await
}

/// What may change of a user.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserChangeBody {
    /// Where mail reaches them.
    pub email: Option<String>,
    /// A new password: 12 characters or more.
    pub password: Option<String>,
    /// Whether they are shut out.
    pub disabled: Option<bool>,
    /// What the single sign-on provider calls them in `sub`; empty to unlink them.
    pub subject: Option<String>,
}

/// Changes a user; a new password, a new subject or shutting them out ends their sessions.
#[utoipa::path(patch, path = "/api/v1/users/{user}", tag = "users", params(("user" = String, Path)),
    request_body = UserChangeBody,
    responses((status = 200, body = UserView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<UserChangeBody>,
) -> Result<Json<UserView>, ApiError> {
    let change = UserChange {
        email: body.email,
        password: body.password.map(Secret::new),
        disabled: body.disabled,
        subject: body.subject,
    };
    let user = domain::users::update(&app, &caller, key, change).await?;
    viewed(&app, user).await
}

/// Removes a user, with their keys, sessions and grants.
#[utoipa::path(delete, path = "/api/v1/users/{user}", tag = "users", params(("user" = String, Path)),
    responses((status = 204), (status = 403), (status = 404), (status = 409)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    domain::users::delete(&app, &caller, key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A role to be granted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGrantBody {
    /// The role.
    pub role: String,
    /// `global`, `site:NAME` or `project:NAME`.
    pub scope: String,
}

/// Grants a role to a user.
#[utoipa::path(post, path = "/api/v1/users/{user}/grants", tag = "users", params(("user" = String, Path)),
    request_body = NewGrantBody,
    responses((status = 201, body = GrantView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn grant(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(body): Body<NewGrantBody>,
) -> Result<impl IntoResponse, ApiError> {
    let scope: Scope = body
        .scope
        .parse()
        .map_err(|detail| ApiError::Bad("scope", detail))?;
    let grant = domain::users::grant(&app, &caller, key, body.role, scope).await?;
    Ok((StatusCode::CREATED, Json(grant_view(grant))))
}

/// Takes a grant back.
#[utoipa::path(delete, path = "/api/v1/users/{user}/grants/{grant}", tag = "users",
    params(("user" = String, Path), ("grant" = String, Path)),
    responses((status = 204), (status = 403), (status = 404), (status = 409)))]
pub async fn revoke(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((key, grant)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    domain::users::revoke(&app, &caller, key, grant).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists every permission there is.
#[utoipa::path(get, path = "/api/v1/permissions", tag = "users",
    responses((status = 200, body = List<Permission>)))]
pub async fn permissions() -> Json<List<Permission>> {
    Json(List {
        items: Permission::ALL.to_vec(),
        next: None,
    })
}

/// A role.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoleView {
    /// Its name.
    pub name: String,
    /// What it allows.
    pub permissions: BTreeSet<Permission>,
    /// Whether it is built in, and so cannot be changed.
    pub built_in: bool,
}

/// Lists roles: the built-in ones, then the custom ones by name.
#[utoipa::path(get, path = "/api/v1/roles", tag = "users", responses((status = 200, body = List<RoleView>)))]
pub async fn roles(State(app): State<Arc<App>>) -> Result<Json<List<RoleView>>, ApiError> {
    let custom = app.store.read(users::custom_roles).await?;
    let given = BUILT_IN.iter().map(|name| RoleView {
        name: (*name).to_owned(),
        permissions: built_in(name).unwrap_or_default(),
        built_in: true,
    });
    let custom = custom.into_iter().map(|(name, permissions)| RoleView {
        name,
        permissions,
        built_in: false,
    });
    let items = given.chain(custom).collect();
    Ok(Json(List { items, next: None }))
}

/// Shows a role.
#[utoipa::path(get, path = "/api/v1/roles/{role}", tag = "users", params(("role" = String, Path)),
    responses((status = 200, body = RoleView), (status = 404)))]
pub async fn role(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<Json<RoleView>, ApiError> {
    let key = name.clone();
    let found = app.store.read(move |db| users::role(db, &key)).await?;
    let permissions = found.ok_or_else(|| ApiError::NotFound("role", name.clone()))?;
    Ok(Json(RoleView {
        built_in: built_in(&name).is_some(),
        name,
        permissions,
    }))
}

/// What a custom role allows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleBody {
    /// What it allows.
    pub permissions: BTreeSet<Permission>,
}

/// Makes or changes a custom role.
#[utoipa::path(put, path = "/api/v1/roles/{role}", tag = "users", params(("role" = String, Path)),
    request_body = RoleBody,
    responses((status = 200, body = RoleView), (status = 400), (status = 403), (status = 409)))]
pub async fn put_role(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(body): Body<RoleBody>,
) -> Result<Json<RoleView>, ApiError> {
    domain::users::put_role(&app, &caller, name.clone(), body.permissions.clone()).await?;
    Ok(Json(RoleView {
        name,
        permissions: body.permissions,
        built_in: false,
    }))
}

/// Removes a custom role that nobody holds.
#[utoipa::path(delete, path = "/api/v1/roles/{role}", tag = "users", params(("role" = String, Path)),
    responses((status = 204), (status = 404), (status = 409)))]
pub async fn delete_role(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    domain::users::delete_role(&app, &caller, name).await?;
    Ok(StatusCode::NO_CONTENT)
}
