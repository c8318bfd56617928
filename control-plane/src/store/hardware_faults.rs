//! Faults from the event logs of BMCs that were told already.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::ids::MachineId;

use super::{Database, StoreResult, micros, schema::hardware_faults::dsl};

/// Notes that an entry of a machine's log is told; `false` if it was before. The caller holds the lock on the machine's
/// report, so that no two replicas note the same.
///
/// # Errors
/// When the database fails.
pub fn tell(db: &mut Database, machine: MachineId, raw: &str, now: DateTime<Utc>) -> StoreResult<bool> {
    let machine = machine.to_string();
    let row = dsl::hardware_faults.find((&machine, raw));
    let told: Option<i64> = row.select(dsl::told_at).first(db).optional()?;
    if told.is_some() {
        return Ok(false);
    }
    let row = (
        dsl::machine.eq(&machine),
        dsl::raw.eq(raw),
        dsl::told_at.eq(micros(now)),
    );
    diesel::insert_into(dsl::hardware_faults)
        .values(row)
        .execute(db)?;
    Ok(true)
}

/// Forgets a machine's.
///
/// # Errors
/// When the database fails.
pub fn forget(db: &mut Database, machine: MachineId) -> StoreResult<()> {
    diesel::delete(dsl::hardware_faults.filter(dsl::machine.eq(machine.to_string()))).execute(db)?;
    Ok(())
}
