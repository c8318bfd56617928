//! The event stream: what happened, append-only, read in one order by everybody. An event is written in the transaction
//! of the change it tells of. It never changes afterwards; only its number is added.
//!
//! Why a reader that goes by `seq` skips nothing, with any number of writers and replicas: a number is not taken while
//! the event is written, because transactions commit in another order than they begin. [`number`] gives numbers to
//! events that are committed already, in a transaction that first locks the counter's row. Those transactions run one
//! after the other; each sees all that the ones before it gave (PostgreSQL releases a lock only after its transaction
//! is visible, and each statement of READ COMMITTED takes a new snapshot), and gives the numbers that follow without a
//! gap. So whoever sees number N sees all below N, and whatever commits late gets a number above all that were read.
//! Events of one object keep their order: they are written under the lock of its row, so their `id`s are in order.

use std::cell::Cell;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::Serialize;
use serde_json::Value;
use slipway_protocol::ids::MachineId;
use utoipa::ToSchema;

pub use super::new_event::NewEvent;

use super::{
    Database, StoreResult, from_json, micros,
    schema::{event_counter, events, instances},
    states, time, to_json,
};
use crate::access::Visible;

thread_local! {
    /// Whether the transaction that runs on this thread has appended an event; a transaction never leaves its thread.
    static APPENDED: Cell<bool> = const { Cell::new(false) };
}

/// Gives back whether an event was appended on this thread since the last call.
pub(super) fn clear_appended() -> bool {
    APPENDED.with(|appended| appended.replace(false))
}

/// Writes an event in the transaction of what it tells of.
///
/// # Errors
/// When the database fails.
pub fn append(connection: &mut Database, event: &NewEvent) -> StoreResult<()> {
    use events::dsl;
    let project = match (&event.project, &event.instance) {
        (None, Some(instance)) => instances::table
            .find(instance)
            .select(instances::project)
            .first::<String>(connection)
            .optional()?,
        (project, _) => project.clone(),
    };
    let row = (
        dsl::at.eq(micros(event.at)),
        dsl::kind.eq(&event.kind),
        dsl::site.eq(&event.site),
        dsl::machine.eq(&event.machine),
        dsl::instance.eq(&event.instance),
        dsl::job.eq(&event.job),
        dsl::project.eq(project),
        dsl::text.eq(&event.text),
        dsl::data.eq(to_json(&event.data)?),
    );
    diesel::insert_into(dsl::events).values(row).execute(connection)?;
    APPENDED.with(|appended| appended.set(true));
    match (event.object(), &event.entered) {
        (Some(object), Some(state)) => states::enter(connection, object, state, event.at),
        (Some((object, id)), None) if event.kind.ends_with(".deleted") => {
            states::forget(connection, object, id)
        }
        _ => Ok(()),
    }
}

/// The rows that wait, each with the number after the counter's, in the order they were written.
const GIVE_NUMBERS: &str = "UPDATE events SET seq = numbered.seq FROM (SELECT e.id AS id, \
    (SELECT c.last FROM event_counter c WHERE c.id = 1) + row_number() OVER (ORDER BY e.id) AS seq \
    FROM events e WHERE e.seq IS NULL) AS numbered WHERE events.id = numbered.id";

/// Numbers what was committed without a number; gives back the highest number there is. Must be the first statement of
/// its transaction that writes, so that nobody waits for the counter with other locks in hand.
///
/// # Errors
/// When the database fails.
pub fn number(connection: &mut Database) -> StoreResult<u64> {
    use event_counter::dsl;
    let waiting: Option<i64> = events::table
        .filter(events::seq.is_null())
        .select(events::id)
        .first(connection)
        .optional()?;
    if waiting.is_some() {
        // Takes the lock; what commits until it is there is numbered as well.
        diesel::update(dsl::event_counter)
            .set(dsl::last.eq(dsl::last))
            .execute(connection)?;
        let given = diesel::sql_query(GIVE_NUMBERS).execute(connection)?;
        let given = i64::try_from(given).unwrap_or(0);
        diesel::update(dsl::event_counter)
            .set(dsl::last.eq(dsl::last + given))
            .execute(connection)?;
    }
    let last: i64 = dsl::event_counter.select(dsl::last).first(connection)?;
    Ok(last.cast_unsigned())
}

/// An event as readers get it: JSON of the API, of the live stream and of webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// Its number; grows by one from event to event.
    pub seq: u64,
    /// When it happened, by the clock of who saw it.
    pub at: DateTime<Utc>,
    /// A stable dotted word.
    pub kind: String,
    /// At which site.
    pub site: Option<String>,
    /// On which machine.
    pub machine: Option<String>,
    /// Of which instance.
    pub instance: Option<String>,
    /// Of which job.
    pub job: Option<String>,
    /// Of which project.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// For people.
    pub text: String,
    /// For programs.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of one site.
    pub site: Option<String>,
    /// Of one machine, by id.
    pub machine: Option<String>,
    /// Of one instance, by id.
    pub instance: Option<String>,
    /// Of one job.
    pub job: Option<String>,
    /// Of this kind or one below it: `job` is `job.failed` too.
    pub kind: Option<String>,
    /// Above this number.
    pub after: u64,
    /// Below this number.
    pub before: Option<u64>,
    /// What the caller may see.
    pub visible: Visible,
}

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Oldest first.
    Oldest,
    /// Newest first.
    Newest,
}

/// Whether a kind is `prefix` or below it.
#[must_use]
pub fn is_of_kind(kind: &str, prefix: &str) -> bool {
    kind.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

type Row = (
    i64,
    Option<i64>,
    i64,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    Option<String>,
    String,
    String,
);

fn event(row: Row) -> StoreResult<Event> {
    let (_, seq, at, kind, site, machine, instance, job, project, text, data) = row;
    Ok(Event {
        seq: seq.unwrap_or(0).cast_unsigned(),
        at: time(at),
        kind,
        site,
        machine,
        instance,
        job,
        project,
        text,
        data: from_json(&data)?,
    })
}

/// A number as the database compares it; what is above all numbers stays there.
fn bound(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Up to `limit` numbered events of a filter.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &mut Database, filter: &Filter, order: Order, limit: i64) -> StoreResult<Vec<Event>> {
    use events::dsl;
    // A row without a number is none that is greater, so what is not numbered is never seen.
    let mut query = dsl::events
        .filter(dsl::seq.gt(bound(filter.after)))
        .limit(limit)
        .into_boxed();
    query = match order {
        Order::Oldest => query.order(dsl::seq.asc()),
        Order::Newest => query.order(dsl::seq.desc()),
    };
    if let Some(before) = filter.before {
        query = query.filter(dsl::seq.lt(bound(before)));
    }
    if let Some(site) = &filter.site {
        query = query.filter(dsl::site.eq(site));
    }
    if let Some(machine) = &filter.machine {
        query = query.filter(dsl::machine.eq(machine));
    }
    if let Some(instance) = &filter.instance {
        query = query.filter(dsl::instance.eq(instance));
    }
    if let Some(job) = &filter.job {
        query = query.filter(dsl::job.eq(job));
    }
    if let Some(kind) = &filter.kind {
        // `/` is the byte after `.`: an index range, where LIKE would need escapes.
        let below = dsl::kind
            .ge(format!("{kind}."))
            .and(dsl::kind.lt(format!("{kind}/")));
        query = query.filter(dsl::kind.eq(kind).or(below));
    }
    if let Visible::Only { sites, projects } = &filter.visible {
        let theirs = dsl::project
            .is_not_null()
            .and(dsl::project.assume_not_null().eq_any(projects.iter()));
        let there = dsl::site
            .is_not_null()
            .and(dsl::site.assume_not_null().eq_any(sites.iter()));
        query = query.filter(theirs.or(there));
    }
    query.load::<Row>(connection)?.into_iter().map(event).collect()
}

/// Removes events that happened before a time, looking at the `limit` oldest ones; gives back how many it were.
///
/// # Errors
/// When the database fails.
pub fn prune(connection: &mut Database, before: DateTime<Utc>, limit: i64) -> StoreResult<usize> {
    use events::dsl;
    let oldest: Vec<(i64, i64)> = dsl::events
        .filter(dsl::seq.is_not_null())
        .order(dsl::id)
        .limit(limit)
        .select((dsl::id, dsl::at))
        .load(connection)?;
    let old = oldest
        .iter()
        .filter(|(_, at)| *at < micros(before))
        .map(|(id, _)| *id);
    let old: Vec<i64> = old.collect();
    if old.is_empty() {
        return Ok(0);
    }
    Ok(diesel::delete(dsl::events.filter(dsl::id.eq_any(old))).execute(connection)?)
}

/// The last event of a kind, or of one below it, of each machine.
///
/// # Errors
/// When the database fails.
pub fn last_of_machines(connection: &mut Database, kind: &str) -> StoreResult<Vec<Event>> {
    use events::dsl;
    let last: Vec<Option<i64>> = dsl::events
        .filter(dsl::kind.ge(format!("{kind}.")))
        .filter(dsl::kind.lt(format!("{kind}/")))
        .filter(dsl::machine.is_not_null())
        .group_by(dsl::machine)
        .select(diesel::dsl::max(dsl::seq))
        .load(connection)?;
    let mut found = Vec::new();
    // A machine's last one may not be numbered yet: then the one before it still counts, for a moment.
    for seq in last.into_iter().flatten() {
        let row = dsl::events.filter(dsl::seq.eq(seq)).first::<Row>(connection)?;
        found.push(event(row)?);
    }
    Ok(found)
}

/// The newest events of these very kinds that happened after a time, at most `limit` of each.
///
/// # Errors
/// When the database fails.
pub fn since(
    connection: &mut Database,
    kinds: &[&str],
    after: DateTime<Utc>,
    limit: i64,
) -> StoreResult<Vec<Event>> {
    use events::dsl;
    let mut found = Vec::new();
    for kind in kinds {
        // By the index of kinds; the few newest of each are looked at.
        let rows = dsl::events
            .filter(dsl::kind.eq(kind))
            .filter(dsl::seq.is_not_null())
            .order(dsl::seq.desc())
            .limit(limit)
            .load::<Row>(connection)?;
        for row in rows {
            found.extend(Some(event(row)?).filter(|event| event.at > after));
        }
    }
    Ok(found)
}

/// Kind of the event that says a machine was looked after, or has shown that it works.
pub const FAULT_CLEARED: &str = "fault.cleared";

/// Whether a machine's last event of kind `fault.*` is not `fault.cleared`.
///
/// # Errors
/// When the database fails.
pub fn has_fault(connection: &mut Database, machine: MachineId) -> StoreResult<bool> {
    use events::dsl;
    let last: Option<String> = dsl::events
        .filter(dsl::machine.eq(machine.to_string()))
        .filter(dsl::kind.ge("fault."))
        .filter(dsl::kind.lt("fault/"))
        .order(dsl::id.desc())
        .select(dsl::kind)
        .first(connection)
        .optional()?;
    Ok(last.is_some_and(|kind| kind != FAULT_CLEARED))
}

/// Whether a machine has an event of a kind since its last `fault.cleared`.
///
/// # Errors
/// When the database fails.
pub fn since_cleared(connection: &mut Database, machine: MachineId, kind: &str) -> StoreResult<bool> {
    use events::dsl;
    let last: Option<String> = dsl::events
        .filter(dsl::machine.eq(machine.to_string()))
        .filter(dsl::kind.eq(kind).or(dsl::kind.eq("fault.cleared")))
        .order(dsl::id.desc())
        .select(dsl::kind)
        .first(connection)
        .optional()?;
    Ok(last.is_some_and(|last| last == kind))
}
