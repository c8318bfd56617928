//! Addresses of sites that no machine is given.

use std::net::Ipv4Addr;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::ids::SiteId;

use super::{Database, StoreResult, micros, parse, schema::reservations::dsl, time};

/// A range of addresses that no machine is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Its id.
    pub id: String,
    /// The first address.
    pub first: Ipv4Addr,
    /// The last one, the first itself if there is but one.
    pub last: Ipv4Addr,
    /// What for.
    pub note: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Adds one.
///
/// # Errors
/// When the database fails.
pub fn insert(db: &mut Database, site: &SiteId, r: &Reservation) -> StoreResult<()> {
    let row = (
        dsl::id.eq(&r.id),
        dsl::site.eq(site.as_str()),
        dsl::first.eq(r.first.to_string()),
        dsl::last.eq(r.last.to_string()),
        dsl::note.eq(&r.note),
        dsl::created_at.eq(micros(r.created_at)),
    );
    diesel::insert_into(dsl::reservations).values(row).execute(db)?;
    Ok(())
}

/// Those of a site, by address.
///
/// # Errors
/// When the database fails.
pub fn of_site(db: &mut Database, site: &SiteId) -> StoreResult<Vec<Reservation>> {
    let rows: Vec<(String, String, String, String, String, i64)> =
        dsl::reservations.filter(dsl::site.eq(site.as_str())).load(db)?;
    let read = |(id, _, first, last, note, created_at): (_, String, String, String, _, _)| {
        Ok(Reservation {
            id,
            first: parse(&first)?,
            last: parse(&last)?,
            note,
            created_at: time(created_at),
        })
    };
    let mut all = rows.into_iter().map(read).collect::<StoreResult<Vec<_>>>()?;
    all.sort_by_key(|r| r.first);
    Ok(all)
}

/// Removes one.
///
/// # Errors
/// When the database fails.
pub fn delete(db: &mut Database, id: &str) -> StoreResult<()> {
    diesel::delete(dsl::reservations.find(id)).execute(db)?;
    Ok(())
}
