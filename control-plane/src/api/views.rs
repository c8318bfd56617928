//! `/api/v1/me/views`: the caller's saved views.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, List, Path};
use crate::{access::Caller, app::App, domain, error::ApiError, store::views::SavedView};

/// A view to be saved.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ViewBody {
    /// The page it is of, as in `machines`.
    pub page: String,
    /// What the page's list is asked for, as in `site=bj-1&state=available&sort=-name`.
    pub query: String,
    /// The columns that are shown, in their order; the page's own choice if left out.
    pub columns: Option<Vec<String>>,
}

/// A saved view.
#[derive(Debug, Serialize, ToSchema)]
pub struct ViewView {
    /// Its name.
    pub name: String,
    /// The page it is of.
    pub page: String,
    /// What the page's list is asked for.
    pub query: String,
    /// The columns that are shown.
    pub columns: Option<Vec<String>>,
    /// When it was saved last.
    pub saved_at: DateTime<Utc>,
}

fn view(saved: SavedView) -> ViewView {
    ViewView {
        name: saved.name,
        page: saved.page,
        query: saved.query,
        columns: saved.columns,
        saved_at: saved.saved_at,
    }
}

/// Lists the caller's saved views, by name; for an API key, those of its holder.
#[utoipa::path(get, path = "/api/v1/me/views", tag = "account",
    responses((status = 200, body = List<ViewView>), (status = 401)))]
pub async fn list(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<List<ViewView>>, ApiError> {
    let saved = domain::views::list(&app, &caller).await?;
    let items = saved.into_iter().map(view).collect();
    Ok(Json(List { items, next: None }))
}

/// Saves a view under a name, in place of the one of that name; 100 of a user at most.
#[utoipa::path(put, path = "/api/v1/me/views/{view}", tag = "account", params(("view" = String, Path)),
    request_body = ViewBody,
    responses((status = 200, body = ViewView), (status = 400), (status = 401), (status = 403), (status = 409)))]
pub async fn put(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
    Body(body): Body<ViewBody>,
) -> Result<Json<ViewView>, ApiError> {
    let saved = SavedView {
        name,
        page: body.page,
        query: body.query,
        columns: body.columns,
        saved_at: (app.now)(),
    };
    Ok(Json(view(domain::views::put(&app, &caller, saved).await?)))
}

/// Removes a saved view.
#[utoipa::path(delete, path = "/api/v1/me/views/{view}", tag = "account", params(("view" = String, Path)),
    responses((status = 204), (status = 401), (status = 403), (status = 404)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    domain::views::delete(&app, &caller, name).await?;
    Ok(StatusCode::NO_CONTENT)
}
