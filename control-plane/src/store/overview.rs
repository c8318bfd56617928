//! Counts by site for the page that shows everything at once. Reads only; each is one query over an index, whatever the
//! number of rows.

use chrono::{DateTime, Utc};
use diesel::{dsl::count_star, prelude::*};

use super::{
    Database, StoreResult, micros,
    schema::{alerts, instances, jobs, machines, sites, states},
    time, visible,
};
use crate::access::Visible;

/// Most objects that are past their time looked at, the longest first.
const MOST_STUCK: i64 = 10_000;

/// A site, and when it was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Its name.
    pub name: String,
    /// Whether its edge was connected when last heard.
    pub online: bool,
    /// When it was last heard.
    pub last_seen: Option<DateTime<Utc>>,
}

/// So many objects in a state at a site.
pub type Counts = Vec<(String, String, i64)>;

/// An object that is in a state of work for longer than it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// `machine`, `instance` or `job`.
    pub kind: &'static str,
    /// Where.
    pub site: String,
    /// Its id.
    pub id: String,
    /// Its name; a job's is its id.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Since when.
    pub since: DateTime<Utc>,
}

/// All sites by name.
///
/// # Errors
/// When the database fails.
pub fn sites(db: &mut Database) -> StoreResult<Vec<Heard>> {
    let rows: Vec<(String, bool, Option<i64>)> = sites::table
        .order(sites::id)
        .select((sites::id, sites::online, sites::last_seen))
        .load(db)?;
    let heard = |(name, online, last_seen): (String, bool, Option<i64>)| Heard {
        name,
        online,
        last_seen: last_seen.map(time),
    };
    Ok(rows.into_iter().map(heard).collect())
}

/// Machines by site and state.
///
/// # Errors
/// When the database fails.
pub fn machines(db: &mut Database, whose: &Visible) -> StoreResult<Counts> {
    let mut query = machines::table
        .group_by((machines::site, machines::state))
        .select((machines::site, machines::state, count_star()))
        .into_boxed();
    if let Some((sites, _)) = visible::bounds(whose) {
        query = query.filter(machines::site.eq_any(sites));
    }
    Ok(query.load(db)?)
}

/// Jobs that are in one of `states`, by site and state.
///
/// # Errors
/// When the database fails.
pub fn jobs(db: &mut Database, whose: &Visible, states: &[&str]) -> StoreResult<Counts> {
    let mut query = jobs::table
        .filter(jobs::state.eq_any(states))
        .group_by((jobs::site, jobs::state))
        .select((jobs::site, jobs::state, count_star()))
        .into_boxed();
    if let Some((sites, projects)) = visible::bounds(whose) {
        query = query.filter(visible::jobs_of(sites, projects));
    }
    Ok(query.load(db)?)
}

/// Jobs that failed since a time, by site.
///
/// # Errors
/// When the database fails.
pub fn failed_jobs(
    db: &mut Database,
    whose: &Visible,
    since: DateTime<Utc>,
) -> StoreResult<Vec<(String, i64)>> {
    let mut query = jobs::table
        .filter(jobs::state.eq("failed"))
        .filter(jobs::finished_at.ge(micros(since)))
        .group_by(jobs::site)
        .select((jobs::site, count_star()))
        .into_boxed();
    if let Some((sites, projects)) = visible::bounds(whose) {
        query = query.filter(visible::jobs_of(sites, projects));
    }
    Ok(query.load(db)?)
}

/// Alerts that are open, by site; those about what is at no site stand under none.
///
/// # Errors
/// When the database fails.
pub fn open_alerts(db: &mut Database) -> StoreResult<Vec<(Option<String>, i64)>> {
    let open = alerts::table
        .filter(alerts::resolved_at.is_null())
        .group_by(alerts::site)
        .select((alerts::site, count_star()));
    Ok(open.load(db)?)
}

type Row = (String, String, String, String, i64);

fn stuck(kind: &'static str, rows: Vec<Row>) -> Vec<Stuck> {
    let one = |(site, id, name, state, since): Row| Stuck {
        kind,
        site,
        id,
        name,
        state,
        since: time(since),
    };
    rows.into_iter().map(one).collect()
}

/// Machines that are in one of `states` since a time before `before`, the longest first.
///
/// # Errors
/// When the database fails.
pub fn stuck_machines(
    db: &mut Database,
    whose: &Visible,
    (words, before): (&[&str], DateTime<Utc>),
) -> StoreResult<Vec<Stuck>> {
    let row = states::id.eq(machines::id).and(states::state.eq(machines::state));
    let mut query = states::table
        .inner_join(machines::table.on(row))
        .filter(states::object.eq("machine"))
        .filter(states::state.eq_any(words))
        .filter(states::since.lt(micros(before)))
        .order((states::since, states::id))
        .limit(MOST_STUCK)
        .select((
            machines::site,
            machines::id,
            machines::name,
            machines::state,
            states::since,
        ))
        .into_boxed();
    if let Some((sites, _)) = visible::bounds(whose) {
        query = query.filter(machines::site.eq_any(sites));
    }
    Ok(stuck("machine", query.load(db)?))
}

/// The same of instances.
///
/// # Errors
/// When the database fails.
pub fn stuck_instances(
    db: &mut Database,
    whose: &Visible,
    (words, before): (&[&str], DateTime<Utc>),
) -> StoreResult<Vec<Stuck>> {
    let row = states::id
        .eq(instances::id)
        .and(states::state.eq(instances::state));
    let mut query = states::table
        .inner_join(instances::table.on(row))
        .filter(states::object.eq("instance"))
        .filter(states::state.eq_any(words))
        .filter(states::since.lt(micros(before)))
        .order((states::since, states::id))
        .limit(MOST_STUCK)
        .select((
            instances::site,
            instances::id,
            instances::name,
            instances::state,
            states::since,
        ))
        .into_boxed();
    if let Some((sites, projects)) = visible::bounds(whose) {
        query = query.filter(visible::instances_of(sites, projects));
    }
    Ok(stuck("instance", query.load(db)?))
}

/// Jobs that are in one of `states` although their deadline is over, the longest in it first.
///
/// # Errors
/// When the database fails.
pub fn stuck_jobs(
    db: &mut Database,
    whose: &Visible,
    (words, now): (&[&str], DateTime<Utc>),
) -> StoreResult<Vec<Stuck>> {
    let row = states::id.eq(jobs::id).and(states::state.eq(jobs::state));
    let mut query = jobs::table
        .inner_join(states::table.on(row))
        .filter(states::object.eq("job"))
        .filter(jobs::state.eq_any(words))
        .filter(jobs::deadline.lt(micros(now)))
        .order((states::since, states::id))
        .limit(MOST_STUCK)
        .select((jobs::site, jobs::id, jobs::id, jobs::state, states::since))
        .into_boxed();
    if let Some((sites, projects)) = visible::bounds(whose) {
        query = query.filter(visible::jobs_of(sites, projects));
    }
    Ok(stuck("job", query.load(db)?))
}
