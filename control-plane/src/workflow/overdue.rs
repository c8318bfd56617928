//! When a job whose deadline is over is given up: pure.

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::report::Failure;

use super::state::JobState;

/// After the deadline, for what is still on its way.
pub const GRACE: TimeDelta = TimeDelta::minutes(5);
/// How long after the deadline the end is waited for that a site without a link will tell.
pub const SITE_LOST: TimeDelta = TimeDelta::hours(24);

/// What becomes of an overdue job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overdue {
    /// It is waited for.
    Wait,
    /// It has failed, and its order is taken back.
    Withdraw(Failure),
    /// It has failed as far as anybody can tell. The order stays: the site ended it by its own clock, and what it did
    /// counts when the job is taken up again.
    GiveUp(Failure),
}

/// Decides. A site that is cut off is waited for: it ends its jobs itself and tells later; but not for ever.
#[must_use]
pub fn overdue(
    state: JobState,
    site: &str,
    (deadline, site_online): (DateTime<Utc>, bool),
    now: DateTime<Utc>,
) -> Overdue {
    let failure = |code: &str, message: String| Failure {
        code: code.into(),
        message,
        transient: false,
    };
    if state.is_final() || now < deadline + GRACE {
        return Overdue::Wait;
    }
    match state {
        JobState::Queued => Overdue::Withdraw(failure(
            "no_machine",
            format!("no machine was free at site {site} in time"),
        )),
        _ if site_online => Overdue::Withdraw(failure(
            "deadline",
            format!("site {site} did not end the job by its deadline"),
        )),
        _ if now < deadline + SITE_LOST => Overdue::Wait,
        _ => Overdue::GiveUp(failure(
            "site_lost",
            format!(
                "site {site} was cut off and has not told the job's end for {} h after its deadline; retry the job when \
                 the site is back: what it had done by then counts",
                SITE_LOST.num_hours()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_overdue_job_ends_and_none_before_its_time() {
        let deadline = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let code = |state, online, after: TimeDelta| match overdue(
            state,
            "bj-1",
            (deadline, online),
            deadline + after,
        ) {
            Overdue::Wait => "wait".to_owned(),
            Overdue::Withdraw(failure) => format!("withdraw {}", failure.code),
            Overdue::GiveUp(failure) => format!("give up {}", failure.code),
        };
        let (soon, late, lost) = (TimeDelta::minutes(1), GRACE, SITE_LOST);
        for online in [true, false] {
            assert_eq!(code(JobState::Queued, online, soon), "wait");
            assert_eq!(code(JobState::Queued, online, late), "withdraw no_machine");
            assert_eq!(code(JobState::Done, online, lost), "wait");
        }
        assert_eq!(code(JobState::Running, true, soon), "wait");
        assert_eq!(code(JobState::Running, true, late), "withdraw deadline");
        assert_eq!(code(JobState::Running, false, late), "wait");
        assert_eq!(code(JobState::Running, false, lost), "give up site_lost");
    }
}
