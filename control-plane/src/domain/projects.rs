//! Projects: who is in them, and how much they may hold.

use serde_json::json;
use uuid::Uuid;

use super::names::check as check_name;
use crate::{
    access::{Caller, Permission, Scope, Target},
    app::App,
    error::ApiError,
    store::{
        Database,
        audit::{self, Change},
        machine_types,
        projects::{self, Project},
        users::{self, Grant},
    },
};

fn missing(id: &str) -> ApiError {
    ApiError::NotFound("project", id.to_owned())
}

/// One project that the caller may see.
///
/// # Errors
/// When there is none, or the caller may not see it: who may not know is told the same.
pub fn get(db: &mut Database, caller: &Caller, id: &str) -> Result<Project, ApiError> {
    let found = projects::get(db, id)?;
    found
        .filter(|project| caller.may(Permission::ProjectsRead, Target::project(&project.id)))
        .ok_or_else(|| missing(id))
}

/// Adds a project.
///
/// # Errors
/// When the name is taken or will not do.
pub async fn create(
    app: &App,
    caller: &Caller,
    id: String,
    description: String,
) -> Result<Project, ApiError> {
    check_name(&id)?;
    caller.require(Permission::ProjectsWrite, Target::project(&id))?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let project = Project {
                id,
                description,
                created_at: now,
            };
            projects::insert(db, &project)?;
            let change = Change {
                action: "project.create",
                object: format!("project/{}", project.id),
                before: None,
                after: Some(json!({ "description": project.description })),
            };
            audit::done(db, &by, now, change)?;
            Ok(project)
        })
        .await
}

/// Changes what is said of a project.
///
/// # Errors
/// When there is none.
pub async fn describe(
    app: &App,
    caller: &Caller,
    id: String,
    description: String,
) -> Result<Project, ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let former = get(db, &caller, &id)?;
            caller.require(Permission::ProjectsWrite, Target::project(&id))?;
            projects::describe(db, &id, &description)?;
            let change = Change {
                action: "project.update",
                object: format!("project/{id}"),
                before: Some(json!({ "description": former.description })),
                after: Some(json!({ "description": description })),
            };
            audit::done(db, &caller.actor, now, change)?;
            Ok(Project {
                description,
                ..former
            })
        })
        .await
}

/// Removes a project that holds nothing.
///
/// # Errors
/// When there is none, or it has instances.
pub async fn delete(app: &App, caller: &Caller, id: String) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let former = get(db, &caller, &id)?;
            caller.require(Permission::ProjectsWrite, Target::project(&id))?;
            if projects::instances_of(db, &id)? > 0 {
                let detail = format!("project `{id}` still has instances; release them first");
                return Err(ApiError::Conflict("project_in_use", detail));
            }
            users::delete_scope(db, &Scope::Project(id.clone()))?;
            projects::delete(db, &id)?;
            let change = Change {
                action: "project.delete",
                object: format!("project/{id}"),
                before: Some(json!({ "description": former.description })),
                after: None,
            };
            Ok(audit::done(db, &caller.actor, now, change)?)
        })
        .await
}

/// Lets a user into a project in a role, instead of the one they had in it.
///
/// # Errors
/// When project, user or role are not there, or the caller holds less than the role.
pub async fn set_member(
    app: &App,
    caller: &Caller,
    id: String,
    user: String,
    role: String,
) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            get(db, &caller, &id)?;
            caller.require(Permission::MembersWrite, Target::project(&id))?;
            let scope = Scope::Project(id.clone());
            let user = users::get(db, &user)?.ok_or_else(|| ApiError::NotFound("user", user.clone()))?;
            let permissions =
                users::role(db, &role)?.ok_or_else(|| ApiError::NotFound("role", role.clone()))?;
            if !caller.covers(&permissions, &scope) {
                return Err(ApiError::Forbidden(format!(
                    "`{}` lacks some of what the role `{role}` allows, and so cannot give it",
                    caller.actor.name
                )));
            }
            let held = users::grants_of(db, &user.id)?;
            for former in held.iter().filter(|grant| grant.scope == scope) {
                super::users::take_back(db, &caller, &user, former, now)?;
            }
            let grant = Grant {
                id: Uuid::now_v7().to_string(),
                holder: user.id,
                role,
                scope,
            };
            users::insert_grant(db, &grant, now)?;
            let change = Change {
                action: "project.member",
                object: format!("project/{id}"),
                before: None,
                after: Some(json!({ "user": user.name, "role": grant.role })),
            };
            Ok(audit::done(db, &caller.actor, now, change)?)
        })
        .await
}

/// Takes a user out of a project.
///
/// # Errors
/// When they are not in it.
pub async fn remove_member(app: &App, caller: &Caller, id: String, user: String) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            get(db, &caller, &id)?;
            caller.require(Permission::MembersWrite, Target::project(&id))?;
            let scope = Scope::Project(id.clone());
            let user = users::get(db, &user)?.ok_or_else(|| ApiError::NotFound("user", user.clone()))?;
            let held = users::grants_of(db, &user.id)?;
            let mut found = false;
            for grant in held.iter().filter(|grant| grant.scope == scope) {
                super::users::take_back(db, &caller, &user, grant, now)?;
                found = true;
            }
            if !found {
                return Err(ApiError::NotFound("member", user.name));
            }
            Ok(())
        })
        .await
}

/// Sets how many machines of a type (`*`: of all together) a project may hold; none takes the limit away.
///
/// # Errors
/// When there is no such project or type.
pub async fn set_quota(
    app: &App,
    caller: &Caller,
    id: String,
    machine_type: String,
    machines: Option<u32>,
) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            get(db, &caller, &id)?;
            // A project's own members do not set their own limits, unless a role of theirs says so.
            caller.require(Permission::QuotasWrite, Target::project(&id))?;
            if machine_type != projects::ALL_TYPES && machine_types::get(db, &machine_type)?.is_none() {
                return Err(ApiError::NotFound("machine type", machine_type));
            }
            let former = projects::quotas_of(db, &id)?;
            let former = former
                .into_iter()
                .find(|(kind, _)| *kind == machine_type)
                .map(|(_, n)| n);
            projects::set_quota(db, &id, &machine_type, machines.map(i64::from))?;
            let change = Change {
                action: "quota.put",
                object: format!("project/{id}"),
                before: former.map(|machines| json!({ "type": machine_type, "machines": machines })),
                after: machines.map(|machines| json!({ "type": machine_type, "machines": machines })),
            };
            Ok(audit::done(db, &caller.actor, now, change)?)
        })
        .await
}
