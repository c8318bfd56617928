//! What an edge says of a job in its log: each step's begin and end, and the job's own. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use slipway_protocol::{
    ids::{BootId, StepId},
    report::{Failure, Outcome, Report, StepReport, StepState},
};

/// What was said of a report so far.
#[derive(Debug, Clone, Default)]
pub struct Told {
    steps: BTreeMap<StepId, (StepState, u32)>,
    agent: Option<BootId>,
    ended: bool,
}

/// A line of the edge's as it stands in a log.
#[must_use]
pub fn line(at: DateTime<Utc>, level: &str, text: &str) -> String {
    let at = at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let text = slipway_protocol::log::clean(text).replace('\n', " ");
    format!("edge  {at} {level:>5} {text}\n")
}

impl Told {
    /// All of this report was said before, or by an earlier life of this edge.
    #[must_use]
    pub fn all_of(report: &Report) -> Self {
        let mut told = Self::default();
        told.news(report, DateTime::UNIX_EPOCH);
        told
    }

    /// The lines that a report adds to what was said.
    pub fn news(&mut self, report: &Report, now: DateTime<Utc>) -> Vec<String> {
        let mut lines = Vec::new();
        if report.agent.is_some() && report.agent != self.agent {
            self.agent = report.agent;
            let boot = report.agent.map(|boot| boot.to_string()).unwrap_or_default();
            lines.push(line(now, "INFO", &format!("the agent is up boot={boot}")));
        }
        for step in &report.steps {
            let stands = (step.state, step.attempt);
            let stood = self.steps.insert(step.id.clone(), stands);
            if stood != Some(stands) {
                lines.extend(of_step(step, now));
            }
        }
        if report.outcome.is_final() && !std::mem::replace(&mut self.ended, true) {
            lines.push(of_end(report, now));
        }
        lines
    }
}

fn of_step(step: &StepReport, now: DateTime<Utc>) -> Option<String> {
    let StepReport { id, attempt, .. } = step;
    match step.state {
        // A step that waits for its next try says why the last one failed.
        StepState::Pending => {
            let failure = step.failure.as_ref()?;
            Some(line(
                now,
                "WARN",
                &failed("step failed, it is tried again", failure, id),
            ))
        }
        StepState::Running => Some(line(
            now,
            "INFO",
            &format!("step begins step={id} attempt={attempt}"),
        )),
        StepState::Done => {
            let taken = step
                .finished_at
                .zip(step.started_at)
                .map(|(end, begin)| end - begin);
            let taken = taken.map(|taken| format!(" seconds={:.1}", taken.as_seconds_f64()));
            let taken = taken.unwrap_or_default();
            Some(line(
                now,
                "INFO",
                &format!("step done step={id} attempt={attempt}{taken}"),
            ))
        }
        StepState::Failed => {
            let text = step
                .failure
                .as_ref()
                .map(|failure| failed("step failed", failure, id));
            let text = text.unwrap_or_else(|| format!("step failed step={id}"));
            Some(line(now, "ERROR", &text))
        }
    }
}

fn failed(what: &str, failure: &Failure, id: &StepId) -> String {
    format!("{what} step={id} code={}: {}", failure.code, failure.message)
}

fn of_end(report: &Report, now: DateTime<Utc>) -> String {
    match &report.outcome {
        Outcome::Failed { failure, .. } => {
            let text = format!("the job failed code={}: {}", failure.code, failure.message);
            line(now, "ERROR", &text)
        }
        _ if report.steps.is_empty() => {
            line(now, "WARN", "the order was taken back; the machine is left alone")
        }
        _ => line(now, "INFO", "the job is done"),
    }
}
