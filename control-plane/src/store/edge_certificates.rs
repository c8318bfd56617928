//! The certificates given to edges: which are good, and which were taken back.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::ids::SiteId;

use super::{
    Database, StoreResult, micros, parse,
    schema::{edge_certificates, edge_certificates::dsl, sites},
    time,
};

/// How many certificates of a site are good at once: the one in use, and the one before it until the new one was taken.
const GOOD_AT_ONCE: i64 = 2;

/// Notes a certificate, and takes back all but it and the one before.
///
/// # Errors
/// When the database fails.
pub fn add(
    connection: &mut Database,
    site: &SiteId,
    serial: &str,
    (now, not_after): (DateTime<Utc>, DateTime<Utc>),
) -> StoreResult<()> {
    let row = (
        dsl::serial.eq(serial),
        dsl::site.eq(site.as_str()),
        dsl::issued_at.eq(micros(now)),
        dsl::not_after.eq(micros(not_after)),
    );
    diesel::insert_into(edge_certificates::table)
        .values(row)
        .execute(connection)?;
    diesel::update(sites::table.find(site.as_str()))
        .set(sites::certificate_until.eq(Some(micros(not_after))))
        .execute(connection)?;
    let former: Vec<String> = dsl::edge_certificates
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::revoked_at.is_null())
        .order((dsl::issued_at.desc(), dsl::serial))
        .offset(GOOD_AT_ONCE)
        .select(dsl::serial)
        .load(connection)?;
    diesel::update(dsl::edge_certificates.filter(dsl::serial.eq_any(former)))
        .set(dsl::revoked_at.eq(Some(micros(now))))
        .execute(connection)?;
    Ok(())
}

/// Takes all certificates of a site back.
///
/// # Errors
/// When the database fails.
pub fn revoke(connection: &mut Database, site: &SiteId, now: DateTime<Utc>) -> StoreResult<usize> {
    let good = dsl::edge_certificates
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::revoked_at.is_null());
    Ok(diesel::update(good)
        .set(dsl::revoked_at.eq(Some(micros(now))))
        .execute(connection)?)
}

/// The serial numbers that are good, of one site or of all.
///
/// # Errors
/// When the database fails.
pub fn good(connection: &mut Database, site: Option<&SiteId>) -> StoreResult<Vec<(SiteId, String)>> {
    let mut query = dsl::edge_certificates
        .filter(dsl::revoked_at.is_null())
        .select((dsl::site, dsl::serial))
        .into_boxed();
    if let Some(site) = site {
        query = query.filter(dsl::site.eq(site.as_str()));
    }
    let rows: Vec<(String, String)> = query.load(connection)?;
    let read = |(site, serial): (String, String)| Ok((parse(&site)?, serial));
    rows.into_iter().map(read).collect()
}

/// The serial numbers that were taken back and have not run out, each with when: a revocation list (RFC 5280, section 5).
///
/// # Errors
/// When the database fails.
pub fn revoked(connection: &mut Database, now: DateTime<Utc>) -> StoreResult<Vec<(String, DateTime<Utc>)>> {
    let rows: Vec<(String, Option<i64>)> = dsl::edge_certificates
        .filter(dsl::revoked_at.is_not_null())
        .filter(dsl::not_after.gt(micros(now)))
        .order(dsl::serial)
        .select((dsl::serial, dsl::revoked_at))
        .load(connection)?;
    let read = |(serial, at): (String, Option<i64>)| Some((serial, time(at?)));
    Ok(rows.into_iter().filter_map(read).collect())
}
