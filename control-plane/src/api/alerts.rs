//! `/api/v1/alert-rules` and `/api/v1/alerts`

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{Body, List, Page, Path, Query};
use crate::{
    access::Caller,
    app::App,
    domain::alerts,
    error::ApiError,
    store::alerts::{self as rows, Alert, Condition, Filter, Rule},
};

/// A rule to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    /// For people.
    pub name: String,
    /// When it holds.
    pub condition: Condition,
    /// Webhooks to tell, by id.
    #[serde(default)]
    pub webhooks: Vec<String>,
    /// Mail addresses to tell.
    #[serde(default)]
    pub emails: Vec<String>,
    /// Whether it is looked at; it is if left out.
    pub active: Option<bool>,
}

/// What is to be changed; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleChange {
    /// For people.
    pub name: Option<String>,
    /// When it holds.
    pub condition: Option<Condition>,
    /// Webhooks to tell, by id.
    pub webhooks: Option<Vec<String>>,
    /// Mail addresses to tell.
    pub emails: Option<Vec<String>>,
    /// Whether it is looked at; the open alerts of one that is not are over.
    pub active: Option<bool>,
}

/// Makes an alert rule.
#[utoipa::path(post, path = "/api/v1/alert-rules", tag = "alerts", request_body = NewRule,
    responses((status = 201, body = Rule), (status = 400), (status = 404), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(new): Body<NewRule>,
) -> Result<impl IntoResponse, ApiError> {
    let rule = Rule {
        id: alerts::new_id(),
        name: new.name,
        condition: new.condition,
        webhooks: new.webhooks,
        emails: new.emails,
        active: new.active.unwrap_or(true),
        created_at: (app.now)(),
    };
    Ok((StatusCode::CREATED, Json(alerts::put(&app, &caller, rule).await?)))
}

/// Lists alert rules, oldest first.
#[utoipa::path(get, path = "/api/v1/alert-rules", tag = "alerts", params(Page),
    responses((status = 200, body = List<Rule>)))]
pub async fn list_rules(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
) -> Result<Json<List<Rule>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let found = app
        .store
        .transaction(move |db| rows::list_rules(db, &cursor, limit))
        .await?;
    Ok(Json(List::page(found, limit, |rule: &Rule| rule.id.clone())))
}

/// Shows an alert rule, by id or name.
#[utoipa::path(get, path = "/api/v1/alert-rules/{rule}", tag = "alerts", params(("rule" = String, Path)),
    responses((status = 200, body = Rule), (status = 404)))]
pub async fn get(State(app): State<Arc<App>>, Path(key): Path<String>) -> Result<Json<Rule>, ApiError> {
    Ok(Json(alerts::get(&app, key).await?))
}

/// Changes an alert rule.
#[utoipa::path(patch, path = "/api/v1/alert-rules/{rule}", tag = "alerts", params(("rule" = String, Path)),
    request_body = RuleChange, responses((status = 200, body = Rule), (status = 400), (status = 404), (status = 409)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Body(change): Body<RuleChange>,
) -> Result<Json<Rule>, ApiError> {
    let held = alerts::get(&app, key).await?;
    let rule = Rule {
        name: change.name.unwrap_or(held.name),
        condition: change.condition.unwrap_or(held.condition),
        webhooks: change.webhooks.unwrap_or(held.webhooks),
        emails: change.emails.unwrap_or(held.emails),
        active: change.active.unwrap_or(held.active),
        ..held
    };
    Ok(Json(alerts::put(&app, &caller, rule).await?))
}

/// Removes an alert rule with its alerts.
#[utoipa::path(delete, path = "/api/v1/alert-rules/{rule}", tag = "alerts", params(("rule" = String, Path)),
    responses((status = 204), (status = 404)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    alerts::delete(&app, &caller, key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which alerts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct AlertFilter {
    /// Open ones, or resolved ones
    pub open: Option<bool>,
    /// Of one rule, by id
    pub rule: Option<String>,
    /// At one site
    pub site: Option<String>,
}

/// Lists alerts, newest first.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", params(Page, AlertFilter),
    responses((status = 200, body = List<Alert>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
    Query(filter): Query<AlertFilter>,
) -> Result<Json<List<Alert>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let filter = Filter {
        open: filter.open,
        rule: filter.rule,
        site: filter.site,
        visible_sites: None,
    };
    let found = app
        .store
        .transaction(move |db| rows::list(db, &filter, &cursor, limit))
        .await?;
    Ok(Json(List::page(found, limit, |alert: &Alert| alert.id.clone())))
}
