//! Sites and their settings. Their edge boxes are [`super::edges`]'.

use std::net::Ipv4Addr;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::SiteId,
    keys::VerifyingKey,
    lease::Operation,
    site::{SiteConfig, SubnetConfig},
};

use super::addresses;
use crate::{
    access::{Caller, Permission, Target, Visible},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        machine_lists, offers,
        sites::{self, Offline, Site, SiteSettings},
    },
    upkeep::mosquitto::CONTROL_PLANE,
};

/// A site's configuration as its edge gets it, with the keys it is to trust, the newest first.
#[must_use]
pub fn config_of(site: &Site, verifying_keys: Vec<VerifyingKey>) -> SiteConfig {
    SiteConfig {
        subnets: site.settings.subnets.clone(),
        dhcp_relays: site.settings.dhcp_relays.clone(),
        verifying_keys,
        discover: site.settings.discover,
        emergency_code: site.emergency_code.clone(),
    }
}

fn check(settings: &SiteSettings) -> Result<(), ApiError> {
    for subnet in &settings.subnets {
        check_subnet(subnet, &settings.subnets)?;
    }
    check_relays(&settings.dhcp_relays)?;
    addresses::check_overlap(&settings.subnets)?;
    if settings
        .limits
        .maintenance
        .iter()
        .any(|window| window.to <= window.from)
    {
        let detail = "a maintenance window ends before it begins".to_owned();
        return Err(ApiError::Bad("maintenance", detail));
    }
    check_offline(&settings.offline)
}

fn check_offline(offline: &Offline) -> Result<(), ApiError> {
    if !(1..=168).contains(&offline.hours) {
        let detail = format!("a lease is for 1 to 168 hours, not {}", offline.hours);
        return Err(ApiError::Bad("offline", detail));
    }
    if offline.operations.contains(&Operation::Unknown) {
        let known = Operation::ALL.map(Operation::word).join(", ");
        let detail = format!("an operation is not known; what can be done offline is {known}");
        return Err(ApiError::Bad("offline", detail));
    }
    Ok(())
}

/// Most relays of a site's list.
const MOST_RELAYS: usize = 256;

fn check_relays(relays: &[Ipv4Addr]) -> Result<(), ApiError> {
    let bad = |detail: String| Err(ApiError::Bad("dhcp_relay", detail));
    if relays.len() > MOST_RELAYS {
        return bad(format!(
            "a site has at most {MOST_RELAYS} relays outside its subnets"
        ));
    }
    match relays.iter().find(|relay| !can_be_a_hosts(**relay)) {
        Some(relay) => bad(format!("{relay} cannot be the address of a relay")),
        None => Ok(()),
    }
}

/// Whether one machine can have an address (RFC 6890).
fn can_be_a_hosts(address: Ipv4Addr) -> bool {
    (1..224).contains(&address.octets()[0])
}

/// A network that is reached through relays alone has the edge's address on another of the site's networks.
fn check_subnet(subnet: &SubnetConfig, all: &[SubnetConfig]) -> Result<(), ApiError> {
    let bad = |what: &str| ApiError::Bad("subnet", format!("subnet {}: {what}", subnet.network));
    if !can_be_a_hosts(subnet.network.network()) {
        return Err(bad("no machine can have an address in it (RFC 6890)"));
    }
    let directly = |s: &SubnetConfig| s.server == subnet.server && s.network.contains(&s.server);
    if !all.iter().any(directly) {
        return Err(bad(
            "the edge's own address `server` is neither in it nor, for one served through relays, the edge's on another subnet",
        ));
    }
    // RFC 3021: networks of two addresses have neither.
    let names_network = |address: Ipv4Addr| {
        let ends = [subnet.network.network(), subnet.network.broadcast()];
        subnet.network.prefix_len() < 31 && ends.contains(&address)
    };
    if names_network(subnet.server) {
        return Err(bad(
            "the edge's own address `server` is that of the network or its broadcast address",
        ));
    }
    if subnet.gateway.is_some_and(names_network) {
        return Err(bad(
            "the gateway has the address of the network or its broadcast address",
        ));
    }
    if subnet
        .gateway
        .is_some_and(|gateway| !subnet.network.contains(&gateway))
    {
        return Err(bad("the gateway is not in it"));
    }
    if let Some((first, last)) = subnet.pool
        && (first > last || !subnet.network.contains(&first) || !subnet.network.contains(&last))
    {
        return Err(bad("the pool is not a range in it"));
    }
    if subnet.lease_seconds < 60 {
        return Err(bad(
            "leases shorter than 60 s keep machines busy with nothing else",
        ));
    }
    Ok(())
}

/// Adds a site.
///
/// # Errors
/// When the settings make no sense or the name is taken.
pub async fn create(
    app: &App,
    caller: &Caller,
    id: SiteId,
    settings: SiteSettings,
) -> Result<Site, ApiError> {
    caller.require(Permission::SitesWrite, Target::site(id.as_str()))?;
    if id.as_str() == CONTROL_PLANE {
        let detail =
            format!("`{CONTROL_PLANE}` is the control plane's own name at the broker; choose another");
        return Err(ApiError::Bad("name", detail));
    }
    check(&settings)?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            sites::insert(db, &id, &settings, now)?;
            audit::done(
                db,
                &by,
                now,
                Change::new("site.create", format!("site/{id}"), None, Some(json!(settings))),
            )?;
            events::append(db, &NewEvent::new("site.created", now).site(&id))?;
            sites::get(db, id.as_str())?.ok_or_else(|| missing(id.as_str()))
        })
        .await
}

pub(super) fn missing(id: &str) -> ApiError {
    ApiError::NotFound("site", id.to_owned())
}

/// One site that the caller may see.
///
/// # Errors
/// When there is none of that name, or the caller may not see it: who may not know is told the same.
pub async fn get(app: &App, caller: &Caller, id: String) -> Result<Site, ApiError> {
    let caller = caller.clone();
    app.store.read(move |db| seen_by(db, &caller, &id)).await
}

pub(super) fn seen_by(db: &mut Database, caller: &Caller, id: &str) -> Result<Site, ApiError> {
    let found = sites::get(db, id)?.filter(|site| sees(caller, &site.id));
    found.ok_or_else(|| missing(id))
}

/// Whether the caller may see a site. Whoever works in a project sees all of them, to choose where.
#[must_use]
pub fn sees(caller: &Caller, site: &SiteId) -> bool {
    is_among(&caller.visible(Permission::SitesRead), site.as_str())
}

/// The same, by what is visible with [`Permission::SitesRead`].
#[must_use]
pub(super) fn is_among(visible: &Visible, site: &str) -> bool {
    match visible {
        Visible::All => true,
        Visible::Only { sites, projects } => !projects.is_empty() || sites.contains(site),
    }
}

/// An edge says hello every 30 s; three missed ones mean that it is gone.
const SILENT_AFTER: TimeDelta = TimeDelta::seconds(100);

/// Whether a site is connected, by what was heard of it last.
#[must_use]
pub fn is_online(online: bool, last_seen: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    online && last_seen.is_some_and(|at| now - at < SILENT_AFTER)
}

/// One site, for the control plane itself.
///
/// # Errors
/// When there is none of that name.
pub(super) async fn known(app: &App, id: String) -> Result<Site, ApiError> {
    app.store
        .read(move |db| sites::get(db, &id)?.ok_or_else(|| missing(&id)))
        .await
}

/// Changes a site's settings, if its configuration still has the revision the caller saw.
///
/// # Errors
/// When the settings make no sense, there is no such site, or it was changed meanwhile.
pub async fn update(
    app: &App,
    caller: &Caller,
    id: String,
    seen: Option<u64>,
    apply: impl FnOnce(&mut SiteSettings) + Send + 'static,
) -> Result<Site, ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    let site = app
        .store
        .transaction(move |db| {
            // Addresses are given out by whoever holds the site.
            sites::hold(db, &id)?;
            let site = seen_by(db, &caller, &id)?;
            caller.require(Permission::SitesWrite, Target::site(&id))?;
            let mut settings = site.settings.clone();
            apply(&mut settings);
            check(&settings)?;
            addresses::check_cut(db, &site.id, (&site.settings.subnets, &settings.subnets))?;
            let revision = seen.unwrap_or(site.revision);
            if !sites::update(db, &site.id, revision, &settings)? {
                return Err(ApiError::Changed);
            }
            events::append(db, &NewEvent::new("site.changed", now).site(&site.id))?;
            let (before, after) = (Some(json!(site.settings)), Some(json!(settings)));
            audit::done(
                db,
                &caller.actor,
                now,
                Change::new("site.update", format!("site/{}", site.id), before, after),
            )?;
            sites::get(db, &id)?.ok_or_else(|| missing(&id))
        })
        .await?;
    app.poke_site(site.id.as_str());
    Ok(site)
}

/// Removes a site without machines.
///
/// # Errors
/// When there is none, or something still refers to it.
pub async fn delete(app: &App, caller: &Caller, id: String) -> Result<(), ApiError> {
    let (caller, now) = (caller.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let site = seen_by(db, &caller, &id)?;
            caller.require(Permission::SitesWrite, Target::site(&id))?;
            let here = machine_lists::Filter {
                sites: Some(vec![id.clone()]),
                ..machine_lists::Filter::default()
            };
            let used = !machine_lists::page(db, &here, "", 1)?.is_empty();
            if used {
                let detail = format!("site `{id}` still has machines; delete them first");
                return Err(ApiError::Conflict("site_in_use", detail));
            }
            offers::forget_site(db, &site.id)?;
            sites::delete(db, &site.id)?;
            events::append(db, &NewEvent::new("site.deleted", now).site(&site.id))?;
            let before = Some(json!(site.settings));
            Ok(audit::done(
                db,
                &caller.actor,
                now,
                Change::new("site.delete", format!("site/{}", site.id), before, None),
            )?)
        })
        .await
}

/// Notes that a site was heard, or that its connection ended.
///
/// # Errors
/// When the store fails.
pub fn heard(db: &mut Database, site: &SiteId, online: bool, now: DateTime<Utc>) -> StoreResult<()> {
    if sites::set_presence(db, site, online, now)? {
        let (kind, state) = if online {
            ("site.online", "online")
        } else {
            ("site.offline", "offline")
        };
        events::append(db, &NewEvent::new(kind, now).site(site).entered(&state)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(network: &str, server: &str, gateway: Option<&str>) -> Result<(), &'static str> {
        let subnet = SubnetConfig {
            network: network.parse().unwrap(),
            server: server.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            dns: Vec::new(),
            pool: None,
            lease_seconds: 600,
        };
        check_subnet(&subnet, std::slice::from_ref(&subnet)).map_err(|error| error.code())
    }

    #[test]
    fn a_network_behind_relays_names_the_edge_by_its_address_elsewhere() {
        let at = |network: &str, server: &str| SubnetConfig {
            network: network.parse().unwrap(),
            server: server.parse().unwrap(),
            gateway: None,
            dns: Vec::new(),
            pool: None,
            lease_seconds: 600,
        };
        let (near, far) = (
            at("192.0.2.0/24", "192.0.2.1"),
            at("198.51.100.0/24", "192.0.2.1"),
        );
        let all = [near, far.clone()];
        assert!(check_subnet(&far, &all).is_ok());
        assert!(check_subnet(&far, &all[1..]).is_err(), "nowhere near");
        for (relay, taken) in [
            ("203.0.113.9", true),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("239.1.2.3", false),
        ] {
            assert_eq!(check_relays(&[relay.parse().unwrap()]).is_ok(), taken, "{relay}");
        }
        assert!(check_relays(&[Ipv4Addr::new(192, 0, 2, 1); 257]).is_err());
    }

    #[test]
    fn only_a_network_that_machines_can_be_in_is_taken() {
        for (network, server, gateway) in [
            ("192.0.2.0/24", "192.0.2.1", Some("192.0.2.254")),
            ("10.0.0.0/8", "10.0.0.255", None),
            ("192.0.2.4/31", "192.0.2.4", Some("192.0.2.5")),
        ] {
            assert_eq!(subnet(network, server, gateway), Ok(()), "{network}");
        }
        for (network, server, gateway) in [
            ("192.0.2.0/24", "192.0.2.0", None),
            ("192.0.2.0/24", "192.0.2.255", None),
            ("192.0.2.0/24", "192.0.3.1", None),
            ("192.0.2.0/24", "192.0.2.1", Some("192.0.2.255")),
            ("224.0.0.0/24", "224.0.0.1", None),
            ("0.0.0.0/8", "0.0.0.1", None),
            ("255.255.255.0/24", "255.255.255.1", None),
        ] {
            assert_eq!(
                subnet(network, server, gateway),
                Err("subnet"),
                "{network} {server} {gateway:?}"
            );
        }
    }
}
