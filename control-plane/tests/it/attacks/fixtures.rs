//! Every message of `tests/fixtures/attacks` against a running edge and a running control plane, over a real Mosquitto: each is
//! refused with exactly its code, counted, and changes nothing.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use chrono::Utc;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_bus::{Client, Event, Options, tls};
use slipway_control_plane::pki::Authority;
use slipway_edge::{
    config::{Config, Interface},
    identity::Identity,
    join, site,
    store::{Document, HeldReport, Store},
};
use slipway_protocol::{site::JoinToken, topic::Kind};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    MESSAGES_REFUSED,
    recipe::{Fixture, Keys, fixtures},
    world::{Broker, LIMIT, World},
};
use crate::common::program;

pub(crate) const SITE: &str = "bj-3";

/// The settings of an edge on a loopback address.
pub(crate) fn config(dir: &Path, address: Ipv4Addr) -> Config {
    Config {
        data_dir: dir.into(),
        interfaces: vec![Interface {
            name: "lo".into(),
            address,
        }],
        auto: false,
        dhcp: false,
        http_port: 8081,
        mqtt_port: 8883,
        mqtt_debug: (address, 1883).into(),
        setup: None,
        status: None,
        cut_off_after: chrono::TimeDelta::seconds(60),
        image_cache_bytes: None,
        liveos: dir.into(),
        boot_programs: dir.into(),
    }
}

/// A whole edge in this process, on a loopback address of its own.
pub(crate) struct Edge {
    pub(crate) identity: Identity,
    metrics: PrometheusHandle,
    store: Store,
    pub(crate) address: Ipv4Addr,
    pub(crate) dir: tempfile::TempDir,
    _stop: DropGuard,
}

impl Edge {
    pub(crate) async fn start(world: &World) -> Self {
        let number = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 100 | number[1] & 3, number[2], number[3].clamp(2, 250));
        let network = format!("{}.{}.{}.0/24", 127, address.octets()[1], address.octets()[2]);
        let subnet = json!({ "network": network, "server": address });
        let body = json!({ "id": SITE, "subnets": [subnet] });
        assert_eq!(world.post("/api/v1/sites", body).await.0, StatusCode::CREATED);
        let (_, token) = world
            .post(&format!("/api/v1/sites/{SITE}/tokens"), json!({}))
            .await;
        let token = JoinToken::from_text(token["token"].as_str().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let identity = join::join(&token, &[address.into()], dir.path(), Utc::now())
            .await
            .unwrap();
        let config = config(dir.path(), address);
        // Before the edge opens it: two that make its tables at once lock each other out.
        let store = Store::open(&dir.path().join("edge.db")).unwrap();
        let metrics = PrometheusBuilder::new().install_recorder().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn({
            let (metrics, stop) = (metrics.clone(), stop.clone());
            async move { site::run(config, metrics, stop).await.unwrap() }
        });
        let edge = Self {
            identity,
            metrics,
            store,
            address,
            dir,
            _stop: stop.drop_guard(),
        };
        edge.until_config(1).await;
        edge
    }

    fn held(&self) -> (Vec<Document>, Vec<HeldReport>) {
        (self.store.documents().unwrap(), self.store.reports().unwrap())
    }

    /// The configuration it holds, once its revision is at least that.
    pub(crate) async fn until_config(&self, revision: u64) -> Document {
        let find = async {
            loop {
                match self.store.document(Kind::Config, "-").unwrap() {
                    Some(config) if config.revision >= revision => return config,
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(LIMIT, find).await.unwrap()
    }

    fn refused(&self) -> Vec<String> {
        let page = self.metrics.render();
        let rows = page.lines().filter(|row| row.starts_with(MESSAGES_REFUSED));
        let mut rows: Vec<String> = rows.map(ToOwned::to_owned).collect();
        rows.sort();
        rows
    }
}

/// A connection to Mosquitto as whoever has that certificate.
pub(crate) fn connect(
    id: &str,
    identity: &tls::Identity,
    ca: &str,
    port: u16,
) -> (Client, mpsc::Receiver<Event>, DropGuard) {
    let stop = CancellationToken::new();
    let options = Options {
        client_id: id.to_owned(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: Some(tls::client_config(ca, Some(identity)).unwrap()),
        credentials: None,
        subscriptions: if id == "thief" {
            vec![format!("slipway/v1/{SITE}/evt/report/#")]
        } else {
            Vec::new()
        },
        will: None,
    };
    let (client, events) = Client::start(options, stop.clone());
    (client, events, stop.drop_guard())
}

/// All the control plane tells of a site, but when it was last heard.
async fn told(world: &World, site: &str) -> Vec<Value> {
    let mut told = Vec::new();
    for path in [
        format!("/api/v1/sites/{site}"),
        format!("/api/v1/events?site={site}"),
        "/api/v1/machines".to_owned(),
        "/api/v1/jobs".to_owned(),
    ] {
        let (status, answer) = program::call(&world.place, &world.key, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        told.push(answer);
    }
    told
}

async fn until<F: Future<Output = bool>>(what: impl Fn() -> F) -> bool {
    let wait = async {
        while !what().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.is_ok()
}

async fn refused_by_edge(edge: &Edge, fixture: &Fixture, thief: &Client, message: Vec<u8>) {
    let (held, before) = (edge.held(), edge.refused());
    let topic = fixture.topic.replace("{site}", SITE);
    let label = format!("code=\"{}\"", fixture.expected);
    let of_code = |rows: &[String]| {
        let row = rows.iter().find(|row| row.contains(&label));
        row.map_or(0, |row| row.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
    };
    thief.publish(&topic, message).unwrap();
    let counted = until(async || of_code(&edge.refused()) == of_code(&before) + 1).await;
    assert!(counted, "{}: {before:?} then {:?}", fixture.name, edge.refused());
    let others = |rows: Vec<String>| {
        rows.into_iter()
            .filter(|row| !row.contains(&label))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        others(edge.refused()),
        others(before),
        "{}: no other code",
        fixture.name
    );
    assert_eq!(edge.held(), held, "{}", fixture.name);
}

/// An order that is good as a message, and that the edge says no to in its report.
async fn refused_in_report(
    fixture: &Fixture,
    (thief, heard): (&Client, &mut mpsc::Receiver<Event>),
    message: Vec<u8>,
) {
    thief
        .publish(&fixture.topic.replace("{site}", SITE), message)
        .unwrap();
    let report = async {
        loop {
            if let Event::Message { payload, .. } = heard.recv().await.unwrap() {
                let report: Value = serde_json::from_slice(&payload).unwrap();
                let outcome = &report["msg"]["body"]["outcome"];
                if outcome["is"] == "failed" {
                    return outcome["failure"]["code"].as_str().unwrap().to_owned();
                }
            }
        }
    };
    let code = tokio::time::timeout(LIMIT, report).await;
    assert_eq!(code.as_deref(), Ok(fixture.expected.as_str()), "{}", fixture.name);
}

async fn refused_by_control_plane(world: &World, fixture: &Fixture, site: &Client, message: Vec<u8>) {
    let name = world.neighbour.site.as_str();
    let label = format!("code=\"{}\"", fixture.expected);
    let before = told(world, name).await;
    let (counted, all) = (
        world.counter(MESSAGES_REFUSED, &label).await,
        world.counter(MESSAGES_REFUSED, "").await,
    );
    site.publish(&fixture.topic.replace("{site}", name), message)
        .unwrap();
    let refused = until(async || world.counter(MESSAGES_REFUSED, &label).await > counted).await;
    assert!(refused, "{}: {}", fixture.name, world.log());
    let more = world.counter(MESSAGES_REFUSED, "").await - all;
    assert!((more - 1.0).abs() < 0.5, "{}: no other code", fixture.name);
    assert_eq!(told(world, name).await, before, "{}", fixture.name);
}

/// Says each fixture to whom it is for.
#[tokio::test(flavor = "multi_thread")]
async fn each_message_of_the_attack_folder_is_refused_with_its_code_and_changes_nothing() {
    let world = World::start(Broker::Mosquitto).await;
    let edge = Edge::start(&world).await;
    let former = edge.until_config(1).await;
    let changed = reqwest::Client::new()
        .patch(world.place.url(&format!("/api/v1/sites/{SITE}")))
        .bearer_auth(&world.key)
        .json(&json!({ "discover": true }));
    assert_eq!(changed.send().await.unwrap().status(), StatusCode::OK);
    edge.until_config(former.revision + 1).await;
    let authority = Authority::open(&world.place.dir).unwrap();
    let stolen = authority
        .identity("control-plane", &["control-plane".to_owned()])
        .unwrap();
    let (thief, mut heard, _thief) = connect("thief", &stolen, &authority.certificate, world.replicas_port());
    let tls = world.neighbour.uplink_tls();
    let (neighbour, mut events, _neighbour) =
        connect("bj-2", &tls, &authority.certificate, world.door().port());
    assert_eq!(heard.recv().await, Some(Event::Connected));
    assert_eq!(events.recv().await, Some(Event::Connected));

    let control_plane = std::fs::read(world.place.dir.join("order-signing.key")).unwrap();
    let all = fixtures();
    assert!(all.len() >= 17, "the folder is there");
    let (in_reports, as_messages): (Vec<_>, Vec<_>) = all.into_iter().partition(Fixture::is_told_in_report);
    // Those that are good as messages come last: the edge holds their orders then.
    for fixture in as_messages.iter().chain(&in_reports) {
        let (site, other) = match fixture.is_for_edge() {
            true => (&edge.identity, &world.neighbour),
            false => (&world.neighbour, &edge.identity),
        };
        let keys = Keys {
            control_plane: control_plane.clone(),
            site,
            other,
            former: &former.payload,
        };
        let message = fixture.make(&keys);
        if fixture.is_told_in_report() {
            let before = told(&world, SITE).await;
            refused_in_report(fixture, (&thief, &mut heard), message).await;
            assert_eq!(told(&world, SITE).await[2..], before[2..], "{}", fixture.name);
        } else if fixture.is_for_edge() {
            refused_by_edge(&edge, fixture, &thief, message).await;
        } else {
            refused_by_control_plane(&world, fixture, &neighbour, message).await;
        }
    }
}
