//! The trace of the call that made a job, and the spans that a job's life makes in it. A span is only noted here; it is told
//! when the transaction is committed.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::report::{Failure, Report, StepReport, StepState};

use super::{Database, StoreResult, jobs::Job, micros, schema::traces::dsl, time};
use crate::{
    telemetry::{
        self, Context,
        span::{Kind, Span, id_of},
    },
    workflow::state::JobState,
};

/// Keeps the trace of the call that is worked on as the job's.
///
/// # Errors
/// When the database fails.
pub(super) fn keep(db: &mut Database, job: &Job) -> StoreResult<()> {
    let Some(context) = telemetry::current().filter(|context| context.sampled) else {
        return Ok(());
    };
    let row = (
        dsl::job.eq(job.id.to_string()),
        dsl::parent.eq(context.to_string()),
    );
    diesel::insert_into(dsl::traces).values(row).execute(db)?;
    Ok(())
}

/// The trace of a job, and when its order was put in force.
fn of(db: &mut Database, job: &str) -> StoreResult<Option<(Context, Option<DateTime<Utc>>)>> {
    let row = dsl::traces.find(job).select((dsl::parent, dsl::ordered_at));
    let row: Option<(String, Option<i64>)> = row.first(db).optional()?;
    Ok(row.and_then(|(parent, at)| Some((parent.parse().ok()?, at.map(time)))))
}

fn job_span(job: &str) -> [u8; 8] {
    id_of(&format!("job {job}"))
}

/// A part of a job.
fn part(
    (trace, job): (Context, &str),
    name: &str,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
    which: &str,
) -> Span {
    Span {
        trace: trace.trace,
        id: id_of(&format!("{name} {job} {which}")),
        parent: Some(job_span(job)),
        name: name.to_owned(),
        kind: Kind::Internal,
        start,
        end,
        attributes: vec![("slipway.job", job.to_owned())],
        failure: None,
    }
}

/// The job has its order: its wait is over.
///
/// # Errors
/// When the database fails.
pub fn ordered(db: &mut Database, job: &Job, now: DateTime<Utc>) -> StoreResult<()> {
    let id = job.id.to_string();
    let Some((trace, former)) = of(db, &id)? else {
        return Ok(());
    };
    let row = dsl::traces.find(&id);
    diesel::update(row)
        .set(dsl::ordered_at.eq(Some(micros(now))))
        .execute(db)?;
    let since = former.unwrap_or(job.created_at);
    let mut span = part((trace, &id), "schedule", (since, now), &micros(now).to_string());
    span.attributes.push(("slipway.site", job.site.to_string()));
    telemetry::note(span);
    Ok(())
}

fn is_over(step: &StepReport) -> bool {
    matches!(step.state, StepState::Done | StepState::Failed)
}

/// A report came: the first says that the site has the order, each that steps of it are over.
///
/// # Errors
/// When the database fails.
pub fn reported(
    db: &mut Database,
    former: Option<&Report>,
    report: &Report,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let id = report.job.to_string();
    let Some((trace, ordered_at)) = of(db, &id)? else {
        return Ok(());
    };
    if let (None, Some(at)) = (former, ordered_at) {
        telemetry::note(part((trace, &id), "order", (at, now), "first"));
    }
    let was_over = |step: &StepReport| {
        let same = former.filter(|former| former.retry == report.retry);
        let same = same.and_then(|former| former.steps.iter().find(|before| before.id == step.id));
        same.is_some_and(|before| is_over(before) && before.attempt == step.attempt)
    };
    for step in report
        .steps
        .iter()
        .filter(|step| is_over(step) && !was_over(step))
    {
        let (Some(start), Some(end)) = (step.started_at, step.finished_at) else {
            continue;
        };
        let which = format!("{} {} {}", step.id, report.retry, step.attempt);
        let mut span = part((trace, &id), &format!("step {}", step.id), (start, end), &which);
        span.attributes
            .push(("slipway.machine", report.machine.to_string()));
        span.attributes
            .push(("slipway.attempt", step.attempt.to_string()));
        if let Some(progress) = step.progress {
            span.attributes
                .push(("slipway.bytes", progress.done_bytes.to_string()));
        }
        span.failure = (step.state == StepState::Failed).then(|| words(step.failure.as_ref()));
        telemetry::note(span);
    }
    Ok(())
}

fn words(failure: Option<&Failure>) -> String {
    failure.map_or_else(|| "failed".to_owned(), |f| format!("{}: {}", f.code, f.message))
}

/// The job is over.
///
/// # Errors
/// When the database fails.
pub fn ended(
    db: &mut Database,
    job: &Job,
    (end, failure): (JobState, Option<&Failure>),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let id = job.id.to_string();
    let Some((trace, _)) = of(db, &id)? else {
        return Ok(());
    };
    telemetry::note(Span {
        trace: trace.trace,
        id: job_span(&id),
        parent: Some(trace.span),
        name: format!("job {}", job.kind.word()),
        kind: Kind::Internal,
        start: job.created_at,
        end: now,
        attributes: [
            Some(("slipway.job", id)),
            Some(("slipway.site", job.site.to_string())),
            job.instance.map(|i| ("slipway.instance", i.to_string())),
            Some(("slipway.outcome", end.word().to_owned())),
        ]
        .into_iter()
        .flatten()
        .collect(),
        failure: (end != JobState::Done).then(|| words(failure)),
    });
    Ok(())
}
