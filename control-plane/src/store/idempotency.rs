//! Answers given to POSTs with an `Idempotency-Key`, to be given again.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;

use super::{Database, StoreResult, micros, schema::idempotency::dsl};

/// How long an answer is kept.
const KEPT_FOR: TimeDelta = TimeDelta::hours(24);

/// An answer given before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Digest of the request it was given to.
    pub request: String,
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// The answer given under a key within a day. Until the transaction ends, nobody else is given an answer under that key.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, key: &str, now: DateTime<Utc>) -> StoreResult<Option<Given>> {
    // Two requests with one key at the same time: the second waits for the first one's end, and is given its answer. SQLite has
    // one writer, so there it waits anyway.
    if let Database::Postgres(postgres) = connection {
        diesel::sql_query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
            .bind::<diesel::sql_types::Text, _>(key)
            .execute(postgres)?;
    }
    diesel::delete(dsl::idempotency.filter(dsl::created_at.lt(micros(now - KEPT_FOR))))
        .execute(connection)?;
    let row: Option<(String, i32, String)> = dsl::idempotency
        .find(key)
        .select((dsl::request, dsl::status, dsl::body))
        .first(connection)
        .optional()?;
    Ok(row.map(|(request, status, body)| Given {
        request,
        status: u16::try_from(status).unwrap_or(500),
        body,
    }))
}

/// Keeps an answer.
///
/// # Errors
/// [`super::StoreError::Taken`] when the same key came twice at once.
pub fn put(connection: &mut Database, key: &str, given: &Given, now: DateTime<Utc>) -> StoreResult<()> {
    let row = (
        dsl::id.eq(key),
        dsl::request.eq(&given.request),
        dsl::status.eq(i32::from(given.status)),
        dsl::body.eq(&given.body),
        dsl::created_at.eq(micros(now)),
    );
    diesel::insert_into(dsl::idempotency)
        .values(row)
        .execute(connection)?;
    Ok(())
}
