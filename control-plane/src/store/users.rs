//! Users, and the roles granted to them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{
    Database, StoreError, StoreResult, from_json, micros,
    schema::{grants, roles, users},
    time, to_json,
};
use crate::access::permission::{Permission, Scope, built_in};

/// A user.
#[derive(Debug, Clone)]
pub struct User {
    /// Their id.
    pub id: String,
    /// Their name, by which they log in.
    pub name: String,
    /// Where mail reaches them.
    pub email: Option<String>,
    /// Their password in PHC form.
    pub password: Option<String>,
    /// Who they are at the single sign-on provider.
    pub subject: Option<String>,
    /// Whether they are shut out.
    pub disabled: bool,
    /// When they were added.
    pub created_at: DateTime<Utc>,
}

type Row = (
    String,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    bool,
    i64,
);

fn user(row: Row) -> User {
    let (id, name, email, password, subject, disabled, created_at) = row;
    User {
        id,
        name,
        email,
        password,
        subject,
        disabled,
        created_at: time(created_at),
    }
}

/// Adds a user.
///
/// # Errors
/// [`StoreError::Taken`] when the name is taken.
pub fn insert(db: &mut Database, u: &User) -> StoreResult<()> {
    use users::dsl;
    let row = (
        dsl::id.eq(&u.id),
        dsl::name.eq(&u.name),
        dsl::email.eq(&u.email),
        dsl::password.eq(&u.password),
        dsl::subject.eq(&u.subject),
        dsl::disabled.eq(u.disabled),
        dsl::created_at.eq(micros(u.created_at)),
    );
    diesel::insert_into(dsl::users).values(row).execute(db)?;
    Ok(())
}

/// What changes of a user; what is `None` stays as it is, also when somebody else changes it at the same time.
#[derive(Debug, Clone, Default, AsChangeset)]
#[diesel(table_name = users)]
pub struct UserPatch {
    /// Where mail reaches them.
    pub email: Option<String>,
    /// The hash of their password.
    pub password: Option<String>,
    /// What the single sign-on provider calls them; the inner `None` says that it calls them nothing.
    pub subject: Option<Option<String>>,
    /// Whether they are shut out.
    pub disabled: Option<bool>,
}

impl UserPatch {
    fn is_empty(&self) -> bool {
        self.email.is_none() && self.password.is_none() && self.subject.is_none() && self.disabled.is_none()
    }
}

/// Changes a user.
///
/// # Errors
/// When the database fails.
pub fn update(db: &mut Database, id: &str, change: &UserPatch) -> StoreResult<()> {
    if !change.is_empty() {
        diesel::update(users::table.find(id)).set(change).execute(db)?;
    }
    Ok(())
}

/// One user, by id, else by name.
///
/// # Errors
/// When the database fails.
pub fn get(db: &mut Database, id_or_name: &str) -> StoreResult<Option<User>> {
    use users::dsl;
    let by_id = dsl::users.find(id_or_name).first::<Row>(db).optional()?;
    let row = match by_id {
        Some(row) => Some(row),
        None => dsl::users
            .filter(dsl::name.eq(id_or_name))
            .first::<Row>(db)
            .optional()?,
    };
    Ok(row.map(user))
}

/// Whether there is a user at all.
///
/// # Errors
/// When the database fails.
pub fn any(db: &mut Database) -> StoreResult<bool> {
    let first: Option<String> = users::table.select(users::id).first(db).optional()?;
    Ok(first.is_some())
}

/// The user somebody is at the single sign-on provider.
///
/// # Errors
/// When the database fails.
pub fn by_subject(db: &mut Database, subject: &str) -> StoreResult<Option<User>> {
    let row = users::table.filter(users::subject.eq(subject));
    Ok(row.first::<Row>(db).optional()?.map(user))
}

/// Up to `limit` users whose name comes after `after`, by name.
///
/// # Errors
/// When the database fails.
pub fn list(db: &mut Database, after: &str, limit: i64) -> StoreResult<Vec<User>> {
    use users::dsl;
    let rows = dsl::users
        .filter(dsl::name.gt(after))
        .order(dsl::name)
        .limit(limit);
    Ok(rows.load::<Row>(db)?.into_iter().map(user).collect())
}

/// Removes a user, with their keys, sessions, saved views and grants.
///
/// # Errors
/// When the database fails.
pub fn delete(db: &mut Database, id: &str) -> StoreResult<bool> {
    use super::schema::{api_keys, saved_views, sessions, ssh_keys};
    diesel::delete(grants::table.filter(grants::holder.eq(id))).execute(db)?;
    diesel::delete(sessions::table.filter(sessions::holder.eq(id))).execute(db)?;
    diesel::delete(api_keys::table.filter(api_keys::holder.eq(id))).execute(db)?;
    diesel::delete(ssh_keys::table.filter(ssh_keys::holder.eq(id))).execute(db)?;
    diesel::delete(saved_views::table.filter(saved_views::holder.eq(id))).execute(db)?;
    Ok(diesel::delete(users::table.find(id)).execute(db)? == 1)
}

/// A role granted to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its id.
    pub id: String,
    /// The user's id.
    pub holder: String,
    /// The role.
    pub role: String,
    /// Where it holds.
    pub scope: Scope,
}

type GrantRow = (String, String, String, String);

fn grant((id, holder, role, scope): GrantRow) -> StoreResult<Grant> {
    Ok(Grant {
        id,
        holder,
        role,
        scope: scope.parse().map_err(StoreError::Row)?,
    })
}

/// Grants a role.
///
/// # Errors
/// [`StoreError::Taken`] when it is granted already.
pub fn insert_grant(db: &mut Database, g: &Grant, now: DateTime<Utc>) -> StoreResult<()> {
    use grants::dsl;
    let row = (
        dsl::id.eq(&g.id),
        dsl::holder.eq(&g.holder),
        dsl::role.eq(&g.role),
        dsl::scope.eq(g.scope.to_string()),
        dsl::created_at.eq(micros(now)),
    );
    diesel::insert_into(dsl::grants).values(row).execute(db)?;
    Ok(())
}

/// Grants a role because of a group at the single sign-on provider.
///
/// # Errors
/// [`StoreError::Taken`] when it is granted already.
pub fn insert_sso_grant(db: &mut Database, g: &Grant, now: DateTime<Utc>) -> StoreResult<()> {
    insert_grant(db, g, now)?;
    diesel::update(grants::table.find(&g.id))
        .set(grants::source.eq("sso"))
        .execute(db)?;
    Ok(())
}

/// Ids of what is granted to a user because of groups at the single sign-on provider.
///
/// # Errors
/// When the database fails.
pub fn sso_grants_of(db: &mut Database, holder: &str) -> StoreResult<BTreeSet<String>> {
    let rows = grants::table
        .filter(grants::holder.eq(holder))
        .filter(grants::source.eq("sso"))
        .select(grants::id);
    Ok(rows.load::<String>(db)?.into_iter().collect())
}

/// What is granted to a user.
///
/// # Errors
/// When the database fails.
pub fn grants_of(db: &mut Database, holder: &str) -> StoreResult<Vec<Grant>> {
    use grants::dsl;
    let rows = dsl::grants
        .filter(dsl::holder.eq(holder))
        .order((dsl::scope, dsl::role))
        .select((dsl::id, dsl::holder, dsl::role, dsl::scope));
    rows.load::<GrantRow>(db)?.into_iter().map(grant).collect()
}

/// How many hold a role.
///
/// # Errors
/// When the database fails.
pub fn holders(db: &mut Database, role: &str) -> StoreResult<i64> {
    use grants::dsl;
    Ok(dsl::grants.filter(dsl::role.eq(role)).count().get_result(db)?)
}

/// Who holds what in some scopes: scope, user name and role, by name.
///
/// # Errors
/// When the database fails.
pub fn members_of_each(db: &mut Database, scopes: &[Scope]) -> StoreResult<Vec<(String, String, String)>> {
    let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
    let rows = grants::table
        .inner_join(users::table)
        .filter(grants::scope.eq_any(scopes))
        .order((users::name, grants::role))
        .select((grants::scope, users::name, grants::role));
    Ok(rows.load(db)?)
}

/// How many users who are not shut out are `admin` everywhere.
///
/// # Errors
/// When the database fails.
pub fn administrators(db: &mut Database) -> StoreResult<i64> {
    let rows = grants::table
        .inner_join(users::table)
        .filter(grants::role.eq("admin"))
        .filter(grants::scope.eq("global"))
        .filter(users::disabled.eq(false));
    Ok(rows.count().get_result(db)?)
}

/// Takes a grant back.
///
/// # Errors
/// When the database fails.
pub fn delete_grant(db: &mut Database, id: &str) -> StoreResult<bool> {
    Ok(diesel::delete(grants::table.find(id)).execute(db)? == 1)
}

/// Takes everything granted in a scope back.
///
/// # Errors
/// When the database fails.
pub fn delete_scope(db: &mut Database, scope: &Scope) -> StoreResult<()> {
    diesel::delete(grants::table.filter(grants::scope.eq(scope.to_string()))).execute(db)?;
    Ok(())
}

/// Makes or replaces a custom role.
///
/// # Errors
/// When the database fails.
pub fn put_role(
    db: &mut Database,
    name: &str,
    permissions: &BTreeSet<Permission>,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    use roles::dsl;
    let permissions = to_json(permissions)?;
    let changed = diesel::update(dsl::roles.find(name))
        .set(dsl::permissions.eq(&permissions))
        .execute(db)?;
    if changed == 0 {
        let row = (
            dsl::name.eq(name),
            dsl::permissions.eq(&permissions),
            dsl::created_at.eq(micros(now)),
        );
        diesel::insert_into(dsl::roles).values(row).execute(db)?;
    }
    Ok(())
}

/// What a role may, built in or custom.
///
/// # Errors
/// When the database fails.
pub fn role(db: &mut Database, name: &str) -> StoreResult<Option<BTreeSet<Permission>>> {
    if let Some(permissions) = built_in(name) {
        return Ok(Some(permissions));
    }
    let row: Option<String> = roles::table
        .find(name)
        .select(roles::permissions)
        .first(db)
        .optional()?;
    row.map(|text| from_json(&text)).transpose()
}

/// The custom roles by name.
///
/// # Errors
/// When the database fails.
pub fn custom_roles(db: &mut Database) -> StoreResult<Vec<(String, BTreeSet<Permission>)>> {
    let rows: Vec<(String, String)> = roles::table
        .order(roles::name)
        .select((roles::name, roles::permissions))
        .load(db)?;
    rows.into_iter()
        .map(|(name, text)| Ok((name, from_json(&text)?)))
        .collect()
}

/// Removes a custom role.
///
/// # Errors
/// When the database fails.
pub fn delete_role(db: &mut Database, name: &str) -> StoreResult<bool> {
    Ok(diesel::delete(roles::table.find(name)).execute(db)? == 1)
}
