//! Lists of machines by name, narrowed by the database. What few machines have is found by its index; for a label that many
//! have the machines are gone through by name, which soon fills a page. Conditions that are common one by one and rare together
//! cost a look at each machine.

use diesel::prelude::*;

use super::{
    Database, StoreResult,
    machines::{Machine, Row, from_row},
    schema::{machine_labels, machines},
    to_word,
};
use crate::workflow::state::MachineState;

/// A label that so many machines have is common.
const COMMON: i64 = 2000;

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
    let mut query = dsl::machines
        .filter(dsl::name.gt(after))
        .order(dsl::name)
        .limit(limit)
        .into_boxed();
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
        if some.load::<String>(connection)?.len() < usize::try_from(COMMON).unwrap_or(usize::MAX) {
            query = query.filter(dsl::id.eq_any(labelled.select(machine_labels::machine)));
        } else {
            // The offset keeps PostgreSQL from joining both tables whole before it takes the first few by name.
            let has = labelled.filter(machine_labels::machine.eq(dsl::id)).offset(0);
            query = query.filter(diesel::dsl::exists(has));
        }
    }
    query.load::<Row>(connection)?.into_iter().map(from_row).collect()
}
