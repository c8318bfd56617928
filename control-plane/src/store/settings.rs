//! Settings by name.

use diesel::prelude::*;

use super::{Database, StoreResult, schema::settings::dsl};

/// A setting.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, name: &str) -> StoreResult<Option<String>> {
    Ok(dsl::settings
        .find(name)
        .select(dsl::value)
        .first(connection)
        .optional()?)
}

/// Sets it.
///
/// # Errors
/// When the database fails.
pub fn put(connection: &mut Database, name: &str, value: &str) -> StoreResult<()> {
    let changed = diesel::update(dsl::settings.find(name))
        .set(dsl::value.eq(value))
        .execute(connection)?;
    if changed == 0 {
        diesel::insert_into(dsl::settings)
            .values((dsl::name.eq(name), dsl::value.eq(value)))
            .execute(connection)?;
    }
    Ok(())
}
