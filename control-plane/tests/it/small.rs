//! Secrets of webhooks that change, callers behind proxies, the audit log from its end, manual pages.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use reqwest::{Method, StatusCode};
use serde_json::json;
use slipway_control_plane::{config::Given, notify::signature};
use slipway_protocol::seal::Secret;

use crate::common::{
    Postgres,
    program::Place,
    server::{PASSWORD, Server, server, server_as},
};

type Got = Arc<Mutex<Vec<(String, Bytes)>>>;

async fn take(State(got): State<Got>, headers: HeaderMap, body: Bytes) {
    let signed = headers["slipway-signature"].to_str().unwrap().to_owned();
    got.lock().unwrap().push((signed, body));
}

/// By which of the secrets the last delivery is signed.
fn signed_by(got: &Got, secrets: &[&str]) -> Vec<bool> {
    let (header, body) = got.lock().unwrap().last().unwrap().clone();
    let seconds: i64 = header.split(['=', ',']).nth(1).unwrap().parse().unwrap();
    let has = |secret: &&str| {
        let expected = signature::header(&[Secret::new(*secret)], seconds, &body);
        let (_, expected) = expected.split_once(',').unwrap();
        header.split(',').any(|part| part == expected)
    };
    secrets.iter().map(has).collect()
}

async fn rotates(given: Given) {
    let got = Got::default();
    let router = Router::new().route("/", post(take)).with_state(Arc::clone(&got));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let server = server_as(Given {
        webhook_private: Some(true),
        ..given
    })
    .await;
    let (_, made) = server
        .post("/api/v1/webhooks", json!({ "url": url, "kinds": ["site"] }))
        .await;
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().unwrap());
    let first = made["secret"].as_str().unwrap().to_owned();
    let (status, changed) = server.post(&format!("{path}/secret"), json!({})).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    let second = changed["secret"].as_str().unwrap().to_owned();
    assert!(changed["former_until"].is_string() && first != second);
    server.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(signed_by(&got, &[&first, &second]), [true, true]);
    // An event as well as a test.
    server.make_site("bj-1").await;
    let limit = Instant::now() + Duration::from_secs(30);
    while got.lock().unwrap().len() < 2 {
        assert!(Instant::now() < limit, "no delivery");
        tokio::task::yield_now().await;
    }
    assert_eq!(signed_by(&got, &[&first, &second]), [true, true]);
    let (_, changed) = server
        .post(&format!("{path}/secret"), json!({ "overlap_hours": 0 }))
        .await;
    assert!(changed["former_until"].is_null(), "{changed}");
    let third = changed["secret"].as_str().unwrap();
    server.post(&format!("{path}/test"), json!({})).await;
    assert_eq!(signed_by(&got, &[&first, &second, third]), [false, false, true]);
    let (status, refused) = server
        .post(&format!("{path}/secret"), json!({ "overlap_hours": 169 }))
        .await;
    assert_eq!(
        (status, refused["code"].as_str()),
        (StatusCode::BAD_REQUEST, Some("overlap_hours"))
    );
    let shown = server.get(&path).await;
    assert!(shown["secret"].is_null(), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_of_a_webhook_sign_for_a_while_on_sqlite() {
    rotates(Given::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_secrets_of_a_webhook_sign_for_a_while_on_postgresql() {
    let cluster = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    let given = Given {
        database_url: Some(cluster.url()),
        ..Given::default()
    };
    rotates(given).await;
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}

/// Logs in for somebody whom a proxy speaks for.
async fn log_in(server: &Server, forwarded: &str, password: &str) -> StatusCode {
    let request = server
        .http
        .post(format!("{}/api/v1/login", server.url))
        .header("X-Forwarded-For", forwarded);
    let body = json!({ "name": "ann", "password": password });
    request.json(&body).send().await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_is_believed_in_throttle_and_audit_log() {
    let proxied = Given {
        trusted_proxies: Some(vec!["127.0.0.0/8".parse().unwrap()]),
        ..Given::default()
    };
    let server = server_as(proxied).await;
    server
        .call(
            Method::PATCH,
            "/api/v1/users/ann",
            Some(&json!({ "password": PASSWORD })),
        )
        .await;
    for _ in 0..10 {
        assert_eq!(
            log_in(&server, "1.1.1.1, 198.51.100.1", "wrong password").await,
            StatusCode::UNAUTHORIZED
        );
    }
    assert_eq!(
        log_in(&server, "2.2.2.2, 198.51.100.1", PASSWORD).await,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(
        log_in(&server, "198.51.100.2", PASSWORD).await,
        StatusCode::OK,
        "another caller"
    );
    let last = server
        .get("/api/v1/audit?action=login&order=newest&limit=2")
        .await;
    assert_eq!(last["items"][0]["address"], "198.51.100.2", "{last}");
    assert_eq!(last["items"][1]["address"], "198.51.100.1", "{last}");
    // Without the setting nobody is believed.
    let server = self::server().await;
    log_in(&server, "198.51.100.1", "wrong password").await;
    let last = server
        .get("/api/v1/audit?action=login&order=newest&limit=1")
        .await;
    assert_eq!(last["items"][0]["address"], "127.0.0.1", "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_is_read_from_its_end() {
    let server = server().await;
    for name in ["a", "b", "c"] {
        server.post("/api/v1/projects", json!({ "id": name })).await;
    }
    let objects = async |query: &str| {
        let list = server.get(&format!("/api/v1/audit?action=project&{query}")).await;
        let objects: Vec<String> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line["object"].as_str().unwrap().to_owned())
            .collect();
        (objects, list["next"].as_str().map(str::to_owned))
    };
    let (first, next) = objects("order=newest&limit=2").await;
    assert_eq!(first, ["project/c", "project/b"]);
    let (rest, _) = objects(&format!("order=newest&limit=2&cursor={}", next.unwrap())).await;
    assert_eq!(rest, ["project/a"]);
    assert_eq!(objects("").await.0, ["project/a", "project/b", "project/c"]);
}

#[test]
fn the_program_writes_its_manual_pages() {
    let dir = tempfile::tempdir().unwrap();
    let written = Place::new(dir.path(), None).run(&["man", dir.path().to_str().unwrap()]);
    assert!(written.status.success(), "{written:?}");
    let page = std::fs::read_to_string(dir.path().join("slipway-control-plane-backup.1")).unwrap();
    assert!(page.contains("every secret of this control plane"), "{page}");
    assert!(dir.path().join("slipway-control-plane.1").exists());
}
