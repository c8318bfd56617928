//! By what users prove themselves: sessions, API keys, SSH keys. Tokens only as hashes.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{
    Database, StoreResult, from_json, micros,
    schema::{api_keys, sessions, ssh_keys},
    time, to_json,
};
use crate::access::Permission;

/// A log-in with a browser.
#[derive(Debug, Clone)]
pub struct Session {
    /// Hash of its cookie.
    pub hash: String,
    /// The user's id.
    pub holder: String,
    /// What changing requests must carry besides.
    pub csrf: String,
    /// When it was last used.
    pub used_at: DateTime<Utc>,
    /// When it ends at the latest.
    pub expires_at: DateTime<Utc>,
    /// Where it was begun.
    pub address: String,
}

/// Adds a session.
///
/// # Errors
/// When the database fails.
pub fn insert_session(db: &mut Database, s: &Session, now: DateTime<Utc>) -> StoreResult<()> {
    use sessions::dsl;
    let row = (
        dsl::hash.eq(&s.hash),
        dsl::holder.eq(&s.holder),
        dsl::csrf.eq(&s.csrf),
        dsl::created_at.eq(micros(now)),
        dsl::used_at.eq(micros(s.used_at)),
        dsl::expires_at.eq(micros(s.expires_at)),
        dsl::address.eq(&s.address),
    );
    diesel::insert_into(dsl::sessions).values(row).execute(db)?;
    Ok(())
}

/// One session.
///
/// # Errors
/// When the database fails.
pub fn session(db: &mut Database, hash: &str) -> StoreResult<Option<Session>> {
    use sessions::dsl;
    let columns = (
        dsl::holder,
        dsl::csrf,
        dsl::used_at,
        dsl::expires_at,
        dsl::address,
    );
    let row: Option<(String, String, i64, i64, String)> =
        dsl::sessions.find(hash).select(columns).first(db).optional()?;
    Ok(row.map(|(holder, csrf, used_at, expires_at, address)| Session {
        hash: hash.to_owned(),
        holder,
        csrf,
        used_at: time(used_at),
        expires_at: time(expires_at),
        address,
    }))
}

/// Notes that a session is used.
///
/// # Errors
/// When the database fails.
pub fn touch_session(db: &mut Database, hash: &str, now: DateTime<Utc>) -> StoreResult<()> {
    diesel::update(sessions::table.find(hash))
        .set(sessions::used_at.eq(micros(now)))
        .execute(db)?;
    Ok(())
}

/// Ends a session.
///
/// # Errors
/// When the database fails.
pub fn end_session(db: &mut Database, hash: &str) -> StoreResult<()> {
    diesel::delete(sessions::table.find(hash)).execute(db)?;
    Ok(())
}

/// Ends all sessions of a user.
///
/// # Errors
/// When the database fails.
pub fn end_sessions_of(db: &mut Database, holder: &str) -> StoreResult<()> {
    diesel::delete(sessions::table.filter(sessions::holder.eq(holder))).execute(db)?;
    Ok(())
}

/// Removes sessions that are over.
///
/// # Errors
/// When the database fails.
pub fn remove_old_sessions(db: &mut Database, now: DateTime<Utc>) -> StoreResult<usize> {
    Ok(diesel::delete(sessions::table.filter(sessions::expires_at.lt(micros(now)))).execute(db)?)
}

/// A key for programs.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Its id.
    pub id: String,
    /// The user's id.
    pub holder: String,
    /// Its name.
    pub name: String,
    /// What it is narrowed to; all its holder may if none.
    pub permissions: Option<BTreeSet<Permission>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends.
    pub expires_at: Option<DateTime<Utc>>,
}

type KeyRow = (String, String, String, Option<String>, i64, Option<i64>);

fn api_key((id, holder, name, permissions, created_at, expires_at): KeyRow) -> StoreResult<ApiKey> {
    Ok(ApiKey {
        id,
        holder,
        name,
        permissions: permissions.map(|text| from_json(&text)).transpose()?,
        created_at: time(created_at),
        expires_at: expires_at.map(time),
    })
}

/// Adds an API key by its hash.
///
/// # Errors
/// [`super::StoreError::Taken`] when its holder has one of that name.
pub fn insert_key(db: &mut Database, hash: &str, k: &ApiKey) -> StoreResult<()> {
    use api_keys::dsl;
    let row = (
        dsl::id.eq(&k.id),
        dsl::hash.eq(hash),
        dsl::holder.eq(&k.holder),
        dsl::name.eq(&k.name),
        dsl::permissions.eq(k.permissions.as_ref().map(to_json).transpose()?),
        dsl::created_at.eq(micros(k.created_at)),
        dsl::expires_at.eq(k.expires_at.map(micros)),
    );
    diesel::insert_into(dsl::api_keys).values(row).execute(db)?;
    Ok(())
}

/// The key with a hash.
///
/// # Errors
/// When the database fails.
pub fn key_by_hash(db: &mut Database, hash: &str) -> StoreResult<Option<ApiKey>> {
    use api_keys::dsl;
    let row = dsl::api_keys.filter(dsl::hash.eq(hash)).select((
        dsl::id,
        dsl::holder,
        dsl::name,
        dsl::permissions,
        dsl::created_at,
        dsl::expires_at,
    ));
    row.first::<KeyRow>(db).optional()?.map(api_key).transpose()
}

/// A user's keys, by name.
///
/// # Errors
/// When the database fails.
pub fn keys_of(db: &mut Database, holder: &str) -> StoreResult<Vec<ApiKey>> {
    use api_keys::dsl;
    let rows = dsl::api_keys
        .filter(dsl::holder.eq(holder))
        .order(dsl::name)
        .select((
            dsl::id,
            dsl::holder,
            dsl::name,
            dsl::permissions,
            dsl::created_at,
            dsl::expires_at,
        ));
    rows.load::<KeyRow>(db)?.into_iter().map(api_key).collect()
}

/// Removes a user's key, by id, else by name.
///
/// # Errors
/// When the database fails.
pub fn delete_key(db: &mut Database, holder: &str, id_or_name: &str) -> StoreResult<bool> {
    use api_keys::dsl;
    let of_holder = dsl::api_keys.filter(dsl::holder.eq(holder));
    let by_id = of_holder.filter(dsl::id.eq(id_or_name));
    if diesel::delete(by_id).execute(db)? == 1 {
        return Ok(true);
    }
    let by_name = of_holder.filter(dsl::name.eq(id_or_name));
    Ok(diesel::delete(by_name).execute(db)? == 1)
}

/// A public key that a user puts on instances.
#[derive(Debug, Clone)]
pub struct SshKey {
    /// Its id.
    pub id: String,
    /// The user's id.
    pub holder: String,
    /// Its name.
    pub name: String,
    /// One line of OpenSSH's public form.
    pub public_key: String,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

/// Adds an SSH key.
///
/// # Errors
/// [`super::StoreError::Taken`] when its holder has one of that name.
pub fn insert_ssh_key(db: &mut Database, k: &SshKey) -> StoreResult<()> {
    use ssh_keys::dsl;
    let row = (
        dsl::id.eq(&k.id),
        dsl::holder.eq(&k.holder),
        dsl::name.eq(&k.name),
        dsl::public_key.eq(&k.public_key),
        dsl::created_at.eq(micros(k.created_at)),
    );
    diesel::insert_into(dsl::ssh_keys).values(row).execute(db)?;
    Ok(())
}

/// A user's SSH keys, by name.
///
/// # Errors
/// When the database fails.
pub fn ssh_keys_of(db: &mut Database, holder: &str) -> StoreResult<Vec<SshKey>> {
    use ssh_keys::dsl;
    let rows: Vec<(String, String, String, String, i64)> = dsl::ssh_keys
        .filter(dsl::holder.eq(holder))
        .order(dsl::name)
        .select((dsl::id, dsl::holder, dsl::name, dsl::public_key, dsl::created_at))
        .load(db)?;
    let key = |(id, holder, name, public_key, created_at)| SshKey {
        id,
        holder,
        name,
        public_key,
        created_at: time(created_at),
    };
    Ok(rows.into_iter().map(key).collect())
}

/// Removes a user's SSH key, by id, else by name.
///
/// # Errors
/// When the database fails.
pub fn delete_ssh_key(db: &mut Database, holder: &str, id_or_name: &str) -> StoreResult<bool> {
    use ssh_keys::dsl;
    let of_holder = dsl::ssh_keys.filter(dsl::holder.eq(holder));
    let by_id = of_holder.filter(dsl::id.eq(id_or_name));
    if diesel::delete(by_id).execute(db)? == 1 {
        return Ok(true);
    }
    let by_name = of_holder.filter(dsl::name.eq(id_or_name));
    Ok(diesel::delete(by_name).execute(db)? == 1)
}
