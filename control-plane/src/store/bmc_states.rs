//! How machines' BMCs were when they were last asked. It is no operator's change: a machine's version stays.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{bmc::BmcState, ids::MachineId};

use super::{Database, StoreResult, micros, schema::machines::dsl, to_json};

/// Keeps how a machine's BMC was, if that is newer than what is known; `false` otherwise.
///
/// # Errors
/// When the database fails.
pub fn put(db: &mut Database, machine: MachineId, state: &BmcState) -> StoreResult<bool> {
    let seen_at = micros(state.seen_at);
    let older = dsl::bmc_seen_at.is_null().or(dsl::bmc_seen_at.lt(seen_at));
    let row = dsl::machines
        .filter(dsl::id.eq(machine.to_string()))
        .filter(older);
    let change = (
        dsl::bmc_state.eq(Some(to_json(state)?)),
        dsl::bmc_seen_at.eq(Some(seen_at)),
    );
    Ok(diesel::update(row).set(change).execute(db)? == 1)
}

/// Forgets how it was, for the machine has another BMC; what was read before `now` is not taken again.
///
/// # Errors
/// When the database fails.
pub fn forget(db: &mut Database, machine: MachineId, now: DateTime<Utc>) -> StoreResult<()> {
    let change = (
        dsl::bmc_state.eq(None::<String>),
        dsl::bmc_seen_at.eq(Some(micros(now))),
    );
    diesel::update(dsl::machines.find(machine.to_string()))
        .set(change)
        .execute(db)?;
    Ok(())
}
