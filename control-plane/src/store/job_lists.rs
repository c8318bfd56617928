//! Lists of jobs, narrowed by the database. An order is read from its index. What is looked for by a text costs a look at
//! each name, and at each job until the page is full.

use diesel::prelude::*;

use super::{
    Database, StoreResult,
    jobs::{Job, Row, from_row},
    ordering::{Key, Order, beginning, containing, lower, ordered},
    schema::{instances, jobs, machines},
    to_word, visible,
};
use crate::{access::Visible, workflow::state::JobState};

/// What jobs can be ordered by; each has an index.
pub const KEYS: &[Key] = &[
    Key::number("created_at", "created_at", "id"),
    Key::text("state", "state", "id"),
    Key::text("site", "site", "id"),
];

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one site.
    pub site: Option<String>,
    /// In one state.
    pub state: Option<JobState>,
    /// Whose id begins with this text, or whose machine's or instance's name holds it, in small or great letters.
    pub q: Option<String>,
}

type Narrowed = jobs::BoxedQuery<'static, <Database as Connection>::Backend>;

fn narrowed((filter, whose): (&Filter, &Visible)) -> StoreResult<Narrowed> {
    use jobs::dsl;
    let mut query = dsl::jobs.into_boxed();
    if let Some((sites, projects)) = visible::bounds(whose) {
        query = query.filter(visible::jobs_of(sites, projects));
    }
    if let Some(site) = &filter.site {
        query = query.filter(dsl::site.eq(site.clone()));
    }
    if let Some(state) = filter.state {
        query = query.filter(dsl::state.eq(to_word(&state)?));
    }
    if let Some(q) = &filter.q {
        let on = machines::table
            .filter(lower(machines::name).like(containing(q)).escape('\\'))
            .select(machines::id.nullable());
        let of = instances::table
            .filter(lower(instances::name).like(containing(q)).escape('\\'))
            .select(instances::id.nullable());
        let named = dsl::id.like(beginning(q)).escape('\\');
        let found = named.or(dsl::instance.eq_any(of));
        query = query.filter(dsl::machine.eq_any(on).or(found));
    }
    Ok(query)
}

/// Up to `limit` jobs that may be seen and whose id comes before `before` (all with an empty one), newest first.
///
/// # Errors
/// When the database fails.
pub fn page(
    connection: &mut Database,
    which: (&Filter, &Visible),
    before: &str,
    limit: i64,
) -> StoreResult<Vec<Job>> {
    use jobs::dsl;
    let mut query = narrowed(which)?.order(dsl::id.desc()).limit(limit);
    if !before.is_empty() {
        query = query.filter(dsl::id.lt(before.to_owned()));
    }
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}

/// Up to `limit` jobs that may be seen, in an order.
///
/// # Errors
/// When the database fails.
pub fn sorted(
    connection: &mut Database,
    which: (&Filter, &Visible),
    order: &Order,
    limit: i64,
) -> StoreResult<Vec<Job>> {
    let query = ordered!(narrowed(which)?.limit(limit), order);
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}
