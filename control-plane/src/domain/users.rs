//! Users, roles, and who is granted what. Nobody gives more than they have, and the last administrator stays.

use std::collections::BTreeSet;

use serde_json::json;
use slipway_protocol::seal::Secret;
use uuid::Uuid;

use super::names::check as check_name;
use crate::{
    access::{Caller, Permission, Scope, password, permission::built_in},
    app::App,
    error::ApiError,
    store::{
        Database,
        audit::{self, Change},
        logins, projects, sites,
        users::{self, Grant, User, UserPatch},
    },
};

fn missing(key: &str) -> ApiError {
    ApiError::NotFound("user", key.to_owned())
}

fn told(user: &User) -> serde_json::Value {
    json!({ "name": user.name, "email": user.email, "disabled": user.disabled, "subject": user.subject })
}

/// One user, by id or name.
///
/// # Errors
/// When there is none.
pub async fn get(app: &App, key: String) -> Result<User, ApiError> {
    app.store
        .read(move |db| users::get(db, &key)?.ok_or_else(|| missing(&key)))
        .await
}

/// Adds a user. They may nothing until a role is granted to them.
///
/// # Errors
/// When the name is taken or the password will not do.
pub async fn create(
    app: &App,
    caller: &Caller,
    name: String,
    email: Option<String>,
    password: Option<Secret>,
) -> Result<User, ApiError> {
    check_name(&name)?;
    let password = match password {
        Some(password) => Some(password::hash(password).await?),
        None => None,
    };
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let user = User {
                id: Uuid::now_v7().to_string(),
                name,
                email,
                password,
                subject: None,
                disabled: false,
                created_at: now,
            };
            users::insert(db, &user)?;
            let change = Change {
                action: "user.create",
                object: format!("user/{}", user.name),
                before: None,
                after: Some(told(&user)),
            };
            audit::done(db, &by, now, change)?;
            Ok(user)
        })
        .await
}

/// What may change of a user.
#[derive(Default)]
pub struct UserChange {
    /// Where mail reaches them.
    pub email: Option<String>,
    /// A new password, set by an administrator.
    pub password: Option<Secret>,
    /// Whether they are shut out.
    pub disabled: Option<bool>,
    /// What the single sign-on provider calls them; empty if it is to call them nothing.
    pub subject: Option<String>,
}

/// Changes a user. A new password, a new subject or shutting them out ends their sessions.
///
/// # Errors
/// When there is no such user, or it would shut the last administrator out.
pub async fn update(app: &App, caller: &Caller, key: String, change: UserChange) -> Result<User, ApiError> {
    let hashed = match change.password {
        Some(password) => Some(password::hash(password).await?),
        None => None,
    };
    let subject = match change.subject.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(subject) => Some(Some(super::sso::subject(app, subject)?)),
    };
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let former = users::get(db, &key)?.ok_or_else(|| missing(&key))?;
            outranks(db, &caller, &former)?;
            let ends = hashed.is_some() || subject.is_some() || change.disabled == Some(true);
            let patch = UserPatch {
                email: change.email,
                password: hashed,
                subject,
                disabled: change.disabled,
            };
            users::update(db, &former.id, &patch)?;
            let user = users::get(db, &former.id)?.ok_or_else(|| missing(&key))?;
            if ends {
                logins::end_sessions_of(db, &user.id)?;
            }
            some_administrator(db)?;
            let change = Change {
                action: "user.update",
                object: format!("user/{}", user.name),
                before: Some(told(&former)),
                after: Some(told(&user)),
            };
            audit::done(db, &caller.actor, now, change)?;
            Ok(user)
        })
        .await
}

/// Who changes a user could become them, so must hold what they hold.
fn outranks(db: &mut Database, caller: &Caller, user: &User) -> Result<(), ApiError> {
    for held in crate::access::authenticate::held_by(db, &user.id)? {
        if !caller.covers(&held.permissions, &held.scope) {
            return Err(ApiError::Forbidden(format!(
                "`{}` may do more than `{}`, who therefore cannot change them",
                user.name, caller.actor.name
            )));
        }
    }
    Ok(())
}

pub(super) fn some_administrator(db: &mut Database) -> Result<(), ApiError> {
    if users::administrators(db)? == 0 {
        let detail = "that would leave nobody who may administer; make another administrator first";
        return Err(ApiError::Conflict("last_administrator", detail.to_owned()));
    }
    Ok(())
}

/// Removes a user, with their keys, sessions and grants.
///
/// # Errors
/// When there is none, or it is the last administrator.
pub async fn delete(app: &App, caller: &Caller, key: String) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let user = users::get(db, &key)?.ok_or_else(|| missing(&key))?;
            outranks(db, &caller, &user)?;
            users::delete(db, &user.id)?;
            some_administrator(db)?;
            let change = Change {
                action: "user.delete",
                object: format!("user/{}", user.name),
                before: Some(told(&user)),
                after: None,
            };
            Ok(audit::done(db, &caller.actor, now, change)?)
        })
        .await
}

/// Whether there is what a scope names.
pub(super) fn check_scope(db: &mut Database, scope: &Scope) -> Result<(), ApiError> {
    let found = match scope {
        Scope::Global => true,
        Scope::Site(site) => sites::get(db, site)?.is_some(),
        Scope::Project(project) => projects::get(db, project)?.is_some(),
    };
    match scope {
        _ if found => Ok(()),
        Scope::Site(site) => Err(ApiError::NotFound("site", site.clone())),
        Scope::Project(project) => Err(ApiError::NotFound("project", project.clone())),
        Scope::Global => Ok(()),
    }
}

/// Grants a role to a user.
///
/// # Errors
/// When user, role or scope are not there, or the caller holds less than the role.
pub async fn grant(
    app: &App,
    caller: &Caller,
    key: String,
    role: String,
    scope: Scope,
) -> Result<Grant, ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let user = users::get(db, &key)?.ok_or_else(|| missing(&key))?;
            let permissions =
                users::role(db, &role)?.ok_or_else(|| ApiError::NotFound("role", role.clone()))?;
            check_scope(db, &scope)?;
            if !caller.covers(&permissions, &scope) {
                return Err(ApiError::Forbidden(format!(
                    "`{}` lacks some of what the role `{role}` allows at {scope}, and so cannot grant it",
                    caller.actor.name
                )));
            }
            let grant = Grant {
                id: Uuid::now_v7().to_string(),
                holder: user.id,
                role,
                scope,
            };
            users::insert_grant(db, &grant, now)?;
            let change = Change {
                action: "grant.create",
                object: format!("user/{}", user.name),
                before: None,
                after: Some(json!({ "role": grant.role, "scope": grant.scope.to_string() })),
            };
            audit::done(db, &caller.actor, now, change)?;
            Ok(grant)
        })
        .await
}

/// Takes a grant back.
///
/// # Errors
/// When there is none, the caller holds less, or it is the last administrator's.
pub async fn revoke(app: &App, caller: &Caller, key: String, id: String) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let user = users::get(db, &key)?.ok_or_else(|| missing(&key))?;
            let held = users::grants_of(db, &user.id)?;
            let grant = held
                .into_iter()
                .find(|grant| grant.id == id)
                .ok_or_else(|| ApiError::NotFound("grant", id.clone()))?;
            take_back(db, &caller, &user, &grant, now)
        })
        .await
}

/// Takes a grant back, in a transaction.
pub(super) fn take_back(
    db: &mut Database,
    caller: &Caller,
    user: &User,
    grant: &Grant,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<(), ApiError> {
    let permissions = users::role(db, &grant.role)?.unwrap_or_default();
    if !caller.covers(&permissions, &grant.scope) {
        return Err(ApiError::Forbidden(format!(
            "`{}` lacks some of what the role `{}` allows at {}, and so cannot take it back",
            caller.actor.name, grant.role, grant.scope
        )));
    }
    users::delete_grant(db, &grant.id)?;
    some_administrator(db)?;
    let change = Change {
        action: "grant.delete",
        object: format!("user/{}", user.name),
        before: Some(json!({ "role": grant.role, "scope": grant.scope.to_string() })),
        after: None,
    };
    Ok(audit::done(db, &caller.actor, now, change)?)
}

/// Makes or changes a custom role.
///
/// # Errors
/// When it is a built-in one, or the caller holds less.
pub async fn put_role(
    app: &App,
    caller: &Caller,
    name: String,
    permissions: BTreeSet<Permission>,
) -> Result<(), ApiError> {
    check_name(&name)?;
    if built_in(&name).is_some() {
        let detail = format!("the role `{name}` is built in; make one of another name");
        return Err(ApiError::Conflict("role_built_in", detail));
    }
    if !caller.covers(&permissions, &Scope::Global) {
        return Err(ApiError::Forbidden(format!(
            "`{}` cannot put into a role what they lack",
            caller.actor.name
        )));
    }
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let former = users::role(db, &name)?;
            users::put_role(db, &name, &permissions, now)?;
            let change = Change {
                action: "role.put",
                object: format!("role/{name}"),
                before: former.map(|permissions| json!(permissions)),
                after: Some(json!(permissions)),
            };
            Ok(audit::done(db, &by, now, change)?)
        })
        .await
}

/// Removes a custom role that nobody holds.
///
/// # Errors
/// When there is none, it is built in, or somebody holds it.
pub async fn delete_role(app: &App, caller: &Caller, name: String) -> Result<(), ApiError> {
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            if built_in(&name).is_some() {
                let detail = format!("the role `{name}` is built in and stays");
                return Err(ApiError::Conflict("role_built_in", detail));
            }
            let former = users::role(db, &name)?.ok_or_else(|| ApiError::NotFound("role", name.clone()))?;
            if users::holders(db, &name)? > 0 {
                let detail = format!("somebody holds the role `{name}`; take the grants back first");
                return Err(ApiError::Conflict("role_in_use", detail));
            }
            users::delete_role(db, &name)?;
            let change = Change {
                action: "role.delete",
                object: format!("role/{name}"),
                before: Some(json!(former)),
                after: None,
            };
            Ok(audit::done(db, &by, now, change)?)
        })
        .await
}
