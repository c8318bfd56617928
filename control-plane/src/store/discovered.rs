//! Machines that were seen and that nobody has enrolled.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use slipway_protocol::{
    ids::{MacAddr, SiteId},
    inventory::Inventory,
    report::MachineSeen,
};

use super::{
    Database, StoreResult, from_json, micros, parse,
    schema::{discovered, macs},
    to_json,
};

/// How many unknown ports are kept of a site: the newest. Whoever is on its provisioning network can make up any number.
pub const MOST_PER_SITE: i64 = 10_000;
/// How long a port is kept that is not seen again.
pub const KEPT_FOR: TimeDelta = TimeDelta::days(30);

/// Notes a sighting; one without an inventory does not wipe out one that has it. `true` if it is the first of its port at the
/// site.
///
/// # Errors
/// When the database fails.
pub fn put(
    connection: &mut Database,
    site: &SiteId,
    mac: MacAddr,
    seen: &MachineSeen,
    now: DateTime<Utc>,
) -> StoreResult<bool> {
    use discovered::dsl;
    let (site_key, mac) = (site.as_str(), mac.to_string());
    let key = (site_key, mac.as_str());
    let former: Option<String> = dsl::discovered
        .find(key)
        .select(dsl::seen)
        .first(connection)
        .optional()?;
    let former: Option<MachineSeen> = former.map(|text| from_json(&text)).transpose()?;
    let mut seen = seen.clone();
    seen.inventory = seen
        .inventory
        .or_else(|| former.as_ref().and_then(|f| f.inventory.clone()));
    let change = (dsl::seen.eq(to_json(&seen)?), dsl::seen_at.eq(micros(now)));
    if former.is_some() {
        diesel::update(dsl::discovered.find(key))
            .set(change)
            .execute(connection)?;
        return Ok(false);
    }
    make_room(connection, site)?;
    diesel::insert_into(dsl::discovered)
        .values((dsl::site.eq(site_key), dsl::mac.eq(&mac), change))
        .execute(connection)?;
    Ok(true)
}

/// Lets the port of a site fall out that was not seen for the longest time, if there are as many as are kept.
fn make_room(connection: &mut Database, site: &SiteId) -> StoreResult<()> {
    use discovered::dsl;
    let of_site = dsl::discovered.filter(dsl::site.eq(site.as_str()));
    let held: i64 = of_site.count().get_result(connection)?;
    if held < MOST_PER_SITE {
        return Ok(());
    }
    let oldest: Option<String> = of_site
        .order((dsl::seen_at, dsl::mac))
        .select(dsl::mac)
        .first(connection)
        .optional()?;
    if let Some(mac) = oldest {
        diesel::delete(dsl::discovered.find((site.as_str(), mac))).execute(connection)?;
    }
    Ok(())
}

/// Forgets ports that were not seen since.
///
/// # Errors
/// When the database fails.
pub fn prune(connection: &mut Database, before: DateTime<Utc>) -> StoreResult<usize> {
    use discovered::dsl;
    let old = dsl::discovered.filter(dsl::seen_at.lt(micros(before)));
    Ok(diesel::delete(old).execute(connection)?)
}

/// The newest inventory that an agent found at a site through one of the ports, if one did.
///
/// # Errors
/// When the database fails.
pub fn inventory_of(
    connection: &mut Database,
    site: &SiteId,
    ports: &[MacAddr],
) -> StoreResult<Option<Inventory>> {
    use discovered::dsl;
    let keys: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let rows: Vec<String> = dsl::discovered
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::mac.eq_any(keys))
        .order(dsl::seen_at.desc())
        .select(dsl::seen)
        .load(connection)?;
    for text in rows {
        let seen: MachineSeen = from_json(&text)?;
        if seen.inventory.is_some() {
            return Ok(seen.inventory);
        }
    }
    Ok(None)
}

/// A port of no machine, where and how it was seen.
pub type Discovered = (SiteId, MacAddr, MachineSeen);

/// Up to `limit` ports that are no machine's, by port and site after `after`, at the sites that may be seen; of all if none are
/// given.
///
/// # Errors
/// When the database fails.
pub fn page(
    connection: &mut Database,
    sites: Option<&[String]>,
    after: (&str, &str),
    limit: i64,
) -> StoreResult<Vec<Discovered>> {
    use discovered::dsl;
    let enrolled = macs::table.select(macs::mac);
    let (mac, site) = (after.0.to_owned(), after.1.to_owned());
    let later = dsl::mac
        .gt(mac.clone())
        .or(dsl::mac.eq(mac).and(dsl::site.gt(site)));
    let mut query = dsl::discovered
        .filter(dsl::mac.ne_all(enrolled))
        .filter(later)
        .order((dsl::mac, dsl::site))
        .limit(limit)
        .select((dsl::site, dsl::mac, dsl::seen))
        .into_boxed();
    if let Some(sites) = sites {
        query = query.filter(dsl::site.eq_any(sites.to_vec()));
    }
    let rows: Vec<(String, String, String)> = query.load(connection)?;
    rows.into_iter()
        .map(|(site, mac, seen)| Ok((parse(&site)?, parse(&mac)?, from_json(&seen)?)))
        .collect()
}
