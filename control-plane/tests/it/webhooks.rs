//! Webhooks: who delivers, in which order, how often and until when, on SQLite and on PostgreSQL; and over real HTTP to a
//! real receiver.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::on_each_database;
use crate::common::server::{Server, server_as};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode as Status},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{
    config::Given,
    domain::webhooks as domain,
    notify::post::Answer,
    store::{
        Store, StoreError,
        events::{self, NewEvent},
        webhooks::{self, Delivery, DeliveryState, Webhook},
    },
};
use slipway_protocol::ids::SiteId;
use tokio::sync::Notify;

const LIMIT: Duration = Duration::from_secs(60);

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn webhook(kinds: Option<Vec<String>>) -> Webhook {
    Webhook {
        id: "w".into(),
        url: "https://example.com".into(),
        kinds,
        sites: Some(vec!["bj-1".into()]),
        secret: String::new(),
        former: None,
        active: true,
        position: 0,
        created_at: at(0),
    }
}

/// What one replica is given to do: the delivery's id, number and kind.
async fn next(store: &Store, holder: &'static str, now: i64) -> Option<Delivery> {
    let next = store.transaction(move |db| domain::next(db, "w", holder, at(now), at(now + 60)));
    next.await.unwrap().map(|step| step.delivery)
}

async fn note(
    store: &Store,
    holder: &'static str,
    delivery: &Delivery,
    error: Option<&str>,
    now: i64,
) -> bool {
    let (delivery, error) = (delivery.clone(), error.map(str::to_owned));
    let answer = Answer {
        status: Some(if error.is_some() { 500 } else { 200 }),
        error,
    };
    let noted = store.transaction(move |db| domain::note(db, delivery, holder, answer, (at(now), 0)));
    noted.await.unwrap()
}

async fn with_events(store: &Store) {
    let written = store.transaction(|db| {
        webhooks::insert(db, &webhook(Some(vec!["job".into()])))?;
        for (kind, site) in [
            ("job.failed", "bj-1"),
            ("step.done", "bj-1"),
            ("job.failed", "bj-2"),
            ("job.done", "bj-1"),
        ] {
            events::append(db, &NewEvent::new(kind, at(0)).site(&SiteId::new(site).unwrap()))?;
        }
        Ok::<_, StoreError>(())
    });
    written.await.unwrap();
}

#[tokio::test]
async fn one_replica_delivers_in_order_and_another_goes_on_when_its_lease_ends() {
    on_each_database(|store| async move {
        with_events(&store).await;
        let first = next(&store, "a", 0).await.unwrap();
        assert_eq!((first.seq, first.kind.as_str()), (1, "job.failed"));
        assert_eq!(next(&store, "b", 1).await, None, "the lease is another's");
        assert!(note(&store, "a", &first, Some("no"), 2).await);
        assert_eq!(
            next(&store, "a", 6).await,
            None,
            "not before its pause is over, and nothing overtakes it"
        );
        let again = next(&store, "a", 7).await.unwrap();
        assert_eq!((&again.id, again.attempts), (&first.id, 1));
        // Replica a dies with the answer in hand: b makes the attempt again.
        let taken = next(&store, "b", 7 + 61).await.unwrap();
        assert_eq!(taken.id, first.id, "at least once");
        assert!(
            !note(&store, "a", &again, None, 7 + 62).await,
            "whoever lost the lease has no say"
        );
        assert!(note(&store, "b", &taken, None, 7 + 63).await);
        let second = next(&store, "b", 7 + 64).await.unwrap();
        assert_eq!(
            (second.seq, second.kind.as_str()),
            (4, "job.done"),
            "filters by kind and site"
        );
        assert!(note(&store, "b", &second, None, 7 + 65).await);
        assert_eq!(next(&store, "b", 7 + 66).await, None);
        let stale = webhook(Some(vec!["job".into()]));
        let changed = store.transaction(move |db| {
            webhooks::update(db, &stale)?;
            webhooks::advance(db, "w", 2)?;
            webhooks::get(db, "w")
        });
        assert_eq!(
            changed.await.unwrap().unwrap().position,
            4,
            "nobody moves it back"
        );
    })
    .await;
}

#[tokio::test]
async fn after_a_day_a_delivery_is_dead_and_the_next_one_follows() {
    on_each_database(|store| async move {
        with_events(&store).await;
        let (day, mut now, mut pauses) = (TimeDelta::days(1).num_seconds(), 0, Vec::new());
        let dead = loop {
            let delivery = next(&store, "a", now).await.unwrap();
            assert_eq!(delivery.seq, 1);
            assert!(note(&store, "a", &delivery, Some("no"), now).await);
            let shown = store
                .transaction(|db| webhooks::deliveries(db, "w", None, u64::MAX, 10))
                .await
                .unwrap();
            let shown = shown.into_iter().find(|d| d.seq == 1).unwrap();
            if shown.state == DeliveryState::Dead {
                break shown;
            }
            pauses.push((shown.next_at - at(now)).num_seconds());
            now = (shown.next_at - at(0)).num_seconds();
        };
        assert_eq!(pauses[..4], [5, 10, 20, 40]);
        assert_eq!(pauses.last(), Some(&3600));
        assert!(
            (day..day + 3600).contains(&(dead.finished_at.unwrap() - at(0)).num_seconds()),
            "{dead:?}"
        );
        assert_eq!((dead.error.as_deref(), dead.status), (Some("no"), Some(500)));
        assert_eq!(next(&store, "a", now).await.unwrap().seq, 4);
        let pruned =
            |days: i64| store.transaction(move |db| domain::prune(db, at(0) + TimeDelta::days(days)));
        assert_eq!((pruned(30).await.unwrap(), pruned(32).await.unwrap()), (0, 1));
    })
    .await;
}

#[test]
fn an_alert_reaches_the_webhooks_its_rule_names() {
    let event = |kind: &str, data: Value| events::Event {
        seq: 1,
        at: at(0),
        kind: kind.to_owned(),
        site: Some("bj-2".into()),
        machine: None,
        instance: None,
        job: None,
        project: None,
        text: String::new(),
        data,
    };
    let quiet = webhook(Some(vec![]));
    assert!(!domain::wants(
        &quiet,
        &event("alert.opened", json!({ "webhooks": ["x"] }))
    ));
    assert!(domain::wants(
        &quiet,
        &event("alert.opened", json!({ "webhooks": ["x", "w"] }))
    ));
    assert!(!domain::wants(
        &quiet,
        &event("job.failed", json!({ "webhooks": ["w"] }))
    ));
    let all = Webhook {
        sites: None,
        ..webhook(None)
    };
    assert!(domain::wants(&all, &event("job.failed", json!({}))));
}

/// What a receiver got.
#[derive(Debug, Clone)]
struct Got {
    headers: HeaderMap,
    body: Bytes,
}

/// A receiver that answers as told, then 204.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<Got>>>,
    answers: Arc<Mutex<VecDeque<Response>>>,
    came: Arc<Notify>,
}

async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Bytes) -> Response {
    receiver.got.lock().unwrap().push(Got { headers, body });
    receiver.came.notify_one();
    let told = receiver.answers.lock().unwrap().pop_front();
    told.unwrap_or_else(|| Status::NO_CONTENT.into_response())
}

impl Receiver {
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let router = Router::new().fallback(receive).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    /// Everything it got, once it is `count` requests.
    async fn got(&self, count: usize) -> Vec<Got> {
        let wait = async {
            loop {
                let got = self.got.lock().unwrap().clone();
                if got.len() >= count {
                    return got;
                }
                self.came.notified().await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap()
    }
}

fn header<'a>(got: &'a Got, name: &str) -> &'a str {
    got.headers[name].to_str().unwrap()
}

/// Runs the example of docs/OPERATIONS.md on a delivery.
fn python_says(secret: &str, signature: &str, body: &[u8]) -> String {
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };
    let docs = include_str!("../../../docs/OPERATIONS.md");
    let example = docs
        .split("```python\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let script = format!(
        "{example}\nimport sys\nprint(is_genuine(sys.argv[1], sys.argv[2], sys.stdin.buffer.read()))"
    );
    let mut python = Command::new("python3")
        .args(["-c", &script, secret, signature])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(body).unwrap();
    String::from_utf8(python.wait_with_output().unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_a_receiver_signed_and_in_order() {
    let given = Given {
        webhook_private: Some(true),
        ..Given::default()
    };
    let server = server_as(given).await;
    let receiver = Receiver::default();
    let elsewhere = [("location", "http://127.0.0.1:1/")];
    let told = (Status::FOUND, elsewhere).into_response();
    receiver.answers.lock().unwrap().push_back(told);
    let url = receiver.start().await;
    let new = json!({ "url": url, "kinds": ["site.created"] });
    let (status, made) = server.call(Method::POST, "/api/v1/webhooks", Some(&new)).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let secret = made["secret"].as_str().unwrap();
    server.make_site("a").await;
    server.make_site("b").await;
    let got = receiver.got(3).await;
    let seen: Vec<Value> = got
        .iter()
        .map(|g| serde_json::from_slice(&g.body).unwrap())
        .collect();
    let sites: Vec<&str> = seen.iter().map(|event| event["site"].as_str().unwrap()).collect();
    assert_eq!(
        sites,
        ["a", "a", "b"],
        "tried again, in order, and no redirect followed"
    );
    let ids: Vec<&str> = got.iter().map(|g| header(g, "slipway-delivery")).collect();
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
    let last = &got[2];
    assert_eq!(header(last, "slipway-event"), "site.created");
    let signature = header(last, "slipway-signature");
    assert_eq!(python_says(secret, signature, &last.body), "True");
    assert_eq!(python_says(secret, signature, b"{}"), "False", "another body");
    assert_eq!(
        python_says("whsec_other", signature, &last.body),
        "False",
        "another secret"
    );
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().unwrap());
    shown_and_changed(&server, &path, &receiver).await;
}

async fn shown_and_changed(server: &Server, path: &str, receiver: &Receiver) {
    let wait = async {
        loop {
            let page = server.get(&format!("{path}/deliveries?state=delivered")).await;
            if page["items"].as_array().unwrap().len() == 2 {
                return page["items"][1].clone();
            }
        }
    };
    let first = tokio::time::timeout(LIMIT, wait).await.unwrap();
    assert_eq!(
        (first["attempts"].as_i64(), first["status"].as_i64()),
        (Some(2), Some(204)),
        "{first}"
    );
    assert!(server.get(path).await.get("secret").is_none(), "shown once");
    let (_, tested) = server.call(Method::POST, &format!("{path}/test"), None).await;
    assert_eq!(
        (tested["delivered"].as_bool(), tested["status"].as_i64()),
        (Some(true), Some(204))
    );
    assert_eq!(header(&receiver.got(4).await[3], "slipway-event"), "webhook.test");
    let change = json!({ "active": false, "kinds": null });
    let (status, changed) = server.call(Method::PATCH, path, Some(&change)).await;
    assert_eq!(
        (status, changed["kinds"].is_null(), changed["active"].as_bool()),
        (StatusCode::OK, true, Some(false))
    );
    server.make_site("c").await;
    let on = json!({ "active": true });
    assert_eq!(
        server.call(Method::PATCH, path, Some(&on)).await.0,
        StatusCode::OK
    );
    server.make_site("d").await;
    let missed: Value = serde_json::from_slice(&receiver.got(5).await[4].body).unwrap();
    assert_eq!(missed["site"], "d", "what happened while it was off is not sent");
    assert_eq!(
        server.call(Method::DELETE, path, None).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        server.call(Method::GET, path, None).await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(server.get("/api/v1/webhooks").await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn doors_inside_the_network_stay_closed() {
    let server = server_as(Given::default()).await;
    let receiver = Receiver::default();
    let url = receiver.start().await;
    let create = async |url: &str, kind: &str| {
        let new = json!({ "url": url, "kinds": [kind] });
        server.call(Method::POST, "/api/v1/webhooks", Some(&new)).await
    };
    for bad in [
        url.as_str(),
        "http://169.254.169.254/latest",
        "http://[::1]/",
        "file:///etc/passwd",
    ] {
        let (status, problem) = create(bad, "job").await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (StatusCode::BAD_REQUEST, Some("url")),
            "{bad}"
        );
    }
    let (status, problem) = create("https://example.com", "Job!").await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::BAD_REQUEST, Some("kind"))
    );
    // A name is found to lead inside when it is connected to.
    let by_name = url.replace("127.0.0.1", "localhost");
    let (status, made) = create(&by_name, "job").await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let path = format!("/api/v1/webhooks/{}/test", made["id"].as_str().unwrap());
    let (_, tested) = server.call(Method::POST, &path, None).await;
    assert_eq!(tested["delivered"], false);
    assert!(
        tested["error"].as_str().unwrap().contains("not a public address"),
        "{tested}"
    );
    assert!(receiver.got.lock().unwrap().is_empty(), "nothing came through");
}
