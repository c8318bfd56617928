//! Jobs: runs of work on a machine.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{
    ids::{InstanceId, JobId, MachineId, SiteId},
    report::Failure,
};

use super::{
    Database, StoreResult, from_json, from_word, micros, parse,
    schema::{instances, jobs},
    time, to_json, to_word,
};
use crate::workflow::state::{JobKind, JobState};

/// A job.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The instance it is for; none for work on a machine alone.
    pub instance: Option<InstanceId>,
    /// Where.
    pub site: SiteId,
    /// On which machine, once chosen.
    pub machine: Option<MachineId>,
    /// What it is for.
    pub kind: JobKind,
    /// Its rank: higher ones go first.
    pub priority: i64,
    /// Why it still waits, if it does.
    pub waiting: Option<String>,
    /// Its state.
    pub state: JobState,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// When it fails at the latest.
    pub deadline: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

pub(super) type Row = (
    String,
    Option<String>,
    String,
    Option<String>,
    String,
    Option<String>,
    i64,
    i64,
    Option<i64>,
    String,
    i64,
    Option<String>,
);

pub(super) fn from_row(row: Row) -> StoreResult<Job> {
    let (
        id,
        instance,
        site,
        machine,
        state,
        failure,
        deadline,
        created_at,
        finished_at,
        kind,
        priority,
        waiting,
    ) = row;
    Ok(Job {
        kind: from_word(&kind)?,
        priority,
        waiting,
        id: parse(&id)?,
        instance: instance.map(|i| parse(&i)).transpose()?,
        site: parse(&site)?,
        machine: machine.map(|m| parse(&m)).transpose()?,
        state: from_word(&state)?,
        failure: failure.map(|f| from_json(&f)).transpose()?,
        deadline: time(deadline),
        created_at: time(created_at),
        finished_at: finished_at.map(time),
    })
}

/// Adds a job.
///
/// # Errors
/// When the database fails.
pub fn insert(connection: &mut Database, j: &Job) -> StoreResult<()> {
    use jobs::dsl;
    let row = (
        dsl::id.eq(j.id.to_string()),
        dsl::instance.eq(j.instance.map(|i| i.to_string())),
        dsl::site.eq(j.site.as_str()),
        dsl::machine.eq(j.machine.map(|m| m.to_string())),
        dsl::state.eq(to_word(&j.state)?),
        dsl::deadline.eq(micros(j.deadline)),
        dsl::created_at.eq(micros(j.created_at)),
        dsl::kind.eq(to_word(&j.kind)?),
        dsl::priority.eq(j.priority),
    );
    diesel::insert_into(dsl::jobs).values(row).execute(connection)?;
    super::traces::keep(connection, j)?;
    Ok(())
}

/// One job.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id: &str) -> StoreResult<Option<Job>> {
    jobs::table
        .find(id)
        .first::<Row>(connection)
        .optional()?
        .map(from_row)
        .transpose()
}

/// Several jobs, by their ids.
///
/// # Errors
/// When the database fails.
pub fn of_ids(connection: &mut Database, ids: Vec<String>) -> StoreResult<Vec<Job>> {
    let rows = jobs::table.filter(jobs::id.eq_any(ids)).load::<Row>(connection)?;
    rows.into_iter().map(from_row).collect()
}

/// Starts a queued job on a machine; `false` if it is not queued any more.
///
/// # Errors
/// When the database fails.
pub fn start(connection: &mut Database, id: JobId, machine: MachineId) -> StoreResult<bool> {
    use jobs::dsl;
    let row = dsl::jobs
        .find(id.to_string())
        .filter(dsl::state.eq(to_word(&JobState::Queued)?));
    let change = (
        dsl::state.eq(to_word(&JobState::Running)?),
        dsl::machine.eq(Some(machine.to_string())),
        dsl::waiting.eq(None::<String>),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Notes why queued jobs wait.
///
/// # Errors
/// When the database fails.
pub fn set_waiting(connection: &mut Database, id: JobId, why: &str) -> StoreResult<()> {
    use jobs::dsl;
    let row = dsl::jobs
        .find(id.to_string())
        .filter(dsl::waiting.is_null().or(dsl::waiting.ne(why)));
    diesel::update(row)
        .set(dsl::waiting.eq(Some(why)))
        .execute(connection)?;
    Ok(())
}

/// Takes a failed job up again; `false` if it has not failed.
///
/// # Errors
/// When the database fails.
pub fn reopen(
    connection: &mut Database,
    id: JobId,
    to: JobState,
    deadline: DateTime<Utc>,
) -> StoreResult<bool> {
    use jobs::dsl;
    let row = dsl::jobs
        .find(id.to_string())
        .filter(dsl::state.eq(to_word(&JobState::Failed)?));
    let change = (
        dsl::state.eq(to_word(&to)?),
        dsl::deadline.eq(micros(deadline)),
        dsl::failure.eq(None::<String>),
        dsl::finished_at.eq(None::<i64>),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// The rank of queued jobs that have one.
///
/// # Errors
/// When the database fails.
pub fn priorities(connection: &mut Database) -> StoreResult<Vec<(JobId, i64)>> {
    use jobs::dsl;
    let rows: Vec<(String, i64)> = dsl::jobs
        .filter(dsl::state.eq(to_word(&JobState::Queued)?))
        .filter(dsl::priority.ne(0))
        .select((dsl::id, dsl::priority))
        .load(connection)?;
    rows.into_iter()
        .map(|(id, priority)| Ok((parse(&id)?, priority)))
        .collect()
}

/// Jobs that count against limits: those running that install, by site and project.
///
/// # Errors
/// When the database fails.
pub fn installing(connection: &mut Database) -> StoreResult<Vec<(String, String)>> {
    use jobs::dsl;
    let kinds = [to_word(&JobKind::Install)?, to_word(&JobKind::Reinstall)?];
    let rows = dsl::jobs
        .inner_join(instances::table.on(instances::id.nullable().eq(dsl::instance)))
        .filter(dsl::state.eq(to_word(&JobState::Running)?))
        .filter(dsl::kind.eq_any(kinds))
        .select((dsl::site, instances::project));
    Ok(rows.load(connection)?)
}

/// Jobs that failed since a time at each site, those left out that were called off or were of a machine alone: a password
/// that a BMC refuses says nothing of the site's installs.
///
/// # Errors
/// When the database fails.
pub fn failed_since(connection: &mut Database, since: DateTime<Utc>) -> StoreResult<Vec<String>> {
    use jobs::dsl;
    let rows = dsl::jobs
        .filter(dsl::state.eq(to_word(&JobState::Failed)?))
        .filter(dsl::machine.is_not_null())
        .filter(dsl::instance.is_not_null())
        .filter(dsl::finished_at.ge(micros(since)))
        .select(dsl::site);
    Ok(rows.load(connection)?)
}

/// How many jobs failed on machines of a site since a time; those that [`failed_since`] leaves out are left out here too.
///
/// # Errors
/// When the database fails.
pub fn failed_at(connection: &mut Database, site: &SiteId, since: DateTime<Utc>) -> StoreResult<i64> {
    use jobs::dsl;
    let rows = dsl::jobs
        .filter(dsl::state.eq(to_word(&JobState::Failed)?))
        .filter(dsl::machine.is_not_null())
        .filter(dsl::instance.is_not_null())
        .filter(dsl::finished_at.ge(micros(since)))
        .filter(dsl::site.eq(site.as_str()));
    Ok(rows.count().get_result(connection)?)
}

/// Ends a job that is not at its end; `false` if it is.
///
/// # Errors
/// When the database fails.
pub fn finish(
    connection: &mut Database,
    id: JobId,
    state: JobState,
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    use jobs::dsl;
    let live = [to_word(&JobState::Queued)?, to_word(&JobState::Running)?];
    let row = dsl::jobs.find(id.to_string()).filter(dsl::state.eq_any(live));
    let change = (
        dsl::state.eq(to_word(&state)?),
        dsl::failure.eq(failure.map(to_json).transpose()?),
        dsl::finished_at.eq(Some(micros(now))),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// The jobs that run at a site.
///
/// # Errors
/// When the database fails.
pub fn running_at(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<Job>> {
    use jobs::dsl;
    let rows = dsl::jobs
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::state.eq(to_word(&JobState::Running)?))
        .order(dsl::id)
        .load::<Row>(connection)?;
    rows.into_iter().map(from_row).collect()
}

/// Up to 100 live jobs whose deadline is over, by deadline and id, after one of those.
///
/// # Errors
/// When the database fails.
pub fn overdue(
    connection: &mut Database,
    now: DateTime<Utc>,
    after: Option<&(DateTime<Utc>, JobId)>,
) -> StoreResult<Vec<Job>> {
    use jobs::dsl;
    let live = [to_word(&JobState::Queued)?, to_word(&JobState::Running)?];
    let mut query = dsl::jobs
        .filter(dsl::state.eq_any(live))
        .filter(dsl::deadline.lt(micros(now)))
        .order((dsl::deadline, dsl::id))
        .limit(100)
        .into_boxed();
    if let Some((deadline, id)) = after {
        let (deadline, id) = (micros(*deadline), id.to_string());
        query = query.filter(
            dsl::deadline
                .gt(deadline)
                .or(dsl::deadline.eq(deadline).and(dsl::id.gt(id))),
        );
    }
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}
