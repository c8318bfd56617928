//! What may be done with machines while their site is cut off: the lease of each machine, and the orders that were signed
//! for it beforehand. Secrets in both are sealed to the site.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{
    ids::{InstanceId, JobId, MachineId, SiteId},
    lease::Lease,
    order::Order,
};

use super::{
    Database, StoreResult, from_json, from_word, micros, parse,
    schema::{jobs, machine_leases, offers},
    time, to_json, to_word,
};
use crate::workflow::state::JobKind;

/// A machine's lease as its edge is to hold it.
#[derive(Debug, Clone)]
pub struct LeaseRow {
    /// The machine.
    pub machine: MachineId,
    /// The site that holds it.
    pub site: SiteId,
    /// Its revision.
    pub revision: u64,
    /// What it was made of; another basis means another lease. Empty for one that was taken back.
    pub basis: String,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// The lease.
    pub lease: Lease,
}

/// How a machine's lease stands, without its orders.
#[derive(Debug, Clone)]
pub struct LeaseHead {
    /// The machine.
    pub machine: MachineId,
    /// Its revision.
    pub revision: u64,
    /// As in [`LeaseRow::basis`].
    pub basis: String,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends.
    pub until: DateTime<Utc>,
}

/// An order that was signed beforehand.
#[derive(Debug, Clone)]
pub struct OfferRow {
    /// The instance it is for.
    pub instance: InstanceId,
    /// Where.
    pub site: SiteId,
    /// What its job is for.
    pub kind: JobKind,
    /// The revision of the lease it stands in.
    pub lease: u64,
    /// The revision of its order.
    pub revision: u64,
    /// Until when it may be begun.
    pub until: DateTime<Utc>,
    /// The order.
    pub order: Order,
}

type Row = (String, String, i64, String, i64, i64, String);

fn lease(row: Row) -> StoreResult<LeaseRow> {
    let (machine, site, revision, basis, issued_at, _, body) = row;
    Ok(LeaseRow {
        machine: parse(&machine)?,
        site: parse(&site)?,
        revision: revision.cast_unsigned(),
        basis,
        issued_at: time(issued_at),
        lease: from_json(&body)?,
    })
}

/// The lease that a site has on a machine.
///
/// # Errors
/// When the database fails.
pub fn lease_of(
    connection: &mut Database,
    site: &SiteId,
    machine: MachineId,
) -> StoreResult<Option<LeaseRow>> {
    let row = machine_leases::table.find((machine.to_string(), site.as_str()));
    row.first::<Row>(connection).optional()?.map(lease).transpose()
}

/// The sites that hold leases which were not taken back.
///
/// # Errors
/// When the database fails.
pub fn sites_with_leases(connection: &mut Database) -> StoreResult<BTreeSet<SiteId>> {
    use machine_leases::dsl;
    let rows: Vec<String> = dsl::machine_leases
        .filter(dsl::basis.ne(""))
        .select(dsl::site)
        .distinct()
        .load(connection)?;
    rows.iter().map(|site| parse(site)).collect()
}

/// How the leases of a site stand.
///
/// # Errors
/// When the database fails.
pub fn leases_at(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<LeaseHead>> {
    use machine_leases::dsl;
    let rows: Vec<(String, i64, String, i64, i64)> = dsl::machine_leases
        .filter(dsl::site.eq(site.as_str()))
        .select((
            dsl::machine,
            dsl::revision,
            dsl::basis,
            dsl::issued_at,
            dsl::until,
        ))
        .load(connection)?;
    let head = |(machine, revision, basis, issued_at, until): (String, i64, String, i64, i64)| {
        Ok(LeaseHead {
            machine: parse(&machine)?,
            revision: revision.cast_unsigned(),
            basis,
            issued_at: time(issued_at),
            until: time(until),
        })
    };
    rows.into_iter().map(head).collect()
}

/// The revisions of a site's leases.
///
/// # Errors
/// When the database fails.
pub fn heads(connection: &mut Database, site: &SiteId) -> StoreResult<Vec<(MachineId, u64)>> {
    use machine_leases::dsl;
    let rows: Vec<(String, i64)> = dsl::machine_leases
        .filter(dsl::site.eq(site.as_str()))
        .select((dsl::machine, dsl::revision))
        .load(connection)?;
    let head = |(machine, revision): (String, i64)| Ok((parse(&machine)?, revision.cast_unsigned()));
    rows.into_iter().map(head).collect()
}

/// Keeps a lease in place of the machine's former one, if that still has the revision `former`; `false` otherwise.
///
/// # Errors
/// When the database fails.
pub fn put_lease(connection: &mut Database, row: &LeaseRow, former: Option<u64>) -> StoreResult<bool> {
    use machine_leases::dsl;
    let machine = row.machine.to_string();
    let change = (
        dsl::revision.eq(row.revision.cast_signed()),
        dsl::basis.eq(&row.basis),
        dsl::issued_at.eq(micros(row.issued_at)),
        dsl::until.eq(micros(row.lease.until)),
        dsl::body.eq(to_json(&row.lease)?),
    );
    if let Some(former) = former {
        let held = dsl::machine_leases
            .find((&machine, row.site.as_str()))
            .filter(dsl::revision.eq(former.cast_signed()));
        return Ok(diesel::update(held).set(change).execute(connection)? == 1);
    }
    diesel::insert_into(dsl::machine_leases)
        .values((dsl::machine.eq(&machine), dsl::site.eq(row.site.as_str()), change))
        .execute(connection)?;
    Ok(true)
}

/// Raises a lease's revision above one that the edge holds (after the restore of an old backup).
///
/// # Errors
/// When the database fails.
pub fn raise_revision(
    connection: &mut Database,
    site: &SiteId,
    machine: MachineId,
    above: u64,
) -> StoreResult<()> {
    use machine_leases::dsl;
    let above = above.cast_signed();
    let row = dsl::machine_leases
        .find((machine.to_string(), site.as_str()))
        .filter(dsl::revision.le(above));
    diesel::update(row)
        .set(dsl::revision.eq(above + 1))
        .execute(connection)?;
    Ok(())
}

/// Keeps an offer.
///
/// # Errors
/// When the database fails.
pub fn insert(connection: &mut Database, offer: &OfferRow) -> StoreResult<()> {
    use offers::dsl;
    let row = (
        dsl::job.eq(offer.order.job.to_string()),
        dsl::machine.eq(offer.order.machine.to_string()),
        dsl::site.eq(offer.site.as_str()),
        dsl::instance.eq(offer.instance.to_string()),
        dsl::kind.eq(to_word(&offer.kind)?),
        dsl::lease.eq(offer.lease.cast_signed()),
        dsl::revision.eq(offer.revision.cast_signed()),
        dsl::until.eq(micros(offer.until)),
        dsl::body.eq(to_json(&offer.order)?),
    );
    diesel::insert_into(dsl::offers).values(row).execute(connection)?;
    Ok(())
}

/// The offer of a job.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, job: JobId) -> StoreResult<Option<OfferRow>> {
    use offers::dsl;
    type Row = (String, String, String, i64, i64, i64, String);
    let row: Option<Row> = dsl::offers
        .find(job.to_string())
        .select((
            dsl::instance,
            dsl::site,
            dsl::kind,
            dsl::lease,
            dsl::revision,
            dsl::until,
            dsl::body,
        ))
        .first(connection)
        .optional()?;
    row.map(|(instance, site, kind, lease, revision, until, body)| {
        Ok(OfferRow {
            instance: parse(&instance)?,
            site: parse(&site)?,
            kind: from_word(&kind)?,
            lease: lease.cast_unsigned(),
            revision: revision.cast_unsigned(),
            until: time(until),
            order: from_json(&body)?,
        })
    })
    .transpose()
}

/// Whether an order of this revision was offered for a machine, and none of that revision was heard of yet: then its site
/// may have begun it, and will say so.
///
/// # Errors
/// When the database fails.
pub fn may_be_used(connection: &mut Database, machine: MachineId, revision: u64) -> StoreResult<bool> {
    use offers::dsl;
    let offered: Vec<String> = dsl::offers
        .filter(dsl::machine.eq(machine.to_string()))
        .filter(dsl::revision.eq(revision.cast_signed()))
        .select(dsl::job)
        .load(connection)?;
    if offered.is_empty() {
        return Ok(false);
    }
    let heard: i64 = jobs::table
        .filter(jobs::id.eq_any(offered))
        .count()
        .get_result(connection)?;
    Ok(heard == 0)
}

/// The leases that came before those that a site holds and of which offers are kept: machines and revisions.
///
/// # Errors
/// When the database fails.
pub fn former(
    connection: &mut Database,
    site: &SiteId,
    held: &[(MachineId, u64)],
) -> StoreResult<BTreeSet<(String, i64)>> {
    use offers::dsl;
    let kept: Vec<(String, i64)> = dsl::offers
        .filter(dsl::site.eq(site.as_str()))
        .select((dsl::machine, dsl::lease))
        .distinct()
        .load(connection)?;
    let held: std::collections::BTreeMap<String, i64> = held
        .iter()
        .map(|(machine, revision)| (machine.to_string(), revision.cast_signed()))
        .collect();
    let is_former = |(machine, lease): &(String, i64)| held.get(machine).is_some_and(|held| lease < held);
    Ok(kept.into_iter().filter(is_former).collect())
}

/// Forgets the offers of these leases.
///
/// # Errors
/// When the database fails.
pub fn forget(connection: &mut Database, former: BTreeSet<(String, i64)>) -> StoreResult<()> {
    use offers::dsl;
    for (machine, lease) in former {
        let rows = dsl::offers
            .filter(dsl::machine.eq(machine))
            .filter(dsl::lease.eq(lease));
        diesel::delete(rows).execute(connection)?;
    }
    Ok(())
}

/// Forgets the leases and offers of a site that is removed.
///
/// # Errors
/// When the database fails.
pub fn forget_site(connection: &mut Database, site: &SiteId) -> StoreResult<()> {
    diesel::delete(machine_leases::table.filter(machine_leases::site.eq(site.as_str())))
        .execute(connection)?;
    diesel::delete(offers::table.filter(offers::site.eq(site.as_str()))).execute(connection)?;
    Ok(())
}
