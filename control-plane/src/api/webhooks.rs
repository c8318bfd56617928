//! `/api/v1/webhooks`

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Body, List, Page, Path, Query};
use crate::{
    access::Caller,
    app::App,
    domain::{
        webhook_secrets,
        webhooks::{self, Wanted},
    },
    error::ApiError,
    store::webhooks::{self as rows, Delivery, DeliveryState, Webhook},
};

/// A webhook to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// Where events are sent: http or https.
    pub url: String,
    /// Which kinds, and those below them; all if left out; with an empty list only alerts of rules that name it.
    pub kinds: Option<Vec<String>>,
    /// Of which sites; all if left out.
    pub sites: Option<Vec<String>>,
    /// Whether it gets anything; it does if left out.
    pub active: Option<bool>,
}

/// What is to be changed; what is left out stays, `null` is all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChange {
    /// Where events are sent.
    pub url: Option<String>,
    /// Which kinds.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    pub kinds: Option<Option<Vec<String>>>,
    /// Of which sites.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<Vec<String>>)]
    pub sites: Option<Option<Vec<String>>>,
    /// Whether it gets anything.
    pub active: Option<bool>,
}

/// Tells `null` from what is left out.
fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<Vec<String>>>, D::Error> {
    Option::deserialize(from).map(Some)
}

/// A webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookView {
    /// Its id.
    pub id: String,
    /// Where events are sent.
    pub url: String,
    /// Which kinds; `null` is all.
    pub kinds: Option<Vec<String>>,
    /// Of which sites; `null` is all.
    pub sites: Option<Vec<String>>,
    /// Whether it gets anything.
    pub active: bool,
    /// Up to which event deliveries were made.
    pub position: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Until when the former secret signs as well, after a change.
    pub former_until: Option<DateTime<Utc>>,
    /// By what deliveries are signed; shown when it is made and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

fn view(w: Webhook) -> WebhookView {
    WebhookView {
        id: w.id,
        url: w.url,
        kinds: w.kinds,
        sites: w.sites,
        active: w.active,
        position: w.position,
        created_at: w.created_at,
        former_until: w.former.map(|(_, until)| until),
        secret: None,
    }
}

/// Makes a webhook; its secret is in this answer and in no other.
#[utoipa::path(post, path = "/api/v1/webhooks", tag = "webhooks", request_body = NewWebhook,
    responses((status = 201, body = WebhookView), (status = 400)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(new): Body<NewWebhook>,
) -> Result<impl IntoResponse, ApiError> {
    let wanted = Wanted {
        url: new.url,
        kinds: new.kinds,
        sites: new.sites,
        active: new.active.unwrap_or(true),
    };
    let (webhook, secret) = webhooks::create(&app, &caller, wanted).await?;
    let mut view = view(webhook);
    view.secret = Some(secret.reveal().to_owned());
    Ok((StatusCode::CREATED, Json(view)))
}

/// Lists webhooks, oldest first.
#[utoipa::path(get, path = "/api/v1/webhooks", tag = "webhooks", params(Page),
    responses((status = 200, body = List<WebhookView>)))]
pub async fn list(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
) -> Result<Json<List<WebhookView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let found = app
        .store
        .transaction(move |db| rows::list(db, &cursor, limit))
        .await?;
    let items = found.into_iter().map(view).collect();
    Ok(Json(List::page(items, limit, |w: &WebhookView| w.id.clone())))
}

/// Shows a webhook.
#[utoipa::path(get, path = "/api/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path)),
    responses((status = 200, body = WebhookView), (status = 404)))]
pub async fn get(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<WebhookView>, ApiError> {
    Ok(Json(view(webhooks::get(&app, id).await?)))
}

/// Changes a webhook. One that is switched on gets what happens from then on.
#[utoipa::path(patch, path = "/api/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path)),
    request_body = WebhookChange, responses((status = 200, body = WebhookView), (status = 400), (status = 404)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(change): Body<WebhookChange>,
) -> Result<Json<WebhookView>, ApiError> {
    let apply = |wanted: &mut Wanted| {
        wanted.url = change.url.unwrap_or(std::mem::take(&mut wanted.url));
        wanted.kinds = change.kinds.unwrap_or(wanted.kinds.take());
        wanted.sites = change.sites.unwrap_or(wanted.sites.take());
        wanted.active = change.active.unwrap_or(wanted.active);
    };
    Ok(Json(view(webhooks::update(&app, &caller, id, apply).await?)))
}

/// How a secret is changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretChange {
    /// For how many hours the former secret signs as well; 24 if left out, 0 to 168.
    pub overlap_hours: Option<u32>,
}

/// Gives a webhook a new secret, which is in this answer and in no other; the former one goes on signing for a while.
#[utoipa::path(post, path = "/api/v1/webhooks/{webhook}/secret", tag = "webhooks", params(("webhook" = String, Path)),
    request_body = SecretChange, responses((status = 200, body = WebhookView), (status = 400), (status = 404)))]
pub async fn rotate(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
    Body(body): Body<SecretChange>,
) -> Result<Json<WebhookView>, ApiError> {
    let hours = body.overlap_hours.unwrap_or(24);
    let (webhook, secret) = webhook_secrets::rotate(&app, &caller, id, hours).await?;
    let mut view = view(webhook);
    view.secret = Some(secret.reveal().to_owned());
    Ok(Json(view))
}

/// Removes a webhook with its deliveries.
#[utoipa::path(delete, path = "/api/v1/webhooks/{webhook}", tag = "webhooks", params(("webhook" = String, Path)),
    responses((status = 204), (status = 404)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    webhooks::delete(&app, &caller, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a test went.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestView {
    /// Whether the receiver took it.
    pub delivered: bool,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why it does not count as delivered.
    pub error: Option<String>,
}

/// Sends a webhook an event of kind `webhook.test` now and says how that went.
#[utoipa::path(post, path = "/api/v1/webhooks/{webhook}/test", tag = "webhooks", params(("webhook" = String, Path)),
    responses((status = 200, body = TestView), (status = 404)))]
pub async fn test(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<TestView>, ApiError> {
    let answer = webhooks::test(&app, &caller, id).await?;
    Ok(Json(TestView {
        delivered: answer.error.is_none(),
        status: answer.status,
        error: answer.error,
    }))
}

/// Which deliveries.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct DeliveryFilter {
    /// In one state: `waiting`, `delivered` or `dead`
    #[param(inline)]
    pub state: Option<DeliveryState>,
}

/// Lists a webhook's deliveries, newest first; those that ended are shown for 30 days.
#[utoipa::path(get, path = "/api/v1/webhooks/{webhook}/deliveries", tag = "webhooks",
    params(("webhook" = String, Path), Page, DeliveryFilter),
    responses((status = 200, body = List<Delivery>), (status = 404)))]
pub async fn deliveries(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(page): Query<Page>,
    Query(filter): Query<DeliveryFilter>,
) -> Result<Json<List<Delivery>>, ApiError> {
    let webhook = webhooks::get(&app, id).await?;
    let limit = page.limit();
    let before = super::events::cursor(&page)?.unwrap_or(u64::MAX);
    let found = app
        .store
        .transaction(move |db| rows::deliveries(db, &webhook.id, filter.state, before, limit))
        .await?;
    Ok(Json(List::page(found, limit, |d: &Delivery| d.seq.to_string())))
}
