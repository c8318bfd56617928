//! `GET /api/v1/machines`: narrowed, looked through and ordered.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    List, Page, Query,
    machines::{MachineView, view},
    ordering, since,
};
use crate::{
    access::{Caller, Permission},
    app::App,
    error::ApiError,
    store::machine_lists,
    workflow::state::MachineState,
};

/// Which machines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct MachineFilter {
    /// Of one site
    pub site: Option<String>,
    /// In one state
    pub state: Option<MachineState>,
    /// Of one type
    pub machine_type: Option<String>,
    /// Whose name, address, MAC address, BMC's address or serial number holds this text, in small or great letters; looks at
    /// each machine
    pub q: Option<String>,
    /// Order: `name`, `state`, `site`, `machine_type` or `created_at`, with a leading `-` for the other way round; by name
    /// if left out. A cursor goes with its order
    pub sort: Option<String>,
}

/// A machine's value of what a list is ordered by.
fn value(m: &MachineView, word: &str) -> String {
    match word {
        "state" => m.state.word().to_owned(),
        "site" => m.site.clone(),
        "machine_type" => m.machine_type.clone().unwrap_or_default(),
        "created_at" => m.created_at.timestamp_micros().to_string(),
        _ => m.name.clone(),
    }
}

/// What tells a machine from others of that value.
fn tie<'a>(m: &'a MachineView, word: &str) -> &'a str {
    if word == "name" { &m.id } else { &m.name }
}

/// Most labels that a list is narrowed by.
const MOST_LABELS: usize = 16;

/// Which labels machines have.
#[derive(Debug, Default, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LabelFilter {
    /// With this label, as NAME=VALUE; may be repeated, up to 16 times: all are meant
    #[param(max_items = 16, required = false)]
    pub label: Vec<String>,
}

impl<'de> Deserialize<'de> for LabelFilter {
    /// A name may come more than once in a query, which a derived reader does not take.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(String, String)>::deserialize(deserializer)?;
        let labels = pairs.into_iter().filter(|(name, _)| name == "label");
        let label = labels.map(|(_, label)| label).collect();
        Ok(Self { label })
    }
}

impl LabelFilter {
    /// Names and values.
    fn pairs(self) -> Result<Vec<(String, String)>, ApiError> {
        if self.label.len() > MOST_LABELS {
            let what = format!("label: at most {MOST_LABELS} can be asked for at once");
            return Err(ApiError::Bad("query", what));
        }
        let pair = |label: String| match label.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(ApiError::Bad(
                "query",
                format!("label: `{label}` is not NAME=VALUE"),
            )),
        };
        self.label.into_iter().map(pair).collect()
    }
}

/// Lists machines, by name or in another order.
#[utoipa::path(get, path = "/api/v1/machines", tag = "machines", params(Page, MachineFilter, LabelFilter),
    responses((status = 200, body = List<MachineView>), (status = 400)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(page): Query<Page>,
    Query(filter): Query<MachineFilter>,
    Query(labels): Query<LabelFilter>,
) -> Result<Json<List<MachineView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let order = ordering::order(machine_lists::KEYS, filter.sort.as_deref(), &cursor)?;
    let asked = order.clone();
    let filter = machine_lists::Filter {
        q: ordering::words(filter.q)?,
        sites: caller.visible(Permission::MachinesRead).sites(filter.site),
        state: filter.state,
        machine_type: filter.machine_type,
        labels: labels.pairs()?,
    };
    let items = app.store.read(move |db| {
        let rows = match &asked {
            Some(order) => machine_lists::sorted(db, &filter, order, limit)?,
            None => machine_lists::page(db, &filter, &cursor, limit)?,
        };
        let mut views: Vec<MachineView> = rows.into_iter().map(view).collect();
        since::date(db, &mut views)?;
        Ok::<_, ApiError>(views)
    });
    let next = |m: &MachineView| match &order {
        Some(order) => ordering::cursor(order, &value(m, order.key.word), tie(m, order.key.word)),
        None => m.name.clone(),
    };
    Ok(Json(List::page(items.await?, limit, next)))
}
