//! The life of the keys that orders are signed by. A new key is announced to every site by the old one; a site that has taken
//! the announcement is signed to by the new key from then on; a key that no site needs any more is retired. So keys change
//! without a moment in which a site refuses its control plane, and a site that was away meanwhile is still spoken to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use slipway_protocol::{
    ids::{KeyId, SiteId},
    keys::{KeyError, Signer},
    seal::Secret,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    access::{Caller, Permission, Target},
    app::App,
    error::{ApiError, chain},
    signing::Live,
    store::{
        Database, StoreError, StoreResult,
        audit::{self, Change},
        events::{self, NewEvent},
        signing_keys::{self, SigningKey},
        sites,
    },
};

/// How soon a replica knows of a key that another one made.
const LOOK: Duration = Duration::from_secs(10);
/// Most keys that are not retired.
const MOST_KEYS: usize = 4;

/// The keys cannot be used.
#[derive(Debug, thiserror::Error)]
enum SigningError {
    /// None is left.
    #[error("every signing key is retired")]
    None,
    /// Another data folder's, or one that was made anew.
    #[error(
        "order-signing.key in the data folder is not the key {0} that this database knows: bring back the one that belongs to it"
    )]
    Foreign(KeyId),
}

/// A key, and the sites that are signed to by it.
pub type Used = (SigningKey, Vec<SiteId>);

/// The place a key is encrypted for.
fn place(id: &KeyId) -> String {
    format!("signing-key/{id}")
}

/// Reads keys and sites into memory; the first time, the key of the file becomes the first of the store's.
///
/// # Errors
/// When the store fails, a key cannot be read, or the file's key is not the one the database knows.
pub async fn load(app: &App) -> Result<(), ApiError> {
    let (file, now) = (app.file_key.verifying_key(), (app.now)());
    let known = app.store.read(signing_keys::all).await?;
    let known = if known.is_empty() {
        let added = app
            .store
            .transaction(move |db| {
                signing_keys::insert(db, file, None, now)?;
                signing_keys::all(db)
            })
            .await;
        match added {
            // Another replica was quicker.
            Err(StoreError::Taken) => app.store.read(signing_keys::all).await?,
            other => other?,
        }
    } else {
        known
    };
    let live = known.iter().filter(|key| key.retired_at.is_none());
    let live = live.map(|key| signer(app, key)).collect::<Result<Vec<_>, _>>()?;
    let sites = app.store.read(signing_keys::by_site).await?;
    let sites: BTreeMap<_, _> = sites
        .into_iter()
        .filter_map(|(site, key)| Some((site, key?)))
        .collect();
    if live.is_empty() {
        return Err(ApiError::Internal(Box::new(SigningError::None)));
    }
    app.signing.set(live, sites);
    Ok(())
}

fn signer(app: &App, key: &SigningKey) -> Result<Live, ApiError> {
    let internal = |e: KeyError| ApiError::Internal(Box::new(e));
    let signer = match &key.private {
        None if app.file_key.verifying_key() == key.public => Arc::clone(&app.file_key),
        None => {
            return Err(ApiError::Internal(Box::new(SigningError::Foreign(
                key.id.clone(),
            ))));
        }
        Some(private) => {
            let pkcs8 = app.vault.decrypt(&place(&key.id), private)?;
            let pkcs8 = hex::decode(pkcs8.reveal()).map_err(|_| internal(KeyError::Private))?;
            Arc::new(Signer::from_pkcs8(&pkcs8).map_err(internal)?)
        }
    };
    Ok(Live {
        generation: key.generation.cast_unsigned(),
        signer,
    })
}

/// Looks for keys that other replicas made, until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        if let Err(error) = load(&app).await {
            warn!(error = %chain(&error), "the signing keys cannot be read; going on with those known");
        }
    }
}

/// All keys, the newest first, each with the sites that are signed to by it.
///
/// # Errors
/// When the caller may not see them, or the store fails.
pub async fn list(app: &App, caller: &Caller) -> Result<Vec<Used>, ApiError> {
    caller.require(Permission::SitesJoin, Target::GLOBAL)?;
    Ok(app.store.read(used).await?)
}

fn used(db: &mut Database) -> StoreResult<Vec<Used>> {
    let keys = signing_keys::all(db)?;
    let oldest = keys.iter().rev().find(|key| key.retired_at.is_none());
    let oldest = oldest.map(|key| key.id.clone());
    let mut sites: BTreeMap<KeyId, Vec<SiteId>> = BTreeMap::new();
    for (site, key) in signing_keys::by_site(db)? {
        if let Some(key) = key.or_else(|| oldest.clone()) {
            sites.entry(key).or_default().push(site);
        }
    }
    let with_sites = |key: SigningKey| {
        let sites = sites.remove(&key.id).unwrap_or_default();
        (key, sites)
    };
    Ok(keys.into_iter().map(with_sites).collect())
}

/// Makes a new key and announces it to every site.
///
/// # Errors
/// When there are too many that are not retired.
pub async fn rotate(app: &App, caller: &Caller) -> Result<Vec<Used>, ApiError> {
    caller.require(Permission::SitesJoin, Target::GLOBAL)?;
    let (signer, pkcs8) = Signer::generate().map_err(|e| ApiError::Internal(Box::new(e)))?;
    let public = signer.verifying_key();
    let private = app
        .vault
        .encrypt(&place(&public.id()), &Secret::new(hex::encode(pkcs8)))?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let live = signing_keys::all(db)?;
            let live = live.iter().filter(|key| key.retired_at.is_none()).count();
            if live >= MOST_KEYS {
                let detail = format!("{MOST_KEYS} keys are in use already: retire those that no site needs");
                return Err(ApiError::Conflict("too_many_keys", detail));
            }
            signing_keys::insert(db, public, Some(&private), now)?;
            signing_keys::tell_sites(db)?;
            let id = public.id().to_string();
            events::append(db, &NewEvent::new("signing_key.made", now).text(&id))?;
            let after = Some(json!({ "public": public.to_string() }));
            let change = Change::new("signing_key.rotate", format!("signing-key/{id}"), None, after);
            Ok(audit::done(db, &by, now, change)?)
        })
        .await?;
    load(app).await?;
    poke_all(app).await?;
    Ok(app.store.read(used).await?)
}

/// Retires a key: nothing is signed by it any more and nobody is told to trust it. Sites that trust no newer one have to
/// join again, which `force` allows.
///
/// # Errors
/// When there is no such key, it is the newest, or something still needs it.
pub async fn retire(app: &App, caller: &Caller, id: KeyId, force: bool) -> Result<Vec<Used>, ApiError> {
    caller.require(Permission::SitesJoin, Target::GLOBAL)?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let keys = used(db)?;
            let found = keys.iter().position(|(key, _)| key.id == id);
            let Some(place) = found else {
                return Err(ApiError::NotFound("signing key", id.to_string()));
            };
            let (key, sites) = &keys[place];
            if key.retired_at.is_some() {
                return Err(ApiError::Conflict(
                    "key_retired",
                    format!("key `{id}` is retired already"),
                ));
            }
            if place == 0 {
                let detail = format!("key `{id}` is the newest: make another one first");
                return Err(ApiError::Conflict("key_in_use", detail));
            }
            if !force {
                check_unneeded(db, key, sites, &keys[0].0)?;
            }
            signing_keys::retire(db, &id, now)?;
            signing_keys::tell_sites(db)?;
            events::append(
                db,
                &NewEvent::new("signing_key.retired", now).text(id.to_string()),
            )?;
            let after = Some(json!({ "left_behind": sites }));
            let change = Change::new("signing_key.retire", format!("signing-key/{id}"), None, after);
            Ok(audit::done(db, &by, now, change)?)
        })
        .await?;
    load(app).await?;
    poke_all(app).await?;
    Ok(app.store.read(used).await?)
}

fn check_unneeded(
    db: &mut Database,
    key: &SigningKey,
    sites: &[SiteId],
    newest: &SigningKey,
) -> Result<(), ApiError> {
    if let Some(site) = sites.first() {
        let detail = format!(
            "{} sites trust no newer key than `{}` yet, among them `{site}`: wait until they were online, or force it and \
             have them join again",
            sites.len(),
            key.id
        );
        return Err(ApiError::Conflict("key_in_use", detail));
    }
    let running = signing_keys::running_since(db, newest.created_at)?;
    if running > 0 {
        let detail = format!(
            "{running} jobs that began before the newest key was made still run, and their machines know the older ones: \
             wait until they have ended, or force it"
        );
        return Err(ApiError::Conflict("key_in_use", detail));
    }
    Ok(())
}

async fn poke_all(app: &App) -> Result<(), ApiError> {
    for (site, _) in app.store.read(signing_keys::by_site).await? {
        app.poke_site(site.as_str());
    }
    Ok(())
}

/// A site holds its configuration in this revision: if it is the one in force, it trusts the keys in it.
///
/// # Errors
/// When the store fails.
pub async fn confirm(app: &App, site: &SiteId, revision: u64) -> Result<(), ApiError> {
    let newest = app.signing.newest();
    if app.signing.of_site(site).generation == newest.generation {
        return Ok(());
    }
    let id = site.clone();
    let confirmed = app.store.transaction(move |db| {
        let newest = signing_keys::all(db)?.into_iter().next();
        let row = sites::get(db, id.as_str())?.filter(|row| row.report_key.is_some());
        let (Some(newest), Some(row)) = (newest, row) else {
            return Ok(false);
        };
        let holds = row.revision == revision;
        if holds {
            signing_keys::sign_to(db, &id, &newest.id)?;
        }
        Ok::<_, ApiError>(holds)
    });
    if confirmed.await? {
        load(app).await?;
        app.poke_site(site.as_str());
    }
    Ok(())
}
