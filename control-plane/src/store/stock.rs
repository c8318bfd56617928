//! How many machines there are, by site, type and state. Counts only.

use diesel::{dsl::count_star, prelude::*};

use super::{Database, StoreResult, from_word, schema::machines::dsl};
use crate::workflow::state::MachineState;

/// So many machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Where they stand.
    pub site: String,
    /// Their type.
    pub machine_type: Option<String>,
    /// Their state.
    pub state: MachineState,
    /// How many.
    pub machines: i64,
}

/// Counts machines of the sites, of all if none are given, and of one type if it is given; by site and type.
///
/// # Errors
/// When the database fails.
pub fn counts(
    connection: &mut Database,
    sites: Option<Vec<String>>,
    machine_type: Option<String>,
) -> StoreResult<Vec<Count>> {
    let group = (dsl::site, dsl::machine_type, dsl::state);
    let mut query = dsl::machines
        .group_by(group)
        .select((dsl::site, dsl::machine_type, dsl::state, count_star()))
        .order(group)
        .into_boxed();
    if let Some(sites) = sites {
        query = query.filter(dsl::site.eq_any(sites));
    }
    if let Some(name) = machine_type {
        query = query.filter(dsl::machine_type.eq(name));
    }
    let rows: Vec<(String, Option<String>, String, i64)> = query.load(connection)?;
    let count = |(site, machine_type, state, machines): (_, _, String, _)| {
        let state = from_word(&state)?;
        Ok(Count {
            site,
            machine_type,
            state,
            machines,
        })
    };
    rows.into_iter().map(count).collect()
}
