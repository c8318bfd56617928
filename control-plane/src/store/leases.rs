//! Leases: who does what only one replica may do at a time. A lease ends by itself, so nobody waits for the dead.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{Database, StoreResult, micros, schema::leases::dsl};

/// Takes or renews a lease; `false` if another holds it.
///
/// # Errors
/// [`super::StoreError::Taken`] when two take a new one at once; the loser tries again later.
pub fn claim(
    connection: &mut Database,
    name: &str,
    holder: &str,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> StoreResult<bool> {
    let change = (dsl::holder.eq(holder), dsl::until.eq(micros(until)));
    let free = dsl::until.lt(micros(now)).or(dsl::holder.eq(holder));
    let row = dsl::leases.find(name).filter(free);
    if diesel::update(row).set(change).execute(connection)? == 1 {
        return Ok(true);
    }
    let held: i64 = dsl::leases
        .filter(dsl::name.eq(name))
        .count()
        .get_result(connection)?;
    if held == 0 {
        diesel::insert_into(dsl::leases)
            .values((dsl::name.eq(name), change))
            .execute(connection)?;
    }
    Ok(held == 0)
}
