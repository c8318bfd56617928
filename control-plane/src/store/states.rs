//! Since when each object is in its state: written with the event that tells of the change, read by alert rules. It
//! never decides anything about the object itself; its own row does.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{
    Database, StoreResult, micros,
    schema::{instances, jobs, machines, states},
    time,
};

/// Ids looked up in one query: databases take some thousands of parameters, not all that there may be.
const KEYS: usize = 500;

/// Notes that an object (`machine`, `instance`, `job`, `site`) entered a state.
///
/// # Errors
/// When the database fails.
pub fn enter(
    connection: &mut Database,
    (object, id): (&str, &str),
    state: &str,
    at: DateTime<Utc>,
) -> StoreResult<()> {
    use states::dsl;
    let change = (dsl::state.eq(state), dsl::since.eq(micros(at)));
    if diesel::update(dsl::states.find((object, id)))
        .set(change)
        .execute(connection)?
        == 0
    {
        diesel::insert_into(dsl::states)
            .values((dsl::object.eq(object), dsl::id.eq(id), change))
            .execute(connection)?;
    }
    Ok(())
}

/// The states that objects of those ids entered last, and when; what never told of a state is not among them.
///
/// # Errors
/// When the database fails.
pub fn of_ids(
    connection: &mut Database,
    object: &str,
    ids: &[String],
) -> StoreResult<HashMap<String, (String, DateTime<Utc>)>> {
    use states::dsl;
    let mut found = HashMap::new();
    for ids in ids.chunks(KEYS) {
        let rows: Vec<(String, String, i64)> = dsl::states
            .filter(dsl::object.eq(object))
            .filter(dsl::id.eq_any(ids))
            .select((dsl::id, dsl::state, dsl::since))
            .load(connection)?;
        found.extend(
            rows.into_iter()
                .map(|(id, state, since)| (id, (state, time(since)))),
        );
    }
    Ok(found)
}

/// Forgets an object that was deleted.
///
/// # Errors
/// When the database fails.
pub fn forget(connection: &mut Database, object: &str, id: &str) -> StoreResult<()> {
    diesel::delete(states::table.find((object, id))).execute(connection)?;
    Ok(())
}

/// Objects that entered `state` before `before` and have not left it: id, and since when; longest first, 1000 at most.
///
/// # Errors
/// When the database fails.
pub fn older_than(
    connection: &mut Database,
    object: &str,
    state: &str,
    before: DateTime<Utc>,
) -> StoreResult<Vec<(String, DateTime<Utc>)>> {
    use states::dsl;
    let rows: Vec<(String, i64)> = dsl::states
        .filter(dsl::object.eq(object))
        .filter(dsl::state.eq(state))
        .filter(dsl::since.lt(micros(before)))
        .order((dsl::since, dsl::id))
        .limit(1000)
        .select((dsl::id, dsl::since))
        .load(connection)?;
    Ok(rows.into_iter().map(|(id, since)| (id, time(since))).collect())
}

/// The state an object is in by its own row, with its name (a job's is its id) and its site.
///
/// # Errors
/// When the database fails.
pub fn live(
    connection: &mut Database,
    object: &str,
    id: &str,
) -> StoreResult<Option<(String, String, String)>> {
    Ok(match object {
        "machine" => machines::table
            .find(id)
            .select((machines::state, machines::name, machines::site))
            .first(connection)
            .optional()?,
        "instance" => instances::table
            .find(id)
            .select((instances::state, instances::name, instances::site))
            .first(connection)
            .optional()?,
        "job" => jobs::table
            .find(id)
            .select((jobs::state, jobs::id, jobs::site))
            .first(connection)
            .optional()?,
        _ => None,
    })
}
