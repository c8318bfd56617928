//! Time in which this process did nothing: it was stopped, the box slept or was starved, or the clock was set on. Nobody made progress that
//! it could have heard of, so nobody is blamed for it. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::report::{Report, StepState};

/// The runner takes a turn each minute at least; what is longer than this was not lived through.
const LONGEST_TURN: TimeDelta = TimeDelta::minutes(2);

/// For how long the process was away since its last turn, if it was.
#[must_use]
pub fn away(last_turn: DateTime<Utc>, now: DateTime<Utc>) -> Option<TimeDelta> {
    let since = now - last_turn;
    (since > LONGEST_TURN).then_some(since)
}

/// Reckons the silence of running steps as if that time had not been. Answers whether there was any to reckon.
pub fn forgive(report: &mut Report, away: TimeDelta, now: DateTime<Utc>) -> bool {
    if report.outcome.is_final() {
        return false;
    }
    let running = report
        .steps
        .iter_mut()
        .filter(|step| step.state == StepState::Running);
    let mut any = false;
    for step in running {
        let since = step.progressed_at.or(step.started_at).unwrap_or(now);
        step.progressed_at = Some(since.checked_add_signed(away).unwrap_or(now).min(now));
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_took_minutes_was_none() {
        let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
        assert_eq!(away(at(0), at(60)), None);
        assert_eq!(away(at(0), at(120)), None);
        assert_eq!(away(at(0), at(420)), Some(TimeDelta::seconds(420)));
        assert_eq!(
            away(at(0), at(-3600)),
            None,
            "a clock that was set back is another matter"
        );
    }
}
