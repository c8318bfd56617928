//! Webhooks and their deliveries. One replica at a time works for a webhook: the one that holds its lease.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Database, StoreResult,
    events::Event,
    from_json, from_word, micros,
    schema::{deliveries, webhooks},
    time, to_json, to_word,
};

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its id.
    pub id: String,
    /// Where events are sent.
    pub url: String,
    /// Which kinds, and those below them; `None` is all.
    pub kinds: Option<Vec<String>>,
    /// Of which sites; `None` is all.
    pub sites: Option<Vec<String>>,
    /// By what deliveries are signed, encrypted.
    pub secret: String,
    /// By what they were signed before, encrypted, and until when they still are.
    pub former: Option<(String, DateTime<Utc>)>,
    /// Whether it gets anything.
    pub active: bool,
    /// Up to which event deliveries were made.
    pub position: u64,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

type Row = (
    String,
    String,
    Option<String>,
    Option<String>,
    String,
    bool,
    i64,
    Option<String>,
    i64,
    i64,
    Option<String>,
    Option<i64>,
);

fn webhook(row: Row) -> StoreResult<Webhook> {
    let (id, url, kinds, sites, secret, active, position, _, _, created_at, former, until) = row;
    Ok(Webhook {
        id,
        url,
        kinds: kinds.map(|text| from_json(&text)).transpose()?,
        sites: sites.map(|text| from_json(&text)).transpose()?,
        secret,
        former: former.zip(until.map(time)),
        active,
        position: position.cast_unsigned(),
        created_at: time(created_at),
    })
}

/// Adds a webhook.
///
/// # Errors
/// When the database fails.
pub fn insert(connection: &mut Database, w: &Webhook) -> StoreResult<()> {
    use webhooks::dsl;
    let row = (
        dsl::id.eq(&w.id),
        dsl::url.eq(&w.url),
        dsl::kinds.eq(w.kinds.as_ref().map(to_json).transpose()?),
        dsl::sites.eq(w.sites.as_ref().map(to_json).transpose()?),
        dsl::secret.eq(&w.secret),
        dsl::active.eq(w.active),
        dsl::position.eq(w.position.cast_signed()),
        dsl::lease_until.eq(0_i64),
        dsl::created_at.eq(micros(w.created_at)),
    );
    diesel::insert_into(dsl::webhooks)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// One webhook.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id: &str) -> StoreResult<Option<Webhook>> {
    let row = webhooks::table.find(id).first::<Row>(connection).optional()?;
    row.map(webhook).transpose()
}

/// Up to `limit` webhooks whose id comes after `after`, oldest first.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &mut Database, after: &str, limit: i64) -> StoreResult<Vec<Webhook>> {
    use webhooks::dsl;
    let rows = dsl::webhooks
        .filter(dsl::id.gt(after))
        .order(dsl::id)
        .limit(limit)
        .load::<Row>(connection)?;
    rows.into_iter().map(webhook).collect()
}

/// Writes what operators set of a webhook; where it stands in the stream is not theirs.
///
/// # Errors
/// When the database fails.
pub fn update(connection: &mut Database, w: &Webhook) -> StoreResult<()> {
    use webhooks::dsl;
    let change = (
        dsl::url.eq(&w.url),
        dsl::kinds.eq(w.kinds.as_ref().map(to_json).transpose()?),
        dsl::sites.eq(w.sites.as_ref().map(to_json).transpose()?),
        dsl::active.eq(w.active),
    );
    diesel::update(dsl::webhooks.find(&w.id))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// Writes by what deliveries to a webhook are signed.
///
/// # Errors
/// When the database fails.
pub fn set_secret(connection: &mut Database, w: &Webhook) -> StoreResult<()> {
    use webhooks::dsl;
    let change = (
        dsl::secret.eq(&w.secret),
        dsl::former_secret.eq(w.former.as_ref().map(|(secret, _)| secret)),
        dsl::former_until.eq(w.former.as_ref().map(|(_, until)| micros(*until))),
    );
    diesel::update(dsl::webhooks.find(&w.id))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// Moves a webhook forward in the stream, never back: behind it deliveries are made already.
///
/// # Errors
/// When the database fails.
pub fn advance(connection: &mut Database, id: &str, position: u64) -> StoreResult<()> {
    use webhooks::dsl;
    let position = position.cast_signed();
    diesel::update(dsl::webhooks.find(id).filter(dsl::position.lt(position)))
        .set(dsl::position.eq(position))
        .execute(connection)?;
    Ok(())
}

/// Removes a webhook and its deliveries.
///
/// # Errors
/// When the database fails.
pub fn delete(connection: &mut Database, id: &str) -> StoreResult<bool> {
    Ok(diesel::delete(webhooks::table.find(id)).execute(connection)? == 1)
}

/// Takes or renews the lease of an active webhook; `false` if another holds it.
///
/// # Errors
/// When the database fails.
pub fn claim(
    connection: &mut Database,
    id: &str,
    holder: &str,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> StoreResult<bool> {
    use webhooks::dsl;
    let free = dsl::lease_until
        .lt(micros(now))
        .or(dsl::lease_holder.eq(holder).assume_not_null());
    let row = dsl::webhooks.find(id).filter(dsl::active.eq(true)).filter(free);
    let change = (
        dsl::lease_holder.eq(Some(holder)),
        dsl::lease_until.eq(micros(until)),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Gives a lease back, if it is held.
///
/// # Errors
/// When the database fails.
pub fn release(connection: &mut Database, id: &str, holder: &str) -> StoreResult<()> {
    use webhooks::dsl;
    let row = dsl::webhooks.find(id).filter(dsl::lease_holder.eq(holder));
    diesel::update(row)
        .set((dsl::lease_holder.eq(None::<String>), dsl::lease_until.eq(0_i64)))
        .execute(connection)?;
    Ok(())
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// To be sent, for the first time or again.
    Waiting,
    /// The receiver answered that it has it.
    Delivered,
    /// Given up after a day.
    Dead,
}

impl DeliveryState {
    /// What an attempt that left it so is counted as.
    #[must_use]
    pub fn result(self) -> &'static str {
        match self {
            Self::Waiting => "failed",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

/// One event to be sent to one webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Delivery {
    /// Its id, the same at each attempt.
    pub id: String,
    /// The webhook.
    pub webhook: String,
    /// Number of the event.
    pub seq: u64,
    /// Kind of the event.
    pub kind: String,
    /// How it stands.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it is tried next, while it waits.
    pub next_at: DateTime<Utc>,
    /// When it was delivered or given up.
    pub finished_at: Option<DateTime<Utc>>,
    /// HTTP status of the last answer.
    pub status: Option<i32>,
    /// Why the last attempt failed.
    pub error: Option<String>,
}

type DeliveryRow = (
    String,
    String,
    i64,
    String,
    String,
    i32,
    i64,
    i64,
    Option<i64>,
    Option<i32>,
    Option<String>,
);

fn delivery(row: DeliveryRow) -> StoreResult<Delivery> {
    let (id, webhook, seq, kind, state, attempts, created_at, next_at, finished_at, status, error) = row;
    Ok(Delivery {
        id,
        webhook,
        seq: seq.cast_unsigned(),
        kind,
        state: from_word(&state)?,
        attempts,
        created_at: time(created_at),
        next_at: time(next_at),
        finished_at: finished_at.map(time),
        status,
        error,
    })
}

/// Adds a waiting delivery of an event.
///
/// # Errors
/// When the database fails.
pub fn add_delivery(
    connection: &mut Database,
    webhook: &str,
    id: &str,
    event: &Event,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    use deliveries::dsl;
    let row = (
        dsl::id.eq(id),
        dsl::webhook.eq(webhook),
        dsl::seq.eq(event.seq.cast_signed()),
        dsl::kind.eq(&event.kind),
        dsl::state.eq(to_word(&DeliveryState::Waiting)?),
        dsl::attempts.eq(0),
        dsl::created_at.eq(micros(now)),
        dsl::next_at.eq(micros(now)),
    );
    diesel::insert_into(dsl::deliveries)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// Writes how a delivery stands after an attempt.
///
/// # Errors
/// When the database fails.
pub fn note(connection: &mut Database, d: &Delivery) -> StoreResult<()> {
    use deliveries::dsl;
    let change = (
        dsl::state.eq(to_word(&d.state)?),
        dsl::attempts.eq(d.attempts),
        dsl::next_at.eq(micros(d.next_at)),
        dsl::finished_at.eq(d.finished_at.map(micros)),
        dsl::status.eq(d.status),
        dsl::error.eq(&d.error),
    );
    diesel::update(dsl::deliveries.find(&d.id))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// A webhook's waiting delivery of the lowest number, and how many wait.
///
/// # Errors
/// When the database fails.
pub fn waiting(connection: &mut Database, webhook: &str) -> StoreResult<(Option<Delivery>, i64)> {
    use deliveries::dsl;
    let waiting = dsl::deliveries
        .filter(dsl::webhook.eq(webhook))
        .filter(dsl::state.eq(to_word(&DeliveryState::Waiting)?));
    let count: i64 = waiting.clone().count().get_result(connection)?;
    let head = waiting
        .order(dsl::seq)
        .first::<DeliveryRow>(connection)
        .optional()?;
    Ok((head.map(delivery).transpose()?, count))
}

/// Up to `limit` deliveries of a webhook below number `before`, newest first, in one state if one is given.
///
/// # Errors
/// When the database fails.
pub fn deliveries(
    connection: &mut Database,
    webhook: &str,
    state: Option<DeliveryState>,
    before: u64,
    limit: i64,
) -> StoreResult<Vec<Delivery>> {
    use deliveries::dsl;
    let before = i64::try_from(before).unwrap_or(i64::MAX);
    let mut query = dsl::deliveries
        .filter(dsl::webhook.eq(webhook.to_owned()))
        .filter(dsl::seq.lt(before))
        .order(dsl::seq.desc())
        .limit(limit)
        .into_boxed();
    if let Some(state) = state {
        query = query.filter(dsl::state.eq(to_word(&state)?));
    }
    let rows = query.load::<DeliveryRow>(connection)?;
    rows.into_iter().map(delivery).collect()
}

/// Forgets deliveries that ended before a time.
///
/// # Errors
/// When the database fails.
pub fn prune(connection: &mut Database, before: DateTime<Utc>) -> StoreResult<usize> {
    use deliveries::dsl;
    let old = dsl::deliveries.filter(dsl::finished_at.lt(micros(before)));
    Ok(diesel::delete(old).execute(connection)?)
}
