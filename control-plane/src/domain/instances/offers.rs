//! Orders of instances' jobs that are signed beforehand, for the time their site is cut off. Stores nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use slipway_protocol::{ids::JobId, lease::Operation, order::Order, seal::SealingKey};

use super::orders::{release_order, rescue_order, switch_order};
use crate::{
    app::App,
    error::ApiError,
    store::{instances::Instance, machines::Machine},
    workflow::{
        offline,
        power::Switch,
        state::{InstanceState, JobKind},
    },
};

/// How long a system is given to shut down: as long as the API gives it if nothing is said.
const GRACE_S: u32 = 60;

/// What may be offered of an instance whose last job was of this kind: what its owner could ask for.
#[must_use]
pub(crate) fn offered(instance: &Instance, last: JobKind, allowed: &BTreeSet<Operation>) -> Vec<Operation> {
    if instance.locked {
        return Vec::new();
    }
    let mut offered = offline::offered(instance.state, allowed);
    let broken = instance.state == InstanceState::Failed && last.installs();
    offered.retain(|operation| match operation {
        Operation::Rescue => !instance.wish.ssh_keys.is_empty(),
        Operation::Release => true,
        _ => !broken,
    });
    offered
}

/// The order of an offered operation, good to be begun until `until`; none for an operation of a later version.
///
/// # Errors
/// When a secret cannot be read or sealed.
pub(crate) fn offer_order(
    app: &App,
    on: (&Instance, &Machine),
    both: (JobId, SealingKey),
    operation: Operation,
    until: DateTime<Utc>,
) -> Result<Option<Order>, ApiError> {
    let switch = match operation {
        // It is on, but not in its own system.
        Operation::PowerOn if on.0.state == InstanceState::Rescue => Switch::Restart { grace_s: 0 },
        Operation::PowerOn => Switch::Start,
        Operation::PowerOff => Switch::Stop { grace_s: GRACE_S },
        Operation::Restart => Switch::Restart { grace_s: GRACE_S },
        Operation::Rescue => {
            let keys = on.0.wish.ssh_keys.clone();
            return rescue_order(app, on, both, keys, until).map(Some);
        }
        Operation::Release => return release_order(app, on.1, both, until).map(Some),
        Operation::Unknown => return Ok(None),
    };
    switch_order(app, on, both, switch, until).map(Some)
}
