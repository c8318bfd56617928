//! docs/PROTOCOL.md is enough: `docs/examples/watch.py`, written from it in another language, verifies what a live site says.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_bus::Event;
use slipway_control_plane::pki::Authority;
use tokio::sync::mpsc;

use super::{
    fixtures::{Edge, SITE, connect},
    recipe::{Keys, fixtures},
    world::{Broker, LIMIT, World},
};
use crate::common::program;

/// The running example; killed when dropped.
struct Watch {
    child: Child,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Watch {
    fn start(edge: &Edge) -> Self {
        let python =
            std::env::var("SLIPWAY_PYTHON").expect("SLIPWAY_PYTHON is not set: run this through `make test`");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/watch.py");
        let lines = std::fs::read_to_string(&script).unwrap().lines().count();
        assert!(lines <= 100, "an example is short");
        let mut child = Command::new(python)
            .arg(script)
            .arg(edge.dir.path().join("identity.json"))
            .args(["--host", &edge.address.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (told, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                if told.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that begins like this.
    async fn until(&mut self, beginning: &str) -> String {
        let mut heard = Vec::new();
        let find = async {
            loop {
                let line = self.lines.recv().await.expect("it runs");
                if line.starts_with(beginning) {
                    return line;
                }
                heard.push(line);
            }
        };
        let found = tokio::time::timeout(LIMIT, find).await;
        found.unwrap_or_else(|_| panic!("no `{beginning}` in {heard:?}"))
    }
}

async fn post(world: &World, path: &str, body: Value) -> Value {
    let (status, answer) = world.post(path, body).await;
    assert!(status.is_success(), "{path}: {answer}");
    answer
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn a_reader_written_from_the_protocol_page_verifies_a_live_order_and_refuses_forged_ones() {
    let world = World::start(Broker::Mosquitto).await;
    let edge = Edge::start(&world).await;
    let former = edge.until_config(1).await;
    let mut watch = Watch::start(&edge);
    watch.until(&format!("watching {SITE}")).await;

    let bmc =
        json!({ "driver": "ipmi", "address": "127.0.0.1:9", "username": "admin", "password": "hunter2" });
    let machine =
        json!({ "name": "m1", "site": SITE, "macs": ["52:54:00:00:00:01"], "firmware": "uefi", "bmc": bmc });
    let machine = post(&world, "/api/v1/machines", machine).await;
    let image = reqwest::Client::new()
        .post(world.place.url("/api/v1/images?name=i"))
        .bearer_auth(&world.key)
        .body("image");
    assert_eq!(image.send().await.unwrap().status(), StatusCode::CREATED);
    post(
        &world,
        "/api/v1/instances",
        json!({ "name": "w", "site": SITE, "image": "i" }),
    )
    .await;
    let (_, shown) = program::call(&world.place, &world.key, "/api/v1/instances/w", None).await;
    let job = shown["job"].as_str().unwrap();
    let order = watch.until("OK order").await;
    assert!(
        order.contains(machine["id"].as_str().unwrap())
            && order.contains(job)
            && order.contains("driver_boot"),
        "{order}"
    );
    let report = watch.until("OK report").await;
    assert!(report.contains(job), "{report}");

    let authority = Authority::open(&world.place.dir).unwrap();
    let names = ["control-plane".to_owned()];
    let stolen = authority.identity("control-plane", &names).unwrap();
    let (thief, mut events, _stop) = connect("thief", &stolen, &authority.certificate, world.replicas_port());
    assert_eq!(events.recv().await, Some(Event::Connected));
    let keys = Keys {
        control_plane: std::fs::read(world.place.dir.join("order-signing.key")).unwrap(),
        site: &edge.identity,
        other: &world.neighbour,
        former: &former.payload,
    };
    for name in [
        "unknown-key",
        "body-changed",
        "wrong-site",
        "wrong-machine",
        "expired",
        "future-version",
        "truncated",
    ] {
        let fixture = fixtures()
            .into_iter()
            .find(|fixture| fixture.name == name)
            .unwrap();
        let topic = fixture.topic.replace("{site}", SITE);
        thief.publish(&topic, fixture.make(&keys)).unwrap();
        watch
            .until(&format!("REFUSED {} {topic}", fixture.expected))
            .await;
    }
}
