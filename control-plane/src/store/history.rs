//! What happened, append-only.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{Database, StoreResult, micros, schema::history::dsl};

/// Adds a line about an object (`machine/..`, `instance/..`, `site/..`).
///
/// # Errors
/// When the database fails.
pub fn append(
    connection: &mut Database,
    object: &str,
    what: &str,
    detail: &str,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let row = (
        dsl::at.eq(micros(now)),
        dsl::object.eq(object),
        dsl::what.eq(what),
        dsl::detail.eq(detail),
    );
    diesel::insert_into(dsl::history)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// What happened to an object, oldest first: time, word, detail.
///
/// # Errors
/// When the database fails.
pub fn of(connection: &mut Database, object: &str) -> StoreResult<Vec<(DateTime<Utc>, String, String)>> {
    let rows: Vec<(i64, String, String)> = dsl::history
        .filter(dsl::object.eq(object))
        .order(dsl::seq)
        .select((dsl::at, dsl::what, dsl::detail))
        .load(connection)?;
    Ok(rows
        .into_iter()
        .map(|(at, what, detail)| (super::time(at), what, detail))
        .collect())
}
