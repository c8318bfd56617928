//! Sites, what their edges told at joining, and join tokens.

use std::{collections::BTreeSet, net::Ipv4Addr};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    ids::{KeyId, SiteId},
    keys::VerifyingKey,
    lease::Operation,
    seal::SealingKey,
    site::SubnetConfig,
};
use utoipa::ToSchema;

use super::{
    Database, StoreResult, from_json, micros, parse,
    schema::{join_tokens, sites},
    time, to_json,
};

/// What operators set of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteSettings {
    /// For people.
    pub description: String,
    /// Whether unknown machines are looked at.
    pub discover: bool,
    /// The networks its edge serves.
    pub subnets: Vec<SubnetConfig>,
    /// DHCP relays that are believed although they are on none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dhcp_relays: Vec<Ipv4Addr>,
    /// What the scheduler keeps to.
    #[serde(default)]
    pub limits: Limits,
    /// What may be done while it is cut off.
    #[serde(default)]
    pub offline: Offline,
}

/// What may be done at a site while it is cut off from the control plane, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Offline {
    /// For how many hours after a lease was issued, 1 to 168. A lease is renewed when half of them are over.
    #[schema(minimum = 1, maximum = 168)]
    pub hours: u32,
    /// Which operations; none if the list is empty.
    #[schema(value_type = Vec<OfflineOperation>)]
    pub operations: BTreeSet<Operation>,
}

impl Default for Offline {
    fn default() -> Self {
        Self {
            hours: 24,
            operations: BTreeSet::new(),
        }
    }
}

/// An operation that may be done at a site while it is cut off, as the API's schema has it.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(rename_all = "snake_case")]
pub enum OfflineOperation {
    /// Off and on.
    Restart,
    /// Off.
    PowerOff,
    /// On.
    PowerOn,
    /// Into the LiveOS.
    Rescue,
    /// Given back.
    Release,
}

/// A time in which nothing is begun at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// From then on,
    pub from: DateTime<Utc>,
    /// until then.
    pub to: DateTime<Utc>,
}

/// As long as a failed install counts against its site: [`Limits::max_failures`] are of so long.
pub const FAILURES_COUNT_FOR: TimeDelta = TimeDelta::minutes(30);

/// What the scheduler keeps to at a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most installs under way at once.
    pub max_installs: u32,
    /// So many failed installs within 30 minutes hold the site back.
    pub max_failures: u32,
    /// Times in which nothing is begun.
    pub maintenance: Vec<Window>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_installs: 100,
            max_failures: 10,
            maintenance: Vec::new(),
        }
    }
}

/// A site.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name.
    pub id: SiteId,
    /// Revision of its configuration.
    pub revision: u64,
    /// What operators set.
    pub settings: SiteSettings,
    /// By what its reports are verified; there once an edge has joined.
    pub report_key: Option<VerifyingKey>,
    /// To what its secrets are sealed.
    pub sealing_key: Option<SealingKey>,
    /// Key of its chunk fetches, encrypted.
    pub chunk_key: Option<String>,
    /// Whether its edge was connected when last heard.
    pub online: bool,
    /// When it was last heard.
    pub last_seen: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Until when its edge's certificate is good.
    pub certificate_until: Option<DateTime<Utc>>,
    /// When its last edge was revoked, if none has joined since.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Whether its edge says that it takes leases.
    pub takes_leases: bool,
    /// The hash of its emergency code.
    pub emergency_code: Option<String>,
}

type Row = (
    String,
    i64,
    String,
    Option<String>,
    Option<String>,
    Option<String>,
    bool,
    Option<i64>,
    i64,
    Option<i64>,
    Option<i64>,
    Option<String>,
    bool,
    Option<String>,
);

fn site(row: Row) -> StoreResult<Site> {
    let (
        id,
        revision,
        config,
        report_key,
        sealing_key,
        chunk_key,
        online,
        last_seen,
        created_at,
        until,
        revoked,
        _,
        takes_leases,
        emergency_code,
    ) = row;
    Ok(Site {
        id: parse(&id)?,
        revision: revision.cast_unsigned(),
        settings: from_json(&config)?,
        report_key: report_key.map(|key| parse(&key)).transpose()?,
        sealing_key: sealing_key.map(|key| parse(&key)).transpose()?,
        chunk_key,
        online,
        last_seen: last_seen.map(time),
        created_at: time(created_at),
        certificate_until: until.map(time),
        revoked_at: revoked.map(time),
        takes_leases,
        emergency_code,
    })
}

/// Adds a site.
///
/// # Errors
/// [`super::StoreError::Taken`] when there is one of that name.
pub fn insert(
    connection: &mut Database,
    id: &SiteId,
    settings: &SiteSettings,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    use sites::dsl;
    let row = (
        dsl::id.eq(id.as_str()),
        dsl::revision.eq(super::upkeep::revision_floor(connection)? + 1),
        dsl::config.eq(to_json(settings)?),
        dsl::online.eq(false),
        dsl::created_at.eq(micros(now)),
    );
    diesel::insert_into(dsl::sites).values(row).execute(connection)?;
    Ok(())
}

/// One site.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id: &str) -> StoreResult<Option<Site>> {
    sites::table
        .find(id)
        .first::<Row>(connection)
        .optional()?
        .map(site)
        .transpose()
}

/// Up to `limit` sites whose name comes after `after`, by name.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &mut Database, after: &str, limit: i64) -> StoreResult<Vec<Site>> {
    use sites::dsl;
    let rows = dsl::sites
        .filter(dsl::id.gt(after))
        .order(dsl::id)
        .limit(limit)
        .load::<Row>(connection)?;
    rows.into_iter().map(site).collect()
}

/// Sets what operators set, if the configuration still has `revision`; `false` otherwise.
///
/// # Errors
/// When the database fails.
pub fn update(
    connection: &mut Database,
    id: &SiteId,
    revision: u64,
    settings: &SiteSettings,
) -> StoreResult<bool> {
    use sites::dsl;
    let revision = revision.cast_signed();
    let row = dsl::sites.find(id.as_str()).filter(dsl::revision.eq(revision));
    let change = (dsl::config.eq(to_json(settings)?), dsl::revision.eq(revision + 1));
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Sets or forgets the hash of a site's emergency code; its configuration is another one since.
///
/// # Errors
/// When the database fails.
pub fn set_emergency_code(connection: &mut Database, id: &SiteId, hash: Option<&str>) -> StoreResult<()> {
    use sites::dsl;
    let change = (dsl::emergency_code.eq(hash), dsl::revision.eq(dsl::revision + 1));
    diesel::update(dsl::sites.find(id.as_str()))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// Notes whether a site's edge takes leases.
///
/// # Errors
/// When the database fails.
pub fn set_takes_leases(connection: &mut Database, id: &SiteId, takes: bool) -> StoreResult<()> {
    use sites::dsl;
    let row = dsl::sites.find(id.as_str()).filter(dsl::takes_leases.ne(takes));
    diesel::update(row)
        .set(dsl::takes_leases.eq(takes))
        .execute(connection)?;
    Ok(())
}

/// Raises the revision above one that the edge holds (after the restore of an old backup).
///
/// # Errors
/// When the database fails.
pub fn raise_revision(connection: &mut Database, id: &SiteId, above: u64) -> StoreResult<()> {
    use sites::dsl;
    let above = above.cast_signed();
    let row = dsl::sites.find(id.as_str()).filter(dsl::revision.le(above));
    diesel::update(row)
        .set(dsl::revision.eq(above + 1))
        .execute(connection)?;
    Ok(())
}

/// Notes what an edge told at joining, and the newest key it is told to trust.
///
/// # Errors
/// When the database fails.
pub fn set_keys(
    connection: &mut Database,
    id: &SiteId,
    report_key: VerifyingKey,
    sealing_key: SealingKey,
    (chunk_key, trusts): (&str, &KeyId),
) -> StoreResult<()> {
    use sites::dsl;
    let change = (
        dsl::signing_key.eq(Some(trusts.to_string())),
        dsl::report_key.eq(Some(report_key.to_string())),
        dsl::sealing_key.eq(Some(sealing_key.to_string())),
        dsl::chunk_key.eq(Some(chunk_key)),
        dsl::revoked_at.eq(None::<i64>),
    );
    diesel::update(dsl::sites.find(id.as_str()))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// Notes that a site was heard, or that its connection ended; `true` if that changed whether it is online.
///
/// # Errors
/// When the database fails.
pub fn set_presence(
    connection: &mut Database,
    id: &SiteId,
    online: bool,
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    use sites::dsl;
    let row = dsl::sites.find(id.as_str());
    let changed = diesel::update(row.filter(dsl::online.ne(online)))
        .set(dsl::online.eq(online))
        .execute(connection)?
        == 1;
    if online {
        diesel::update(row)
            .set(dsl::last_seen.eq(Some(micros(now))))
            .execute(connection)?;
    }
    Ok(changed)
}

/// Removes a site that nothing refers to.
///
/// # Errors
/// When something does, or the database fails.
pub fn delete(connection: &mut Database, id: &SiteId) -> StoreResult<bool> {
    diesel::delete(join_tokens::table.filter(join_tokens::site.eq(id.as_str()))).execute(connection)?;
    super::edge_runs::forget(connection, id)?;
    Ok(diesel::delete(sites::table.find(id.as_str())).execute(connection)? == 1)
}

/// A join token: its site, encrypted secret, end and use.
#[derive(Debug, Clone)]
pub struct JoinTokenRow {
    /// The site it is for.
    pub site: String,
    /// Its secret, encrypted.
    pub secret: String,
    /// Until when it is good.
    pub expires_at: DateTime<Utc>,
    /// Whether it was used.
    pub used: bool,
}

/// Keeps a join token.
///
/// # Errors
/// When the database fails.
pub fn insert_token(
    connection: &mut Database,
    id: &str,
    site: &SiteId,
    secret: &str,
    expires_at: DateTime<Utc>,
) -> StoreResult<()> {
    use join_tokens::dsl;
    let row = (
        dsl::id.eq(id),
        dsl::site.eq(site.as_str()),
        dsl::secret.eq(secret),
        dsl::expires_at.eq(micros(expires_at)),
    );
    diesel::insert_into(dsl::join_tokens)
        .values(row)
        .execute(connection)?;
    Ok(())
}

/// A join token.
///
/// # Errors
/// When the database fails.
pub fn token(connection: &mut Database, id: &str) -> StoreResult<Option<JoinTokenRow>> {
    let row: Option<(String, String, String, i64, Option<i64>)> =
        join_tokens::table.find(id).first(connection).optional()?;
    Ok(row.map(|(_, site, secret, expires_at, used_at)| JoinTokenRow {
        site,
        secret,
        expires_at: time(expires_at),
        used: used_at.is_some(),
    }))
}

/// Uses a join token up; `false` if it was used before.
///
/// # Errors
/// When the database fails.
pub fn use_token(connection: &mut Database, id: &str, now: DateTime<Utc>) -> StoreResult<bool> {
    use join_tokens::dsl;
    let row = dsl::join_tokens.find(id).filter(dsl::used_at.is_null());
    Ok(diesel::update(row)
        .set(dsl::used_at.eq(Some(micros(now))))
        .execute(connection)?
        == 1)
}

/// Forgets what an edge told at joining: it was revoked.
///
/// # Errors
/// When the database fails.
pub fn clear_keys(connection: &mut Database, id: &SiteId, now: DateTime<Utc>) -> StoreResult<()> {
    use sites::dsl;
    let change = (
        dsl::report_key.eq(None::<String>),
        dsl::sealing_key.eq(None::<String>),
        dsl::chunk_key.eq(None::<String>),
        dsl::certificate_until.eq(None::<i64>),
        dsl::online.eq(false),
        dsl::revoked_at.eq(Some(micros(now))),
    );
    diesel::update(dsl::sites.find(id.as_str()))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// Uses up the join tokens of a site that nobody has used.
///
/// # Errors
/// When the database fails.
pub fn use_tokens_of(connection: &mut Database, id: &SiteId, now: DateTime<Utc>) -> StoreResult<()> {
    use join_tokens::dsl;
    let unused = dsl::join_tokens
        .filter(dsl::site.eq(id.as_str()))
        .filter(dsl::used_at.is_null());
    diesel::update(unused)
        .set(dsl::used_at.eq(Some(micros(now))))
        .execute(connection)?;
    Ok(())
}

/// Holds a site's row until the transaction ends: of those who give its addresses out, or change its networks, one goes
/// first. (`SQLite` has one writer anyway.) Of a site that is not there nothing is held.
///
/// # Errors
/// When the database fails.
pub fn hold(connection: &mut Database, id: &str) -> StoreResult<()> {
    use sites::dsl;
    diesel::update(dsl::sites.find(id))
        .set(dsl::id.eq(id))
        .execute(connection)?;
    Ok(())
}

/// The limits of every site.
///
/// # Errors
/// When the database fails.
pub fn limits(connection: &mut Database) -> StoreResult<Vec<(String, Limits)>> {
    use sites::dsl;
    let rows: Vec<(String, String)> = dsl::sites.select((dsl::id, dsl::config)).load(connection)?;
    rows.into_iter()
        .map(|(id, config)| Ok((id, from_json::<SiteSettings>(&config)?.limits)))
        .collect()
}
