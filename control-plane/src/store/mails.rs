//! Mails to be sent. A replica that takes one has it to itself for a while; if it dies, another takes it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{
    Database, StoreResult, micros,
    schema::mails::{self, dsl},
    time, to_word,
    webhooks::DeliveryState,
};

/// A mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its id.
    pub id: String,
    /// To whom.
    pub recipient: String,
    /// Subject.
    pub subject: String,
    /// Text.
    pub body: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

type Row = (String, String, String, String, i32, i64);

/// Adds a mail.
///
/// # Errors
/// When the database fails.
pub fn insert(connection: &mut Database, m: &Mail) -> StoreResult<()> {
    let row = (
        dsl::id.eq(&m.id),
        dsl::recipient.eq(&m.recipient),
        dsl::subject.eq(&m.subject),
        dsl::body.eq(&m.body),
        dsl::state.eq(to_word(&DeliveryState::Waiting)?),
        dsl::attempts.eq(m.attempts),
        dsl::created_at.eq(micros(m.created_at)),
        dsl::next_at.eq(micros(m.created_at)),
    );
    diesel::insert_into(dsl::mails).values(row).execute(connection)?;
    Ok(())
}

/// Takes a mail that is due, until `until`; nothing if there is none, or another replica was quicker.
///
/// # Errors
/// When the database fails.
pub fn take(
    connection: &mut Database,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> StoreResult<Option<Mail>> {
    let due = dsl::mails
        .filter(dsl::state.eq(to_word(&DeliveryState::Waiting)?))
        .filter(dsl::next_at.le(micros(now)))
        .order((dsl::next_at, dsl::id))
        .select((
            dsl::id,
            dsl::recipient,
            dsl::subject,
            dsl::body,
            dsl::attempts,
            dsl::created_at,
        ))
        .first::<Row>(connection)
        .optional()?;
    let Some((id, recipient, subject, body, attempts, created_at)) = due else {
        return Ok(None);
    };
    let row = dsl::mails.find(&id).filter(dsl::next_at.le(micros(now)));
    let taken = diesel::update(row)
        .set(dsl::next_at.eq(micros(until)))
        .execute(connection)?;
    Ok((taken == 1).then_some(Mail {
        id,
        recipient,
        subject,
        body,
        attempts,
        created_at: time(created_at),
    }))
}

/// Notes how an attempt went: where the mail stands, when it is tried again, and why it failed.
///
/// # Errors
/// When the database fails.
pub fn note(
    connection: &mut Database,
    mail: &Mail,
    state: DeliveryState,
    next_at: DateTime<Utc>,
    error: Option<&str>,
) -> StoreResult<()> {
    let change = (
        dsl::state.eq(to_word(&state)?),
        dsl::attempts.eq(mail.attempts),
        dsl::next_at.eq(micros(next_at)),
        dsl::error.eq(error),
    );
    diesel::update(mails::table.find(&mail.id))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// Forgets mails that ended before a time.
///
/// # Errors
/// When the database fails.
pub fn prune(connection: &mut Database, before: DateTime<Utc>) -> StoreResult<usize> {
    let old = dsl::mails
        .filter(dsl::state.ne(to_word(&DeliveryState::Waiting)?))
        .filter(dsl::next_at.lt(micros(before)));
    Ok(diesel::delete(old).execute(connection)?)
}
