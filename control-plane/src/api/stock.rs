//! `/api/v1/stock`

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{List, Query};
use crate::{
    access::{Caller, Permission},
    app::App,
    error::ApiError,
    store::stock::{self, Count},
    workflow::state::MachineState,
};

/// Which machines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct StockFilter {
    /// At one site
    pub site: Option<String>,
    /// Of one type
    pub machine_type: Option<String>,
}

/// How many machines of a type there are at a site.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StockView {
    /// Where they stand.
    pub site: String,
    /// Their type; none for those without one.
    pub machine_type: Option<String>,
    /// How many there are, retired ones left out.
    pub total: i64,
    /// How many are free.
    pub available: i64,
    /// How many there are in each state that has some.
    pub states: BTreeMap<String, i64>,
}

/// One row for each site and type: pure.
fn rows(counts: Vec<Count>) -> Vec<StockView> {
    let mut rows: BTreeMap<(String, Option<String>), StockView> = BTreeMap::new();
    for count in counts {
        let key = (count.site.clone(), count.machine_type.clone());
        let row = rows.entry(key).or_insert_with(|| StockView {
            site: count.site,
            machine_type: count.machine_type,
            total: 0,
            available: 0,
            states: BTreeMap::new(),
        });
        if count.state != MachineState::Retired {
            row.total += count.machines;
        }
        if count.state == MachineState::Available {
            row.available += count.machines;
        }
        row.states.insert(count.state.word().to_owned(), count.machines);
    }
    rows.into_values().collect()
}

/// Counts machines by site and type, in each state.
#[utoipa::path(get, path = "/api/v1/stock", tag = "machines", params(StockFilter),
    responses((status = 200, body = List<StockView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(filter): Query<StockFilter>,
) -> Result<Json<List<StockView>>, ApiError> {
    let sites = caller.visible(Permission::MachinesRead).sites(filter.site);
    let counts = app
        .store
        .read(move |db| stock::counts(db, sites, filter.machine_type));
    let items = rows(counts.await?);
    Ok(Json(List { items, next: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_gathered_and_retired_machines_are_no_stock() {
        let count = |machine_type: Option<&str>, state, machines| Count {
            site: "bj-1".into(),
            machine_type: machine_type.map(str::to_owned),
            state,
            machines,
        };
        let rows = rows(vec![
            count(Some("big"), MachineState::Available, 3),
            count(None, MachineState::Enrolled, 1),
            count(Some("big"), MachineState::Allocated, 2),
            count(Some("big"), MachineState::Retired, 9),
        ]);
        let told: Vec<(Option<&str>, i64, i64)> = rows
            .iter()
            .map(|r| (r.machine_type.as_deref(), r.total, r.available))
            .collect();
        assert_eq!(told, [(None, 1, 0), (Some("big"), 5, 3)]);
        assert_eq!(rows[1].states["retired"], 9);
    }
}
