//! Which run of a site's edge works, and the keys of edges that were revoked.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{ids::SiteId, keys::VerifyingKey};

use super::{
    Database, StoreResult, from_json, micros,
    schema::{edge_runs, revoked_edges, sites},
    to_json,
};
use crate::domain::edge_runs::EdgeRuns;

/// The runs of a site's edge; none were heard of a site that is not there in the table.
///
/// # Errors
/// When the database fails.
pub fn get(db: &mut Database, site: &SiteId) -> StoreResult<EdgeRuns> {
    let state: Option<String> = edge_runs::table
        .find(site.as_str())
        .select(edge_runs::state)
        .first(db)
        .optional()?;
    Ok(state
        .map(|text| from_json(&text))
        .transpose()?
        .unwrap_or_default())
}

/// Keeps the runs of a site's edge.
///
/// # Errors
/// When the database fails.
pub fn put(db: &mut Database, site: &SiteId, runs: &EdgeRuns) -> StoreResult<()> {
    let state = to_json(runs)?;
    let row = edge_runs::table.find(site.as_str());
    let changed = diesel::update(row).set(edge_runs::state.eq(&state)).execute(db)?;
    if changed == 0 {
        let row = (edge_runs::site.eq(site.as_str()), edge_runs::state.eq(&state));
        diesel::insert_into(edge_runs::table).values(row).execute(db)?;
    }
    Ok(())
}

/// Forgets the runs of a site's edge: another edge joined, or the site is deleted.
///
/// # Errors
/// When the database fails.
pub fn forget(db: &mut Database, site: &SiteId) -> StoreResult<()> {
    diesel::delete(edge_runs::table.find(site.as_str())).execute(db)?;
    Ok(())
}

/// Notes that the edge that a site has now, if it has one, is its edge no more.
///
/// # Errors
/// When the database fails.
pub fn revoke(db: &mut Database, site: &SiteId, now: DateTime<Utc>) -> StoreResult<()> {
    let key: Option<Option<String>> = sites::table
        .find(site.as_str())
        .select(sites::report_key)
        .first(db)
        .optional()?;
    let Some(key) = key.flatten() else { return Ok(()) };
    let known: i64 = revoked_edges::table.find(&key).count().get_result(db)?;
    if known == 0 {
        let row = (
            revoked_edges::report_key.eq(&key),
            revoked_edges::site.eq(site.as_str()),
            revoked_edges::revoked_at.eq(micros(now)),
        );
        diesel::insert_into(revoked_edges::table)
            .values(row)
            .execute(db)?;
    }
    Ok(())
}

/// Whether the edge with this key was revoked or replaced at a site.
///
/// # Errors
/// When the database fails.
pub fn is_revoked(db: &mut Database, site: &SiteId, key: VerifyingKey) -> StoreResult<bool> {
    let found: i64 = revoked_edges::table
        .find(key.to_string())
        .filter(revoked_edges::site.eq(site.as_str()))
        .count()
        .get_result(db)?;
    Ok(found > 0)
}
