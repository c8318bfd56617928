//! API and set-up tokens, as hashes only.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{Database, StoreResult, micros, schema::credentials::dsl};

/// Keeps a token's hash.
///
/// # Errors
/// When the database fails.
pub fn insert(
    connection: &mut Database,
    hash: &str,
    kind: &str,
    name: &str,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let row = (
        dsl::hash.eq(hash),
        dsl::kind.eq(kind),
        dsl::name.eq(name),
        dsl::created_at.eq(micros(now)),
    );
    diesel::insert_into(dsl::credentials)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// The name of the holder of an unused token of that kind.
///
/// # Errors
/// When the database fails.
pub fn holder(connection: &mut Database, hash: &str, kind: &str) -> StoreResult<Option<String>> {
    let row = dsl::credentials
        .find(hash)
        .filter(dsl::kind.eq(kind))
        .filter(dsl::used_at.is_null());
    Ok(row.select(dsl::name).first(connection).optional()?)
}

/// The name of the holder of an unused token of that kind that was made after `since`.
///
/// # Errors
/// When the database fails.
pub fn recent_holder(
    connection: &mut Database,
    hash: &str,
    kind: &str,
    since: DateTime<Utc>,
) -> StoreResult<Option<String>> {
    let row = dsl::credentials
        .find(hash)
        .filter(dsl::kind.eq(kind))
        .filter(dsl::created_at.gt(micros(since)))
        .filter(dsl::used_at.is_null());
    Ok(row.select(dsl::name).first(connection).optional()?)
}

/// Removes tokens of a kind that were made before `before`.
///
/// # Errors
/// When the database fails.
pub fn remove_old(connection: &mut Database, kind: &str, before: DateTime<Utc>) -> StoreResult<usize> {
    let old = dsl::credentials
        .filter(dsl::kind.eq(kind))
        .filter(dsl::created_at.lt(micros(before)));
    Ok(diesel::delete(old).execute(connection)?)
}

/// Uses a one-time token up; `false` if it was used before or is not there.
///
/// # Errors
/// When the database fails.
pub fn use_up(connection: &mut Database, hash: &str, now: DateTime<Utc>) -> StoreResult<bool> {
    let row = dsl::credentials.find(hash).filter(dsl::used_at.is_null());
    let changed = diesel::update(row)
        .set(dsl::used_at.eq(Some(micros(now))))
        .execute(connection)?;
    Ok(changed == 1)
}

/// How many tokens of a kind there are, used ones included.
///
/// # Errors
/// When the database fails.
pub fn count(connection: &mut Database, kind: &str) -> StoreResult<i64> {
    Ok(dsl::credentials
        .filter(dsl::kind.eq(kind))
        .count()
        .get_result(connection)?)
}
