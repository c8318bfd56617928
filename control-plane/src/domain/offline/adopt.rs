//! What a site says it did with a machine while it was cut off: jobs that this control plane offered and did not start. They
//! become jobs like any other, under the revision they were offered with, so that both sides hold the same order.

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::SiteId,
    lease::LocalUse,
    report::{Failure, Outcome, Report},
};
use tracing::warn;

use crate::{
    access::{Actor, Via},
    domain::{instances::tell_started, jobs::finish},
    store::{
        Database, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        instances,
        jobs::{self, Job},
        machines,
        offers::{self, OfferRow},
        orders,
    },
    workflow::{
        offline::{Adoption, adopt},
        state::{JobState, MachineState, job_end},
    },
};

/// Takes in what a report says of local operations, oldest first; what was taken in before changes nothing. An operation
/// that was never offered is left alone: it is the report of an unknown job.
///
/// # Errors
/// When the store fails.
pub(in crate::domain) fn take_local_uses(
    db: &mut Database,
    site: &SiteId,
    report: &Report,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    for used in &report.local {
        let job = match jobs::get(db, &used.job.to_string())? {
            Some(job) => job,
            None => match take_in(db, site, (report, used), now)? {
                Some(job) => job,
                None => continue,
            },
        };
        if used.job != report.job && !job.state.is_final() {
            end(db, &job, used, now)?;
        }
    }
    Ok(())
}

/// Makes the job of an offer that was used; none if there was no such offer for this machine.
fn take_in(
    db: &mut Database,
    site: &SiteId,
    (report, used): (&Report, &LocalUse),
    now: DateTime<Utc>,
) -> StoreResult<Option<Job>> {
    let offer = offers::get(db, used.job)?.filter(|offer| {
        offer.site == *site && offer.order.machine == report.machine && offer.revision == used.revision
    });
    let Some(offer) = offer else {
        warn!(%site, machine = %report.machine, job = %used.job, "a local operation was never offered; it is left alone");
        return Ok(None);
    };
    let Some(instance) = instances::by_id(db, offer.instance)? else {
        return Ok(None);
    };
    let job = Job {
        id: used.job,
        kind: offer.kind,
        priority: 0,
        waiting: None,
        instance: Some(instance.id),
        site: site.clone(),
        machine: Some(report.machine),
        state: JobState::Queued,
        failure: None,
        deadline: offer.order.deadline,
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &job)?;
    jobs::start(db, job.id, report.machine)?;
    let in_force = orders::standing(db, report.machine)?.map_or(0, |(revision, _)| revision);
    let adopted = adopt(in_force, offer.revision, instance.state, offer.kind);
    tell(db, &job, (&offer, used), adopted, now)?;
    let taken = match adopted {
        Adoption::InForce(_) => machines::take(db, report.machine, MachineState::Allocated, job.id)?,
        Adoption::Noted => false,
    };
    match adopted {
        Adoption::InForce(next) if taken => {
            orders::put_offered(db, site, offer.revision, &offer.order)?;
            instances::advance(db, instance.id, instance.state, next)?;
            instances::set_job(db, instance.id, job.id)?;
            let word = format!("instance.{}", next.word());
            events::append(db, &NewEvent::new(&word, now).on(&job).entered(&next)?)?;
            tell_started(db, job.id, offer.revision, now)?;
        }
        _ => end(db, &job, used, now)?,
    }
    jobs::get(db, &used.job.to_string())
}

/// Ends the job of an operation that is not the one at work any more: as its site says, or overtaken.
fn end(db: &mut Database, job: &Job, used: &LocalUse, now: DateTime<Utc>) -> StoreResult<()> {
    let ended = used.outcome.as_ref().and_then(job_end);
    let failure = match &used.outcome {
        Some(Outcome::Failed { failure, .. }) => Some(failure.clone()),
        Some(Outcome::Done { .. }) => None,
        _ => Some(Failure {
            code: "overtaken".to_owned(),
            message: "another order came after this local operation; look at the job that followed"
                .to_owned(),
            transient: false,
        }),
    };
    let end = ended.unwrap_or(JobState::Cancelled);
    let instance = job.instance.map(|id| instances::by_id(db, id)).transpose()?;
    if instance.flatten().is_some_and(|instance| instance.job == job.id) {
        finish(db, job, end, failure.as_ref(), now)?;
    } else if jobs::finish(db, job.id, end, failure.as_ref(), now)? {
        // The instance is another job's: it does not move.
        let text = failure
            .map(|f| format!("{}: {}", f.code, f.message))
            .unwrap_or_default();
        let event = NewEvent::new(&format!("job.{}", end.word()), now).on(job);
        events::append(db, &event.text(&text).entered(&end)?)?;
    }
    Ok(())
}

/// Writes down who did what, and when by the edge's clock.
fn tell(
    db: &mut Database,
    job: &Job,
    (offer, used): (&OfferRow, &LocalUse),
    adopted: Adoption,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let by = Actor {
        name: format!("emergency at {} (uid {})", job.site, used.uid),
        via: Via::Local,
        address: String::new(),
    };
    let done = json!({
        "job": job.id, "operation": used.operation, "at": used.at, "uid": used.uid, "revision": used.revision,
        "lease_until": offer.until, "in_force": adopted != Adoption::Noted,
    });
    let event = NewEvent::new(&format!("local.{}", used.operation.word()), now).on(job);
    let text = format!("{} at {}", by.name, used.at.format("%F %T UTC"));
    events::append(db, &event.text(&text).data(done.clone()))?;
    let action = format!("local.{}", used.operation.word());
    let change = Change::new(&action, format!("instance/{}", offer.instance), None, Some(done));
    audit::done(db, &by, now, change)
}
