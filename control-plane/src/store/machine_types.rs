//! Machine types, and which machines they were not yet applied to. Decides nothing about machines.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::ids::MachineId;

use super::{
    Database, StoreError, StoreResult, from_json,
    machines::{self as machines_table, Class, Machine},
    micros,
    schema::{machine_types, machines},
    settings, time, to_json,
};
use crate::workflow::classify::Rules;

/// A machine type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineType {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: String,
    /// Its rank among types that fit.
    pub priority: i64,
    /// What its machines are like.
    pub rules: Rules,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

type Row = (String, String, i64, String, i64);

fn machine_type(row: Row) -> StoreResult<MachineType> {
    let (name, description, priority, rules, created_at) = row;
    Ok(MachineType {
        name,
        description,
        priority,
        rules: from_json(&rules)?,
        created_at: time(created_at),
    })
}

/// The setting that holds the revision of all types together.
const REVISION: &str = "machine_types";

/// The revision of all types together; it grows with each change of one.
///
/// # Errors
/// When the database fails.
pub fn revision(db: &mut Database) -> StoreResult<i64> {
    let text = settings::get(db, REVISION)?;
    let number = text.map(|text| text.parse()).transpose();
    Ok(number
        .map_err(|_| StoreError::Row("the revision of machine types is no number".to_owned()))?
        .unwrap_or(0))
}

/// Makes or replaces a type; machines are then to be classified anew.
///
/// # Errors
/// When the database fails.
pub fn put(db: &mut Database, t: &MachineType) -> StoreResult<()> {
    let change = (
        machine_types::description.eq(&t.description),
        machine_types::priority.eq(t.priority),
        machine_types::rules.eq(to_json(&t.rules)?),
    );
    let changed = diesel::update(machine_types::table.find(&t.name))
        .set(change.clone())
        .execute(db)?;
    if changed == 0 {
        let row = (
            machine_types::name.eq(&t.name),
            machine_types::created_at.eq(micros(t.created_at)),
            change,
        );
        diesel::insert_into(machine_types::table)
            .values(row)
            .execute(db)?;
    }
    raise(db)
}

/// Removes a type; machines are then to be classified anew.
///
/// # Errors
/// When the database fails.
pub fn delete(db: &mut Database, name: &str) -> StoreResult<()> {
    diesel::delete(machine_types::table.find(name)).execute(db)?;
    raise(db)
}

fn raise(db: &mut Database) -> StoreResult<()> {
    let next = revision(db)? + 1;
    settings::put(db, REVISION, &next.to_string())
}

/// One type.
///
/// # Errors
/// When the database fails.
pub fn get(db: &mut Database, name: &str) -> StoreResult<Option<MachineType>> {
    let row = machine_types::table.find(name).first::<Row>(db).optional()?;
    row.map(machine_type).transpose()
}

/// All types, by name; there are a few dozen at most.
///
/// # Errors
/// When the database fails.
pub fn all(db: &mut Database) -> StoreResult<Vec<MachineType>> {
    let rows = machine_types::table.order(machine_types::name).load::<Row>(db)?;
    rows.into_iter().map(machine_type).collect()
}

/// How many machines are of a type.
///
/// # Errors
/// When the database fails.
pub fn machines_of(db: &mut Database, name: &str) -> StoreResult<i64> {
    let rows = machines::table.filter(machines::machine_type.eq(name));
    Ok(rows.count().get_result(db)?)
}

/// A machine that an operator gave a type, if there is one.
///
/// # Errors
/// When the database fails.
pub fn pinned_to(db: &mut Database, name: &str) -> StoreResult<Option<String>> {
    let rows = machines::table
        .filter(machines::machine_type.eq(name))
        .filter(machines::type_pinned.eq(true));
    Ok(rows.select(machines::name).first(db).optional()?)
}

/// Sets the type of a machine that rules decide for, or one that an operator gives.
///
/// # Errors
/// When the database fails.
pub fn set_class(db: &mut Database, id: MachineId, class: &Class) -> StoreResult<()> {
    use machines::dsl;
    let row = dsl::machines.find(id.to_string());
    let change = (
        dsl::machine_type.eq(&class.machine_type),
        dsl::type_pinned.eq(class.pinned),
        dsl::type_reason.eq(&class.reason),
        dsl::typed_by.eq(class.revision),
    );
    diesel::update(row).set(change).execute(db)?;
    Ok(())
}

/// The same for a machine whose type was decided by an older revision, if that is still so: who knows the machine better
/// may have come between.
///
/// # Errors
/// When the database fails.
pub fn reclass(db: &mut Database, m: &Machine, class: &Class) -> StoreResult<()> {
    use machines::dsl;
    let row = dsl::machines
        .find(m.id.to_string())
        .filter(dsl::typed_by.eq(m.class.revision))
        .filter(dsl::type_pinned.eq(m.class.pinned));
    let change = (
        dsl::machine_type.eq(&class.machine_type),
        dsl::type_reason.eq(&class.reason),
        dsl::typed_by.eq(class.revision),
    );
    diesel::update(row).set(change).execute(db)?;
    Ok(())
}

/// Notes that machines stay what they are by a newer revision, if they still are as the older one left them.
///
/// # Errors
/// When the database fails.
pub fn keep(db: &mut Database, ids: Vec<String>, (former, now): (i64, i64)) -> StoreResult<()> {
    use machines::dsl;
    let rows = dsl::machines
        .filter(dsl::id.eq_any(ids))
        .filter(dsl::typed_by.eq(former));
    diesel::update(rows).set(dsl::typed_by.eq(now)).execute(db)?;
    Ok(())
}

/// Up to `limit` machines whose type was decided by an older revision than `revision`.
///
/// # Errors
/// When the database fails.
pub fn classed_before(db: &mut Database, revision: i64, limit: i64) -> StoreResult<Vec<Machine>> {
    use machines::dsl;
    let rows = dsl::machines.filter(dsl::typed_by.lt(revision)).limit(limit);
    rows.load::<machines_table::Row>(db)?
        .into_iter()
        .map(machines_table::from_row)
        .collect()
}
