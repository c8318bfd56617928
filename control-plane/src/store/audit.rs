//! Who did what: append-only. No function here changes or removes a row.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::Value;

use super::{Database, StoreResult, from_json, micros, schema::audit::dsl, time, to_json};
use crate::access::Actor;

/// Something that was done, or that was refused.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// What, as in `site.update`.
    pub action: &'a str,
    /// On what, as in `site/bj-1`.
    pub object: String,
    /// How it was before; none for what is new.
    pub before: Option<Value>,
    /// How it is now; none for what is gone.
    pub after: Option<Value>,
}

impl<'a> Change<'a> {
    /// What was done to what, as `object` was `before` and is `after`: none before for what is new, none after for what is
    /// gone.
    #[must_use]
    pub fn new(
        action: &'a str,
        object: impl Into<String>,
        before: Option<Value>,
        after: Option<Value>,
    ) -> Self {
        Self {
            action,
            object: object.into(),
            before,
            after,
        }
    }
}

/// A line of the log.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub seq: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub actor: String,
    /// How they proved it.
    pub via: String,
    /// From where.
    pub address: String,
    /// What.
    pub action: String,
    /// On what.
    pub object: String,
    /// `done`, or the code of the refusal.
    pub outcome: String,
    /// How it was before.
    pub before: Option<Value>,
    /// How it is since.
    pub after: Option<Value>,
}

/// Notes what was done, in the transaction that does it.
///
/// # Errors
/// When the database fails.
pub fn done(db: &mut Database, by: &Actor, now: DateTime<Utc>, change: Change<'_>) -> StoreResult<()> {
    append(db, by, now, "done", change)
}

/// Notes what was refused.
///
/// # Errors
/// When the database fails.
pub fn refused(
    db: &mut Database,
    by: &Actor,
    now: DateTime<Utc>,
    code: &str,
    change: Change<'_>,
) -> StoreResult<()> {
    append(db, by, now, code, change)
}

fn append(
    db: &mut Database,
    by: &Actor,
    now: DateTime<Utc>,
    outcome: &str,
    change: Change<'_>,
) -> StoreResult<()> {
    let row = (
        dsl::at.eq(micros(now)),
        dsl::actor.eq(&by.name),
        dsl::via.eq(by.via.word()),
        dsl::address.eq(&by.address),
        dsl::action.eq(change.action),
        dsl::object.eq(&change.object),
        dsl::outcome.eq(outcome),
        dsl::before.eq(change.before.as_ref().map(to_json).transpose()?),
        dsl::after.eq(change.after.as_ref().map(to_json).transpose()?),
    );
    diesel::insert_into(dsl::audit).values(row).execute(db)?;
    Ok(())
}

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one actor.
    pub actor: Option<String>,
    /// Whose action begins so.
    pub action: Option<String>,
    /// On one object.
    pub object: Option<String>,
    /// With one outcome.
    pub outcome: Option<String>,
}

/// From where, in which direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// Lines with numbers above this, oldest first.
    After(i64),
    /// Lines with numbers below this, newest first.
    Before(i64),
}

/// Up to `limit` lines.
///
/// # Errors
/// When the database fails.
pub fn list(db: &mut Database, filter: &Filter, from: From, limit: i64) -> StoreResult<Vec<Entry>> {
    let query = dsl::audit.limit(limit).into_boxed();
    let mut query = match from {
        From::After(seq) => query.filter(dsl::seq.gt(seq)).order(dsl::seq.asc()),
        From::Before(seq) => query.filter(dsl::seq.lt(seq)).order(dsl::seq.desc()),
    };
    if let Some(actor) = &filter.actor {
        query = query.filter(dsl::actor.eq(actor.clone()));
    }
    if let Some(action) = &filter.action {
        query = query.filter(dsl::action.like(format!("{}%", action.replace(['%', '_'], ""))));
    }
    if let Some(object) = &filter.object {
        query = query.filter(dsl::object.eq(object.clone()));
    }
    if let Some(outcome) = &filter.outcome {
        query = query.filter(dsl::outcome.eq(outcome.clone()));
    }
    query.load::<Row>(db)?.into_iter().map(entry).collect()
}

type Row = (
    i64,
    i64,
    String,
    String,
    String,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
);

fn entry(row: Row) -> StoreResult<Entry> {
    let (seq, at, actor, via, address, action, object, outcome, before, after) = row;
    Ok(Entry {
        seq,
        at: time(at),
        actor,
        via,
        address,
        action,
        object,
        outcome,
        before: before.map(|text| from_json(&text)).transpose()?,
        after: after.map(|text| from_json(&text)).transpose()?,
    })
}
