//! Rights end when they end: live streams, sessions and passwords while they are taken back; requests that come twice at once;
//! names that look like ids. On both databases.

use std::time::Duration;

use chrono::Utc;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::store::{
    StoreError,
    users::{self, User, UserPatch},
};

use crate::common::{
    on_each_database,
    server::{Server, on_each_server},
};

const LIMIT: Duration = Duration::from_secs(30);

/// A live stream of somebody with a key.
struct Stream {
    answer: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(server: &Server, key: &str) -> Self {
        let request = server.http.get(format!("{}/api/v1/events?after=0", server.url));
        let request = request.bearer_auth(key).header("Accept", "text/event-stream");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        Self {
            answer,
            text: String::new(),
        }
    }

    /// Reads until a text came by; `false` if the stream ended before.
    async fn until(&mut self, wanted: &str) -> bool {
        while !self.text.contains(wanted) {
            let piece = tokio::time::timeout(LIMIT, self.answer.chunk()).await;
            let Some(bytes) = piece.expect("something comes in time").unwrap() else {
                return false;
            };
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        true
    }
}

async fn ok(server: &Server, method: Method, path: &str, body: Option<Value>) -> Value {
    let (status, answer) = server.call(method, path, body.as_ref()).await;
    assert!(status.is_success(), "{path}: {answer}");
    answer
}

#[test]
fn a_live_stream_ends_with_the_rights_of_who_reads_it() {
    on_each_server(async |server| {
        server.make_site("bj-1").await;
        let all = [("operator", "global")];
        let keys = [
            server.user("bob", &all).await,
            server.user("eve", &all).await,
            server
                .user("mal", &[("operator", "global"), ("viewer", "site:bj-1")])
                .await,
        ];
        let mut streams = Vec::new();
        for key in &keys {
            let mut stream = Stream::open(server, key).await;
            assert!(stream.until("bj-1").await);
            streams.push(stream);
        }
        let grants = ok(server, Method::GET, "/api/v1/users/mal", None).await;
        let grants = grants["grants"].as_array().unwrap();
        let global = grants.iter().find(|grant| grant["scope"] == "global").unwrap();
        let path = format!("/api/v1/users/mal/grants/{}", global["id"].as_str().unwrap());
        ok(server, Method::DELETE, &path, None).await;
        ok(
            server,
            Method::PATCH,
            "/api/v1/users/bob",
            Some(json!({ "disabled": true })),
        )
        .await;
        ok(server, Method::DELETE, "/api/v1/users/eve", None).await;
        server.make_site("secret-1").await;
        let machine =
            json!({ "name": "m1", "site": "bj-1", "macs": ["02:00:00:00:00:01"], "firmware": "bios" });
        ok(server, Method::POST, "/api/v1/machines", Some(machine)).await;
        for (stream, who) in streams[..2].iter_mut().zip(["bob", "eve"]) {
            assert!(!stream.until("machine.added").await, "{who} still reads");
            assert!(!stream.text.contains("secret-1"), "{who} read on for a while");
        }
        assert!(streams[2].until("machine.added").await, "mal reads on at bj-1");
        assert!(!streams[2].text.contains("secret-1"), "and nowhere else");
    });
}

#[test]
fn requests_with_one_idempotency_key_at_the_same_time_get_one_answer() {
    on_each_server(async |server| {
        server.make_site("bj-1").await;
        let (status, image) = server.upload("i", vec![7; 100_000]).await;
        assert_eq!(status, StatusCode::CREATED, "{image}");
        for round in 0..4 {
            let key = format!("key {round}");
            let ask = |_| {
                let request = server.http.post(format!("{}/api/v1/instances", server.url));
                let body = json!({ "name": format!("w{round}"), "site": "bj-1", "image": "i" });
                let request = request
                    .bearer_auth(&server.token)
                    .header("Idempotency-Key", &key)
                    .json(&body);
                async move {
                    let answer = request.send().await.unwrap();
                    (answer.status(), answer.json::<Value>().await.unwrap())
                }
            };
            let answers = join_all((0..6).map(ask)).await;
            for (status, answer) in &answers {
                assert_eq!(*status, StatusCode::ACCEPTED, "{answer}");
                assert_eq!(answer["instance"]["id"], answers[0].1["instance"]["id"]);
                assert_eq!(answer["job"]["id"], answers[0].1["job"]["id"]);
            }
        }
        let list = server.get("/api/v1/instances").await;
        assert_eq!(list["items"].as_array().unwrap().len(), 4);
    });
}

#[test]
fn no_name_looks_like_an_id() {
    on_each_server(async |server| {
        server.make_site("bj-1").await;
        let victim =
            json!({ "name": "m1", "site": "bj-1", "macs": ["02:00:00:00:00:01"], "firmware": "bios" });
        let victim = ok(server, Method::POST, "/api/v1/machines", Some(victim)).await;
        let id = victim["id"].as_str().unwrap();
        let simple = id.replace('-', "");
        let password = "a long enough password";
        for name in [id, &simple] {
            for (path, body) in [
                (
                    "/api/v1/machines",
                    json!({ "name": name, "site": "bj-1", "macs": ["02:00:00:00:00:02"], "firmware": "bios" }),
                ),
                ("/api/v1/users", json!({ "name": name, "password": password })),
                ("/api/v1/projects", json!({ "id": name })),
                ("/api/v1/me/keys", json!({ "name": name })),
                (
                    "/api/v1/instances",
                    json!({ "name": name, "site": "bj-1", "image": "i" }),
                ),
            ] {
                let (status, answer) = server.post(path, body).await;
                assert_eq!(
                    (status, answer["code"].as_str()),
                    (StatusCode::BAD_REQUEST, Some("name")),
                    "{path} {name}: {answer}"
                );
            }
            let (status, answer) = server.upload(name, vec![1; 1000]).await;
            assert_eq!(
                (status, answer["code"].as_str()),
                (StatusCode::BAD_REQUEST, Some("name"))
            );
        }
        assert_eq!(server.get(&format!("/api/v1/machines/{id}")).await["name"], "m1");
    });
}

/// A password change that was begun before its user was shut out let them in again.
#[tokio::test]
async fn of_two_changes_of_a_user_at_once_none_takes_the_other_back() {
    on_each_database(|store| async move {
        let changed = store.transaction(|db| {
            let user = User {
                id: "u1".to_owned(),
                name: "bob".to_owned(),
                email: None,
                password: Some("former".to_owned()),
                subject: None,
                disabled: false,
                created_at: Utc::now(),
            };
            users::insert(db, &user)?;
            let shut_out = UserPatch {
                disabled: Some(true),
                ..UserPatch::default()
            };
            let password = UserPatch {
                password: Some("new".to_owned()),
                ..UserPatch::default()
            };
            users::update(db, "u1", &shut_out)?;
            users::update(db, "u1", &password)?;
            users::update(db, "u1", &UserPatch::default())?;
            Ok::<_, StoreError>(users::get(db, "u1")?.unwrap())
        });
        let user = changed.await.unwrap();
        assert!(user.disabled);
        assert_eq!(user.password.as_deref(), Some("new"));
    })
    .await;
}

/// Whoever holds the only writer makes others wait, and not without end.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_database_is_told_as_busy_and_not_waited_for_without_end() {
    use slipway_control_plane::{error::ApiError, store::Store};
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s.db").display().to_string())
        .await
        .unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let holder = store.clone();
    let holds = tokio::spawn(async move {
        let hold = holder.transaction(move |_| {
            begun.send(()).unwrap();
            // Ends when the test drops the other end.
            let _ = held.recv();
            Ok::<_, StoreError>(())
        });
        hold.await
    });
    has_begun.await.unwrap();
    let waits = store.transaction(users::any);
    let answer = tokio::time::timeout(LIMIT, waits)
        .await
        .expect("it does not wait for ever");
    assert!(matches!(answer, Err(StoreError::Busy(_))), "{answer:?}");
    let told = ApiError::from(answer.unwrap_err());
    assert_eq!((told.status().as_u16(), told.code()), (503, "busy"));
    drop(release);
    holds.await.unwrap().unwrap();
    assert!(!store.transaction(users::any).await.unwrap());
}
