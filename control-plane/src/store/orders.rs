//! What each machine is to do now: one order a machine, its revision growing.

use std::collections::HashMap;

use diesel::prelude::*;
use slipway_protocol::{
    ids::{MachineId, SiteId},
    order::Order,
};

use super::{Database, StoreResult, from_json, parse, schema::orders::dsl, to_json, upkeep};

/// An order with its revision.
#[derive(Debug, Clone)]
pub struct OrderRow {
    /// The site.
    pub site: SiteId,
    /// Its revision.
    pub revision: u64,
    /// The order, secrets sealed.
    pub order: Order,
}

/// Puts a machine's order in force, above the former one and above all that was offered; gives back its revision.
///
/// # Errors
/// When the database fails.
pub fn put(connection: &mut Database, site: &SiteId, order: &Order) -> StoreResult<u64> {
    let machine = order.machine.to_string();
    let held: Option<(i64, i64)> = dsl::orders
        .find(&machine)
        .select((dsl::revision, dsl::reserved))
        .first(connection)
        .optional()?;
    let revision = match held {
        Some((held, reserved)) => held.max(reserved),
        None => upkeep::revision_floor(connection)?,
    } + 1;
    let change = (
        dsl::site.eq(site.as_str()),
        dsl::job.eq(order.job.to_string()),
        dsl::revision.eq(revision),
        dsl::body.eq(to_json(order)?),
    );
    if held.is_some() {
        diesel::update(dsl::orders.find(&machine))
            .set(change)
            .execute(connection)?;
    } else {
        diesel::insert_into(dsl::orders)
            .values((dsl::machine.eq(&machine), change))
            .execute(connection)?;
    }
    Ok(revision.cast_unsigned())
}

/// A machine's order.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, machine: MachineId) -> StoreResult<Option<OrderRow>> {
    let row: Option<(String, i64, String)> = dsl::orders
        .find(machine.to_string())
        .select((dsl::site, dsl::revision, dsl::body))
        .first(connection)
        .optional()?;
    row.map(|(site, revision, body)| {
        Ok(OrderRow {
            site: parse(&site)?,
            revision: revision.cast_unsigned(),
            order: from_json(&body)?,
        })
    })
    .transpose()
}

/// Raises an order's revision above one that the edge holds (after the restore of an old backup).
///
/// # Errors
/// When the database fails.
pub fn raise_revision(connection: &mut Database, machine: MachineId, above: u64) -> StoreResult<()> {
    let above = above.cast_signed();
    let row = dsl::orders
        .find(machine.to_string())
        .filter(dsl::revision.le(above));
    let reserved: Option<i64> = row.clone().select(dsl::reserved).first(connection).optional()?;
    let Some(reserved) = reserved else { return Ok(()) };
    diesel::update(row)
        .set(dsl::revision.eq(above.max(reserved) + 1))
        .execute(connection)?;
    Ok(())
}

/// The revision of a machine's order, and the highest that was offered for it.
///
/// # Errors
/// When the database fails.
pub fn standing(connection: &mut Database, machine: MachineId) -> StoreResult<Option<(u64, u64)>> {
    let row: Option<(i64, i64)> = dsl::orders
        .find(machine.to_string())
        .select((dsl::revision, dsl::reserved))
        .first(connection)
        .optional()?;
    Ok(row.map(|(revision, reserved)| (revision.cast_unsigned(), reserved.cast_unsigned())))
}

/// The same of all machines of a site.
///
/// # Errors
/// When the database fails.
pub fn standings(connection: &mut Database, site: &SiteId) -> StoreResult<HashMap<MachineId, (u64, u64)>> {
    let rows: Vec<(String, i64, i64)> = dsl::orders
        .filter(dsl::site.eq(site.as_str()))
        .select((dsl::machine, dsl::revision, dsl::reserved))
        .load(connection)?;
    let standing = |(machine, revision, reserved): (String, i64, i64)| {
        Ok((
            parse(&machine)?,
            (revision.cast_unsigned(), reserved.cast_unsigned()),
        ))
    };
    rows.into_iter().map(standing).collect()
}

/// Keeps revisions up to `reserved` for offers: no order that is put in force later gets one of them.
///
/// # Errors
/// When the database fails.
pub fn reserve(connection: &mut Database, machine: MachineId, reserved: u64) -> StoreResult<()> {
    diesel::update(dsl::orders.find(machine.to_string()))
        .set(dsl::reserved.eq(reserved.cast_signed()))
        .execute(connection)?;
    Ok(())
}

/// Puts an offered order in force that its site has begun, under the revision it was offered with, unless a higher one is;
/// `false` then.
///
/// # Errors
/// When the database fails.
pub fn put_offered(
    connection: &mut Database,
    site: &SiteId,
    revision: u64,
    order: &Order,
) -> StoreResult<bool> {
    let row = dsl::orders
        .find(order.machine.to_string())
        .filter(dsl::site.eq(site.as_str()))
        .filter(dsl::revision.lt(revision.cast_signed()));
    let change = (
        dsl::job.eq(order.job.to_string()),
        dsl::revision.eq(revision.cast_signed()),
        dsl::body.eq(to_json(order)?),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// The machines of a site that have an order, with its revision.
///
/// # Errors
/// When the database fails.
pub fn heads(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<(MachineId, u64)>> {
    let rows: Vec<(String, i64)> = dsl::orders
        .filter(dsl::site.eq(site.as_str()))
        .select((dsl::machine, dsl::revision))
        .load(connection)?;
    let head = |(machine, revision): (String, i64)| Ok((parse(&machine)?, revision.cast_unsigned()));
    rows.into_iter().map(head).collect()
}
