//! Sites, join tokens and joining.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::SiteId,
    keys::Stamp,
    seal::{self, Secret},
    site::{JoinAnswer, JoinToken, ProvenJoinRequest, SiteConfig, SubnetConfig, chunk_key_context},
    topic::Topic,
};

use super::addresses;
use crate::{
    access::{Actor, Caller, Permission, Target, Via, Visible},
    app::App,
    error::ApiError,
    store::{
        Database, StoreError, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        machine_lists,
        sites::{self, Site, SiteSettings},
    },
    upkeep::mosquitto::CONTROL_PLANE,
    vault,
};

/// How long a join token is good.
const TOKEN_LIFE: TimeDelta = TimeDelta::hours(1);

/// A site's configuration as its edge gets it.
#[must_use]
pub fn config_of(app: &App, settings: &SiteSettings) -> SiteConfig {
    SiteConfig {
        subnets: settings.subnets.clone(),
        verifying_keys: vec![app.signer.verifying_key()],
        discover: settings.discover,
    }
}

fn check(settings: &SiteSettings) -> Result<(), ApiError> {
    for subnet in &settings.subnets {
        check_subnet(subnet)?;
    }
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
    Ok(())
}

fn check_subnet(subnet: &SubnetConfig) -> Result<(), ApiError> {
    let bad = |what: &str| ApiError::Bad("subnet", format!("subnet {}: {what}", subnet.network));
    if !subnet.network.contains(&subnet.server) {
        return Err(bad("the edge's own address `server` is not in it"));
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

fn missing(id: &str) -> ApiError {
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

fn seen_by(db: &mut Database, caller: &Caller, id: &str) -> Result<Site, ApiError> {
    let found = sites::get(db, id)?.filter(|site| sees(caller, &site.id));
    found.ok_or_else(|| missing(id))
}

/// Whether the caller may see a site. Whoever works in a project sees all of them, to choose where.
#[must_use]
pub fn sees(caller: &Caller, site: &SiteId) -> bool {
    match caller.visible(Permission::SitesRead) {
        Visible::All => true,
        Visible::Only { sites, projects } => !projects.is_empty() || sites.contains(site.as_str()),
    }
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

/// Makes a join token; it is shown once and good once.
///
/// # Errors
/// When there is no such site.
pub async fn join_token(
    app: &App,
    caller: &Caller,
    id: String,
) -> Result<(JoinToken, DateTime<Utc>), ApiError> {
    let site = get(app, caller, id).await?;
    caller.require(Permission::SitesJoin, Target::site(site.id.as_str()))?;
    let token = JoinToken {
        site: site.id.clone(),
        url: app.config.public_url.clone(),
        id: hex::encode(vault::random::<8>()?),
        secret: hex::encode(vault::random::<32>()?),
        verifying_key: app.signer.verifying_key(),
    };
    let secret = app
        .vault
        .encrypt(&token_place(&token.id), &Secret::new(token.secret.clone()))?;
    let (by, now, token_id) = (caller.actor.clone(), (app.now)(), token.id.clone());
    let expires_at = now + TOKEN_LIFE;
    app.store
        .transaction(move |db| {
            sites::insert_token(db, &token_id, &site.id, &secret, expires_at)?;
            let event = NewEvent::new("site.join_token_made", now).site(&site.id);
            events::append(db, &event.text(&token_id))?;
            let after = Some(json!({ "token": token_id, "expires_at": expires_at }));
            audit::done(
                db,
                &by,
                now,
                Change::new("site.token", format!("site/{}", site.id), None, after),
            )
        })
        .await?;
    Ok((token, expires_at))
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

fn token_place(id: &str) -> String {
    format!("join-token/{id}")
}

/// Checks the token of a join request; gives back its site.
async fn check_proof(app: &App, proven: &ProvenJoinRequest, now: DateTime<Utc>) -> Result<String, ApiError> {
    let request = &proven.request;
    let token_id = request.token.clone();
    let row = app
        .store
        .transaction(move |db| sites::token(db, &token_id))
        .await?;
    let row = row.ok_or_else(|| refused("token_unknown", "this join token is not known here"))?;
    let token = JoinToken {
        site: request.site.clone(),
        url: app.config.public_url.clone(),
        id: request.token.clone(),
        secret: app
            .vault
            .decrypt(&token_place(&request.token), &row.secret)?
            .reveal()
            .to_owned(),
        verifying_key: app.signer.verifying_key(),
    };
    let expected = slipway_protocol::ids::Digest::of(token.proof(request).as_bytes());
    if row.site != request.site.as_str()
        || expected != slipway_protocol::ids::Digest::of(proven.proof.as_bytes())
    {
        return Err(refused("token_proof", "the proof does not fit this join token"));
    }
    if row.used {
        return Err(refused(
            "token_used",
            "this join token was used already; make a new one",
        ));
    }
    if row.expires_at <= now {
        return Err(refused(
            "token_expired",
            "this join token has expired; make a new one",
        ));
    }
    Ok(row.site)
}

/// Lets an edge join: checks its proof, signs its certificates, and answers with what it needs, signed.
///
/// # Errors
/// When the token is not known, used or expired, or the proof or a certificate request is wrong.
pub async fn join(app: &App, proven: ProvenJoinRequest, address: String) -> Result<Vec<u8>, ApiError> {
    let now = (app.now)();
    let site_id = check_proof(app, &proven, now).await?;
    let request = proven.request;
    let site = known(app, site_id).await?;
    let name = site.id.as_str();
    let subnets = site.settings.subnets.clone();
    let on_site =
        move |address: IpAddr| matches!(address, IpAddr::V4(v4) if subnets.iter().any(|s| s.server == v4));
    let certificate = app.authority.sign(&request.csr, name, |_| false)?;
    let agent_certificate = app.authority.sign(&request.agent_csr, name, on_site)?;
    let chunk_key = Secret::new(hex::encode(vault::random::<32>()?));
    let sealed = seal::seal(request.sealing_key, &chunk_key_context(&site.id), &chunk_key)
        .map_err(|e| ApiError::Internal(e.into()))?;
    let kept = app.vault.encrypt(&chunk_key_place(name), &chunk_key)?;
    let (token_id, id) = (request.token.clone(), site.id.clone());
    app.store
        .transaction(move |db| {
            if !sites::use_token(db, &token_id, now)? {
                return Err(refused(
                    "token_used",
                    "this join token was used already; make a new one",
                ));
            }
            sites::set_keys(db, &id, request.report_key, request.sealing_key, &kept)?;
            let event = NewEvent::new("site.edge_joined", now).site(&id);
            events::append(db, &event.text(request.report_key.id().to_string()))?;
            let by = Actor {
                name: format!("edge of {id}"),
                via: Via::Token,
                address,
            };
            let after = Some(json!({ "token": token_id, "report_key": request.report_key.id().to_string() }));
            Ok(audit::done(
                db,
                &by,
                now,
                Change::new("site.join", format!("site/{id}"), None, after),
            )?)
        })
        .await?;
    let answer = JoinAnswer {
        certificate,
        agent_certificate,
        ca: app.authority.certificate.clone(),
        broker_host: app.config.mqtt_public.host.clone(),
        broker_port: app.config.mqtt_public.port,
        chunk_key: sealed,
        config: config_of(app, &site.settings),
    };
    let stamp = Stamp {
        revision: site.revision,
        issued_at: now,
        expires_at: now + TimeDelta::minutes(10),
    };
    app.work.notify_one();
    Ok(app.signer.seal(&Topic::Config(site.id), stamp, &answer))
}

fn refused(code: &'static str, detail: &str) -> ApiError {
    ApiError::Bad(code, detail.to_owned())
}

/// The place a site's chunk key is encrypted for.
#[must_use]
pub fn chunk_key_place(site: &str) -> String {
    format!("site/{site}/chunk-key")
}

/// The key by which an edge proves itself when it fetches chunks, if it has joined.
///
/// # Errors
/// When there is no such site or the store fails.
pub async fn chunk_key(app: &App, site: &str) -> Result<Option<Secret>, ApiError> {
    let id = site.to_owned();
    let row: Option<Site> = app
        .store
        .transaction(move |db| sites::get(db, &id))
        .await
        .map_err(|e: StoreError| ApiError::from(e))?;
    let Some(kept) = row.and_then(|site| site.chunk_key) else {
        return Ok(None);
    };
    Ok(Some(app.vault.decrypt(&chunk_key_place(site), &kept)?))
}
