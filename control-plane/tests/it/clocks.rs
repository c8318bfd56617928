//! A site whose clock is not the control plane's: what answers its hellos.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use slipway_bus::{Client, Event, Options, tls};
use slipway_edge::identity::Identity;
use slipway_protocol::{
    ids::Digest,
    keys::{Expect, KeyRing, Stamp, Verified},
    sync::{Hello, SyncRequest},
    topic::{self, Topic},
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{common::server::server, edges::join};

const LIMIT: Duration = Duration::from_secs(20);

/// An edge as the wire sees it, by any clock.
struct Edge {
    identity: Identity,
    client: Client,
    events: mpsc::Receiver<Event>,
    _stop: DropGuard,
}

impl Edge {
    async fn connect(identity: Identity) -> Self {
        let stop = CancellationToken::new();
        let shown = tls::Identity {
            certificate: identity.certificate.clone(),
            key: identity.key.clone(),
        };
        let options = Options {
            client_id: identity.site.to_string(),
            host: identity.broker_host.clone(),
            port: identity.broker_port,
            tls: Some(tls::client_config(&identity.ca, Some(&shown)).unwrap()),
            credentials: None,
            subscriptions: vec![topic::site_commands(&identity.site)],
            will: None,
        };
        let (client, events) = Client::start(options, stop.clone());
        let mut edge = Self {
            identity,
            client,
            events,
            _stop: stop.drop_guard(),
        };
        while !matches!(edge.event().await, Event::Connected) {}
        edge
    }

    async fn event(&mut self) -> Event {
        let next = tokio::time::timeout(LIMIT, self.events.recv()).await;
        next.expect("something comes in time").expect("the client lives")
    }

    /// Says that it holds something else than it should, by a clock that stands at `at`.
    fn hello(&self, at: DateTime<Utc>, starting: bool) {
        let stamp = Stamp {
            revision: at.timestamp_millis().cast_unsigned(),
            issued_at: at,
            expires_at: at + TimeDelta::minutes(5),
        };
        let body = Hello {
            version: "1".to_owned(),
            wire: (1, 1),
            actions: Vec::new(),
            commands: Digest::of(b"something"),
            reports: Digest::of(b"else"),
            starting,
            leases: None,
            lists: None,
            logs: vec![],
            run: None,
            proof: None,
        };
        let topic = Topic::Hello(self.identity.site.clone());
        let payload = self.identity.signer().unwrap().seal(&topic, stamp, &body);
        self.client.publish(&topic.to_string(), payload).unwrap();
    }

    /// The next request of the control plane, verified by a clock that stands at `at`.
    async fn asked(&mut self, at: DateTime<Utc>) -> Verified<SyncRequest> {
        let asking = Topic::Sync(self.identity.site.clone());
        let payload: Bytes = loop {
            match self.event().await {
                Event::Message { topic, payload } if topic == asking.to_string() => break payload,
                _ => {}
            }
        };
        let keys = KeyRing::new(self.identity.verifying_keys.clone());
        let expect = Expect { now: at, held: None };
        keys.open(&asking, &payload, expect).unwrap()
    }
}

#[tokio::test]
async fn an_edge_that_starts_is_answered_by_its_own_clock_whatever_ours_says() {
    let server = server().await;
    server.make_site("bj-1").await;
    let (identity, _dir) = join(&server).await;
    let mut edge = Edge::connect(identity).await;
    let online = async || server.get("/api/v1/sites/bj-1").await["online"].clone();

    let slow = Utc::now() - TimeDelta::hours(3);
    edge.hello(slow, true);
    assert_eq!(edge.asked(slow).await.body(), &SyncRequest::Lists);
    assert_eq!(
        online().await,
        json!(false),
        "a word of three hours ago is no presence"
    );

    let fast = Utc::now() + TimeDelta::hours(3);
    edge.hello(fast, true);
    assert_eq!(edge.asked(fast).await.body(), &SyncRequest::Lists);

    // Not answered: by our clock it is an old message of an edge that goes on, as anybody could repeat it.
    edge.hello(Utc::now() - TimeDelta::hours(2), false);
    let now = Utc::now();
    edge.hello(now, false);
    let asked = edge.asked(now).await;
    let late = (asked.header().issued_at - now).abs();
    assert!(
        late < TimeDelta::seconds(1),
        "the answer is to the hello that is in time, not {late} off"
    );
    assert_eq!(online().await, json!(true));
}
