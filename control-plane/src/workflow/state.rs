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

/// Gives a state the word it has in the API, in events and in the audit log.
macro_rules! words {
    ($name:ident { $($state:ident = $word:literal),* $(,)? }) => {
        impl $name {
            /// As it stands in the API, in events and in the audit log.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$state => $word,)* }
            }
        }
    };
}

words!(MachineState {
    Discovered = "discovered",
    Enrolled = "enrolled",
    Inspecting = "inspecting",
    Available = "available",
    Allocated = "allocated",
    Erasing = "erasing",
    Maintenance = "maintenance",
    Quarantined = "quarantined",
    Retired = "retired",
});
words!(InstanceState {
    Requested = "requested",
    Installing = "installing",
    Running = "running",
    Stopping = "stopping",
    Stopped = "stopped",
    Starting = "starting",
    Restarting = "restarting",
    Reinstalling = "reinstalling",
    Rescuing = "rescuing",
    Rescue = "rescue",
    Erasing = "erasing",
    Released = "released",
    Failed = "failed",
});
words!(JobState {
    Queued = "queued",
    Running = "running",
    Done = "done",
    Failed = "failed",
    Cancelled = "cancelled",
});
words!(JobKind {
    Install = "install",
    Reinstall = "reinstall",
    Start = "start",
    Stop = "stop",
    Restart = "restart",
    Rescue = "rescue",
    ResetPassword = "reset_password",
    Release = "release",
    RotateBmcPassword = "rotate_bmc_password",
    SwitchPower = "switch_power",
});

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
    /// Being switched off.
    Stopping,
    /// Switched off.
    Stopped,
    /// Being switched on.
    Starting,
    /// Being switched off and on.
    Restarting,
    /// Being installed anew on its machine.
    Reinstalling,
    /// Being booted into the LiveOS, for its owner to look at its disks.
    Rescuing,
    /// In the LiveOS, with its owner let in; any way out boots its disk again.
    Rescue,
    /// Being given back.
    Erasing,
    /// Given back.
    Released,
    /// Its last job failed, and says during what, why, and what to do.
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

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// To install an instance on a machine.
    Install,
    /// To install it anew on its machine.
    Reinstall,
    /// To switch it on.
    Start,
    /// To switch it off.
    Stop,
    /// To switch it off and on.
    Restart,
    /// To boot it into the LiveOS and let its owner in.
    Rescue,
    /// To give a user of its system a new password, through the LiveOS, and start it again.
    ResetPassword,
    /// To take its machine back.
    Release,
    /// To give a machine's BMC a new password. It is no instance's work, and does not touch the server.
    RotateBmcPassword,
    /// To switch a machine that holds no instance, or to read how any machine's BMC is. It is no instance's work.
    SwitchPower,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::Install,
        Self::Reinstall,
        Self::Start,
        Self::Stop,
        Self::Restart,
        Self::Rescue,
        Self::ResetPassword,
        Self::Release,
        Self::RotateBmcPassword,
        Self::SwitchPower,
    ];

    /// Whether such a job writes a system: until it has ended well there is none to be switched on.
    #[must_use]
    pub fn installs(self) -> bool {
        matches!(self, Self::Install | Self::Reinstall)
    }

    /// The state of an instance that such a job works on; none if it works on a machine alone.
    #[must_use]
    pub fn state(self) -> Option<InstanceState> {
        Some(match self {
            Self::Install => InstanceState::Installing,
            Self::Reinstall => InstanceState::Reinstalling,
            Self::Start => InstanceState::Starting,
            Self::Stop => InstanceState::Stopping,
            // A new password takes a restart too, by way of the LiveOS.
            Self::Restart | Self::ResetPassword => InstanceState::Restarting,
            Self::Rescue => InstanceState::Rescuing,
            Self::Release => InstanceState::Erasing,
            Self::RotateBmcPassword | Self::SwitchPower => return None,
        })
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
    /// Its owner asks for work on it.
    Asked(JobKind),
    /// Its owner gives it back before it ever had a machine.
    Left,
    /// Its failed job is taken up again; the kind is the job's.
    Retried(JobKind),
    /// Its failed job, which never got a machine, waits for one again.
    Requeued,
}

use InstanceEvent::{Asked, Dispatched, JobDone, JobFailed, Left, Requeued, Retried};
use InstanceState as S;
use JobKind as K;

/// Every move of an instance; what is not here does not happen.
pub const INSTANCE_MOVES: [(InstanceState, InstanceEvent, InstanceState); 55] = [
    (S::Requested, Dispatched, S::Installing),
    (S::Requested, JobFailed, S::Failed),
    (S::Requested, Left, S::Released),
    (S::Failed, Left, S::Released),
    (S::Installing, JobDone, S::Running),
    (S::Installing, JobFailed, S::Failed),
    (S::Running, Asked(K::Stop), S::Stopping),
    (S::Running, Asked(K::Restart), S::Restarting),
    (S::Running, Asked(K::Reinstall), S::Reinstalling),
    (S::Running, Asked(K::Release), S::Erasing),
    (S::Stopping, JobDone, S::Stopped),
    (S::Stopping, JobFailed, S::Failed),
    (S::Stopped, Asked(K::Start), S::Starting),
    (S::Stopped, Asked(K::Reinstall), S::Reinstalling),
    (S::Stopped, Asked(K::Release), S::Erasing),
    (S::Starting, JobDone, S::Running),
    (S::Starting, JobFailed, S::Failed),
    (S::Restarting, JobDone, S::Running),
    (S::Restarting, JobFailed, S::Failed),
    (S::Reinstalling, JobDone, S::Running),
    (S::Reinstalling, JobFailed, S::Failed),
    (S::Erasing, JobDone, S::Released),
    (S::Erasing, JobFailed, S::Failed),
    // A failure leaves every way out: on, off, anew, back, or the same once more.
    (S::Failed, Asked(K::Start), S::Starting),
    (S::Failed, Asked(K::Stop), S::Stopping),
    (S::Failed, Asked(K::Restart), S::Restarting),
    (S::Failed, Asked(K::Reinstall), S::Reinstalling),
    (S::Failed, Asked(K::Release), S::Erasing),
    (S::Failed, Requeued, S::Requested),
    (S::Failed, Retried(K::Install), S::Installing),
    (S::Failed, Retried(K::Reinstall), S::Reinstalling),
    (S::Failed, Retried(K::Start), S::Starting),
    (S::Failed, Retried(K::Stop), S::Stopping),
    (S::Failed, Retried(K::Restart), S::Restarting),
    (S::Failed, Retried(K::Release), S::Erasing),
    (S::Running, Asked(K::Start), S::Starting),
    (S::Stopped, Asked(K::Stop), S::Stopping),
    (S::Stopped, Asked(K::Restart), S::Restarting),
    (S::Running, Asked(K::Rescue), S::Rescuing),
    (S::Stopped, Asked(K::Rescue), S::Rescuing),
    (S::Failed, Asked(K::Rescue), S::Rescuing),
    (S::Failed, Retried(K::Rescue), S::Rescuing),
    (S::Rescuing, JobDone, S::Rescue),
    (S::Rescuing, JobFailed, S::Failed),
    (S::Rescue, Asked(K::Rescue), S::Rescuing),
    (S::Rescue, Asked(K::Start), S::Starting),
    (S::Rescue, Asked(K::Stop), S::Stopping),
    (S::Rescue, Asked(K::Restart), S::Restarting),
    (S::Rescue, Asked(K::Reinstall), S::Reinstalling),
    (S::Rescue, Asked(K::ResetPassword), S::Restarting),
    (S::Rescue, Asked(K::Release), S::Erasing),
    (S::Running, Asked(K::ResetPassword), S::Restarting),
    (S::Stopped, Asked(K::ResetPassword), S::Restarting),
    (S::Failed, Asked(K::ResetPassword), S::Restarting),
    (S::Failed, Retried(K::ResetPassword), S::Restarting),
];

/// The state after an event, if the event has a meaning there.
#[must_use]
pub fn after(state: InstanceState, event: InstanceEvent) -> Option<InstanceState> {
    INSTANCE_MOVES
        .iter()
        .find(|(from, on, _)| *from == state && *on == event)
        .map(|(_, _, to)| *to)
}

/// What happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineEvent {
    /// An operator takes it off the shelf: it is kept, and given to nobody.
    Shelve,
    /// An operator gives it out.
    Unshelve,
    /// An operator works on it.
    Maintain,
    /// Something is wrong with it.
    Quarantine,
    /// It is well again.
    Return,
    /// It is gone for good.
    Retire,
    /// An instance takes it.
    Taken,
    /// Its instance is given back; its disks are erased first.
    Erase,
    /// Its instance gave it back.
    Freed,
    /// Its instance gave it back, and somebody had marked it to be quarantined.
    FreedMarked,
}

impl MachineEvent {
    /// What operators ask for.
    pub const BY_HAND: [Self; 6] = [
        Self::Shelve,
        Self::Unshelve,
        Self::Maintain,
        Self::Quarantine,
        Self::Return,
        Self::Retire,
    ];

    /// As it stands in addresses and in the audit log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Shelve => "shelve",
            Self::Unshelve => "unshelve",
            Self::Maintain => "maintenance",
            Self::Quarantine => "quarantine",
            Self::Return => "return",
            Self::Retire => "retire",
            Self::Taken => "taken",
            Self::Erase => "erase",
            Self::Freed => "freed",
            Self::FreedMarked => "freed_marked",
        }
    }
}

use MachineEvent as E;
use MachineState as M;

/// Every move of a machine; what is not here does not happen. No row has `discovered` or `inspecting` yet; both have
/// their way out all the same.
pub const MACHINE_MOVES: [(MachineState, MachineEvent, MachineState); 30] = [
    (M::Discovered, E::Shelve, M::Enrolled),
    (M::Discovered, E::Retire, M::Retired),
    (M::Enrolled, E::Unshelve, M::Available),
    (M::Enrolled, E::Maintain, M::Maintenance),
    (M::Enrolled, E::Quarantine, M::Quarantined),
    (M::Enrolled, E::Retire, M::Retired),
    (M::Inspecting, E::Shelve, M::Enrolled),
    (M::Inspecting, E::Unshelve, M::Available),
    (M::Inspecting, E::Maintain, M::Maintenance),
    (M::Inspecting, E::Quarantine, M::Quarantined),
    (M::Inspecting, E::Retire, M::Retired),
    (M::Available, E::Shelve, M::Enrolled),
    (M::Available, E::Maintain, M::Maintenance),
    (M::Available, E::Quarantine, M::Quarantined),
    (M::Available, E::Retire, M::Retired),
    (M::Available, E::Taken, M::Allocated),
    (M::Maintenance, E::Return, M::Available),
    (M::Maintenance, E::Shelve, M::Enrolled),
    (M::Maintenance, E::Quarantine, M::Quarantined),
    (M::Maintenance, E::Retire, M::Retired),
    (M::Quarantined, E::Return, M::Available),
    (M::Quarantined, E::Shelve, M::Enrolled),
    (M::Quarantined, E::Maintain, M::Maintenance),
    (M::Quarantined, E::Retire, M::Retired),
    (M::Allocated, E::Taken, M::Allocated),
    (M::Allocated, E::Erase, M::Erasing),
    (M::Allocated, E::Freed, M::Available),
    (M::Allocated, E::FreedMarked, M::Quarantined),
    (M::Erasing, E::Freed, M::Available),
    (M::Erasing, E::FreedMarked, M::Quarantined),
];

/// The state of a machine after an event, if the event has a meaning there.
#[must_use]
pub fn machine_moves(state: MachineState, event: MachineEvent) -> Option<MachineState> {
    MACHINE_MOVES
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

    const STATES: [InstanceState; 13] = [
        S::Requested,
        S::Installing,
        S::Running,
        S::Stopping,
        S::Stopped,
        S::Starting,
        S::Restarting,
        S::Reinstalling,
        S::Rescuing,
        S::Rescue,
        S::Erasing,
        S::Released,
        S::Failed,
    ];

    fn events() -> Vec<InstanceEvent> {
        let kinds = JobKind::ALL.into_iter();
        let asked = kinds.clone().map(Asked);
        [Dispatched, JobDone, JobFailed, Left, Requeued]
            .into_iter()
            .chain(asked)
            .chain(kinds.map(Retried))
            .collect()
    }

    /// Every state under work has both ends of a job, and its deadline brings one of them; every other state can be left
    /// by its owner; and from each a tenant gets rid of the instance.
    #[test]
    fn no_state_can_be_stuck() {
        for state in STATES {
            let works = JobKind::ALL.iter().any(|kind| kind.state() == Some(state)) || state == S::Requested;
            let ends = |event| after(state, event).is_some();
            if works {
                assert!(ends(JobFailed), "{state:?} has no end by a deadline");
                assert!(
                    ends(JobDone) || state == S::Requested,
                    "{state:?} cannot end well"
                );
            } else if state != S::Released {
                assert!(ends(Asked(K::Release)), "{state:?} cannot be given back");
                assert!(
                    !ends(JobDone) && !ends(JobFailed),
                    "{state:?}: a late end of a job changes nothing"
                );
            }
        }
        for kind in JobKind::ALL {
            assert_eq!(after(S::Failed, Retried(kind)), kind.state(), "{kind:?}");
        }
    }

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

    const MACHINES: [MachineState; 9] = [
        M::Discovered,
        M::Enrolled,
        M::Inspecting,
        M::Available,
        M::Allocated,
        M::Erasing,
        M::Maintenance,
        M::Quarantined,
        M::Retired,
    ];

    #[test]
    fn machine_moves_are_a_function_and_no_state_but_the_last_keeps_a_machine() {
        let mut seen = HashSet::new();
        for (from, on, _) in MACHINE_MOVES {
            assert!(seen.insert((from, on)), "{from:?} on {on:?} stands twice");
        }
        for state in MACHINES {
            let left = MACHINE_MOVES
                .iter()
                .any(|(from, _, to)| *from == state && *to != state);
            assert_eq!(left, state != M::Retired, "{state:?}");
            let by_hand = E::BY_HAND
                .iter()
                .any(|event| machine_moves(state, *event).is_some());
            let held = [M::Allocated, M::Erasing, M::Retired].contains(&state);
            assert_eq!(
                by_hand, !held,
                "{state:?}: what an instance holds is left by its work alone"
            );
        }
        let given = |(from, _, to): &(MachineState, MachineEvent, MachineState)| {
            *to == M::Allocated && *from != M::Available && *from != M::Allocated
        };
        assert!(
            !MACHINE_MOVES.iter().any(given),
            "only what is available is given to an instance"
        );
        let words: HashSet<&str> = E::BY_HAND.iter().map(|event| event.word()).collect();
        assert_eq!(words.len(), E::BY_HAND.len());
    }

    /// What the store does with machines under work is what the table says.
    #[test]
    fn the_end_of_work_is_in_the_table() {
        assert_eq!(
            machine_moves(M::Allocated, E::Freed),
            Some(machine_after(S::Released))
        );
        assert_eq!(machine_moves(M::Allocated, E::FreedMarked), Some(M::Quarantined));
    }

    #[test]
    fn words_are_those_of_the_api() {
        for kind in JobKind::ALL {
            assert_eq!(serde_json::json!(kind), kind.word());
        }
        for state in STATES {
            assert_eq!(serde_json::json!(state), state.word());
        }
        for state in MACHINES {
            assert_eq!(serde_json::json!(state), state.word());
        }
        for state in JobState::ALL {
            assert_eq!(serde_json::json!(state), state.word());
        }
    }

    #[test]
    fn released_is_the_end() {
        for event in events() {
            assert_eq!(after(InstanceState::Released, event), None);
        }
        assert_eq!(machine_after(InstanceState::Released), MachineState::Available);
        assert_eq!(machine_after(InstanceState::Failed), MachineState::Allocated);
    }
}
