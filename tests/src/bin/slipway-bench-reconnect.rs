//! `slipway-bench-reconnect`: how long until all sites are in sync again after the control plane, and the broker in it, was
//! killed. A real control plane process on loopback; sites are simulated by the edge's own code: its joining, its MQTT client,
//! its hello and its verification. Figures are printed, not judged.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use slipway_bus::{Client, Event, Options, tls};
use slipway_edge::{identity::Identity, join, ledger::Ledger};
use slipway_protocol::{
    keys::{Expect, KeyRing, Signer, Stamp},
    site::{JoinToken, SiteConfig},
    sync::SyncRequest,
    topic::{self, Kind, Topic},
};
use slipway_tests::{
    api::Api,
    fleet::{process::Process, world::binary},
    world::wait_for,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Measures how a control plane takes the return of all its sites at once.
#[derive(Parser)]
#[command(name = "slipway-bench-reconnect", version, about)]
struct Cli {
    /// Sites
    #[arg(long, default_value_t = 1000)]
    sites: u16,
    /// One of so many sites lost what it held while the control plane was away, and must be sent it again
    #[arg(long, default_value_t = 10)]
    lost: u16,
    /// Seconds it may take
    #[arg(long, default_value_t = 300)]
    limit: u64,
}

/// Joins at once.
const PARALLEL: usize = 8;
/// An edge says hello as often.
const TICK: Duration = Duration::from_secs(30);
/// Files of the control plane's for each site, and of the simulation's.
const FILES_A_SITE: u64 = 3;
const OTHER_FILES: u64 = 256;

/// One site.
struct Site {
    identity: Identity,
    signer: Signer,
    keys: KeyRing,
    ledger: Mutex<Arc<Ledger>>,
}

impl Site {
    fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lose(&self) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    fn say_hello(&self, client: &Client, with_lists: bool) {
        let (topic, now) = (Topic::Hello(self.identity.site.clone()), Utc::now());
        let stamp = Stamp {
            revision: now.timestamp_millis().cast_unsigned(),
            issued_at: now,
            expires_at: now + TimeDelta::minutes(10),
        };
        let payload = self
            .signer
            .seal(&topic, stamp, &self.ledger().hello(with_lists, false));
        // What does not go out now goes with the next tick.
        let _ = client.publish(&topic.to_string(), payload);
    }

    fn hear(&self, client: &Client, topic: &str, payload: &[u8]) {
        let expect = Expect {
            now: Utc::now(),
            held: None,
        };
        match topic.parse() {
            Ok(topic @ Topic::Config(_)) => {
                if let Ok(config) = self.keys.open::<SiteConfig>(&topic, payload, expect) {
                    let revision = config.header().revision;
                    self.ledger().hold_command(Kind::Config, "-", revision);
                }
            }
            Ok(topic @ Topic::Sync(_)) => {
                let request = self.keys.open::<SyncRequest>(&topic, payload, expect);
                if request.is_ok_and(|request| *request.body() == SyncRequest::Lists) {
                    self.say_hello(client, true);
                }
            }
            _ => {}
        }
    }

    async fn run(&self, client: Client, mut events: mpsc::Receiver<Event>) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Connected) => self.say_hello(&client, false),
                    Some(Event::Message { topic, payload }) => self.hear(&client, &topic, &payload),
                    Some(Event::Disconnected { .. }) => {}
                    None => return,
                },
                _ = tick.tick() => self.say_hello(&client, false),
            }
        }
    }

    fn options(&self) -> anyhow::Result<Options> {
        let identity = &self.identity;
        Ok(Options {
            client_id: identity.site.to_string(),
            host: identity.broker_host.clone(),
            port: identity.broker_port,
            tls: Some(tls::client_config(&identity.ca, Some(&identity.uplink_tls()))?),
            credentials: None,
            subscriptions: vec![topic::site_commands(&identity.site)],
            will: None,
        })
    }
}

fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Both processes need files by the thousand; better said now than by a timeout later.
fn allow_files(sites: u16) -> anyhow::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    let wanted = u64::from(sites) * FILES_A_SITE + OTHER_FILES;
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(
        allowed >= wanted,
        "{sites} sites need {wanted} open files, but {allowed} are the most allowed here: raise the hard limit (`ulimit -Hn`)"
    );
    Ok(())
}

async fn join_site(api: &Api, number: u16) -> anyhow::Result<Site> {
    let name = format!("site-{number:04}");
    api.post("/api/v1/sites", json!({ "id": name })).await?;
    let token = api
        .post(&format!("/api/v1/sites/{name}/tokens"), json!({}))
        .await?;
    let token = JoinToken::from_text(token["token"].as_str().context("no token")?)?;
    let dir = tempfile::tempdir()?;
    let identity = join::join(&token, &[], dir.path(), Utc::now()).await?;
    Ok(Site {
        signer: identity.signer()?,
        keys: KeyRing::new(identity.verifying_keys.iter().copied()),
        identity,
        ledger: Mutex::default(),
    })
}

/// All sites as the control plane sees them.
async fn seen(api: &Api) -> anyhow::Result<BTreeMap<String, Value>> {
    let (mut all, mut path) = (BTreeMap::new(), "/api/v1/sites?limit=200".to_owned());
    loop {
        let page = api.get(&path).await?;
        for site in page["items"].as_array().context("no items")? {
            let id = site["id"].as_str().context("no id")?;
            all.insert(id.to_owned(), site.clone());
        }
        let Some(next) = page["next"].as_str() else {
            return Ok(all);
        };
        path = format!("/api/v1/sites?limit=200&cursor={next}");
    }
}

/// Waits until the control plane has heard each site since then, and each holds its configuration.
async fn until_in_sync(
    api: &Api,
    sites: &[Arc<Site>],
    since: DateTime<Utc>,
    limit: Duration,
) -> anyhow::Result<Duration> {
    let (begun, mut left) = (Instant::now(), sites.len());
    while begun.elapsed() < limit {
        // It may not answer yet.
        let seen = seen(api).await.unwrap_or_default();
        let in_sync = |site: &&Arc<Site>| {
            let Some(told) = seen.get(site.identity.site.as_str()) else {
                return false;
            };
            let heard = told["last_seen"]
                .as_str()
                .and_then(|at| at.parse::<DateTime<Utc>>().ok());
            heard.is_some_and(|at| at > since)
                && site.ledger().command_revision(Kind::Config, "-") == told["revision"].as_u64()
        };
        left = sites.len() - sites.iter().filter(in_sync).count();
        if left == 0 {
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    anyhow::bail!("{left} of {} sites are not in sync after {limit:?}", sites.len())
}

/// A new control plane in a process of its own, and its API.
async fn start(folder: &Path) -> anyhow::Result<(Process, Api)> {
    let (http, mqtt) = (free()?, free()?);
    let environment = [
        ("SLIPWAY_LOG", "error".to_owned()),
        ("SLIPWAY_HTTP", http.to_string()),
        ("SLIPWAY_MQTT", mqtt.to_string()),
        ("SLIPWAY_DATA_DIR", folder.join("data").display().to_string()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let log = folder.join("control-plane");
    let mut control_plane = Process::new(binary("slipway-control-plane")?, &[], environment, log);
    control_plane.start()?;
    let link = || {
        let text = control_plane.output();
        let token = text.split_once("token=")?.1.split_whitespace().next()?;
        Some(token.to_owned())
    };
    let token = wait_for("the set-up link", Duration::from_secs(60), link).await?;
    let mut api = Api::new(format!("http://{http}"))?;
    api.set_up(&token).await?;
    Ok((control_plane, api))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    ensure!(cli.lost > 0, "--lost is 1 or more");
    allow_files(cli.sites)?;
    slipway_bus::tls::install_provider();
    let folder = tempfile::tempdir()?;
    let (mut control_plane, api) = start(folder.path()).await?;
    let limit = Duration::from_secs(cli.limit);

    let begun = Instant::now();
    let sites: Vec<Arc<Site>> = futures::stream::iter(0..cli.sites)
        .map(|number| join_site(&api, number))
        .buffer_unordered(PARALLEL)
        .map_ok(Arc::new)
        .try_collect()
        .await?;
    println!(
        "{} sites joined in {:.1} s",
        sites.len(),
        begun.elapsed().as_secs_f64()
    );
    let (stop, since) = (CancellationToken::new(), Utc::now());
    for site in &sites {
        let (client, events) = Client::start(site.options()?, stop.clone());
        let site = Arc::clone(site);
        tokio::spawn(async move { site.run(client, events).await });
    }
    let first = until_in_sync(&api, &sites, since, limit).await?;
    let before = control_plane.usage();
    println!("first in sync after {:.1} s", first.as_secs_f64());

    control_plane.kill();
    for site in sites.iter().step_by(cli.lost.into()) {
        site.lose();
    }
    let since = Utc::now();
    control_plane.start()?;
    let again = until_in_sync(&api, &sites, since, limit).await?;
    let after = control_plane.usage();
    println!(
        "in sync again {:.1} s after the restart; control plane: {:.1} s of CPU for it, {:.0} MiB at most",
        again.as_secs_f64(),
        after.cpu_s - before.cpu_s,
        after.peak_bytes as f64 / f64::from(1 << 20)
    );
    stop.cancel();
    Ok(())
}
