//! `/api/v1/search`

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{List, Query, ordering::words};
use crate::{access::Caller, app::App, domain, error::ApiError};

/// What is looked for.
#[derive(Debug, Deserialize, IntoParams)]
pub struct Sought {
    /// The text: 2 letters or more, small or great
    pub q: String,
    /// Hits of each kind at most; 1 to 20, 5 by default
    pub limit: Option<i64>,
}

/// Something that was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct HitView {
    /// `site`, `machine`, `instance`, `job`, `image`, `project` or `user`.
    pub kind: &'static str,
    /// Its id, as its route takes it.
    pub id: String,
    /// Its name; a job's is its id.
    pub name: String,
    /// For people: where it is and how it stands.
    pub detail: String,
}

/// Looks for a text in everything the caller may see: what is called so first, then what begins so, then what holds it.
/// Machines are found by addresses and serial numbers too, jobs by the beginning of their id.
#[utoipa::path(get, path = "/api/v1/search", tag = "overview", params(Sought),
    responses((status = 200, body = List<HitView>), (status = 400)))]
pub async fn search(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(sought): Query<Sought>,
) -> Result<Json<List<HitView>>, ApiError> {
    let limit = sought.limit.unwrap_or(5).clamp(1, 20);
    let q = words(Some(sought.q))?.unwrap_or_default();
    let found = domain::search::search(&app, &caller, &q, limit).await?;
    let view = |(kind, hit): (domain::search::Kind, crate::store::search::Hit)| HitView {
        kind: kind.word(),
        id: hit.id,
        name: hit.name,
        detail: hit.detail,
    };
    let items = found.into_iter().map(view).collect();
    Ok(Json(List { items, next: None }))
}
