//! Lists of instances, narrowed by the database. An order is read from its index. What is looked for by a text costs a look
//! at each instance until the page is full.

use diesel::prelude::*;

use super::{
    Database, StoreResult,
    instances::{Instance, Row, from_row},
    ordering::{Key, Order, containing, lower, ordered},
    schema::{instances, machines},
    to_word, visible,
};
use crate::{access::Visible, workflow::state::InstanceState};

/// What instances can be ordered by; each has an index.
pub const KEYS: &[Key] = &[
    Key::text("name", "name", "id"),
    Key::text("state", "state", "id"),
    Key::text("site", "site", "id"),
    Key::number("created_at", "created_at", "id"),
];

/// Which instances to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In one project.
    pub project: Option<String>,
    /// At one site.
    pub site: Option<String>,
    /// In one state.
    pub state: Option<InstanceState>,
    /// Whose name or address holds this text, in small or great letters.
    pub q: Option<String>,
}

type Narrowed = instances::BoxedQuery<'static, <Database as Connection>::Backend>;

fn narrowed((filter, whose): (&Filter, &Visible)) -> StoreResult<Narrowed> {
    use instances::dsl;
    let mut query = dsl::instances.into_boxed();
    if let Some((sites, projects)) = visible::bounds(whose) {
        query = query.filter(visible::instances_of(sites, projects));
    }
    if let Some(project) = &filter.project {
        query = query.filter(dsl::project.eq(project.clone()));
    }
    if let Some(site) = &filter.site {
        query = query.filter(dsl::site.eq(site.clone()));
    }
    if let Some(state) = filter.state {
        query = query.filter(dsl::state.eq(to_word(&state)?));
    }
    if let Some(q) = &filter.q {
        let named = lower(dsl::name).like(containing(q)).escape('\\');
        // Addresses are looked at for what may be a part of one: it is a look at each machine.
        if q.chars().all(|c| c.is_ascii_digit() || c == '.') {
            let there = machines::table
                .filter(machines::address.like(containing(q)).escape('\\'))
                .select(machines::id.nullable());
            query = query.filter(dsl::machine.eq_any(there).or(named));
        } else {
            query = query.filter(named);
        }
    }
    Ok(query)
}

/// Up to `limit` instances that may be seen and whose id comes after `after`, newest ids last.
///
/// # Errors
/// When the database fails.
pub fn page(
    connection: &mut Database,
    which: (&Filter, &Visible),
    after: &str,
    limit: i64,
) -> StoreResult<Vec<Instance>> {
    use instances::dsl;
    let query = narrowed(which)?
        .filter(dsl::id.gt(after.to_owned()))
        .order(dsl::id)
        .limit(limit);
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}

/// Up to `limit` instances that may be seen, in an order.
///
/// # Errors
/// When the database fails.
pub fn sorted(
    connection: &mut Database,
    which: (&Filter, &Visible),
    order: &Order,
    limit: i64,
) -> StoreResult<Vec<Instance>> {
    let query = ordered!(narrowed(which)?.limit(limit), order);
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}
