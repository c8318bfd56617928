//! How long an object may be in a state: pure. A state without a limit is one of rest.

use super::instances::JOB_LIFE;

/// States of work that is under way, by the word of their objects; they end by the deadline of the job that works.
pub(super) const UNDER_WORK: &[(&str, &[&str])] = &[
    ("machine", &["inspecting", "erasing"]),
    (
        "instance",
        &[
            "requested",
            "installing",
            "stopping",
            "starting",
            "restarting",
            "reinstalling",
            "rescuing",
            "erasing",
        ],
    ),
    ("job", &["queued", "running"]),
];

/// The states of work of an object.
pub(super) fn under_work(object: &str) -> &'static [&'static str] {
    let found = UNDER_WORK.iter().find(|(of, _)| *of == object);
    found.map_or(&[], |(_, states)| states)
}

/// For how many seconds an object (`machine`, `instance`, `job`) may be in a state; longer, and it is stuck.
#[must_use]
pub fn limit_s(object: &str, state: &str) -> Option<i64> {
    under_work(object)
        .contains(&state)
        .then_some(JOB_LIFE.num_seconds())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::state::{InstanceState, JobKind, JobState, MachineState};

    #[test]
    fn limits_are_of_states_that_exist() {
        for state in JobState::ALL {
            assert_eq!(limit_s("job", state.word()).is_some(), !state.is_final());
        }
        for word in JobKind::ALL
            .into_iter()
            .filter_map(|kind| kind.state())
            .map(InstanceState::word)
        {
            assert_eq!(limit_s("instance", word), Some(7200), "a job works on {word}");
        }
        for word in under_work("instance") {
            assert!(serde_json::from_value::<InstanceState>((*word).into()).is_ok());
        }
        for word in under_work("machine") {
            assert!(serde_json::from_value::<MachineState>((*word).into()).is_ok());
        }
        assert_eq!(limit_s("instance", "running"), None);
        assert_eq!(limit_s("site", "queued"), None);
    }
}
