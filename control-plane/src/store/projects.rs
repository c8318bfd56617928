//! Projects and how many machines they may hold.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{
    Database, StoreResult, micros,
    schema::{instances, machines, projects, quotas},
    time, to_word,
};
use crate::workflow::state::InstanceState;

/// The machine type of a quota that counts machines of all types.
pub const ALL_TYPES: &str = "*";

/// A project.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its name.
    pub id: String,
    /// For people.
    pub description: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

type Row = (String, String, i64);

fn project((id, description, created_at): Row) -> Project {
    Project {
        id,
        description,
        created_at: time(created_at),
    }
}

/// Adds a project.
///
/// # Errors
/// [`super::StoreError::Taken`] when the name is taken.
pub fn insert(db: &mut Database, p: &Project) -> StoreResult<()> {
    let row = (
        projects::id.eq(&p.id),
        projects::description.eq(&p.description),
        projects::created_at.eq(micros(p.created_at)),
    );
    diesel::insert_into(projects::table).values(row).execute(db)?;
    Ok(())
}

/// One project.
///
/// # Errors
/// When the database fails.
pub fn get(db: &mut Database, id: &str) -> StoreResult<Option<Project>> {
    Ok(projects::table.find(id).first::<Row>(db).optional()?.map(project))
}

/// Up to `limit` projects whose name comes after `after`, of those named in `only` if it is given.
///
/// # Errors
/// When the database fails.
pub fn list(
    db: &mut Database,
    only: Option<Vec<String>>,
    after: &str,
    limit: i64,
) -> StoreResult<Vec<Project>> {
    let mut query = projects::table
        .filter(projects::id.gt(after))
        .order(projects::id)
        .limit(limit)
        .into_boxed();
    if let Some(only) = only {
        query = query.filter(projects::id.eq_any(only));
    }
    Ok(query.load::<Row>(db)?.into_iter().map(project).collect())
}

/// Changes what is said of a project.
///
/// # Errors
/// When the database fails.
pub fn describe(db: &mut Database, id: &str, description: &str) -> StoreResult<()> {
    diesel::update(projects::table.find(id))
        .set(projects::description.eq(description))
        .execute(db)?;
    Ok(())
}

/// Removes a project and its quotas.
///
/// # Errors
/// When the database fails.
pub fn delete(db: &mut Database, id: &str) -> StoreResult<bool> {
    diesel::delete(quotas::table.filter(quotas::project.eq(id))).execute(db)?;
    Ok(diesel::delete(projects::table.find(id)).execute(db)? == 1)
}

/// How many instances of a project are not given back.
///
/// # Errors
/// When the database fails.
pub fn instances_of(db: &mut Database, id: &str) -> StoreResult<i64> {
    let rows = instances::table
        .filter(instances::project.eq(id))
        .filter(instances::state.ne(to_word(&InstanceState::Released)?));
    Ok(rows.count().get_result(db)?)
}

/// How many instances that are not given back each of some projects has; one without any is left out.
///
/// # Errors
/// When the database fails.
pub fn instances_of_each(db: &mut Database, ids: &[String]) -> StoreResult<HashMap<String, i64>> {
    let rows = instances::table
        .filter(instances::project.eq_any(ids))
        .filter(instances::state.ne(to_word(&InstanceState::Released)?))
        .group_by(instances::project)
        .select((instances::project, diesel::dsl::count_star()));
    Ok(rows.load::<(String, i64)>(db)?.into_iter().collect())
}

/// The quotas of some projects: project, machine type and most machines.
///
/// # Errors
/// When the database fails.
pub fn quotas_of_each(db: &mut Database, ids: &[String]) -> StoreResult<Vec<(String, String, i64)>> {
    Ok(quotas::table
        .filter(quotas::project.eq_any(ids))
        .order(quotas::machine_type)
        .select((quotas::project, quotas::machine_type, quotas::machines))
        .load(db)?)
}

/// How many instances of a project that are not given back are on a machine of a type, or wait for one.
///
/// # Errors
/// When the database fails.
pub fn instances_of_type(db: &mut Database, id: &str, machine_type: &str) -> StoreResult<i64> {
    if machine_type == ALL_TYPES {
        return instances_of(db, id);
    }
    let released = to_word(&InstanceState::Released)?;
    let theirs = instances::table
        .filter(instances::project.eq(id))
        .filter(instances::state.ne(released));
    let of_type = machines::table
        .filter(machines::machine_type.eq(machine_type))
        .select(machines::id.nullable());
    let on: i64 = theirs
        .clone()
        .filter(instances::machine.eq_any(of_type))
        .count()
        .get_result(db)?;
    let waiting: i64 = theirs
        .filter(instances::machine.is_null())
        .filter(instances::machine_type.eq(machine_type))
        .count()
        .get_result(db)?;
    Ok(on + waiting)
}

/// A project that has a quota of a type, if there is one.
///
/// # Errors
/// When the database fails.
pub fn with_quota_of(db: &mut Database, machine_type: &str) -> StoreResult<Option<String>> {
    let rows = quotas::table.filter(quotas::machine_type.eq(machine_type));
    Ok(rows.select(quotas::project).first(db).optional()?)
}

/// Holds a project's row until the transaction ends: who counts what it has counts alone.
///
/// # Errors
/// When the database fails.
pub fn hold(db: &mut Database, id: &str) -> StoreResult<()> {
    diesel::update(projects::table.find(id))
        .set(projects::id.eq(id))
        .execute(db)?;
    Ok(())
}

/// A project's quotas: machine type and most machines.
///
/// # Errors
/// When the database fails.
pub fn quotas_of(db: &mut Database, id: &str) -> StoreResult<Vec<(String, i64)>> {
    Ok(quotas::table
        .filter(quotas::project.eq(id))
        .order(quotas::machine_type)
        .select((quotas::machine_type, quotas::machines))
        .load(db)?)
}

/// Sets a quota; none takes it away.
///
/// # Errors
/// When the database fails.
pub fn set_quota(db: &mut Database, id: &str, machine_type: &str, machines: Option<i64>) -> StoreResult<()> {
    diesel::delete(quotas::table.find((id, machine_type))).execute(db)?;
    if let Some(machines) = machines {
        let row = (
            quotas::project.eq(id),
            quotas::machine_type.eq(machine_type),
            quotas::machines.eq(machines),
        );
        diesel::insert_into(quotas::table).values(row).execute(db)?;
    }
    Ok(())
}
