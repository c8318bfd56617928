//! Free machines, found by what an instance may have. Chooses by name among equals; takes nothing.

use std::collections::BTreeMap;

use diesel::prelude::*;
use slipway_protocol::ids::SiteId;

use super::{
    Database, StoreResult,
    machines::{Machine, from_row},
    schema::{machine_labels, machines},
    to_word,
};
use crate::workflow::state::MachineState;

/// Which machines will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// Of one of these types; of any, or of none, if not given.
    pub types: Option<Vec<String>>,
    /// Of none of these types.
    pub except: Vec<String>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
}

/// The first machine of a site by name that is free and will do.
///
/// # Errors
/// When the database fails.
pub fn any(connection: &mut Database, site: &SiteId, wanted: &Selector) -> StoreResult<Option<Machine>> {
    use machines::dsl;
    let mut query = dsl::machines
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::state.eq(to_word(&MachineState::Available)?))
        .filter(dsl::live_job.is_null())
        .order(dsl::name)
        .into_boxed();
    if let Some(types) = &wanted.types {
        query = query.filter(dsl::machine_type.eq_any(types.clone()));
    }
    if !wanted.except.is_empty() {
        let other = dsl::machine_type.ne_all(wanted.except.clone());
        query = query.filter(dsl::machine_type.is_null().or(other));
    }
    for (name, value) in &wanted.labels {
        let labelled = machine_labels::table
            .filter(machine_labels::name.eq(name.clone()))
            .filter(machine_labels::value.eq(value.clone()))
            .select(machine_labels::machine);
        query = query.filter(dsl::id.eq_any(labelled));
    }
    query.first(connection).optional()?.map(from_row).transpose()
}
