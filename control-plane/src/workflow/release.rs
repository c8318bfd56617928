//! The order that takes a machine back, and the one that says "leave it alone". Erasing comes with later work on the
//! machine's life: a released machine is switched off, its disk is not wiped yet.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{JobId, MachineId},
    order::{Action, Hardware, Order, Step},
    seal::Sealed,
};

use super::install::step_id;

/// Switches the machine off; with it go its address and its boot answers.
#[must_use]
pub fn compile(
    machine: MachineId,
    job: JobId,
    deadline: DateTime<Utc>,
    hardware: Hardware,
    secrets: BTreeMap<String, Sealed>,
) -> Order {
    let action = Action::DriverPower { on: false };
    let off = Step {
        id: step_id("power-off"),
        role: action.role(),
        action,
        needs: Vec::new(),
        no_progress_timeout_s: 120,
        retries: 3,
    };
    Order {
        machine,
        job,
        deadline,
        retry: 0,
        settled: None,
        hardware,
        secrets,
        steps: vec![off],
    }
}

/// Nothing is to be done: the machine is left to its disk.
#[must_use]
pub fn nothing(order: Order) -> Order {
    Order {
        steps: Vec::new(),
        secrets: BTreeMap::new(),
        ..order
    }
}
