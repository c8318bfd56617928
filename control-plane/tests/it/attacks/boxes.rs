//! Two boxes at one site: a copy of an edge's data beside the original, and the former box of a site that another one joined.
//! Whole edges against a real control plane; which of them works is seen by who still serves.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use chrono::Utc;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use slipway_edge::{join, site};
use slipway_protocol::site::JoinToken;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    fixtures::config,
    world::{Broker, LIMIT, World},
};
use crate::common::program;

const SITE: &str = "bj-3";

/// A running box; ends when dropped.
struct EdgeBox {
    address: Ipv4Addr,
    _stop: DropGuard,
}

/// A loopback address of this test's own; no two of the same number run at once.
fn address(number: u8) -> Ipv4Addr {
    let id = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 104 | number, id[2], id[3].clamp(2, 250))
}

impl EdgeBox {
    fn start(dir: &Path, number: u8) -> Self {
        let address = address(number);
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let stop = CancellationToken::new();
        tokio::spawn(site::run(config(dir, address), metrics, stop.clone()));
        Self {
            address,
            _stop: stop.drop_guard(),
        }
    }

    /// Whether it serves machines.
    async fn serves(&self) -> bool {
        reqwest::get(format!("http://{}:8081/healthz", self.address))
            .await
            .is_ok()
    }

    /// Waits until it serves, or does not.
    async fn until_serving(&self, wanted: bool) {
        let wait = async {
            while self.serves().await != wanted {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, wait).await;
        assert!(
            waited.is_ok(),
            "it should {}serve",
            if wanted { "" } else { "not " }
        );
    }
}

async fn token(world: &World) -> JoinToken {
    let path = format!("/api/v1/sites/{SITE}/tokens");
    let (_, token) = world.post(&path, json!({})).await;
    JoinToken::from_text(token["token"].as_str().unwrap()).unwrap()
}

/// A folder with the identity of a box that joined.
async fn joined(world: &World) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let addresses = [address(0).into()];
    join::join(&token(world).await, &addresses, dir.path(), Utc::now())
        .await
        .unwrap();
    dir
}

async fn world_with_site() -> World {
    let world = World::start(Broker::Embedded).await;
    let subnet = json!({ "network": "127.0.0.0/8", "server": address(0) });
    let body = json!({ "id": SITE, "subnets": [subnet] });
    let (status, made) = world.post("/api/v1/sites", body).await;
    assert!(status.is_success(), "{made}");
    world
}

async fn events(world: &World, kind: &str) -> Vec<Value> {
    let path = format!("/api/v1/events?site={SITE}&kind={kind}&after=0&limit=1000");
    let (_, page) = program::call(&world.place, &world.key, &path, None).await;
    page["items"].as_array().unwrap().clone()
}

async fn until_online(world: &World) {
    let path = format!("/api/v1/sites/{SITE}");
    let wait = async {
        while program::call(&world.place, &world.key, &path, None).await.1["online"] != json!(true) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait)
        .await
        .expect("the site is online");
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// Both installed, and told 600 events in 45 s.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_boxes_with_one_identity_one_works_and_it_is_told_once() {
    let world = world_with_site().await;
    let dir = joined(&world).await;
    let first = EdgeBox::start(dir.path(), 0);
    first.until_serving(true).await;
    until_online(&world).await;
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    let second = EdgeBox::start(copied.path(), 1);
    let found = async {
        while events(&world, "site.edge_copied").await.is_empty() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, found)
        .await
        .expect("the copy is found");
    second.until_serving(false).await;
    assert!(first.serves().await, "the one that was there first goes on");
    until_online(&world).await;
    let told = events(&world, "site").await.len();
    // Twice as long as either needs to connect again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(first.serves().await && !second.serves().await, "and so it stays");
    let told_since = events(&world, "site").await.len() - told;
    assert!(told_since <= 1, "{told_since} events in four seconds");
    assert_eq!(events(&world, "site.edge_copied").await.len(), 1, "told once");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_former_box_of_a_site_stops_its_work_when_another_one_joins() {
    let world = world_with_site().await;
    let dir = joined(&world).await;
    let former = EdgeBox::start(dir.path(), 0);
    former.until_serving(true).await;
    until_online(&world).await;
    let newer = joined(&world).await;
    former.until_serving(false).await;
    drop(former);
    let again = EdgeBox::start(dir.path(), 2);
    let newer = EdgeBox::start(newer.path(), 1);
    newer.until_serving(true).await;
    until_online(&world).await;
    assert!(!again.serves().await, "after a restart, too");
}

/// The control plane that cannot be reached, or that lies about who it is, retires nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_box_without_its_control_plane_works_on() {
    let mut world = world_with_site().await;
    let dir = joined(&world).await;
    let edge = EdgeBox::start(dir.path(), 0);
    edge.until_serving(true).await;
    until_online(&world).await;
    world.kill().await;
    // Somebody else answers at its address: with success, and with nothing signed by a key that the box trusts.
    let listener = tokio::net::TcpListener::bind(world.place.http).await.unwrap();
    let forged =
        json!({ "key": "0123456789abcdef", "sig": "AAAA", "msg": { "body": { "standing": "revoked" } } });
    let app = axum::Router::new().fallback(move || async move { axum::Json(forged) });
    let (asked, mut is_asked) = tokio::sync::mpsc::channel(16);
    let app = app.layer(axum::middleware::from_fn(
        move |request: axum::extract::Request, next: axum::middleware::Next| {
            let asked = asked.clone();
            async move {
                let _ = asked.send(request.uri().path().to_owned()).await;
                next.run(request).await
            }
        },
    ));
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let asks = async {
        loop {
            if is_asked.recv().await.unwrap().contains("/edges/") {
                return;
            }
        }
    };
    tokio::time::timeout(2 * LIMIT, asks)
        .await
        .expect("it asks how it stands");
    assert!(edge.serves().await);
    serving.abort();
}
