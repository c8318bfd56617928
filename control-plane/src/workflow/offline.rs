//! What may be offered of a machine for the time its site is cut off, under which revisions, and what follows when a site
//! says that it used an offer. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use slipway_protocol::lease::{Operation, USES};

use super::state::{InstanceEvent, InstanceState, JobKind, after};

/// The states in which anything can be offered.
pub const SETTLED: [InstanceState; 4] = [
    InstanceState::Running,
    InstanceState::Stopped,
    InstanceState::Rescue,
    InstanceState::Failed,
];

/// The kind of job an operation is; none for one of a later version.
#[must_use]
pub fn kind_of(operation: Operation) -> Option<JobKind> {
    match operation {
        Operation::Restart => Some(JobKind::Restart),
        Operation::PowerOff => Some(JobKind::Stop),
        Operation::PowerOn => Some(JobKind::Start),
        Operation::Rescue => Some(JobKind::Rescue),
        Operation::Release => Some(JobKind::Release),
        Operation::Unknown => None,
    }
}

/// Which of the allowed operations could be asked for centrally in this state: what is offered.
#[must_use]
pub fn offered(state: InstanceState, allowed: &BTreeSet<Operation>) -> Vec<Operation> {
    let may = |operation: &Operation| {
        kind_of(*operation).is_some_and(|kind| after(state, InstanceEvent::Asked(kind)).is_some())
    };
    allowed.iter().copied().filter(may).collect()
}

/// The revisions that offers get, lowest first: above the order in force and above all that was offered before, so that a
/// new lease does not share a revision with an old one. What is put in force centrally afterwards comes above them.
#[must_use]
pub fn reserve(revision: u64, reserved: u64) -> Vec<u64> {
    let above = revision.max(reserved);
    (1..=USES).map(|n| above + n).collect()
}

/// Whether a lease is to be issued anew: half of its time is over.
#[must_use]
pub fn is_half_over(issued_at: DateTime<Utc>, until: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    now >= issued_at + (until - issued_at) / 2
}

/// What follows from a site's word that it used an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// The offered order is in force from now on, and the instance is in this state.
    InForce(InstanceState),
    /// It is noted as a job that was done or overtaken, and changes nothing else: an order of the control plane came after it,
    /// or the instance stands where it makes no sense.
    Noted,
}

/// Decides it: `in_force` and `offered` are the revisions of the machine's order and of the offer's.
#[must_use]
pub fn adopt(in_force: u64, offered: u64, state: InstanceState, kind: JobKind) -> Adoption {
    match after(state, InstanceEvent::Asked(kind)) {
        Some(next) if offered > in_force => Adoption::InForce(next),
        _ => Adoption::Noted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use InstanceState as S;
    use chrono::TimeDelta;

    #[test]
    fn what_is_offered_is_what_could_be_asked_for() {
        let all: BTreeSet<Operation> = Operation::ALL.into();
        for state in SETTLED {
            assert_eq!(offered(state, &all), Operation::ALL, "{state:?}");
        }
        for state in [
            S::Requested,
            S::Installing,
            S::Stopping,
            S::Starting,
            S::Restarting,
            S::Reinstalling,
            S::Rescuing,
            S::Erasing,
            S::Released,
        ] {
            assert!(offered(state, &all).is_empty(), "{state:?}");
        }
        let some = BTreeSet::from([Operation::Restart, Operation::Unknown]);
        assert_eq!(offered(S::Running, &some), [Operation::Restart]);
        assert!(offered(S::Running, &BTreeSet::new()).is_empty());
    }

    /// The second use of a lease begins where the first one ended, well or not: that must be in the table, too.
    #[test]
    fn after_any_first_use_a_second_one_has_a_meaning() {
        for state in SETTLED {
            for first in Operation::ALL {
                let works = after(state, InstanceEvent::Asked(kind_of(first).unwrap())).unwrap();
                for end in [InstanceEvent::JobDone, InstanceEvent::JobFailed] {
                    let ended = after(works, end).unwrap();
                    for second in Operation::ALL {
                        let kind = kind_of(second).unwrap();
                        let adopted = adopt(8, 9, ended, kind);
                        let expected = if ended == S::Released {
                            Adoption::Noted
                        } else {
                            Adoption::InForce(kind.state().unwrap())
                        };
                        assert_eq!(adopted, expected, "{state:?} {first:?} {end:?} {second:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn revisions_are_never_offered_twice() {
        assert_eq!(reserve(7, 0), [8, 9]);
        assert_eq!(reserve(7, 9), [10, 11]);
        assert_eq!(reserve(12, 9), [13, 14]);
    }

    #[test]
    fn an_order_that_came_after_it_overtakes_an_offer() {
        assert_eq!(
            adopt(7, 8, S::Running, JobKind::Restart),
            Adoption::InForce(S::Restarting)
        );
        for in_force in [8, 10] {
            assert_eq!(adopt(in_force, 8, S::Running, JobKind::Restart), Adoption::Noted);
        }
        assert_eq!(adopt(7, 8, S::Erasing, JobKind::Restart), Adoption::Noted);
    }

    #[test]
    fn half_its_time_is_when_it_is_renewed() {
        let at = |hours| DateTime::<Utc>::UNIX_EPOCH + TimeDelta::hours(hours);
        assert!(!is_half_over(at(0), at(24), at(11)));
        assert!(is_half_over(at(0), at(24), at(12)));
    }
}
