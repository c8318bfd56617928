//! `GET /api/v1/instances`: narrowed, looked through and ordered.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{
    List, Page, Query,
    instances::{InstanceView, views},
    ordering,
};
use crate::{
    access::{Caller, Permission},
    app::App,
    error::ApiError,
    store::instance_lists::{self, Filter},
    workflow::state::InstanceState,
};

/// Which instances.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct InstanceFilter {
    /// In one project
    pub project: Option<String>,
    /// At one site
    pub site: Option<String>,
    /// In one state
    pub state: Option<InstanceState>,
    /// Whose name or address holds this text, in small or great letters; looks at each instance
    pub q: Option<String>,
    /// Order: `name`, `state`, `site` or `created_at`, with a leading `-` for the other way round; oldest first if left out.
    /// A cursor goes with its order
    pub sort: Option<String>,
}

/// An instance's value of what a list is ordered by.
fn value(i: &InstanceView, word: &str) -> String {
    match word {
        "state" => i.state.word().to_owned(),
        "site" => i.site.clone(),
        "created_at" => i.created_at.timestamp_micros().to_string(),
        _ => i.name.clone(),
    }
}

/// Lists instances, oldest first or in another order.
#[utoipa::path(get, path = "/api/v1/instances", tag = "instances", params(Page, InstanceFilter),
    responses((status = 200, body = List<InstanceView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(page): Query<Page>,
    Query(filter): Query<InstanceFilter>,
) -> Result<Json<List<InstanceView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let visible = caller.visible(Permission::InstancesRead);
    let order = ordering::order(instance_lists::KEYS, filter.sort.as_deref(), &cursor)?;
    let filter = Filter {
        project: filter.project,
        site: filter.site,
        state: filter.state,
        q: ordering::words(filter.q)?,
    };
    let asked = order.clone();
    let items = app.store.read(move |db| {
        let rows = match &asked {
            Some(order) => instance_lists::sorted(db, (&filter, &visible), order, limit)?,
            None => instance_lists::page(db, (&filter, &visible), &cursor, limit)?,
        };
        views(db, rows)
    });
    let next = |i: &InstanceView| match &order {
        Some(order) => ordering::cursor(order, &value(i, order.key.word), &i.id),
        None => i.id.clone(),
    };
    Ok(Json(List::page(items.await?, limit, next)))
}
