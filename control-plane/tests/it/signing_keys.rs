//! A change of the key that orders are signed by, with sites that are there and one that is away. The sites are played by
//! their MQTT connections and the real ledger of an edge: they keep what verifies by the keys they trust, and say what they
//! hold. On both databases.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_bus::{
    Client, Event, Options,
    tls::{self, Shown},
};
use slipway_edge::{identity::Identity, ledger::Ledger};
use slipway_protocol::{
    keys::{Expect, KeyRing, Stamp, VerifyingKey},
    site::SiteConfig,
    topic::{self, Topic},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    common::server::{Server, on_each_server},
    edges::join_site,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A site's edge, as far as keys go.
struct Edge {
    identity: Identity,
    trusts: Vec<VerifyingKey>,
    ledger: Ledger,
    client: Client,
    events: mpsc::Receiver<Event>,
    refused: usize,
    /// The key that signed what came last.
    signed_by: Option<String>,
    _stop: tokio_util::sync::DropGuard,
}

impl Edge {
    fn start(identity: Identity, trusts: Vec<VerifyingKey>, ledger: Ledger) -> Self {
        let stop = CancellationToken::new();
        let shown = Shown::new(&identity.uplink_tls()).unwrap();
        let options = Options {
            client_id: identity.site.to_string(),
            host: identity.broker_host.clone(),
            port: identity.broker_port,
            tls: Some(tls::renewed_client_config(&identity.ca, shown).unwrap()),
            credentials: None,
            subscriptions: vec![topic::site_commands(&identity.site)],
            will: None,
        };
        let (client, events) = Client::start(options, stop.clone());
        Self {
            identity,
            trusts,
            ledger,
            client,
            events,
            refused: 0,
            signed_by: None,
            _stop: stop.drop_guard(),
        }
    }

    fn say_hello(&self, with_lists: bool) {
        let now = Utc::now();
        let stamp = Stamp {
            revision: now.timestamp_millis().cast_unsigned(),
            issued_at: now,
            expires_at: now + TimeDelta::minutes(10),
        };
        let topic = Topic::Hello(self.identity.site.clone());
        let hello = self.ledger.hello(with_lists, false);
        let payload = self.identity.signer().unwrap().seal(&topic, stamp, &hello);
        // Said again after whatever comes next.
        let _ = self.client.publish(&topic.to_string(), payload);
    }

    fn hear(&mut self, topic: &str, payload: &[u8]) {
        let topic: Topic = topic.parse().unwrap();
        let expect = Expect {
            now: Utc::now(),
            held: self.ledger.command_revision(topic.kind(), &topic.subject()),
        };
        let opened = KeyRing::new(self.trusts.iter().copied()).open::<Value>(&topic, payload, expect);
        let Ok(opened) = opened else {
            self.refused += 1;
            return;
        };
        if matches!(topic, Topic::Sync(_)) {
            return self.say_hello(true);
        }
        let message: Value = serde_json::from_slice(payload).unwrap();
        self.signed_by = Some(message["key"].as_str().unwrap().to_owned());
        let revision = opened.header().revision;
        self.ledger.hold_command(topic.kind(), &topic.subject(), revision);
        if let Topic::Config(_) = topic {
            let config: SiteConfig = serde_json::from_value(opened.into_body()).unwrap();
            self.trusts = config.verifying_keys;
        }
        self.say_hello(false);
    }

    /// Listens until something holds.
    async fn until(&mut self, holds: impl AsyncFn(&Self) -> bool) {
        let wait = async {
            while !holds(self).await {
                match timeout(Duration::from_millis(200), self.events.recv()).await {
                    Ok(Some(Event::Message { topic, payload })) => self.hear(&topic, &payload),
                    Ok(Some(_)) | Err(_) => self.say_hello(false),
                    Ok(None) => panic!("the client ended"),
                }
            }
        };
        let waited = timeout(LIMIT, wait).await;
        assert!(
            waited.is_ok(),
            "signed by {:?}, {} refused",
            self.signed_by,
            self.refused
        );
    }
}

async fn keys(server: &Server) -> Vec<Value> {
    let list = server.get("/api/v1/signing-keys").await;
    list["items"].as_array().unwrap().clone()
}

fn id(key: &Value) -> String {
    key["id"].as_str().unwrap().to_owned()
}

async fn retire(server: &Server, key: &str, force: bool) -> (StatusCode, Value) {
    let path = format!("/api/v1/signing-keys/{key}/retire");
    server.post(&path, json!({ "force": force })).await
}

#[test]
fn keys_change_without_a_site_refusing_its_control_plane() {
    on_each_server(change);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn change(server: &Server) {
    server.make_site("bj-1").await;
    server.make_site("sh-1").await;
    let first = id(&keys(server).await[0]);
    let (identity, _dir) = join_site(server, "bj-1").await;
    let (away, _away_dir) = join_site(server, "sh-1").await;
    assert_eq!(identity.verifying_keys.len(), 1);
    let mut edge = Edge::start(
        identity.clone(),
        identity.verifying_keys.clone(),
        Ledger::default(),
    );
    edge.until(async |edge| edge.signed_by.is_some()).await;
    assert_eq!(edge.signed_by.as_ref(), Some(&first));

    let (status, made) = server.post("/api/v1/signing-keys", json!({})).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let second = id(&made["items"][0]);
    assert_ne!(first, second);
    assert_eq!(
        retire(server, &second, false).await.1["code"],
        "key_in_use",
        "the newest"
    );
    assert_eq!(
        retire(server, "0000000000000000", false).await.1["code"],
        "not_found"
    );
    // Announced by the old key, then spoken to by the new one.
    edge.until(async |edge| edge.trusts.len() == 2).await;
    edge.until(async |_| keys(server).await[0]["sites"] == 1).await;
    let path = "/api/v1/sites/bj-1";
    let patch = async |text: &str| server.patch(path, json!({ "description": text })).await;
    patch("a").await;
    edge.until(async |edge| edge.signed_by.as_ref() == Some(&second))
        .await;
    assert_eq!(edge.refused, 0, "at no moment");
    let refused = retire(server, &first, false).await.1;
    assert_eq!(refused["code"], "key_in_use", "the site that is away: {refused}");
    assert!(refused["detail"].as_str().unwrap().contains("sh-1"), "{refused}");

    // It comes back, and knows the old key alone.
    let mut back = Edge::start(away.clone(), away.verifying_keys.clone(), Ledger::default());
    back.until(async |edge| edge.trusts.len() == 2).await;
    back.until(async |_| keys(server).await[0]["sites"] == 2).await;
    assert_eq!(back.refused, 0);
    let (status, left) = retire(server, &first, false).await;
    assert_eq!(
        (status, &left["items"][1]["state"]),
        (StatusCode::OK, &json!("retired")),
        "{left}"
    );
    edge.until(async |edge| edge.trusts.len() == 1).await;
    assert_eq!(
        (edge.refused, edge.trusts[0].id().to_string()),
        (0, second.clone())
    );
    back.until(async |edge| edge.trusts.len() == 1).await;

    // A stolen key: sites that know no newer one stay behind, and join again.
    drop(back);
    let third = id(&server.post("/api/v1/signing-keys", json!({})).await.1["items"][0]);
    edge.until(async |_| keys(server).await[0]["sites"] == 1).await;
    let (status, _) = retire(server, &second, true).await;
    assert_eq!(status, StatusCode::OK);
    edge.until(async |edge| edge.signed_by.as_ref() == Some(&third))
        .await;
    let stale = edge.trusts.clone();
    assert_eq!(stale.len(), 1);
    let known = away.verifying_keys.clone();
    let mut behind = Edge::start(away, known, Ledger::default());
    behind.until(async |edge| edge.refused > 0).await;
    assert_eq!(behind.signed_by, None, "what it trusts signs nothing any more");
    let (again, _again_dir) = join_site(server, "sh-1").await;
    let mut again = Edge::start(again.clone(), again.verifying_keys.clone(), Ledger::default());
    again
        .until(async |edge| edge.signed_by.as_ref() == Some(&third))
        .await;
}

#[test]
fn an_order_of_a_job_under_way_keeps_its_key() {
    on_each_server(async |server| {
        server.make_site("bj-1").await;
        let (identity, _dir) = join_site(server, "bj-1").await;
        server.make_machine("bj-1", 1, json!({})).await;
        server.upload("i", b"image".to_vec()).await;
        let body = json!({ "name": "w", "site": "bj-1", "image": "i" });
        server.post("/api/v1/instances", body).await;
        let mut edge = Edge::start(
            identity.clone(),
            identity.verifying_keys.clone(),
            Ledger::default(),
        );
        let revision = async || server.get("/api/v1/machines/m1/order").await["revision"].clone();
        edge.until(async |_| server.get("/api/v1/instances/w").await["state"] == "installing")
            .await;
        // What is shown is what its edge verifies.
        let shown = server.get("/api/v1/machines/m1/order").await;
        let topic: Topic = shown["signed"]["topic"].as_str().unwrap().parse().unwrap();
        let payload = shown["signed"]["payload"].as_str().unwrap();
        let expect = Expect {
            now: Utc::now(),
            held: None,
        };
        let ring = KeyRing::new(identity.verifying_keys.clone());
        let order = ring.open::<Value>(&topic, payload.as_bytes(), expect).unwrap();
        assert_eq!(order.body(), &shown["order"]);
        let before = revision().await;
        let second = id(&server.post("/api/v1/signing-keys", json!({})).await.1["items"][0]);
        edge.until(async |_| keys(server).await[0]["sites"] == 1).await;
        assert_eq!(revision().await, before, "its agent may know the old key alone");
        let first = id(&keys(server).await[1]);
        let refused = retire(server, &first, false).await.1;
        assert_eq!(refused["code"], "key_in_use", "a job runs: {refused}");
        assert_eq!(edge.refused, 0);
        assert_ne!(first, second);
    });
}
