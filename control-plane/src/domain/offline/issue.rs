//! Leases: issued to sites that take them, renewed when half of their time is over, issued anew when what they were made of
//! has changed, and taken back when nothing may be done any more. Only sites that are connected are looked at: the others
//! could not be told.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::{Digest, JobId, MachineId},
    keys::Stamp,
    lease::{Lease, Offer, Operation, offer_context},
    order::Order,
    seal::{self, SealingKey, Secret},
    topic::Topic,
};
use uuid::Uuid;

use crate::{
    app::App,
    domain::instances::{offer_order, offered},
    error::ApiError,
    store::{
        Database, StoreResult,
        instances::{self, Instance},
        jobs,
        machines::{self, Machine},
        offers::{self, LeaseHead, LeaseRow, OfferRow},
        orders,
        sites::{self, Site},
    },
    workflow::{
        offline::{SETTLED, is_half_over, kind_of, reserve},
        state::JobKind,
    },
};

/// Leases issued to a site at most each time: sealing takes a few milliseconds a machine, and others wait.
const AT_ONCE: usize = 50;
/// How long an offered order stays good on its way to the agent, after the last moment at which it can be begun.
const AFTER_DEADLINE: TimeDelta = TimeDelta::days(1);

/// A machine whose lease is to be another one.
struct Due {
    machine: MachineId,
    /// Revision of the lease there is.
    former: Option<u64>,
    /// What the new one is made of; none when it is taken back.
    made_of: Option<MadeOf>,
}

/// What a lease is made of.
struct MadeOf {
    basis: String,
    instance: Instance,
    operations: Vec<Operation>,
    /// The revisions of the machine's order, in force and reserved.
    standing: (u64, u64),
}

/// Looks at all connected sites whose edges take leases, and that may do something or could until now.
///
/// # Errors
/// When the store or a secret fails.
pub async fn reconcile(app: &App) -> Result<(), ApiError> {
    let read = app.store.read(|db| {
        let all = sites::list(db, "", i64::from(i32::MAX))?;
        StoreResult::Ok((all, offers::sites_with_leases(db)?))
    });
    let (all, with_leases) = read.await?;
    let takes = |site: &Site| {
        let concerned = !site.settings.offline.operations.is_empty() || with_leases.contains(&site.id);
        site.online && site.takes_leases && concerned
    };
    for site in all.into_iter().filter(takes) {
        if let Some(to) = site.sealing_key {
            at_site(app, &site, to).await?;
        }
    }
    Ok(())
}

async fn at_site(app: &App, site: &Site, to: SealingKey) -> Result<(), ApiError> {
    let now = (app.now)();
    let signer = app.signing.of_site(&site.id).signer.key_id().to_string();
    let ground = json!([site.settings.offline, to.to_string(), signer]).to_string();
    let looked_at = site.clone();
    let due = app
        .store
        .read(move |db| due(db, &looked_at, &ground, now))
        .await?;
    let some = !due.is_empty();
    for due in due {
        renew(app, site, to, due).await?;
    }
    if some {
        app.poke_site(site.id.as_str());
    }
    Ok(())
}

/// The machines of a site whose lease is not what it should be.
fn due(db: &mut Database, site: &Site, ground: &str, now: DateTime<Utc>) -> StoreResult<Vec<Due>> {
    let leases = offers::leases_at(db, &site.id)?;
    let mut leases: HashMap<MachineId, LeaseHead> = leases.into_iter().map(|l| (l.machine, l)).collect();
    let mut due = Vec::new();
    for (machine, made_of) in wanted(db, site, ground)? {
        let lease = leases.remove(&machine);
        let holds = |lease: &LeaseHead| {
            lease.basis == made_of.basis && !is_half_over(lease.issued_at, lease.until, now)
        };
        if !lease.as_ref().is_some_and(holds) {
            due.push(Due {
                machine,
                former: lease.map(|lease| lease.revision),
                made_of: Some(made_of),
            });
        }
    }
    let withdrawn = leases.into_values().filter(|lease| !lease.basis.is_empty());
    due.extend(withdrawn.map(|lease| Due {
        machine: lease.machine,
        former: Some(lease.revision),
        made_of: None,
    }));
    due.truncate(AT_ONCE);
    Ok(due)
}

/// What the leases of a site are to be made of, machine by machine.
fn wanted(db: &mut Database, site: &Site, ground: &str) -> StoreResult<Vec<(MachineId, MadeOf)>> {
    let allowed = &site.settings.offline.operations;
    if allowed.is_empty() {
        return Ok(Vec::new());
    }
    let idle = machines::idle_at(db, &site.id)?;
    let standings = orders::standings(db, &site.id)?;
    let mut wanted = Vec::new();
    for instance in instances::on_machines_at(db, &site.id, &SETTLED)? {
        let on = instance.machine.and_then(|machine| {
            let (version, standing) = (idle.get(&machine)?, standings.get(&machine)?);
            Some((machine, *version, *standing))
        });
        let Some((machine, version, standing)) = on else {
            continue;
        };
        let operations = operations_of(db, &instance, allowed)?;
        if operations.is_empty() {
            continue;
        }
        let of_instance = (
            instance.id,
            instance.state.word(),
            &instance.name,
            &instance.wish.ssh_keys,
        );
        let basis = json!([ground, of_instance, operations, version, standing.0]).to_string();
        let made_of = MadeOf {
            basis: Digest::of(basis.as_bytes()).to_string(),
            instance,
            operations,
            standing,
        };
        wanted.push((machine, made_of));
    }
    Ok(wanted)
}

fn operations_of(
    db: &mut Database,
    instance: &Instance,
    allowed: &BTreeSet<Operation>,
) -> StoreResult<Vec<Operation>> {
    let last = jobs::get(db, &instance.job.to_string())?;
    // Without its last job an instance is taken for one that may not have been installed.
    let last = last.map_or(JobKind::Install, |job| job.kind);
    Ok(offered(instance, last, allowed))
}

/// Issues one lease, or takes it back. What changed meanwhile is seen at the next look.
async fn renew(app: &App, site: &Site, to: SealingKey, due: Due) -> Result<(), ApiError> {
    let now = (app.now)();
    let id = due.machine.to_string();
    let machine = app.store.read(move |db| machines::get(db, &id)).await?;
    let by_time = now.timestamp_millis().cast_unsigned();
    let revision = due.former.map_or(by_time, |former| by_time.max(former + 1));
    let mut row = LeaseRow {
        machine: due.machine,
        site: site.id.clone(),
        revision,
        basis: String::new(),
        issued_at: now,
        lease: Lease {
            name: machine
                .as_ref()
                .map_or_else(|| due.machine.to_string(), |m| m.name.clone()),
            instance: None,
            until: now + TimeDelta::hours(site.settings.offline.hours.into()),
            offers: Vec::new(),
        },
    };
    let mut offered = Vec::new();
    let seen = match (due.made_of, machine) {
        (Some(made_of), Some(machine)) => {
            row.basis.clone_from(&made_of.basis);
            row.lease.instance = Some(made_of.instance.name.clone());
            let on = (&made_of, &machine);
            (row.lease.offers, offered) = compile(app, on, to, &row)?;
            Some((made_of.instance, made_of.standing))
        }
        _ => None,
    };
    let issued = app
        .store
        .transaction(move |db| put(db, &row, due.former, &offered, seen));
    match issued.await {
        // Another replica was quicker, or something changed.
        Ok(()) | Err(ApiError::Changed) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The offers of a lease, and what is kept of them here.
fn compile(
    app: &App,
    (made_of, machine): (&MadeOf, &Machine),
    to: SealingKey,
    row: &LeaseRow,
) -> Result<(Vec<Offer>, Vec<OfferRow>), ApiError> {
    let until = row.lease.until;
    let (mut offers, mut rows) = (Vec::new(), Vec::new());
    for revision in reserve(made_of.standing.0, made_of.standing.1) {
        for operation in &made_of.operations {
            let job = JobId(Uuid::now_v7());
            let on = (&made_of.instance, machine);
            let order = offer_order(app, on, (job, to), *operation, until)?;
            let (Some(order), Some(kind)) = (order, kind_of(*operation)) else {
                continue;
            };
            offers.push(Offer {
                operation: *operation,
                job,
                revision,
                order: sealed_envelope(app, row, to, (revision, &order))?,
            });
            rows.push(OfferRow {
                instance: made_of.instance.id,
                site: row.site.clone(),
                kind,
                lease: row.revision,
                revision,
                until,
                order,
            });
        }
    }
    Ok((offers, rows))
}

/// The order's envelope as the edge takes it, sealed to the site: a broker that could read it could deliver it, too.
fn sealed_envelope(
    app: &App,
    row: &LeaseRow,
    to: SealingKey,
    (revision, order): (u64, &Order),
) -> Result<seal::Sealed, ApiError> {
    let stamp = Stamp {
        revision,
        issued_at: row.issued_at,
        expires_at: order.deadline + AFTER_DEADLINE,
    };
    let topic = Topic::Order(row.site.clone(), order.machine);
    let envelope = app.signing.of_site(&row.site).signer.seal(&topic, stamp, order);
    let envelope = String::from_utf8(envelope).map_err(|e| ApiError::Internal(e.into()))?;
    let place = offer_context(&row.site, order.machine, order.job);
    seal::seal(to, &place, &Secret::new(envelope)).map_err(|e| ApiError::Internal(e.into()))
}

/// Keeps a lease with its offers, if machine and instance still stand as they were seen.
fn put(
    db: &mut Database,
    row: &LeaseRow,
    former: Option<u64>,
    offered: &[OfferRow],
    seen: Option<(Instance, (u64, u64))>,
) -> Result<(), ApiError> {
    if let Some((instance, standing)) = seen {
        let now = instances::by_id(db, instance.id)?;
        let same = now.is_some_and(|now| now.state == instance.state && now.job == instance.job);
        if !same || orders::standing(db, row.machine)? != Some(standing) {
            return Err(ApiError::Changed);
        }
    }
    if !offers::put_lease(db, row, former)? {
        return Err(ApiError::Changed);
    }
    if let Some(highest) = offered.iter().map(|offer| offer.revision).max() {
        orders::reserve(db, row.machine, highest)?;
    }
    offered.iter().try_for_each(|offer| offers::insert(db, offer))?;
    Ok(())
}
