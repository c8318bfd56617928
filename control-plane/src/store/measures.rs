//! Counts and ages for metrics. Reads only; each is one query, whatever the number of rows.

use chrono::{DateTime, Utc};
use diesel::{
    dsl::{count_star, max, min},
    prelude::*,
};

use super::{
    Database, StoreResult,
    schema::{
        deliveries, event_counter, instances, jobs, machines, mails, orders, reports, sites, states, webhooks,
    },
    time,
};

/// How many objects of a kind are in a state, and since when the first of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InState {
    /// The state.
    pub state: String,
    /// How many.
    pub count: i64,
    /// Since when the one that is in it longest.
    pub since: Option<DateTime<Utc>>,
}

/// A joined site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Its name.
    pub site: String,
    /// Whether its edge is connected.
    pub online: bool,
    /// When it was heard last.
    pub at: Option<DateTime<Utc>>,
}

/// Everything that is measured at one time.
#[derive(Debug, Clone, Default)]
pub struct Measures {
    /// Jobs, instances and machines by state, each under its metric's word.
    pub states: Vec<(&'static str, Vec<InState>)>,
    /// Sites that an edge joined.
    pub sites: Vec<Heard>,
    /// Orders no report answers yet, by site.
    pub unacknowledged: Vec<(String, i64)>,
    /// Deliveries to webhooks by state.
    pub deliveries: Vec<(String, i64)>,
    /// Since when the oldest delivery waits.
    pub delivery_waits: Option<DateTime<Utc>>,
    /// Mails by state.
    pub mails: Vec<(String, i64)>,
    /// Number of the last event.
    pub last_event: i64,
    /// Alerts that are open.
    pub alerts_open: i64,
    /// Events that the webhook furthest behind has not looked at.
    pub behind: i64,
}

fn in_states(db: &mut Database, object: &str, counts: Vec<(String, i64)>) -> StoreResult<Vec<InState>> {
    let since = states::table
        .filter(states::object.eq(object))
        .group_by(states::state)
        .select((states::state, min(states::since)));
    let since: Vec<(String, Option<i64>)> = since.load(db)?;
    let oldest = |state: &str| {
        let found = since.iter().find(|(of, _)| of == state);
        found.and_then(|(_, since)| since.map(time))
    };
    let row = |(state, count): (String, i64)| InState {
        since: oldest(&state),
        state,
        count,
    };
    Ok(counts.into_iter().map(row).collect())
}

fn by_state(db: &mut Database) -> StoreResult<Vec<(&'static str, Vec<InState>)>> {
    let of_jobs = jobs::table
        .group_by(jobs::state)
        .select((jobs::state, count_star()));
    let of_jobs = of_jobs.load(db)?;
    let of_instances = instances::table
        .group_by(instances::state)
        .select((instances::state, count_star()));
    let of_instances = of_instances.load(db)?;
    let of_machines = machines::table
        .group_by(machines::state)
        .select((machines::state, count_star()));
    let of_machines = of_machines.load(db)?;
    Ok(vec![
        ("job", in_states(db, "job", of_jobs)?),
        ("instance", in_states(db, "instance", of_instances)?),
        ("machine", in_states(db, "machine", of_machines)?),
    ])
}

/// Orders of jobs under way that their edge has not reported on.
fn unacknowledged(db: &mut Database) -> StoreResult<Vec<(String, i64)>> {
    let answered = orders::machine
        .eq(reports::machine)
        .and(orders::job.eq(reports::job));
    let rows = orders::table
        .inner_join(jobs::table.on(orders::job.eq(jobs::id)))
        .left_join(reports::table.on(answered))
        .filter(jobs::state.eq("running"))
        .filter(reports::machine.nullable().is_null())
        .group_by(orders::site)
        .select((orders::site, count_star()));
    Ok(rows.load(db)?)
}

fn heard(db: &mut Database) -> StoreResult<Vec<Heard>> {
    let rows = sites::table
        .filter(sites::report_key.is_not_null())
        .order(sites::id)
        .select((sites::id, sites::online, sites::last_seen));
    let rows: Vec<(String, bool, Option<i64>)> = rows.load(db)?;
    let heard = |(site, online, at): (String, bool, Option<i64>)| Heard {
        site,
        online,
        at: at.map(time),
    };
    Ok(rows.into_iter().map(heard).collect())
}

/// Reads them all.
///
/// # Errors
/// When the database fails.
pub fn read(db: &mut Database) -> StoreResult<Measures> {
    let waiting = deliveries::table.filter(deliveries::state.eq("waiting"));
    let delivery_waits: Option<i64> = waiting.select(min(deliveries::created_at)).first(db)?;
    let position: Option<i64> = webhooks::table
        .filter(webhooks::active.eq(true))
        .select(min(webhooks::position))
        .first(db)?;
    let last: Option<i64> = event_counter::table.select(max(event_counter::last)).first(db)?;
    let last = last.unwrap_or(0);
    let deliveries = deliveries::table
        .group_by(deliveries::state)
        .select((deliveries::state, count_star()));
    let mails = mails::table
        .group_by(mails::state)
        .select((mails::state, count_star()));
    Ok(Measures {
        states: by_state(db)?,
        sites: heard(db)?,
        unacknowledged: unacknowledged(db)?,
        deliveries: deliveries.load(db)?,
        delivery_waits: delivery_waits.map(time),
        mails: mails.load(db)?,
        last_event: last,
        alerts_open: super::alerts::count_open(db)?,
        behind: position.map_or(0, |position| (last - position).max(0)),
    })
}
