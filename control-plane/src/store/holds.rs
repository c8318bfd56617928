//! What keeps machines out of use: moves that no job makes, and marks for when a job has ended.

use diesel::prelude::*;
use slipway_protocol::ids::MachineId;

use super::{Database, StoreResult, machines::Hold, schema::machines, to_word};
use crate::workflow::state::MachineState;

/// Moves a machine that no job works on, if it is still where it was; `false` otherwise. The reason takes the place of
/// the one it had.
///
/// # Errors
/// When the database fails.
pub fn advance(
    connection: &mut Database,
    id: MachineId,
    (from, to): (MachineState, MachineState),
    reason: Option<&str>,
) -> StoreResult<bool> {
    use machines::dsl;
    let row = dsl::machines
        .find(id.to_string())
        .filter(dsl::state.eq(to_word(&from)?))
        .filter(dsl::live_job.is_null());
    let change = (
        dsl::state.eq(to_word(&to)?),
        dsl::reason.eq(reason),
        dsl::quarantine.eq(false),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Marks a machine that an instance holds, or takes the mark away; `false` if none holds it any more.
///
/// # Errors
/// When the database fails.
pub fn hold(connection: &mut Database, id: MachineId, hold: &Hold) -> StoreResult<bool> {
    use machines::dsl;
    let held = [
        to_word(&MachineState::Allocated)?,
        to_word(&MachineState::Erasing)?,
    ];
    let row = dsl::machines
        .find(id.to_string())
        .filter(dsl::state.eq_any(held).or(dsl::live_job.is_not_null()));
    let change = (dsl::reason.eq(&hold.reason), dsl::quarantine.eq(hold.quarantine));
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Quarantines a machine that is free and was marked; `false` if it was not.
///
/// # Errors
/// When the database fails.
pub fn quarantine_if_marked(connection: &mut Database, id: MachineId) -> StoreResult<bool> {
    use machines::dsl;
    let row = dsl::machines
        .find(id.to_string())
        .filter(dsl::state.eq(to_word(&MachineState::Available)?))
        .filter(dsl::quarantine.eq(true));
    let change = (
        dsl::state.eq(to_word(&MachineState::Quarantined)?),
        dsl::quarantine.eq(false),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}
