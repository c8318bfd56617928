//! Jobs: followed by their reports, ended by them, called off, or failed when their time is over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::SiteId,
    order::Order,
    report::{Failure, Outcome, Report},
};
use tokio::{sync::broadcast, time::Instant};

use super::{bmc_passwords, faults, machine_jobs, machine_power, timeline};
use crate::{
    access::{Caller, Permission, Target, Visible},
    app::App,
    error::ApiError,
    store::{
        Database, StoreError, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        instances,
        jobs::{self, Job},
        machines, orders, reports, sites, traces,
    },
    workflow::{
        machine_job,
        overdue::{GRACE, Overdue, overdue},
        release,
        state::{InstanceEvent, JobKind, JobState, after, job_end, machine_after},
    },
};

/// A job with its last report.
pub type Followed = (Job, Option<(u64, Report)>);

/// A job that the caller may see, and its last report.
///
/// # Errors
/// When there is no such job, or the caller may not see it: who may not know is told the same.
pub async fn get(app: &App, caller: &Caller, id: String) -> Result<Followed, ApiError> {
    let visible = caller.visible(Permission::JobsRead);
    app.store
        .read(move |db| {
            let (job, _) = seen_by(db, &visible, &id)?;
            let report = reports::of_job(db, job.id)?;
            Ok((job, report))
        })
        .await
}

/// A job with the project it is for; none if it works on a machine alone.
pub(super) fn seen_by(
    db: &mut Database,
    visible: &Visible,
    id: &str,
) -> Result<(Job, Option<String>), ApiError> {
    let missing = || ApiError::NotFound("job", id.to_owned());
    let job = jobs::get(db, id)?.ok_or_else(missing)?;
    let project = project(db, &job)?;
    if !visible.has(target(&job, project.as_deref())) {
        return Err(missing());
    }
    Ok((job, project))
}

fn project(db: &mut Database, job: &Job) -> StoreResult<Option<String>> {
    let Some(instance) = job.instance else {
        return Ok(None);
    };
    Ok(instances::by_id(db, instance)?.map(|instance| instance.project))
}

/// Whose a job is: its site's, and its project's if it is for an instance.
pub(super) fn target<'a>(job: &'a Job, project: Option<&'a str>) -> Target<'a> {
    Target {
        site: Some(job.site.as_str()),
        project,
    }
}

/// The same, as soon as the report is newer than `after_revision` or the job has ended, at the latest after `wait`.
///
/// # Errors
/// When there is no such job.
pub async fn follow(
    app: &App,
    caller: &Caller,
    id: String,
    after_revision: u64,
    wait: Duration,
) -> Result<Followed, ApiError> {
    let mut news = app.reports.subscribe();
    let limit = Instant::now() + wait;
    loop {
        let found = get(app, caller, id.clone()).await?;
        let revision = found.1.as_ref().map_or(0, |(revision, _)| *revision);
        if revision > after_revision || found.0.state.is_final() {
            return Ok(found);
        }
        let heard = wait_for_word(&mut news, &id, limit).await;
        if !heard && Instant::now() >= limit {
            return get(app, caller, id).await;
        }
    }
}

/// Waits until there may be news of a job, at the latest until `limit`; whether there was a word of it. Another replica may
/// have taken the news, so this ends now and then without a word.
pub(super) async fn wait_for_word(news: &mut broadcast::Receiver<String>, id: &str, limit: Instant) -> bool {
    let heard = async {
        loop {
            match news.recv().await {
                Ok(job) if job == id => return,
                Ok(_) => {}
                // Too many words to tell which job they were of: look.
                Err(_) => return,
            }
        }
    };
    let look = limit.min(Instant::now() + Duration::from_secs(2));
    tokio::time::timeout_at(look, heard).await.is_ok()
}

/// Takes a verified report: keeps it if it is news, tells what is new in it, and ends the job if it says so. All in one
/// transaction.
///
/// # Errors
/// When the store fails.
pub fn take_report(
    db: &mut Database,
    site: &SiteId,
    revision: u64,
    report: &Report,
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    let Some(news) = reports::put(db, site, revision, report)? else {
        return Ok(false);
    };
    if !report.local.is_empty() {
        super::offline::take_local_uses(db, site, report, now)?;
    }
    // A site speaks for its own jobs alone, whatever machine it names.
    let job = jobs::get(db, &report.job.to_string())?.filter(|job| job.site == *site);
    traces::reported(db, news.former.as_ref(), report, now)?;
    for event in timeline::news(news.former.as_ref(), report, now) {
        let event = event.site(site).machine(report.machine).job(report.job);
        let event = job.iter().fold(event, NewEvent::on);
        events::append(db, &event)?;
    }
    machine_power::told(db, site, (news.former.as_ref(), report), now)?;
    faults::logged(db, (site, job.as_ref()), report, now)?;
    if let Some(inventory) = &report.inventory {
        super::machines::found(db, (report.machine, report.job), inventory, now)?;
    }
    if let Some(end) = job_end(&report.outcome)
        && !is_overtaken(db, report)?
    {
        let failure = match &report.outcome {
            Outcome::Failed { failure, step, .. } => Some((failure, step.as_ref())),
            _ => None,
        };
        if let Some(job) = &job
            && finish(db, job, end, failure.map(|(failure, _)| failure), now)?
        {
            faults::judge(db, job, end, failure, now)?;
        }
    }
    if let Some(job) = &job {
        bmc_passwords::told_late(db, job, report, now)?;
    }
    Ok(true)
}

/// Whether the end that a report tells of is not the end of its job.
fn is_overtaken(db: &mut Database, report: &Report) -> StoreResult<bool> {
    let row = orders::get(db, report.machine)?;
    Ok(row.is_some_and(|row| ends_another_order(&row.order, report)))
}

/// Whether a report ends its job by another order than the one in force: the job was taken up again after it, or the report
/// is on an order without steps, by which the job had been called off before a backup was restored that knows nothing of
/// that. Pure.
#[must_use]
pub fn ends_another_order(order: &Order, report: &Report) -> bool {
    let withdrawn = report.steps.is_empty() && !order.steps.is_empty();
    order.job == report.job && (order.retry > report.retry || withdrawn)
}

/// Ends a job, and moves its instance and machine on; `false` if it had ended before.
pub(super) fn finish(
    db: &mut Database,
    job: &Job,
    end: JobState,
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    if !jobs::finish(db, job.id, end, failure, now)? {
        return Ok(false);
    }
    traces::ended(db, job, (end, failure), now)?;
    let detail = failure
        .map(|f| format!("{}: {}", f.code, f.message))
        .unwrap_or_default();
    let ended = |kind: String| {
        let data = failure.map_or(
            json!({}),
            |f| json!({ "failure": { "code": f.code, "message": f.message } }),
        );
        NewEvent::new(&kind, now).on(job).text(&detail).data(data)
    };
    events::append(db, &ended(format!("job.{}", end.word())).entered(&end)?)?;
    let event = if end == JobState::Done {
        InstanceEvent::JobDone
    } else {
        InstanceEvent::JobFailed
    };
    let Some(instance) = job.instance else {
        machine_jobs::ended(db, job, (end, failure), now)?;
        return Ok(true);
    };
    let Some(instance) = instances::by_id(db, instance)? else {
        return Ok(true);
    };
    let Some(next) = after(instance.state, event) else {
        return Ok(true);
    };
    instances::advance(db, instance.id, instance.state, next)?;
    events::append(db, &ended(format!("instance.{}", next.word())).entered(&next)?)?;
    if let Some(machine) = job.machine.or(instance.machine) {
        let state = machine_after(next);
        if machines::leave(db, machine, job.id, state)? {
            let state = super::machines::settled(db, machine, state)?;
            let left = ended("machine.left".to_owned()).machine(machine);
            events::append(db, &left.entered(&state)?)?;
        }
    }
    Ok(true)
}

/// Calls a job off: the site is told to leave the machine alone.
///
/// # Errors
/// When there is no such job, or it has ended.
pub async fn cancel(app: &App, caller: &Caller, id: String) -> Result<Job, ApiError> {
    let failure = Failure {
        code: "cancelled".into(),
        message: format!("called off by {}", caller.actor.name),
        transient: false,
    };
    let (caller, now) = (caller.clone(), (app.now)());
    let job = app
        .store
        .transaction(move |db| {
            let (job, project) = seen_by(db, &caller.visible(Permission::JobsRead), &id)?;
            caller.require(Permission::JobsWrite, target(&job, project.as_deref()))?;
            if !finish(db, &job, JobState::Cancelled, Some(&failure), now)? {
                let detail = format!("job `{id}` has ended already");
                return Err(ApiError::Conflict("job_ended", detail));
            }
            withdraw(db, &job)?;
            let change = Change {
                action: "job.cancel",
                object: format!("job/{id}"),
                before: Some(json!({ "state": job.state })),
                after: Some(json!({ "state": JobState::Cancelled })),
            };
            audit::done(db, &caller.actor, now, change)?;
            jobs::get(db, &id)?.ok_or_else(|| ApiError::NotFound("job", id.clone()))
        })
        .await?;
    app.poke_site(job.site.as_str());
    // Those who wait for this job look again.
    let _ = app.reports.send(job.id.to_string());
    Ok(job)
}

/// Replaces the order of a job by one that says "leave it alone".
fn withdraw(db: &mut Database, job: &Job) -> StoreResult<()> {
    let Some(machine) = job.machine else { return Ok(()) };
    if let Some(row) = orders::get(db, machine)?
        && row.order.job == job.id
    {
        let nothing = match job.kind {
            JobKind::RotateBmcPassword | JobKind::SwitchPower => machine_job::called_off(row.order),
            _ => release::nothing(row.order),
        };
        orders::put(db, &row.site, &nothing)?;
    }
    Ok(())
}

/// Fails every job that runs at a site, and withdraws its order: what it was sealed to is gone. Returns how many.
///
/// # Errors
/// When the store fails.
pub(super) fn end_all_at(
    db: &mut Database,
    site: &SiteId,
    (code, why): (&str, &str),
    now: DateTime<Utc>,
) -> StoreResult<usize> {
    let mut ended = 0;
    for job in jobs::running_at(db, site)? {
        let advice = match job.instance {
            Some(_) => "reinstall or release the instance".to_owned(),
            None => machine_jobs::advice(job.kind, job.machine),
        };
        let failure = Failure {
            code: code.to_owned(),
            message: format!("{why}; {advice}"),
            transient: false,
        };
        if finish(db, &job, JobState::Failed, Some(&failure), now)? {
            withdraw(db, &job)?;
            ended += 1;
        }
    }
    Ok(ended)
}

/// Fails jobs whose time is over and that will not be heard of, as [`overdue`] decides.
///
/// # Errors
/// When the store fails.
pub async fn fail_overdue(app: &App) -> Result<usize, ApiError> {
    let now = (app.now)();
    let ended = app
        .store
        .transaction(move |db| {
            let mut ended = Vec::new();
            let mut after = None;
            loop {
                let page = jobs::overdue(db, now - GRACE, after.as_ref())?;
                let Some(last) = page.last() else { break };
                after = Some((last.deadline, last.id));
                for job in page {
                    if end_overdue(db, &job, now)? {
                        ended.push(job);
                    }
                }
            }
            Ok::<_, StoreError>(ended)
        })
        .await?;
    for job in &ended {
        app.poke_site(job.site.as_str());
        // Those who wait for this job look again.
        let _ = app.reports.send(job.id.to_string());
    }
    Ok(ended.len())
}

fn end_overdue(db: &mut Database, job: &Job, now: DateTime<Utc>) -> StoreResult<bool> {
    let online = sites::get(db, job.site.as_str())?.is_some_and(|site| site.online);
    let (failure, withdrawn) = match overdue(job.state, job.site.as_str(), (job.deadline, online), now) {
        Overdue::Wait => return Ok(false),
        Overdue::Withdraw(failure) => (failure, true),
        Overdue::GiveUp(failure) => (failure, false),
    };
    let ended = finish(db, job, JobState::Failed, Some(&failure), now)?;
    if ended && withdrawn {
        withdraw(db, job)?;
    }
    Ok(ended)
}
