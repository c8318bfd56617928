//! Webhooks: made, changed, and what is to be delivered to each.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use slipway_protocol::seal::Secret;
use uuid::Uuid;

use super::webhook_secrets::{new_secret, signing};
use crate::{
    access::Caller,
    app::App,
    error::ApiError,
    metrics,
    notify::{
        Next, egress, next as next_attempt,
        post::{Answer, Message},
    },
    store::{
        Database, StoreResult,
        audit::{self, Change},
        events::{self, Event, Filter, Order, is_of_kind},
        webhooks::{self, Delivery, DeliveryState, Webhook},
    },
};

/// Most deliveries that wait at a webhook; more are made when these are through.
const MOST_WAITING: i64 = 1000;

/// Events looked at in one step.
const LOOK: i64 = 500;

/// How long ended deliveries are shown.
const SHOWN_FOR: TimeDelta = TimeDelta::days(30);

/// The place a webhook's secret is encrypted for.
#[must_use]
pub fn secret_place(id: &str) -> String {
    format!("webhook/{id}/secret")
}

/// What an operator sets of a webhook.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where events are sent.
    pub url: String,
    /// Which kinds; `None` is all.
    pub kinds: Option<Vec<String>>,
    /// Of which sites; `None` is all.
    pub sites: Option<Vec<String>>,
    /// Whether it gets anything.
    pub active: bool,
}

fn check(app: &App, wanted: &Wanted) -> Result<(), ApiError> {
    egress::check_url(&wanted.url, app.poster.private()).map_err(|e| ApiError::Bad("url", e.to_string()))?;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_');
    for kind in wanted.kinds.iter().flatten() {
        if kind.is_empty() || !kind.chars().all(plain) {
            let detail = format!("`{kind}` is not a kind of event: use words such as `job` or `job.failed`");
            return Err(ApiError::Bad("kind", detail));
        }
    }
    Ok(())
}

fn missing(id: &str) -> ApiError {
    ApiError::NotFound("webhook", id.to_owned())
}

/// A webhook as the audit log keeps it: without its secret.
fn told(webhook: &Webhook) -> Value {
    json!({ "url": webhook.url, "kinds": webhook.kinds, "sites": webhook.sites, "active": webhook.active })
}

/// Makes a webhook; it gets what happens from now on. Its secret is shown this once.
///
/// # Errors
/// When the URL or a kind is not usable.
pub async fn create(app: &App, caller: &Caller, wanted: Wanted) -> Result<(Webhook, Secret), ApiError> {
    check(app, &wanted)?;
    let id = Uuid::now_v7().to_string();
    let secret = new_secret()?;
    let mut webhook = Webhook {
        secret: app.vault.encrypt(&secret_place(&id), &secret)?,
        former: None,
        id,
        url: wanted.url,
        kinds: wanted.kinds,
        sites: wanted.sites,
        active: wanted.active,
        position: 0,
        created_at: (app.now)(),
    };
    let (by, now) = (caller.actor.clone(), webhook.created_at);
    let made = app.store.transaction(move |db| {
        webhook.position = events::number(db)?;
        webhooks::insert(db, &webhook)?;
        audit::done(
            db,
            &by,
            now,
            Change::new(
                "webhook.create",
                format!("webhook/{}", webhook.id),
                None,
                Some(told(&webhook)),
            ),
        )?;
        Ok::<_, ApiError>(webhook)
    });
    Ok((made.await?, secret))
}

/// One webhook.
///
/// # Errors
/// When there is none.
pub async fn get(app: &App, id: String) -> Result<Webhook, ApiError> {
    app.store
        .transaction(move |db| webhooks::get(db, &id)?.ok_or_else(|| missing(&id)))
        .await
}

/// Changes a webhook. One that is switched on gets what happens from then on.
///
/// # Errors
/// When there is none, or the URL or a kind is not usable.
pub async fn update(
    app: &App,
    caller: &Caller,
    id: String,
    apply: impl FnOnce(&mut Wanted),
) -> Result<Webhook, ApiError> {
    let mut webhook = get(app, id).await?;
    let before = Some(told(&webhook));
    let mut wanted = Wanted {
        url: webhook.url,
        kinds: webhook.kinds,
        sites: webhook.sites,
        active: webhook.active,
    };
    apply(&mut wanted);
    check(app, &wanted)?;
    let switched_on = wanted.active && !webhook.active;
    webhook.url = wanted.url;
    webhook.kinds = wanted.kinds;
    webhook.sites = wanted.sites;
    webhook.active = wanted.active;
    let (by, now) = (caller.actor.clone(), (app.now)());
    let changed = app.store.transaction(move |db| {
        let last = events::number(db)?;
        webhooks::update(db, &webhook)?;
        audit::done(
            db,
            &by,
            now,
            Change::new(
                "webhook.update",
                format!("webhook/{}", webhook.id),
                before,
                Some(told(&webhook)),
            ),
        )?;
        if switched_on {
            webhooks::advance(db, &webhook.id, last)?;
        }
        webhooks::get(db, &webhook.id)?.ok_or_else(|| missing(&webhook.id))
    });
    changed.await
}

/// Removes a webhook with its deliveries.
///
/// # Errors
/// When there is none.
pub async fn delete(app: &App, caller: &Caller, id: String) -> Result<(), ApiError> {
    let (by, now) = (caller.actor.clone(), (app.now)());
    let deleted = app.store.transaction(move |db| {
        let webhook = webhooks::get(db, &id)?.ok_or_else(|| missing(&id))?;
        webhooks::delete(db, &id)?;
        Ok(audit::done(
            db,
            &by,
            now,
            Change::new(
                "webhook.delete",
                format!("webhook/{id}"),
                Some(told(&webhook)),
                None,
            ),
        )?)
    });
    deleted.await
}

/// Sends a webhook an event of kind `webhook.test` at once, and says how that went. It is not tried again.
///
/// # Errors
/// When there is none.
pub async fn test(app: &App, caller: &Caller, id: String) -> Result<Answer, ApiError> {
    let webhook = get(app, id).await?;
    let (by, at, id) = (caller.actor.clone(), (app.now)(), webhook.id.clone());
    let noted = app.store.transaction(move |db| {
        audit::done(
            db,
            &by,
            at,
            Change::new("webhook.test", format!("webhook/{id}"), None, None),
        )
    });
    noted.await?;
    let now = (app.now)();
    let secrets = signing(&app.vault, &webhook, now)?;
    let event = Event {
        seq: 0,
        at: now,
        kind: "webhook.test".to_owned(),
        site: None,
        machine: None,
        instance: None,
        job: None,
        project: None,
        text: "a test of this webhook".to_owned(),
        data: json!({}),
    };
    let message = Message {
        url: &webhook.url,
        kind: &event.kind,
        delivery: &Uuid::now_v7().to_string(),
        secrets: &secrets,
        body: serde_json::to_vec(&event).map_err(|e| ApiError::Internal(e.into()))?,
    };
    Ok(app.poster.post(message, now).await)
}

/// Whether a webhook gets an event: its filters let it through, or it is an alert of a rule that names the webhook.
#[must_use]
pub fn wants(webhook: &Webhook, event: &Event) -> bool {
    let named = event.data["webhooks"].as_array();
    if event.kind.starts_with("alert.") && named.is_some_and(|ids| ids.iter().any(|id| *id == webhook.id)) {
        return true;
    }
    let kind = |kinds: &Vec<String>| kinds.iter().any(|kind| is_of_kind(&event.kind, kind));
    let site = |sites: &Vec<String>| event.site.as_ref().is_some_and(|site| sites.contains(site));
    webhook.kinds.as_ref().is_none_or(kind) && webhook.sites.as_ref().is_none_or(site)
}

/// The active webhooks that have something to be made ready or to be sent now. Whether another replica works for them is
/// not asked; that is what the lease is for.
///
/// # Errors
/// When the store fails.
pub fn due(db: &mut Database, now: DateTime<Utc>) -> StoreResult<Vec<String>> {
    let last = events::number(db)?;
    let mut due = Vec::new();
    for webhook in webhooks::list(db, "", i64::MAX)? {
        if !webhook.active {
            continue;
        }
        let (head, waiting) = webhooks::waiting(db, &webhook.id)?;
        let room = webhook.position < last && waiting < MOST_WAITING;
        if room || head.is_some_and(|head| head.next_at <= now) {
            due.push(webhook.id);
        }
    }
    Ok(due)
}

/// An attempt to be made.
#[derive(Debug)]
pub struct Step {
    /// At which webhook.
    pub webhook: Webhook,
    /// Which delivery.
    pub delivery: Delivery,
    /// Of which event.
    pub event: Event,
}

/// Takes or renews the lease until `until`, makes deliveries of new events, and gives the attempt that is due, if any.
///
/// # Errors
/// When the store fails.
pub fn next(
    db: &mut Database,
    id: &str,
    holder: &str,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> StoreResult<Option<Step>> {
    let last = events::number(db)?;
    if !webhooks::claim(db, id, holder, now, until)? {
        return Ok(None);
    }
    let Some(mut webhook) = webhooks::get(db, id)? else {
        return Ok(None);
    };
    let (_, waiting) = webhooks::waiting(db, id)?;
    if webhook.position < last && waiting < MOST_WAITING {
        fill(db, &mut webhook, now)?;
    }
    let (Some(delivery), _) = webhooks::waiting(db, id)? else {
        return Ok(None);
    };
    if delivery.next_at > now {
        return Ok(None);
    }
    let only = Filter {
        after: delivery.seq.saturating_sub(1),
        ..Filter::default()
    };
    let event = events::list(db, &only, Order::Oldest, 1)?.pop();
    let Some(event) = event.filter(|event| event.seq == delivery.seq) else {
        return give_up(db, delivery, now).map(|()| None);
    };
    Ok(Some(Step {
        webhook,
        delivery,
        event,
    }))
}

/// Ends a delivery whose event is no more, so that it does not hold up the others.
fn give_up(db: &mut Database, mut delivery: Delivery, now: DateTime<Utc>) -> StoreResult<()> {
    delivery.state = DeliveryState::Dead;
    delivery.error = Some("its event was removed before it could be sent".to_owned());
    delivery.finished_at = Some(now);
    webhooks::note(db, &delivery)
}

/// Forgets deliveries that ended long ago.
///
/// # Errors
/// When the store fails.
pub fn prune(db: &mut Database, now: DateTime<Utc>) -> StoreResult<usize> {
    webhooks::prune(db, now - SHOWN_FOR)
}

/// Makes deliveries of the events after the webhook's position.
fn fill(db: &mut Database, webhook: &mut Webhook, now: DateTime<Utc>) -> StoreResult<()> {
    let after = Filter {
        after: webhook.position,
        ..Filter::default()
    };
    for event in events::list(db, &after, Order::Oldest, LOOK)? {
        webhook.position = event.seq;
        if wants(webhook, &event) {
            webhooks::add_delivery(db, &webhook.id, &Uuid::now_v7().to_string(), &event, now)?;
        }
    }
    webhooks::advance(db, &webhook.id, webhook.position)
}

/// Notes how an attempt went, if the lease is still held: whoever lost it must not overwrite another's word. `false` if
/// so.
///
/// # Errors
/// When the store fails.
pub fn note(
    db: &mut Database,
    mut delivery: Delivery,
    holder: &str,
    answer: Answer,
    (now, random): (DateTime<Utc>, u16),
) -> StoreResult<bool> {
    if !webhooks::claim(db, &delivery.webhook, holder, now, now + TimeDelta::seconds(60))? {
        return Ok(false);
    }
    delivery.attempts += 1;
    delivery.status = answer.status.map(i32::from);
    delivery.state = match &answer.error {
        None => DeliveryState::Delivered,
        Some(_) => match next_attempt(delivery.attempts, delivery.created_at, now, random) {
            Next::At(at) => {
                delivery.next_at = at;
                DeliveryState::Waiting
            }
            Next::GiveUp => DeliveryState::Dead,
        },
    };
    delivery.error = answer.error;
    delivery.finished_at = (delivery.state != DeliveryState::Waiting).then_some(now);
    webhooks::note(db, &delivery)?;
    metrics::told("webhook", delivery.state.result());
    Ok(true)
}
