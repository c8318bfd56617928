//! The event stream over real HTTP, on SQLite and on PostgreSQL: pages, timelines, and the live tail.

use std::time::Duration;

use crate::common::Postgres;
use crate::common::server::{Server, server_as};
use chrono::Utc;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{
    config::Given,
    store::{
        Store,
        events::{self, NewEvent},
    },
};

const LIMIT: Duration = Duration::from_secs(60);

/// A live tail as a browser reads it.
struct Tail {
    answer: reqwest::Response,
    text: String,
}

impl Tail {
    async fn open(server: &Server, query: &str, last: Option<u64>) -> Self {
        let mut request = server.http.get(format!("{}/api/v1/events{query}", server.url));
        request = request
            .bearer_auth(&server.token)
            .header("Accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self {
            answer,
            text: String::new(),
        }
    }

    /// The next message: its id and its data; nothing when the stream has ended.
    async fn next(&mut self) -> Option<(u64, Value)> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    message
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                };
                let found = field("id").map(|id| {
                    (
                        id.parse().unwrap(),
                        serde_json::from_str(field("data").unwrap()).unwrap(),
                    )
                });
                self.text = rest.to_owned();
                if found.is_some() {
                    return found;
                }
                continue;
            }
            let chunk = tokio::time::timeout(LIMIT, self.answer.chunk()).await.unwrap();
            self.text.push_str(&String::from_utf8_lossy(&chunk.unwrap()?));
        }
    }
}

/// Live and paged, resumed, fed by another replica, ended by the end of the process.
async fn tail_story(database_url: Option<String>) {
    let given = Given {
        database_url: database_url.clone(),
        ..Given::default()
    };
    let mut server = server_as(given).await;
    let mut all = Tail::open(&server, "?after=0", None).await;
    server.make_site("bj-1").await;
    let (id, event) = all.next().await.unwrap();
    assert_eq!(
        (id, event["kind"].as_str(), event["seq"].as_u64()),
        (1, Some("site.created"), Some(1))
    );
    let mut fresh = Tail::open(&server, "?site=bj-2", None).await;
    let machine = json!({ "name": "m1", "site": "bj-1", "macs": ["02:00:00:00:00:01"], "firmware": "bios" });
    let (status, _) = server
        .call(Method::POST, "/api/v1/machines", Some(&machine))
        .await;
    assert_eq!(status, StatusCode::CREATED);
    server.make_site("bj-2").await;
    let of =
        |told: Option<(u64, Value)>| told.map(|(id, event)| (id, event["kind"].as_str().unwrap().to_owned()));
    let added = Some((2, "machine.added".to_owned()));
    assert_eq!(of(all.next().await), added);
    assert_eq!(of(fresh.next().await).unwrap().0, 3, "from now on, filtered");
    let mut resumed = Tail::open(&server, "?after=0", Some(1)).await;
    assert_eq!(
        of(resumed.next().await),
        added,
        "Last-Event-ID goes before `after`"
    );
    assert_eq!(of(resumed.next().await).unwrap().0, 3);
    if let Some(url) = database_url {
        let replica = Store::open(&url).await.unwrap();
        let append =
            replica.transaction(|db| events::append(db, &NewEvent::new("test.elsewhere", Utc::now())));
        append.await.unwrap();
        assert_eq!(of(resumed.next().await), Some((4, "test.elsewhere".to_owned())));
    }
    pages(&server).await;
    server.stop.cancel();
    while all.next().await.is_some() {}
    let ended = tokio::time::timeout(LIMIT, server.task.take().unwrap()).await;
    ended.unwrap().unwrap().unwrap();
}

async fn pages(server: &Server) {
    let seqs = |page: &Value| -> Vec<u64> {
        page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["seq"].as_u64().unwrap())
            .collect()
    };
    let newest = server.get("/api/v1/events?kind=site&limit=1").await;
    assert_eq!((seqs(&newest), newest["next"].as_str()), (vec![3], Some("3")));
    assert_eq!(
        seqs(&server.get("/api/v1/events?kind=site&limit=1&cursor=3").await),
        [1]
    );
    let oldest = server.get("/api/v1/events?after=1&limit=1").await;
    assert_eq!((seqs(&oldest), oldest["next"].as_str()), (vec![2], Some("2")));
    assert_eq!(
        seqs(&server.get("/api/v1/events?after=1&limit=1&cursor=2").await),
        [3]
    );
    let (status, problem) = server.call(Method::GET, "/api/v1/events?cursor=x", None).await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::BAD_REQUEST, Some("cursor"))
    );
    assert_eq!(seqs(&server.get("/api/v1/machines/m1/timeline").await), [2]);
    let history = server.get("/api/v1/machines/m1/history").await;
    assert_eq!(history["items"][0]["what"], "added");
    let id = server.get("/api/v1/machines/m1").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let (status, _) = server.call(Method::DELETE, "/api/v1/machines/m1", None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let after = server.get(&format!("/api/v1/machines/{id}/timeline")).await;
    assert_eq!(
        after["items"][1]["kind"], "machine.deleted",
        "it outlives its machine"
    );
    for path in ["machines/none", "instances/none", "jobs/none"] {
        let (status, _) = server
            .call(Method::GET, &format!("/api/v1/{path}/timeline"), None)
            .await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_read_live_and_in_pages() {
    tail_story(None).await;
    let postgres = Postgres::start();
    tail_story(Some(postgres.url())).await;
}
