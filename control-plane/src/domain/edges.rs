//! The edge boxes of sites: joining by a token, renewal of their certificates, and taking a lost one's rights back.

use std::{net::IpAddr, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::{Digest, KeyId, SiteId},
    keys::{Expect, KeyError, KeyRing, Signer, Stamp, VerifyingKey},
    seal::{self, Secret},
    site::{
        EdgeStanding, JoinAnswer, JoinRequest, JoinToken, ProvenJoinRequest, RenewAnswer, RenewRequest,
        Standing, chunk_key_context,
    },
    topic::Topic,
};

use super::{
    jobs, machines,
    signing_keys::load as load_keys,
    sites::{config_of, get, known, missing, seen_by},
};
use crate::{
    access::{Actor, Caller, Permission, Target, Via},
    app::App,
    error::ApiError,
    pki::{Issued, Validity},
    store::{
        Database, StoreError,
        audit::{self, Change},
        edge_certificates, edge_runs,
        events::{self, NewEvent},
        sites::{self, Site},
    },
    vault,
};

/// How long a join token is good.
const TOKEN_LIFE: TimeDelta = TimeDelta::hours(1);
/// How long an answer to an edge is good.
const ANSWER_LIFE: TimeDelta = TimeDelta::minutes(10);
/// How far a certificate begins in the past: an edge's clock may be behind.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::days(1);

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
        verifying_key: app.signing.newest().signer.verifying_key(),
        broker: Some(format!(
            "{}:{}",
            app.config.mqtt_public.host, app.config.mqtt_public.port
        )),
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
        verifying_key: app.signing.newest().signer.verifying_key(),
        broker: None,
    };
    let expected = Digest::of(token.proof(request).as_bytes());
    if row.site != request.site.as_str() || expected != Digest::of(proven.proof.as_bytes()) {
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

/// Lets an edge join: checks its proof, signs its certificates, and answers with what it needs, signed. A box that joined
/// before has lost its place: its certificates are taken back, and the work it had is over, as its secrets were sealed to it.
///
/// # Errors
/// When the token is not known, used or expired, or the proof or a certificate request is wrong.
pub async fn join(app: &App, proven: ProvenJoinRequest, address: String) -> Result<Vec<u8>, ApiError> {
    let now = (app.now)();
    let site_id = check_proof(app, &proven, now).await?;
    let request = proven.request;
    let site = known(app, site_id).await?;
    let certificates = sign(app, &site, (&request.csr, &request.agent_csr), now)?;
    let chunk_key = Secret::new(hex::encode(vault::random::<32>()?));
    let sealed = seal::seal(request.sealing_key, &chunk_key_context(&site.id), &chunk_key)
        .map_err(|e| ApiError::Internal(e.into()))?;
    let kept = app
        .vault
        .encrypt(&chunk_key_place(site.id.as_str()), &chunk_key)?;
    let serial = certificates.uplink.serial.clone();
    let until = certificates.until;
    let trusts = signer_for(app, &request)?;
    let newest = app.signing.newest().signer.key_id().clone();
    let (id, join) = (site.id.clone(), (request, kept, address));
    app.store
        .transaction(move |db| take_in(db, &id, join, (serial, until, newest), now))
        .await?;
    admit(app, &site.id).await?;
    let answer = JoinAnswer {
        certificate: certificates.uplink.pem,
        agent_certificate: certificates.agents.pem,
        ca: app.authority.certificate.clone(),
        broker_host: app.config.mqtt_public.host.clone(),
        broker_port: app.config.mqtt_public.port,
        chunk_key: sealed,
        config: config_of(&site, app.signing.verifying()),
    };
    app.work.notify_one();
    load_keys(app).await?;
    app.poke_site(site.id.as_str());
    let stamp = stamp(site.revision, now);
    Ok(trusts.seal(&Topic::Config(site.id), stamp, &answer))
}

/// The key the edge expects the answer to be signed by.
fn signer_for(app: &App, request: &JoinRequest) -> Result<Arc<Signer>, ApiError> {
    match &request.trusts {
        None => Ok(app.signing.newest().signer),
        Some(id) => app.signing.by_id(id).map(|key| key.signer).ok_or_else(|| {
            refused(
                "token_key",
                "this join token is older than a change of signing keys; make a new one",
            )
        }),
    }
}

fn stamp(revision: u64, now: DateTime<Utc>) -> Stamp {
    Stamp {
        revision,
        issued_at: now,
        expires_at: now + ANSWER_LIFE,
    }
}

/// The certificates of one edge.
struct Certificates {
    uplink: Issued,
    agents: Issued,
    until: DateTime<Utc>,
}

fn sign(
    app: &App,
    site: &Site,
    (csr, agent_csr): (&str, &str),
    now: DateTime<Utc>,
) -> Result<Certificates, ApiError> {
    let until = now + app.config.edge_certificate_life;
    let validity = Validity {
        from: now - CLOCKS_DIFFER,
        until,
    };
    let subnets = &site.settings.subnets;
    let on_site =
        |address: IpAddr| matches!(address, IpAddr::V4(v4) if subnets.iter().any(|s| s.server == v4));
    let name = site.id.as_str();
    Ok(Certificates {
        uplink: app.authority.sign(csr, name, validity, |_| false)?,
        agents: app.authority.sign(agent_csr, name, validity, on_site)?,
        until,
    })
}

fn take_in(
    db: &mut Database,
    id: &SiteId,
    (request, chunk_key, address): (JoinRequest, String, String),
    (serial, until, newest): (String, DateTime<Utc>, KeyId),
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    if !sites::use_token(db, &request.token, now)? {
        return Err(refused(
            "token_used",
            "this join token was used already; make a new one",
        ));
    }
    let again = edge_certificates::revoke(db, id, now)? > 0;
    edge_runs::revoke(db, id, now)?;
    edge_runs::forget(db, id)?;
    edge_certificates::add(db, id, &serial, (now, until))?;
    sites::set_keys(
        db,
        id,
        request.report_key,
        request.sealing_key,
        (&chunk_key, &newest),
    )?;
    let ended = if again {
        jobs::end_all_at(
            db,
            id,
            ("edge_replaced", "its site's edge joined anew while it ran"),
            now,
        )?
    } else {
        0
    };
    let report_key = request.report_key.id().to_string();
    let event = NewEvent::new("site.edge_joined", now).site(id);
    let data = json!({ "report_key": report_key, "again": again, "jobs_ended": ended });
    events::append(db, &event.text(&report_key).data(data))?;
    let by = Actor {
        name: format!("edge of {id}"),
        via: Via::Token,
        address,
    };
    let after = Some(json!({ "token": request.token, "report_key": report_key, "certificate": serial }));
    Ok(audit::done(
        db,
        &by,
        now,
        Change::new("site.join", format!("site/{id}"), None, after),
    )?)
}

/// Tells the door which certificates of a site are good.
async fn admit(app: &App, id: &SiteId) -> Result<(), ApiError> {
    let site = id.clone();
    let good = app
        .store
        .read(move |db| edge_certificates::good(db, Some(&site)))
        .await
        .map_err(|e: StoreError| ApiError::from(e))?;
    app.edges.set(id, good.into_iter().map(|(_, serial)| serial));
    Ok(())
}

/// Renews an edge's certificates: the request is signed by the key of its reports, so that one whose certificate has run
/// out is not lost.
///
/// # Errors
/// When the site has no edge, or the request is not its own, too old, or asks for something foreign.
pub async fn renew(app: &App, id: String, payload: &[u8], address: String) -> Result<Vec<u8>, ApiError> {
    let now = (app.now)();
    let site = known(app, id).await?;
    let key = site.report_key.ok_or_else(|| {
        refused(
            "not_joined",
            "this site has no edge that joined; join it with a token",
        )
    })?;
    let expect = Expect { now, held: None };
    let request = KeyRing::new([key])
        .open::<RenewRequest>(&Topic::Renew(site.id.clone()), payload, expect)
        .map_err(|e| refused("renewal", &e.to_string()))?
        .into_body();
    let certificates = sign(app, &site, (&request.csr, &request.agent_csr), now)?;
    let (serial, until) = (certificates.uplink.serial.clone(), certificates.until);
    let site_id = site.id.clone();
    app.store
        .transaction(move |db| {
            sites::hold(db, site_id.as_str())?;
            let current = sites::get(db, site_id.as_str())?.and_then(|site| site.report_key);
            if current != Some(key) {
                return Err(ApiError::Changed);
            }
            edge_certificates::add(db, &site_id, &serial, (now, until))?;
            let event = NewEvent::new("site.certificate_renewed", now).site(&site_id);
            events::append(db, &event.text(format!("good until {}", until.to_rfc3339())))?;
            let by = Actor {
                name: format!("edge of {site_id}"),
                via: Via::Token,
                address,
            };
            let after = Some(json!({ "certificate": serial, "until": until }));
            let change = Change::new("site.renew", format!("site/{site_id}"), None, after);
            Ok(audit::done(db, &by, now, change)?)
        })
        .await?;
    admit(app, &site.id).await?;
    let answer = RenewAnswer {
        certificate: certificates.uplink.pem,
        agent_certificate: certificates.agents.pem,
        ca: app.authority.certificate.clone(),
    };
    let topic = Topic::Identity(site.id.clone());
    Ok(app.signing.of_site(&site.id).signer.seal(
        &topic,
        stamp(now.timestamp_millis().cast_unsigned(), now),
        &answer,
    ))
}

/// Takes a lost edge's rights back: its certificates, its keys and unused join tokens. Jobs at the site are over, and its
/// machines are kept out of use, as whoever has the box may know their BMCs' passwords.
///
/// # Errors
/// When there is no such site, or no edge has joined it.
pub async fn revoke(app: &App, caller: &Caller, id: String, reason: String) -> Result<Site, ApiError> {
    if reason.trim().is_empty() || reason.chars().count() > 200 || reason.chars().any(char::is_control) {
        let detail = "say why in one line of at most 200 characters".to_owned();
        return Err(ApiError::Bad("reason", detail));
    }
    let (caller, now) = (caller.clone(), (app.now)());
    let site = app
        .store
        .transaction(move |db| {
            sites::hold(db, &id)?;
            let site = seen_by(db, &caller, &id)?;
            caller.require(Permission::SitesJoin, Target::site(&id))?;
            if site.report_key.is_none() {
                let detail = format!("no edge has joined site `{id}`: there is nothing to take back");
                return Err(ApiError::Conflict("not_joined", detail));
            }
            take_back(db, &site, (&caller.actor, &reason), now)?;
            sites::get(db, &id)?.ok_or_else(|| missing(&id))
        })
        .await?;
    admit(app, &site.id).await?;
    app.work.notify_one();
    Ok(site)
}

fn take_back(
    db: &mut Database,
    site: &Site,
    (by, reason): (&Actor, &str),
    now: DateTime<Utc>,
) -> Result<(), ApiError> {
    let id = &site.id;
    let certificates = edge_certificates::revoke(db, id, now)?;
    edge_runs::revoke(db, id, now)?;
    sites::clear_keys(db, id, now)?;
    sites::use_tokens_of(db, id, now)?;
    let jobs = jobs::end_all_at(db, id, ("edge_revoked", "its site's edge was revoked"), now)?;
    let why = format!("the edge of site {id} was revoked: {reason}; give its BMC another password");
    let mut quarantined = 0;
    for machine in crate::store::machines::ids_at(db, id)? {
        quarantined += usize::from(machines::quarantine(db, machine, &why, now)?);
    }
    let told = json!({ "reason": reason, "certificates": certificates, "jobs_ended": jobs,
        "machines_quarantined": quarantined });
    let event = NewEvent::new("site.edge_revoked", now).site(id);
    events::append(db, &event.text(reason).data(told.clone()))?;
    events::append(
        db,
        &NewEvent::new("site.offline", now).site(id).entered(&"offline")?,
    )?;
    let change = Change::new("site.revoke", format!("site/{id}"), None, Some(told));
    Ok(audit::done(db, by, now, change)?)
}

/// How an edge stands with its site, as a signed envelope. Anybody may ask: the keys of reports are no secret, and only who trusts
/// this control plane believes the answer.
///
/// # Errors
/// When there is no such site or the key is none.
pub async fn standing(app: &App, id: String, report_key: &str) -> Result<Vec<u8>, ApiError> {
    let report_key: VerifyingKey = report_key
        .parse()
        .map_err(|e: KeyError| ApiError::Bad("report_key", e.to_string()))?;
    let site = known(app, id).await?;
    let (site_id, now) = (site.id.clone(), (app.now)());
    let revoked = app
        .store
        .read(move |db| edge_runs::is_revoked(db, &site_id, report_key))
        .await?;
    let standing = match site.report_key {
        Some(current) if current == report_key => Standing::Current,
        _ if revoked => Standing::Revoked,
        _ => Standing::Unknown,
    };
    let answer = EdgeStanding { report_key, standing };
    let topic = Topic::Standing(site.id.clone());
    let stamp = stamp(now.timestamp_millis().cast_unsigned(), now);
    Ok(app.signing.of_site(&site.id).signer.seal(&topic, stamp, &answer))
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
