//! Lists of machines, narrowed by the database. What few machines have is found by its index; for a label that many
//! have the machines are gone through by name, which soon fills a page. Conditions that are common one by one and rare together
//! cost a look at each machine. What a text is looked for in is one narrow table: each of its rows is read.

use diesel::prelude::*;

use super::{
    Database, StoreResult,
    machines::{Machine, Row, from_row},
    ordering::{Key, Order, containing, ordered},
    schema::{machine_labels, machine_words, machines},
    to_word,
};
use crate::workflow::state::MachineState;

/// A label that so many machines have is common; so is a text.
const COMMON: i64 = 2000;

/// What machines can be ordered by; each has an index. Machines without a type stand before all types.
pub const KEYS: &[Key] = &[
    Key::text("name", "name", "id"),
    Key::text("state", "state", "name"),
    Key::text("site", "site", "name"),
    Key::text("machine_type", "COALESCE(machine_type, '')", "name"),
    Key::number("created_at", "created_at", "name"),
];

/// Which machines; what is not given narrows nothing.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// At one of these sites.
    pub sites: Option<Vec<String>>,
    /// In this state.
    pub state: Option<MachineState>,
    /// Of this type.
    pub machine_type: Option<String>,
    /// With all of these labels, name and value.
    pub labels: Vec<(String, String)>,
    /// Whose name, address, ports, BMC's address or serial number hold this text, in small or great letters.
    pub q: Option<String>,
}

type Narrowed = machines::BoxedQuery<'static, <Database as Connection>::Backend>;

/// Whether that many rows are not few.
fn is_common(rows: usize) -> bool {
    i64::try_from(rows).is_ok_and(|rows| rows >= COMMON)
}

fn narrowed(connection: &mut Database, filter: &Filter) -> StoreResult<Narrowed> {
    use machines::dsl;
    let mut query = dsl::machines.into_boxed();
    if let Some(sites) = &filter.sites {
        query = query.filter(dsl::site.eq_any(sites.clone()));
    }
    if let Some(state) = &filter.state {
        query = query.filter(dsl::state.eq(to_word(state)?));
    }
    if let Some(machine_type) = &filter.machine_type {
        query = query.filter(dsl::machine_type.eq(machine_type.clone()));
    }
    for (name, value) in &filter.labels {
        let labelled = machine_labels::table
            .filter(machine_labels::name.eq(name.clone()))
            .filter(machine_labels::value.eq(value.clone()));
        let some = labelled.clone().select(machine_labels::machine).limit(COMMON);
        if is_common(some.load::<String>(connection)?.len()) {
            // The offset keeps PostgreSQL from joining both tables whole before it takes the first few by name.
            let has = labelled.filter(machine_labels::machine.eq(dsl::id)).offset(0);
            query = query.filter(diesel::dsl::exists(has));
        } else {
            query = query.filter(dsl::id.eq_any(labelled.select(machine_labels::machine)));
        }
    }
    if let Some(q) = &filter.q {
        let said = machine_words::table.filter(machine_words::words.like(containing(q)).escape('\\'));
        let some = said.clone().select(machine_words::machine).limit(COMMON);
        let some: Vec<String> = some.load(connection)?;
        if is_common(some.len()) {
            let says = said.filter(machine_words::machine.eq(dsl::id)).offset(0);
            query = query.filter(diesel::dsl::exists(says));
        } else {
            query = query.filter(dsl::id.eq_any(some));
        }
    }
    Ok(query)
}

/// Up to `limit` machines whose name comes after `after`, by name.
///
/// # Errors
/// When the database fails.
pub fn page(
    connection: &mut Database,
    filter: &Filter,
    after: &str,
    limit: i64,
) -> StoreResult<Vec<Machine>> {
    use machines::dsl;
    let query = narrowed(connection, filter)?
        .filter(dsl::name.gt(after.to_owned()))
        .order(dsl::name)
        .limit(limit);
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}

/// Up to `limit` machines in an order.
///
/// # Errors
/// When the database fails.
pub fn sorted(
    connection: &mut Database,
    filter: &Filter,
    order: &Order,
    limit: i64,
) -> StoreResult<Vec<Machine>> {
    let query = ordered!(narrowed(connection, filter)?.limit(limit), order);
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}
