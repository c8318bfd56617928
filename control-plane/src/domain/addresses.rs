//! The addresses of a site: who holds which, what is reserved, what is left. Counting is pure, and does not walk through
//! networks address by address.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use slipway_protocol::{ids::SiteId, site::SubnetConfig};
use uuid::Uuid;

use super::{machines::fits, sites};
use crate::{
    access::{Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database,
        audit::{self, Change},
        events::{self, NewEvent},
        machines,
        reservations::{self, Reservation},
        sites as store_sites,
    },
};

/// First and last address, both included.
pub type Span = (Ipv4Addr, Ipv4Addr);

/// A subnet and what of it is used.
#[derive(Debug, Clone)]
pub struct Used {
    /// The subnet.
    pub subnet: SubnetConfig,
    /// Machines and their addresses, by address.
    pub holders: Vec<(Ipv4Addr, String)>,
    /// Ranges that no machine is given.
    pub reservations: Vec<Reservation>,
    /// Addresses that a machine could be given.
    pub free: u64,
}

/// What of a site's addresses is used.
///
/// # Errors
/// When there is no such site.
pub async fn list(app: &App, caller: &Caller, site: String) -> Result<Vec<Used>, ApiError> {
    let site = sites::get(app, caller, site).await?;
    caller.require(Permission::MachinesRead, Target::site(site.id.as_str()))?;
    let id = site.id.clone();
    let read = move |db: &mut Database| {
        let holders = machines::addresses_by_name(db, &id)?;
        Ok::<_, ApiError>((holders, reservations::of_site(db, &id)?))
    };
    let (holders, reserved) = app.store.read(read).await?;
    let subnets = site.settings.subnets.into_iter();
    Ok(subnets.map(|subnet| used(subnet, &holders, &reserved)).collect())
}

fn used(subnet: SubnetConfig, holders: &[(Ipv4Addr, String)], reserved: &[Reservation]) -> Used {
    let within = |address: &Ipv4Addr| subnet.network.contains(address);
    let holders: Vec<_> = holders
        .iter()
        .filter(|(address, _)| within(address))
        .cloned()
        .collect();
    let reservations: Vec<_> = reserved.iter().filter(|r| within(&r.first)).cloned().collect();
    let one = |address: Ipv4Addr| (address, address);
    let taken = holders.iter().map(|(address, _)| one(*address));
    let kept = reservations.iter().map(|r| (r.first, r.last));
    let own = [Some(one(subnet.server)), subnet.gateway.map(one), subnet.pool];
    let free = free(
        &subnet,
        taken.chain(kept).chain(own.into_iter().flatten()).collect(),
    );
    Used {
        subnet,
        holders,
        reservations,
        free,
    }
}

/// How many host addresses of a network none of the spans covers.
fn free(subnet: &SubnetConfig, mut spans: Vec<Span>) -> u64 {
    let network = u64::from(u32::from(subnet.network.network()));
    let broadcast = u64::from(u32::from(subnet.network.broadcast()));
    // The next address nobody has looked at.
    let (mut next, end) = (network + 1, broadcast);
    spans.sort_unstable();
    let mut free = 0;
    for (first, last) in spans {
        let (first, last) = (u64::from(u32::from(first)), u64::from(u32::from(last)));
        free += first.min(end).saturating_sub(next);
        next = next.max(last + 1);
    }
    free + end.saturating_sub(next)
}

/// Refuses networks of one site that share addresses.
pub(super) fn check_overlap(subnets: &[SubnetConfig]) -> Result<(), ApiError> {
    for (n, one) in subnets.iter().enumerate() {
        let shares = |other: &&SubnetConfig| {
            one.network.contains(&other.network) || other.network.contains(&one.network)
        };
        if let Some(other) = subnets[..n].iter().find(shares) {
            let detail = format!(
                "subnets {} and {} of the site overlap",
                other.network, one.network
            );
            return Err(ApiError::Bad("subnet_overlap", detail));
        }
    }
    Ok(())
}

/// Refuses to take the network away under a machine or a reservation.
pub(super) fn check_cut(
    db: &mut Database,
    site: &SiteId,
    (former, next): (&[SubnetConfig], &[SubnetConfig]),
) -> Result<(), ApiError> {
    if former == next {
        return Ok(());
    }
    let refuse = |what: String| {
        let detail = format!(
            "{what} would be outside the site's networks, or on a pool, server or gateway; move it first"
        );
        Err(ApiError::Conflict("subnet_in_use", detail))
    };
    let cut = |address: Ipv4Addr| fits(former, address) && !fits(next, address);
    let holders = machines::addresses_by_name(db, site)?;
    if let Some((address, name)) = holders.iter().find(|(address, _)| cut(*address)) {
        return refuse(format!("machine `{name}` at {address}"));
    }
    let covers = |subnets: &[SubnetConfig], r: &Reservation| {
        subnets
            .iter()
            .any(|s| s.network.contains(&r.first) && s.network.contains(&r.last))
    };
    let reserved = reservations::of_site(db, site)?;
    if let Some(r) = reserved.iter().find(|r| covers(former, r) && !covers(next, r)) {
        return refuse(format!("the reservation from {} to {}", r.first, r.last));
    }
    Ok(())
}

/// Reserves a range of addresses: machines are not given them any more.
///
/// # Errors
/// When it is no range of one of the site's networks, or a machine or a reservation has some of it.
pub async fn reserve(
    app: &App,
    caller: &Caller,
    site: String,
    (first, last): Span,
    note: String,
) -> Result<Reservation, ApiError> {
    let site = sites::get(app, caller, site).await?;
    caller.require(Permission::SitesWrite, Target::site(site.id.as_str()))?;
    if note.chars().count() > 200 || note.chars().any(char::is_control) {
        return Err(ApiError::Bad(
            "note",
            "a note is one line of at most 200 characters".to_owned(),
        ));
    }
    let (by, now) = (caller.actor.clone(), (app.now)());
    let made = Reservation {
        id: Uuid::now_v7().to_string(),
        first,
        last,
        note,
        created_at: now,
    };
    app.store
        .transaction(move |db| {
            // Read again: its networks may have changed since, and whoever changes them counts on reservations within.
            store_sites::hold(db, site.id.as_str())?;
            let site = store_sites::get(db, site.id.as_str())?
                .ok_or_else(|| ApiError::NotFound("site", site.id.to_string()))?;
            check_range(&site.settings.subnets, (first, last))?;
            check_unused(db, &site.id, (first, last))?;
            reservations::insert(db, &site.id, &made)?;
            audit::done(
                db,
                &by,
                now,
                Change::new(
                    "reservation.create",
                    format!("site/{}", site.id),
                    None,
                    told(&made),
                ),
            )?;
            let event = NewEvent::new("site.address_reserved", now).site(&site.id);
            events::append(db, &event.text(format!("{first}-{last}")))?;
            Ok(made)
        })
        .await
}

fn check_range(subnets: &[SubnetConfig], (first, last): Span) -> Result<(), ApiError> {
    let inside = |s: &SubnetConfig| s.network.contains(&first) && s.network.contains(&last);
    if first > last || !subnets.iter().any(inside) {
        let detail = format!("{first}-{last} is not a range within one of the site's networks");
        return Err(ApiError::Bad("range", detail));
    }
    Ok(())
}

fn check_unused(db: &mut Database, site: &SiteId, (first, last): Span) -> Result<(), ApiError> {
    let holders = machines::addresses_by_name(db, site)?;
    if let Some((address, name)) = holders.iter().find(|(a, _)| (first..=last).contains(a)) {
        let detail = format!("{address} is the address of machine `{name}`");
        return Err(ApiError::Conflict("address_taken", detail));
    }
    let reserved = reservations::of_site(db, site)?;
    if let Some(r) = reserved.iter().find(|r| r.first <= last && first <= r.last) {
        let detail = format!("{} to {} is reserved already: {}", r.first, r.last, r.note);
        return Err(ApiError::Conflict("address_reserved", detail));
    }
    Ok(())
}

fn told(r: &Reservation) -> Option<Value> {
    Some(json!({ "first": r.first, "last": r.last, "note": r.note }))
}

/// Takes a reservation back, by its id or its first address.
///
/// # Errors
/// When there is none.
pub async fn unreserve(app: &App, caller: &Caller, site: String, key: String) -> Result<(), ApiError> {
    let site = sites::get(app, caller, site).await?;
    caller.require(Permission::SitesWrite, Target::site(site.id.as_str()))?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let all = reservations::of_site(db, &site.id)?;
            let found = all
                .into_iter()
                .find(|r| r.id == key || r.first.to_string() == key);
            let found = found.ok_or_else(|| ApiError::NotFound("reservation", key))?;
            reservations::delete(db, &found.id)?;
            audit::done(
                db,
                &by,
                now,
                Change::new(
                    "reservation.delete",
                    format!("site/{}", site.id),
                    told(&found),
                    None,
                ),
            )?;
            let event = NewEvent::new("site.address_freed", now).site(&site.id);
            Ok(events::append(
                db,
                &event.text(format!("{}-{}", found.first, found.last)),
            )?)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(network: &str) -> SubnetConfig {
        SubnetConfig {
            network: network.parse().unwrap(),
            server: Ipv4Addr::new(192, 0, 2, 1),
            gateway: Some(Ipv4Addr::new(192, 0, 2, 2)),
            dns: vec![],
            pool: Some((Ipv4Addr::new(192, 0, 2, 200), Ipv4Addr::new(192, 0, 2, 250))),
            lease_seconds: 600,
        }
    }

    #[test]
    fn what_is_left_is_counted_once_whatever_overlaps() {
        let address = |n: u8| Ipv4Addr::new(192, 0, 2, n);
        let net = subnet("192.0.2.0/24");
        let left = |spans: &[(u8, u8)]| {
            free(
                &net,
                spans.iter().map(|(a, b)| (address(*a), address(*b))).collect(),
            )
        };
        assert_eq!(left(&[]), 254);
        assert_eq!(left(&[(1, 1), (2, 2), (200, 250)]), 254 - 53);
        assert_eq!(left(&[(10, 20), (15, 30), (12, 13)]), 254 - 21);
        assert_eq!(left(&[(0, 255)]), 0);
        assert_eq!(left(&[(250, 255)]), 249);
        assert_eq!(free(&subnet("192.0.2.0/32"), vec![]), 0);
        assert_eq!(free(&subnet("192.0.2.0/31"), vec![]), 0);
        assert_eq!(free(&subnet("0.0.0.0/0"), vec![]), (1 << 32) - 2);
        let holders = [
            (address(5), "m5".to_owned()),
            (Ipv4Addr::new(198, 51, 100, 5), "far".to_owned()),
        ];
        let told = used(net, &holders, &[]);
        assert_eq!((told.holders.len(), told.free), (1, 254 - 54));
    }

    #[test]
    fn networks_of_a_site_do_not_overlap() {
        let code = |nets: &[&str]| {
            let nets: Vec<_> = nets.iter().map(|net| subnet(net)).collect();
            check_overlap(&nets).map_err(|e| e.code())
        };
        assert_eq!(code(&["192.0.2.0/25", "192.0.2.128/25"]), Ok(()));
        assert_eq!(code(&["192.0.2.0/24", "192.0.2.128/25"]), Err("subnet_overlap"));
        assert_eq!(
            code(&["192.0.2.128/25", "198.51.100.0/24", "192.0.2.0/24"]),
            Err("subnet_overlap")
        );
    }
}
