//! Uploads of images that are under way, of all replicas.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{Database, StoreResult, micros, schema::uploads, time};

/// Notes that an upload has begun; before it stores anything.
///
/// # Errors
/// When the database fails.
pub fn begin(db: &mut Database, id: &str, now: DateTime<Utc>) -> StoreResult<()> {
    let row = (
        uploads::id.eq(id),
        uploads::started_at.eq(micros(now)),
        uploads::touched_at.eq(micros(now)),
    );
    diesel::insert_into(uploads::table).values(row).execute(db)?;
    Ok(())
}

/// Notes that an upload still goes on.
///
/// # Errors
/// When the database fails.
pub fn touch(db: &mut Database, id: &str, now: DateTime<Utc>) -> StoreResult<()> {
    diesel::update(uploads::table.find(id))
        .set(uploads::touched_at.eq(micros(now)))
        .execute(db)?;
    Ok(())
}

/// Notes that an upload has ended, in the transaction that adds its image, if it adds one.
///
/// # Errors
/// When the database fails.
pub fn end(db: &mut Database, id: &str) -> StoreResult<()> {
    diesel::delete(uploads::table.find(id)).execute(db)?;
    Ok(())
}

/// Forgets uploads that were not touched since `silent_since`: their replica died. Gives back when the oldest of the others began.
///
/// # Errors
/// When the database fails.
pub fn oldest(db: &mut Database, silent_since: DateTime<Utc>) -> StoreResult<Option<DateTime<Utc>>> {
    let dead = uploads::table.filter(uploads::touched_at.lt(micros(silent_since)));
    diesel::delete(dead).execute(db)?;
    let oldest: Option<i64> = uploads::table
        .select(diesel::dsl::min(uploads::started_at))
        .first(db)?;
    Ok(oldest.map(time))
}
