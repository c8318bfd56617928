//! The keys that orders are signed by, and by which of them each site is signed to.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{
    ids::{KeyId, SiteId},
    keys::VerifyingKey,
};

use super::{
    Database, StoreResult, micros, parse,
    schema::{jobs, orders, signing_keys, signing_keys::dsl, sites},
    time, to_word,
};
use crate::workflow::state::JobState;

/// A key.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// Its id, by which messages name it.
    pub id: KeyId,
    /// Counts the keys from 1; never used again.
    pub generation: i64,
    /// By what its messages are verified.
    pub public: VerifyingKey,
    /// Its private half, encrypted; `None` for the one that lies in a file.
    pub private: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Since when nothing is signed by it and nobody is told to trust it.
    pub retired_at: Option<DateTime<Utc>>,
}

type Row = (String, i64, String, Option<String>, i64, Option<i64>);

fn key((id, generation, public, private, created_at, retired_at): Row) -> StoreResult<SigningKey> {
    Ok(SigningKey {
        id: parse(&id)?,
        generation,
        public: parse(&public)?,
        private,
        created_at: time(created_at),
        retired_at: retired_at.map(time),
    })
}

/// All keys, the newest first.
///
/// # Errors
/// When the database fails.
pub fn all(connection: &mut Database) -> StoreResult<Vec<SigningKey>> {
    let rows: Vec<Row> = dsl::signing_keys.order(dsl::generation.desc()).load(connection)?;
    rows.into_iter().map(key).collect()
}

/// Adds a key after the newest.
///
/// # Errors
/// [`super::StoreError::Taken`] when another was added at the same moment.
pub fn insert(
    connection: &mut Database,
    public: VerifyingKey,
    private: Option<&str>,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let newest: Option<i64> = dsl::signing_keys
        .select(diesel::dsl::max(dsl::generation))
        .first(connection)?;
    let row = (
        dsl::id.eq(public.id().to_string()),
        dsl::generation.eq(newest.unwrap_or(0) + 1),
        dsl::public.eq(public.to_string()),
        dsl::private.eq(private),
        dsl::created_at.eq(micros(now)),
    );
    diesel::insert_into(signing_keys::table)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// Retires a key and forgets its private half.
///
/// # Errors
/// When the database fails.
pub fn retire(connection: &mut Database, id: &KeyId, now: DateTime<Utc>) -> StoreResult<()> {
    diesel::update(dsl::signing_keys.find(id.to_string()))
        .set((
            dsl::retired_at.eq(Some(micros(now))),
            dsl::private.eq(None::<String>),
        ))
        .execute(connection)?;
    Ok(())
}

/// Which key each site with an edge is signed to by; `None` where it is the oldest.
///
/// # Errors
/// When the database fails.
pub fn by_site(connection: &mut Database) -> StoreResult<Vec<(SiteId, Option<KeyId>)>> {
    let rows: Vec<(String, Option<String>)> = sites::table
        .filter(sites::report_key.is_not_null())
        .order(sites::id)
        .select((sites::id, sites::signing_key))
        .load(connection)?;
    let read =
        |(site, key): (String, Option<String>)| Ok((parse(&site)?, key.map(|key| parse(&key)).transpose()?));
    rows.into_iter().map(read).collect()
}

/// From now on a site is signed to by this key. The orders of its ended jobs are issued anew, so that it holds nothing that
/// only an older key vouches for; those of jobs under way stay as the machines' agents know them.
///
/// # Errors
/// When the database fails.
pub fn sign_to(connection: &mut Database, site: &SiteId, id: &KeyId) -> StoreResult<()> {
    diesel::update(sites::table.find(site.as_str()))
        .set(sites::signing_key.eq(Some(id.to_string())))
        .execute(connection)?;
    let running = jobs::table
        .filter(jobs::site.eq(site.as_str()))
        .filter(jobs::state.eq(to_word(&JobState::Running)?))
        .select(jobs::id);
    let ended = orders::table
        .filter(orders::site.eq(site.as_str()))
        .filter(orders::job.ne_all(running));
    diesel::update(ended)
        .set(orders::revision.eq(orders::revision + 1))
        .execute(connection)?;
    Ok(())
}

/// Issues the configuration of every site anew: the keys in it have changed.
///
/// # Errors
/// When the database fails.
pub fn tell_sites(connection: &mut Database) -> StoreResult<()> {
    diesel::update(sites::table)
        .set(sites::revision.eq(sites::revision + 1))
        .execute(connection)?;
    Ok(())
}

/// How many jobs run that were made before a time.
///
/// # Errors
/// When the database fails.
pub fn running_since(connection: &mut Database, before: DateTime<Utc>) -> StoreResult<i64> {
    Ok(jobs::table
        .filter(jobs::state.eq(to_word(&JobState::Running)?))
        .filter(jobs::created_at.lt(micros(before)))
        .count()
        .get_result(connection)?)
}
