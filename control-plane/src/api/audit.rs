//! `/api/v1/audit`: who did what.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::{List, Page, Query};
use crate::{
    app::App,
    error::ApiError,
    store::audit::{self, Entry, Filter, From},
};

/// A line of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditView {
    /// Its number; grows.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// `session`, `key`, `token`, `sso` or `none`.
    pub via: String,
    /// From where.
    pub address: String,
    /// What, as in `site.update`; of a refused call its method and route.
    pub action: String,
    /// On what, as in `site/bj-1`.
    pub object: String,
    /// `done`, or the code of the refusal.
    pub outcome: String,
    /// How it was before.
    #[schema(value_type = Value)]
    pub before: Option<Value>,
    /// How it is since.
    #[schema(value_type = Value)]
    pub after: Option<Value>,
}

fn view(entry: Entry) -> AuditView {
    AuditView {
        seq: entry.seq,
        at: entry.at,
        actor: entry.actor,
        via: entry.via,
        address: entry.address,
        action: entry.action,
        object: entry.object,
        outcome: entry.outcome,
        before: entry.before,
        after: entry.after,
    }
}

/// Which lines.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct AuditFilter {
    /// Of one actor
    pub actor: Option<String>,
    /// Whose action begins so
    pub action: Option<String>,
    /// On one object
    pub object: Option<String>,
    /// `done`, or the code of a refusal
    pub outcome: Option<String>,
    /// `oldest` first or `newest` first; `oldest` if left out
    #[param(inline)]
    pub order: AuditOrder,
}

/// In which order.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOrder {
    /// Oldest first.
    #[default]
    Oldest,
    /// Newest first.
    Newest,
}

/// Lists the audit log; as lines of JSON with `Accept: application/x-ndjson`.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(Page, AuditFilter),
    responses((status = 200, body = List<AuditView>), (status = 400)))]
pub async fn list(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Query(page): Query<Page>,
    Query(filter): Query<AuditFilter>,
) -> Result<Response, ApiError> {
    let limit = page.limit();
    let cursor = match page.cursor().as_str() {
        "" => None,
        text => Some(super::parse("cursor", text)?),
    };
    let from = match filter.order {
        AuditOrder::Oldest => From::After(cursor.unwrap_or(0)),
        AuditOrder::Newest => From::Before(cursor.unwrap_or(i64::MAX)),
    };
    let filter = Filter {
        actor: filter.actor,
        action: filter.action,
        object: filter.object,
        outcome: filter.outcome,
    };
    let rows = app
        .store
        .read(move |db| audit::list(db, &filter, from, limit))
        .await?;
    let items: Vec<AuditView> = rows.into_iter().map(view).collect();
    let lines = headers
        .get(header::ACCEPT)
        .is_some_and(|accept| accept.as_bytes() == b"application/x-ndjson");
    if !lines {
        return Ok(Json(List::page(items, limit, |entry: &AuditView| {
            entry.seq.to_string()
        }))
        .into_response());
    }
    let mut text = String::new();
    for item in items {
        text.push_str(&serde_json::to_string(&item).map_err(|e| ApiError::Internal(e.into()))?);
        text.push('\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text).into_response())
}
