//! Who somebody from the provider is here: found by issuer and subject, added if the settings say so, with the roles that
//! their groups stand for. Grants that an administrator made are left alone.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::{
    access::{
        Actor, Scope, Via,
        oidc::{
            groups::{self, Given},
            provider::Identity,
        },
    },
    app::App,
    config::oidc::Oidc,
    domain::users as people,
    error::ApiError,
    store::{
        Database,
        audit::{self, Change},
        users::{self, Grant, User},
    },
};

/// A name as users have them, made of what the provider calls somebody.
fn usable_name(name: &str) -> String {
    let own = name.split('@').next().unwrap_or_default();
    let usable = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = own.chars().map(usable).take(63).collect();
    name.trim_matches('-').to_owned()
}

/// Finds or adds who logs in, and gives them what their groups stand for.
pub(super) async fn welcome(
    app: &App,
    config: &Oidc,
    identity: Identity,
    address: String,
) -> Result<User, ApiError> {
    let (now, create) = ((app.now)(), config.create_users);
    // A provider that says nothing of groups takes nothing away.
    let wanted = identity.groups.as_ref().filter(|_| !config.roles.is_empty());
    let wanted = wanted.map(|listed| groups::given(&config.roles, listed));
    app.store
        .transaction(move |db| {
            let user = match users::by_subject(db, &identity.subject)? {
                Some(user) => user,
                None if create => add(db, &identity, &address, now)?,
                None => return Err(unknown(&identity)),
            };
            if user.disabled {
                let detail = format!(
                    "`{}` is disabled; an administrator can let them in again",
                    user.name
                );
                return Err(ApiError::Forbidden(detail));
            }
            if let Some(wanted) = wanted {
                let by = actor(&user, &address);
                fit_grants(db, &user, wanted, (&by, now))?;
            }
            Ok(user)
        })
        .await
}

fn actor(user: &User, address: &str) -> Actor {
    Actor {
        name: user.name.clone(),
        via: Via::Sso,
        address: address.to_owned(),
    }
}

/// The subject without the issuer.
fn own_subject(identity: &Identity) -> &str {
    identity
        .subject
        .split_once(' ')
        .map_or(identity.subject.as_str(), |(_, subject)| subject)
}

fn unknown(identity: &Identity) -> ApiError {
    ApiError::Forbidden(format!(
        "no user is linked to the subject `{}`; an administrator runs `slipway user link NAME SUBJECT`, or sets \
         SLIPWAY_OIDC_CREATE_USERS=true",
        own_subject(identity)
    ))
}

fn add(db: &mut Database, identity: &Identity, address: &str, now: DateTime<Utc>) -> Result<User, ApiError> {
    let name = usable_name(identity.name.as_deref().unwrap_or_default());
    if crate::domain::names::check(&name).is_err() {
        let detail = "the provider gives no usable name (`preferred_username` or `email`); an administrator adds a \
                      user and links them by `slipway user link`";
        return Err(ApiError::Conflict("sso_name", detail.to_owned()));
    }
    if users::get(db, &name)?.is_some() {
        return Err(ApiError::Conflict(
            "sso_name_taken",
            format!(
                "there is a user `{name}` who is not linked to your single sign-on; if it is you, an administrator \
                 runs `slipway user link {name} {}`",
                own_subject(identity)
            ),
        ));
    }
    let user = User {
        id: Uuid::now_v7().to_string(),
        name,
        email: identity.email.clone(),
        password: None,
        subject: Some(identity.subject.clone()),
        disabled: false,
        created_at: now,
    };
    users::insert(db, &user)?;
    let change = Change {
        action: "user.create",
        object: format!("user/{}", user.name),
        before: None,
        after: Some(json!({ "name": user.name, "email": user.email, "subject": user.subject })),
    };
    audit::done(db, &actor(&user, address), now, change)?;
    Ok(user)
}

/// Makes what is granted because of groups what the groups stand for now.
fn fit_grants(
    db: &mut Database,
    user: &User,
    wanted: BTreeSet<Given>,
    (by, now): (&Actor, DateTime<Utc>),
) -> Result<(), ApiError> {
    let ours = users::sso_grants_of(db, &user.id)?;
    let held = users::grants_of(db, &user.id)?;
    let of = |grant: &Grant| (grant.role.clone(), grant.scope.clone());
    for grant in held
        .iter()
        .filter(|grant| ours.contains(&grant.id) && !wanted.contains(&of(grant)))
    {
        users::delete_grant(db, &grant.id)?;
        noted(db, (by, now), ("grant.delete", user), &of(grant))?;
    }
    for given in wanted {
        if held.iter().any(|grant| of(grant) == given) {
            continue;
        }
        if !is_there(db, &given)? {
            tracing::warn!(user = %user.name, role = %given.0, scope = %given.1,
                "a group stands for a role or a scope that is not there; SLIPWAY_OIDC_ROLES names it");
            continue;
        }
        let grant = Grant {
            id: Uuid::now_v7().to_string(),
            holder: user.id.clone(),
            role: given.0.clone(),
            scope: given.1.clone(),
        };
        users::insert_sso_grant(db, &grant, now)?;
        noted(db, (by, now), ("grant.create", user), &given)?;
    }
    people::some_administrator(db)
}

fn is_there(db: &mut Database, (role, scope): &Given) -> Result<bool, ApiError> {
    Ok(users::role(db, role)?.is_some() && people::check_scope(db, scope).is_ok())
}

fn noted(
    db: &mut Database,
    (by, now): (&Actor, DateTime<Utc>),
    (action, user): (&str, &User),
    (role, scope): &(String, Scope),
) -> Result<(), ApiError> {
    let what = json!({ "role": role, "scope": scope.to_string() });
    let (before, after) = if action == "grant.create" {
        (None, Some(what))
    } else {
        (Some(what), None)
    };
    let change = Change {
        action,
        object: format!("user/{}", user.name),
        before,
        after,
    };
    Ok(audit::done(db, by, now, change)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_providers_become_usable() {
        for (given, usable) in [
            ("Ann", "ann"),
            ("ann.smith@example.com", "ann-smith"),
            ("_ann_", "ann"),
            ("安", ""),
            ("", ""),
        ] {
            assert_eq!(usable_name(given), usable);
        }
    }
}
