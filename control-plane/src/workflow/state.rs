//! The states of machines, instances and jobs, and every move between them, in one table each.

use serde::{Deserialize, Serialize};
use slipway_protocol::report::Outcome;
use utoipa::ToSchema;

/// Where a machine stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// Seen, not enrolled.
    Discovered,
    /// Enrolled, not looked at.
    Enrolled,
    /// Being looked at.
    Inspecting,
    /// Free.
    Available,
    /// In the hands of an instance.
    Allocated,
    /// Being erased.
    Erasing,
    /// Kept out of use by an operator.
    Maintenance,
    /// Kept out of use because something is wrong with it.
    Quarantined,
    /// Gone.
    Retired,
}

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InstanceState {
    /// Asked for; waits for a machine.
    Requested,
    /// Being installed.
    Installing,
    /// Its operating system came up and said so.
    Running,
    /// Being given back.
    Erasing,
    /// Given back.
    Released,
    /// Did not come up; its job says why.
    Failed,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for a machine.
    Queued,
    /// Its order is in force.
    Running,
    /// Done.
    Done,
    /// Failed for a named reason.
    Failed,
    /// Called off.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [Self; 5] = [
        Self::Queued,
        Self::Running,
        Self::Done,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// What happens to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InstanceEvent {
    /// A machine was found and its order is in force.
    Dispatched,
    /// Its job ended well.
    JobDone,
    /// Its job failed or was called off.
    JobFailed,
    /// Its owner gives it back.
    ReleaseAsked,
}

/// Every move of an instance; what is not here does not happen.
pub const INSTANCE_MOVES: [(InstanceState, InstanceEvent, InstanceState); 9] = [
    (
        InstanceState::Requested,
        InstanceEvent::Dispatched,
        InstanceState::Installing,
    ),
    (
        InstanceState::Requested,
        InstanceEvent::JobFailed,
        InstanceState::Failed,
    ),
    (
        InstanceState::Requested,
        InstanceEvent::ReleaseAsked,
        InstanceState::Released,
    ),
    (
        InstanceState::Installing,
        InstanceEvent::JobDone,
        InstanceState::Running,
    ),
    (
        InstanceState::Installing,
        InstanceEvent::JobFailed,
        InstanceState::Failed,
    ),
    (
        InstanceState::Running,
        InstanceEvent::ReleaseAsked,
        InstanceState::Erasing,
    ),
    (
        InstanceState::Failed,
        InstanceEvent::ReleaseAsked,
        InstanceState::Erasing,
    ),
    (
        InstanceState::Erasing,
        InstanceEvent::JobDone,
        InstanceState::Released,
    ),
    (
        InstanceState::Erasing,
        InstanceEvent::JobFailed,
        InstanceState::Failed,
    ),
];

/// The state after an event, if the event has a meaning there.
#[must_use]
pub fn after(state: InstanceState, event: InstanceEvent) -> Option<InstanceState> {
    INSTANCE_MOVES
        .iter()
        .find(|(from, on, _)| *from == state && *on == event)
        .map(|(_, _, to)| *to)
}

/// The end of a job by its report, if the report has one.
#[must_use]
pub fn job_end(outcome: &Outcome) -> Option<JobState> {
    match outcome {
        Outcome::Running => None,
        Outcome::Done { .. } => Some(JobState::Done),
        Outcome::Failed { .. } => Some(JobState::Failed),
    }
}

/// The state a machine is left in when an instance's job has ended.
#[must_use]
pub fn machine_after(instance: InstanceState) -> MachineState {
    match instance {
        InstanceState::Released => MachineState::Available,
        _ => MachineState::Allocated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    const STATES: [InstanceState; 6] = [
        InstanceState::Requested,
        InstanceState::Installing,
        InstanceState::Running,
        InstanceState::Erasing,
        InstanceState::Released,
        InstanceState::Failed,
    ];
    const EVENTS: [InstanceEvent; 4] = [
        InstanceEvent::Dispatched,
        InstanceEvent::JobDone,
        InstanceEvent::JobFailed,
        InstanceEvent::ReleaseAsked,
    ];

    #[test]
    fn the_table_is_a_function_and_every_state_can_end_released() {
        let mut seen = HashSet::new();
        for (from, on, _) in INSTANCE_MOVES {
            assert!(seen.insert((from, on)), "{from:?} on {on:?} stands twice");
        }
        let mut reaches: HashMap<InstanceState, bool> =
            STATES.map(|s| (s, s == InstanceState::Released)).into();
        for _ in STATES {
            for (from, _, to) in INSTANCE_MOVES {
                let good = reaches[&to];
                *reaches.get_mut(&from).unwrap() |= good;
            }
        }
        assert!(reaches.values().all(|good| *good), "{reaches:?}");
    }

    #[test]
    fn released_is_the_end() {
        for event in EVENTS {
            assert_eq!(after(InstanceState::Released, event), None);
        }
        assert_eq!(machine_after(InstanceState::Released), MachineState::Available);
        assert_eq!(machine_after(InstanceState::Failed), MachineState::Allocated);
    }
}
