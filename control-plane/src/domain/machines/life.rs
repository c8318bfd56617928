//! A machine's life outside instances: on and off the shelf, in maintenance, quarantined, retired. Asks the state table for
//! every move. What an instance does with its machine is elsewhere.

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::ids::MachineId;

use super::{in_use, object, seen_by};
use crate::{
    access::{Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        holds,
        machines::{self, Hold, Machine},
    },
    workflow::state::{MachineEvent, MachineState, machine_moves},
};

/// Longest reason, in characters.
const LONGEST_REASON: usize = 500;

/// Moves a machine as an operator says. A machine that an instance holds can only be marked to be quarantined when the
/// instance gives it back, and unmarked by [`MachineEvent::Return`].
///
/// # Errors
/// When there is none, or that cannot be done where it stands.
pub async fn move_by(
    app: &App,
    caller: &Caller,
    key: String,
    event: MachineEvent,
    reason: Option<String>,
) -> Result<Machine, ApiError> {
    let too_long =
        |text: &String| text.chars().count() > LONGEST_REASON || text.chars().any(char::is_control);
    if reason.as_ref().is_some_and(too_long) {
        let detail = format!("a reason is one line of at most {LONGEST_REASON} characters");
        return Err(ApiError::Bad("reason", detail));
    }
    let (caller, now) = (caller.clone(), (app.now)());
    let machine = app
        .store
        .transaction(move |db| {
            let former = seen_by(db, &caller, &key)?;
            caller.require(Permission::MachinesWrite, Target::site(former.site.as_str()))?;
            match step(db, &former, event, reason.as_deref(), now)? {
                Stepped::Done => {}
                Stepped::Nowhere => return Err(nowhere(&former)),
                Stepped::Late => return Err(ApiError::Changed),
            }
            let machine = seen_by(db, &caller, &former.id.to_string())?;
            let view = |m: &Machine| {
                Some(json!({ "state": m.state, "reason": m.hold.reason, "quarantine_when_released": m.hold.quarantine }))
            };
            let action = format!("machine.{}", event.word());
            let change = Change::new(&action, object(&machine), view(&former), view(&machine));
            audit::done(db, &caller.actor, now, change)?;
            Ok::<_, ApiError>(machine)
        })
        .await?;
    app.work.notify_one();
    Ok(machine)
}

fn nowhere(machine: &Machine) -> ApiError {
    let state = machine.state.word();
    if in_use(machine) {
        let detail = format!(
            "machine `{}` is {state}: release its instance first, or quarantine it, which counts from then on",
            machine.name
        );
        return ApiError::Conflict("machine_in_use", detail);
    }
    let detail = format!(
        "machine `{}` is {state}: that cannot be done with it now",
        machine.name
    );
    ApiError::Conflict("machine_state", detail)
}

/// What became of a move.
enum Stepped {
    Done,
    /// The state table has no such move.
    Nowhere,
    /// Somebody else was quicker.
    Late,
}

fn step(
    db: &mut Database,
    machine: &Machine,
    event: MachineEvent,
    reason: Option<&str>,
    now: DateTime<Utc>,
) -> StoreResult<Stepped> {
    let told = |kind: &str| NewEvent::new(kind, now).site(&machine.site).machine(machine.id);
    if in_use(machine) {
        let (hold, kind) = match event {
            MachineEvent::Quarantine => {
                let reason = reason.map(str::to_owned);
                (
                    Hold {
                        reason,
                        quarantine: true,
                    },
                    "machine.quarantine_marked",
                )
            }
            MachineEvent::Return if machine.hold.quarantine => {
                (Hold::default(), "machine.quarantine_unmarked")
            }
            _ => return Ok(Stepped::Nowhere),
        };
        if !holds::hold(db, machine.id, &hold)? {
            return Ok(Stepped::Late);
        }
        events::append(db, &told(kind).text(reason.unwrap_or_default()))?;
        if event == MachineEvent::Return {
            clear_faults(db, machine, &told)?;
        }
        return Ok(Stepped::Done);
    }
    let Some(next) = machine_moves(machine.state, event) else {
        return Ok(Stepped::Nowhere);
    };
    let reason = reason.filter(|_| next != MachineState::Available);
    if !holds::advance(db, machine.id, (machine.state, next), reason)? {
        return Ok(Stepped::Late);
    }
    let kind = format!("machine.{}", next.word());
    events::append(db, &told(&kind).text(reason.unwrap_or_default()).entered(&next)?)?;
    if event == MachineEvent::Return {
        clear_faults(db, machine, &told)?;
    }
    Ok(Stepped::Done)
}

/// Who returns a machine to use has looked after its faults.
fn clear_faults(db: &mut Database, machine: &Machine, told: &dyn Fn(&str) -> NewEvent) -> StoreResult<()> {
    if events::has_fault(db, machine.id)? {
        events::append(
            db,
            &told(events::FAULT_CLEARED).text("the machine was returned to use"),
        )?;
    }
    Ok(())
}

/// Quarantines a machine on the word of a program, for a reason: at once, or when its instance gives it back. `false` if it
/// is out of use already, or gone.
///
/// # Errors
/// When the store fails.
pub fn quarantine(
    db: &mut Database,
    machine: MachineId,
    reason: &str,
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    let Some(machine) = machines::get(db, &machine.to_string())? else {
        return Ok(false);
    };
    let stepped = step(db, &machine, MachineEvent::Quarantine, Some(reason), now)?;
    Ok(matches!(stepped, Stepped::Done))
}

/// The state a machine stays in that a job has just left in `state`: one that was marked is quarantined. The caller has
/// written the machine's row in the same transaction.
///
/// # Errors
/// When the store fails.
pub fn settled(db: &mut Database, machine: MachineId, state: MachineState) -> StoreResult<MachineState> {
    if state == MachineState::Available && holds::quarantine_if_marked(db, machine)? {
        return Ok(MachineState::Quarantined);
    }
    Ok(state)
}
