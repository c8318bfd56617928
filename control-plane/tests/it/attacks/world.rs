//! A control plane in a process of its own, with either broker; the edge of site bj-1, which is honest, and that of bj-2.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Arc,
    time::Duration,
};

use chrono::{TimeDelta, Utc};
use reqwest::StatusCode;
use rustls::ClientConfig;
use serde_json::{Value, json};
use slipway_bus::{Client, Event, Options, tls};
use slipway_edge::{identity::Identity, join};
use slipway_protocol::{
    ids::Digest,
    keys::Stamp,
    site::JoinToken,
    sync::{Hello, Lists},
    topic::{self, Topic},
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::common::program::{self, Place, Running};

pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Connections at once at either broker.
pub(crate) const CONNECTIONS: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    Embedded,
    Mosquitto,
}

/// A Mosquitto as the control plane configures it; killed when dropped.
pub(crate) struct Mosquitto {
    child: Child,
    folder: PathBuf,
    replicas: SocketAddr,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Mosquitto {
    fn start(place: &Place, folder: &Path) -> Self {
        let (folder, replicas) = (folder.to_owned(), program::free());
        configure(place, &folder, replicas);
        let child = Self::spawn(&folder);
        Self {
            child,
            folder,
            replicas,
        }
    }

    fn spawn(folder: &Path) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        Command::new("/usr/sbin/mosquitto")
            .arg("-c")
            .arg(folder.join("mosquitto.conf"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("mosquitto is installed (Debian package mosquitto)")
    }

    /// `systemctl kill -s KILL mosquitto`
    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// `systemctl restart mosquitto`
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.child = Self::spawn(&self.folder);
    }

    /// `systemctl reload mosquitto`
    pub(crate) fn reload(&self) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-HUP", &pid])
                .status()
                .unwrap()
                .success()
        );
    }
}

/// `slipway-control-plane mosquitto FOLDER ..`
fn configure(place: &Place, folder: &Path, replicas: SocketAddr) {
    let (sites, replicas) = (place.mqtt.to_string(), replicas.to_string());
    let to = folder.display().to_string();
    let made = place.run(&[
        "mosquitto",
        &to,
        "--sites",
        &sites,
        "--replicas",
        &replicas,
        "--host",
        "127.0.0.1",
    ]);
    assert!(made.status.success(), "{made:?}");
    // As root it would change to a user of its own, who may not read its key.
    let file = folder.join("mosquitto.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("user root\n{text}")).unwrap();
}

pub(crate) struct World {
    pub(crate) broker: Broker,
    pub(crate) place: Place,
    pub(crate) key: String,
    pub(crate) honest: Honest,
    pub(crate) neighbour: Identity,
    pub(crate) mosquitto: Option<Mosquitto>,
    running: Option<Running>,
    _dirs: Vec<TempDir>,
    dir: TempDir,
}

impl World {
    pub(crate) async fn start(broker: Broker) -> Self {
        tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let mut place = Place::new(&dir.path().join("data"), None);
        place.log = Some(dir.path().join("log"));
        place
            .settings
            .push(("SLIPWAY_MQTT_CONNECTIONS", CONNECTIONS.to_string()));
        let mosquitto = (broker == Broker::Mosquitto).then(|| {
            let mosquitto = Mosquitto::start(&place, &dir.path().join("mosquitto"));
            place
                .settings
                .push(("SLIPWAY_BROKER", mosquitto.replicas.to_string()));
            mosquitto
        });
        let mut running = program::start(&place).await;
        let key = program::set_up(&place, &mut running).await;
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let honest = Honest::start(join_site(&place, &key, "bj-1", one.path()).await);
        let neighbour = join_site(&place, &key, "bj-2", two.path()).await;
        let mut world = Self {
            broker,
            place,
            key,
            honest,
            neighbour,
            mosquitto,
            running: Some(running),
            _dirs: vec![one, two],
            dir,
        };
        world.honest.until_connected().await;
        world.until_answered().await;
        world
    }

    /// Kills the control plane, as `kill -9` does.
    pub(crate) async fn kill(&mut self) {
        drop(self.running.take());
        // Its port is free once the kernel has seen it end.
        while tokio::net::TcpStream::connect(self.place.http).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// Says hello until it is answered: the control plane itself may be on its way to the broker yet.
    pub(crate) async fn until_answered(&mut self) {
        let limit = tokio::time::Instant::now() + LIMIT;
        while !self.honest.is_answered(Duration::from_secs(1)).await {
            assert!(tokio::time::Instant::now() < limit, "nobody answers a hello");
        }
    }

    /// Where sites connect.
    pub(crate) fn door(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.place.mqtt.port()))
    }

    /// The port at which replicas connect to Mosquitto.
    pub(crate) fn replicas_port(&self) -> u16 {
        self.mosquitto.as_ref().unwrap().replicas.port()
    }

    /// TLS as an edge has it.
    pub(crate) fn tls_of(&self, identity: &Identity) -> Arc<ClientConfig> {
        tls::client_config(&identity.ca, Some(&identity.uplink_tls())).unwrap()
    }

    /// A counter of the control plane, all its labels together, or those that hold a word.
    pub(crate) async fn counter(&self, name: &str, label: &str) -> f64 {
        let page = reqwest::Client::new()
            .get(self.place.url("/metrics"))
            .bearer_auth(&self.key)
            .send()
            .await
            .unwrap();
        assert_eq!(page.status(), StatusCode::OK);
        let text = page.text().await.unwrap();
        let rows = text
            .lines()
            .filter(|row| row.starts_with(name) && row.contains(label));
        rows.map(|row| row.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
            .sum()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        program::call(&self.place, &self.key, path, Some(body)).await
    }

    /// What the one who refuses has written.
    pub(crate) fn log(&self) -> String {
        let file = match self.broker {
            Broker::Embedded => self.dir.path().join("log"),
            Broker::Mosquitto => self.dir.path().join("mosquitto/log"),
        };
        String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned()
    }

    /// Waits until it is written, from that byte of the log on; whether it was.
    pub(crate) async fn is_logged(&self, from: usize, reason: &str) -> bool {
        let wait = async {
            while !self.log()[from..].contains(reason) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.is_ok()
    }

    /// Writes Mosquitto's configuration again.
    pub(crate) fn configure(&self) {
        let mosquitto = self.mosquitto.as_ref().unwrap();
        configure(&self.place, &mosquitto.folder, mosquitto.replicas);
    }
}

pub(crate) async fn join_site(place: &Place, key: &str, site: &str, dir: &Path) -> Identity {
    let subnet = json!({ "network": "192.0.2.0/24", "server": "192.0.2.1" });
    // The neighbour's configuration is a large one.
    let more = if site == "bj-2" { 60 } else { 0 };
    let more =
        (0..more).map(|n| json!({ "network": format!("10.0.{n}.0/24"), "server": format!("10.0.{n}.1") }));
    let subnets: Vec<Value> = std::iter::once(subnet).chain(more).collect();
    let made = program::call(
        place,
        key,
        "/api/v1/sites",
        Some(json!({ "id": site, "subnets": subnets })),
    )
    .await;
    assert_eq!(made.0, StatusCode::CREATED, "{}", made.1);
    let path = format!("/api/v1/sites/{site}/tokens");
    let (_, token) = program::call(place, key, &path, Some(json!({}))).await;
    let token = JoinToken::from_text(token["token"].as_str().unwrap()).unwrap();
    let addresses = ["192.0.2.1".parse().unwrap()];
    join::join(&token, &addresses, dir, Utc::now()).await.unwrap()
}

/// An edge that does nothing wrong.
pub(crate) struct Honest {
    identity: Identity,
    client: Client,
    events: mpsc::Receiver<Event>,
    _stop: DropGuard,
}

impl Honest {
    fn start(identity: Identity) -> Self {
        let stop = CancellationToken::new();
        let options = Options {
            client_id: identity.site.to_string(),
            host: identity.broker_host.clone(),
            port: identity.broker_port,
            tls: Some(tls::client_config(&identity.ca, Some(&identity.uplink_tls())).unwrap()),
            credentials: None,
            subscriptions: vec![topic::site_commands(&identity.site)],
            will: None,
        };
        let (client, events) = Client::start(options, stop.clone());
        Self {
            identity,
            client,
            events,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn until_connected(&mut self) {
        let wait = async { while self.events.recv().await.unwrap() != Event::Connected {} };
        tokio::time::timeout(LIMIT, wait).await.unwrap();
    }

    /// Says hello, and whether it is answered in time. Panics when it was put out.
    pub(crate) async fn is_answered(&mut self, limit: Duration) -> bool {
        while let Ok(event) = self.events.try_recv() {
            assert!(
                !matches!(event, Event::Disconnected { .. }),
                "the honest one was put out"
            );
        }
        let topic = Topic::Hello(self.identity.site.clone());
        self.client
            .publish(&topic.to_string(), hello(&self.identity, false))
            .unwrap();
        let answer = Topic::Sync(self.identity.site.clone()).to_string();
        let wait = async {
            loop {
                match self.events.recv().await.unwrap() {
                    Event::Message { topic, .. } if topic == answer => return,
                    Event::Disconnected { reason } => panic!("the honest one was put out: {reason}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(limit, wait).await.is_ok()
    }
}

/// A hello that differs from what the control plane holds; with lists, it is sent its configuration each time.
pub(crate) fn hello(identity: &Identity, with_lists: bool) -> Vec<u8> {
    let now = Utc::now();
    let stamp = Stamp {
        revision: now.timestamp_millis().cast_unsigned(),
        issued_at: now,
        expires_at: now + TimeDelta::minutes(5),
    };
    let body = Hello {
        version: "1".to_owned(),
        wire: (1, 1),
        actions: Vec::new(),
        commands: Digest::of(b"something"),
        reports: Digest::of(b"else"),
        starting: false,
        leases: None,
        lists: with_lists.then(|| Lists {
            commands: Vec::new(),
            reports: Vec::new(),
            leases: Vec::new(),
        }),
        logs: Vec::new(),
        run: None,
        proof: None,
    };
    let topic = Topic::Hello(identity.site.clone());
    identity.signer().unwrap().seal(&topic, stamp, &body)
}
