//! Machines that were seen and that nobody has enrolled.

use chrono::{DateTime, Utc};
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

/// Notes a sighting; one without an inventory does not wipe out one that has it. `true` if it is the first of its port.
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
    let key = mac.to_string();
    let former: Option<String> = dsl::discovered
        .find(&key)
        .select(dsl::seen)
        .first(connection)
        .optional()?;
    let former: Option<MachineSeen> = former.map(|text| from_json(&text)).transpose()?;
    let mut seen = seen.clone();
    seen.inventory = seen
        .inventory
        .or_else(|| former.as_ref().and_then(|f| f.inventory.clone()));
    let change = (
        dsl::site.eq(site.as_str()),
        dsl::seen.eq(to_json(&seen)?),
        dsl::seen_at.eq(micros(now)),
    );
    if former.is_some() {
        diesel::update(dsl::discovered.find(&key))
            .set(change)
            .execute(connection)?;
    } else {
        diesel::insert_into(dsl::discovered)
            .values((dsl::mac.eq(&key), change))
            .execute(connection)?;
    }
    Ok(former.is_none())
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

/// All that no machine's port is: site, port, sighting.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &mut Database) -> StoreResult<Vec<(SiteId, MacAddr, MachineSeen)>> {
    use discovered::dsl;
    let enrolled = macs::table.select(macs::mac);
    let rows: Vec<(String, String, String)> = dsl::discovered
        .filter(dsl::mac.ne_all(enrolled))
        .order(dsl::mac)
        .select((dsl::site, dsl::mac, dsl::seen))
        .load(connection)?;
    rows.into_iter()
        .map(|(site, mac, seen)| Ok((parse(&site)?, parse(&mac)?, from_json(&seen)?)))
        .collect()
}
