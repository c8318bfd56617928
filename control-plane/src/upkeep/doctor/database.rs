//! What the database says: whether it is there, its schema, its clock, whether the vault's key fits, and who cannot be reached.
//! Migrates and changes nothing.

use chrono::{DateTime, TimeDelta, Utc};

use super::Finding;
use crate::{
    access::Visible,
    config::Config,
    domain::{machines::bmc_place, webhooks::secret_place},
    pki,
    store::{
        Store, StoreError, StoreResult,
        events::{self, Filter, Order},
        sites::{self, Site},
        upkeep::{self, KnownSecret, Schema},
    },
    vault::Vault,
};

/// How far clocks may be apart.
const APART: TimeDelta = TimeDelta::seconds(5);

/// What is read of a database of this build's schema.
struct Read {
    last_event: Option<DateTime<Utc>>,
    secret: Option<KnownSecret>,
    sites: Vec<Site>,
    dead: (i64, i64),
}

pub(super) async fn look(config: &Config, now: DateTime<Utc>) -> Vec<Finding> {
    let url = config.database_url.clone();
    let asked = tokio::task::spawn_blocking(move || Ok((upkeep::schema(&url)?, upkeep::clock(&url)?)));
    let asked: StoreResult<_> = asked.await.unwrap_or(Err(StoreError::Task));
    let (schema, clock) = match asked {
        Ok(asked) => asked,
        Err(e) => {
            let detail = crate::error::chain(&e);
            let advice =
                "is it running, and does SLIPWAY_DATABASE_URL name it? a first start makes an SQLite file";
            return vec![Finding::fail("database", detail, advice)];
        }
    };
    let mut found = vec![version(&schema)];
    if schema.pending > 0 || schema.newer {
        return found;
    }
    let read = match Store::open_as_it_is(&config.database_url).await {
        Ok(store) => store.read(read).await,
        Err(e) => Err(e),
    };
    match read {
        Ok(read) => {
            found.push(time(clock, read.last_event, now));
            found.push(vault(config, read.secret));
            found.push(silent(&read.sites));
            found.push(undelivered(read.dead));
        }
        Err(e) => {
            let advice = "look at the database's own log";
            found.push(Finding::fail("database", crate::error::chain(&e), advice));
        }
    }
    found
}

fn read(db: &mut crate::store::Database) -> StoreResult<Read> {
    let everything = Filter {
        visible: Visible::All,
        ..Filter::default()
    };
    let last = events::list(db, &everything, Order::Newest, 1)?;
    Ok(Read {
        last_event: last.first().map(|event| event.at),
        secret: upkeep::known_secret(db)?,
        sites: sites::list(db, "", i64::from(i32::MAX))?,
        dead: upkeep::undeliverable(db)?,
    })
}

fn version(schema: &Schema) -> Finding {
    match (&schema.version, schema.pending) {
        (Some(version), _) if schema.newer => Finding::fail(
            "database",
            format!(
                "its schema {version} is newer than this build's {}",
                upkeep::newest_known()
            ),
            "run the newer build, or restore a backup of before",
        ),
        (Some(version), 0) => Finding::ok(
            "database",
            format!("reachable, schema {version}, nothing to migrate"),
        ),
        (version, pending) => Finding::warn(
            "database",
            format!(
                "schema {}, {pending} migrations to carry out",
                version.as_deref().unwrap_or("none")
            ),
            "the next start carries them out: make a backup first",
        ),
    }
}

fn time(clock: Option<DateTime<Utc>>, last: Option<DateTime<Utc>>, now: DateTime<Utc>) -> Finding {
    let advice =
        "set this host's clock by NTP (`timedatectl set-ntp true`): orders and certificates go by it";
    if let Some(clock) = clock.filter(|clock| (*clock - now).abs() > APART) {
        let detail = format!("the database's clock says {clock}, this host's {now}");
        return Finding::fail("clock", detail, advice);
    }
    match last {
        Some(last) if last > now + APART => Finding::fail(
            "clock",
            format!("the last event is of {last}, this host's clock says {now}"),
            advice,
        ),
        _ => Finding::ok("clock", "not behind the database"),
    }
}

fn vault(config: &Config, secret: Option<KnownSecret>) -> Finding {
    const CHECK: &str = "vault key";
    let Some(secret) = secret else {
        return Finding::ok(CHECK, "no secret is kept that it could open");
    };
    let advice = "bring back the vault.key that belongs to this database: `restore` keeps the two together";
    // Reading it makes one where none is; that would hide the fault.
    if !config.data_dir.join("vault.key").exists() {
        return Finding::fail(CHECK, "vault.key is not there", advice);
    }
    let key = match pki::vault_key(&config.data_dir) {
        Ok(key) => key,
        Err(e) => return Finding::fail(CHECK, crate::error::chain(&e), advice),
    };
    let (place, text, what) = match secret {
        KnownSecret::Bmc(id, text) => match id.parse() {
            Ok(machine) => (bmc_place(machine), text, "a BMC password"),
            Err(_) => {
                return Finding::fail(
                    CHECK,
                    format!("`{id}` is no machine's id"),
                    "look at the database",
                );
            }
        },
        KnownSecret::Webhook(id, text) => (secret_place(&id), text, "a webhook's secret"),
    };
    match Vault::new(&key).decrypt(&place, &text) {
        Ok(_) => Finding::ok(CHECK, format!("opens {what}")),
        Err(_) => Finding::fail(CHECK, format!("does not open {what}"), advice),
    }
}

fn silent(sites: &[Site]) -> Finding {
    let joined: Vec<&Site> = sites.iter().filter(|site| site.report_key.is_some()).collect();
    let offline: Vec<String> = joined
        .iter()
        .filter(|site| !site.online)
        .map(|site| match site.last_seen {
            Some(at) => format!("{} (since {})", site.id, at.format("%Y-%m-%d %H:%M UTC")),
            None => site.id.to_string(),
        })
        .collect();
    if offline.is_empty() {
        return Finding::ok("sites", format!("{} joined, none offline", joined.len()));
    }
    let advice = "look at the edge's service and at its way to SLIPWAY_MQTT_PUBLIC";
    Finding::warn("sites", format!("offline: {}", offline.join(", ")), advice)
}

fn undelivered((deliveries, mails): (i64, i64)) -> Finding {
    if deliveries + mails == 0 {
        return Finding::ok("undeliverable", "nothing was given up");
    }
    let advice = "`slipway webhook deliveries ID --state dead` says why; they are forgotten after a while";
    Finding::warn(
        "undeliverable",
        format!("{deliveries} deliveries and {mails} mails were given up"),
        advice,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upkeep::doctor::Status;

    #[test]
    fn clocks_that_differ_are_told() {
        let now = Utc::now();
        let late = now + TimeDelta::seconds(10);
        assert_eq!(time(None, Some(now), now).status, Status::Ok);
        assert_eq!(time(Some(late), None, now).status, Status::Fail);
        assert_eq!(time(None, Some(late), now).status, Status::Fail);
    }

    #[test]
    fn schemas_are_told_apart() {
        let schema = |version: Option<&str>, pending, newer| Schema {
            version: version.map(str::to_owned),
            pending,
            newer,
        };
        assert_eq!(version(&schema(Some("1"), 0, false)).status, Status::Ok);
        assert_eq!(version(&schema(None, 9, false)).status, Status::Warn);
        assert_eq!(version(&schema(Some("9"), 0, true)).status, Status::Fail);
    }
}
