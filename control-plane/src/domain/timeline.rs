//! What a report tells that the one before it did not: pure. Reports are levels that may be lost and repeated; the event
//! stream wants each thing once. The two reports are of one job, the second is the newer one.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::report::{EventSource, Report, StepReport, StepState, TimelineEvent};

use crate::store::events::NewEvent;

/// The news, in the order of their times; `now` stands in where a report gives no time.
#[must_use]
pub fn news(former: Option<&Report>, report: &Report, now: DateTime<Utc>) -> Vec<NewEvent> {
    let known = former.map_or(&[][..], |former| &former.events);
    let mut news: Vec<(DateTime<Utc>, NewEvent)> = unknown(known, &report.events)
        .map(|event| (event.at, seen(event)))
        .collect();
    for step in &report.steps {
        let before = former.and_then(|former| former.steps.iter().find(|s| s.id == step.id));
        news.extend(moves(before, step, now));
    }
    // A stable sort: what a report lists in an order keeps it at equal times.
    news.sort_by_key(|(at, _)| *at);
    news.into_iter().map(|(_, event)| event).collect()
}

/// What stands in `events` more often than in `known`. An edge drops the oldest ones of a long list, so places mean
/// nothing.
fn unknown<'a>(
    known: &[TimelineEvent],
    events: &'a [TimelineEvent],
) -> impl Iterator<Item = &'a TimelineEvent> {
    let mut left: HashMap<(DateTime<Utc>, EventSource, String, String), usize> = HashMap::new();
    let key = |e: &TimelineEvent| (e.at, e.source, e.code.clone(), e.text.clone());
    for event in known {
        *left.entry(key(event)).or_default() += 1;
    }
    events
        .iter()
        .filter(move |event| match left.get_mut(&key(event)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                false
            }
            _ => true,
        })
}

fn seen(event: &TimelineEvent) -> NewEvent {
    let source = match event.source {
        EventSource::Runner => "runner",
        EventSource::Driver => "driver",
        EventSource::Dhcp => "dhcp",
        EventSource::Tftp => "tftp",
        EventSource::Http => "http",
        EventSource::Agent => "agent",
        EventSource::Guest => "guest",
        EventSource::Unknown => "unknown",
    };
    // A code is one word of the kind, whatever an edge of a later version puts into it.
    let code = event.code.replace('.', "_");
    NewEvent::new(&format!("{source}.{code}"), event.at).text(&event.text)
}

/// What a step did between two reports; several moves may have fallen between them.
fn moves(
    before: Option<&StepReport>,
    step: &StepReport,
    now: DateTime<Utc>,
) -> Vec<(DateTime<Utc>, NewEvent)> {
    let (attempt, state) = before.map_or((0, StepState::Pending), |s| (s.attempt, s.state));
    let again = step.attempt > attempt;
    let mut moves = Vec::new();
    if (again || state == StepState::Pending) && step.state != StepState::Pending {
        let kind = if step.attempt > 1 {
            "step.retry"
        } else {
            "step.running"
        };
        moves.push((step.started_at.unwrap_or(now), kind));
    }
    if again || step.state != state {
        let end = step.finished_at.or(step.progressed_at).unwrap_or(now);
        match step.state {
            StepState::Done => moves.push((end, "step.done")),
            StepState::Failed => moves.push((end, "step.failed")),
            StepState::Pending | StepState::Running => {}
        }
    }
    let event = |(at, kind): (DateTime<Utc>, &str)| {
        let mut data = json!({ "step": step.id, "attempt": step.attempt });
        let mut text = step.id.to_string();
        // On success a failure is that of an attempt that was told of by its retry.
        if let Some(failure) = step.failure.as_ref().filter(|_| kind != "step.done") {
            data["failure"] = json!({ "code": failure.code, "message": failure.message });
            text = format!("{text}: {}", failure.message);
        }
        (at, NewEvent::new(kind, at).text(text).data(data))
    };
    moves.into_iter().map(event).collect()
}
