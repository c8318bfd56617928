//! Lists in every order, page by page, and lists that hold a text, over HTTP, on both databases.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::store::{Store, machine_lists, machines};
use slipway_protocol::inventory::Inventory;

use crate::{
    common::{
        on_each_database,
        server::{Server, on_each_server},
    },
    scheduler::{make_machine, make_site},
};

/// All rows of a list, read by `limit` at a time.
async fn all(server: &Server, list: &str, query: &str, limit: usize) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/{list}?limit={limit}&{query}{cursor}");
        let page = server.get(&path).await;
        rows.extend(page["items"].as_array().unwrap().clone());
        assert!(rows.len() < 100, "{path} does not end");
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}

/// What a row is ordered by, and what tells it from its equals.
fn key(row: &Value, word: &str, tie: &str) -> (String, String) {
    let text = |word: &str| row[word].as_str().unwrap_or_default().to_owned();
    (text(word), text(tie))
}

async fn is_ordered(server: &Server, list: &str, word: &str, tie: &str) {
    let mut rows = all(server, list, "", 1000).await;
    assert!(rows.len() >= 5, "{list}");
    rows.sort_by_key(|row| key(row, word, tie));
    for way in ["", "-"] {
        for limit in [1, 2, 1000] {
            let read = all(server, list, &format!("sort={way}{word}"), limit).await;
            let ids = |rows: &[Value]| rows.iter().map(|r| r["id"].clone()).collect::<Vec<_>>();
            assert_eq!(ids(&read), ids(&rows), "{list} by {way}{word}, {limit} at a time");
        }
        rows.reverse();
    }
}

async fn names(server: &Server, list: &str, query: &str) -> String {
    let rows = all(server, list, query, 2).await;
    let names = rows.iter().map(|row| row["name"].as_str().unwrap().to_owned());
    names.collect::<Vec<_>>().join(" ")
}

async fn refused(server: &Server, path: &str) -> Value {
    let (status, answer) = server.call(Method::GET, &format!("/api/v1/{path}"), None).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {answer}");
    answer["code"].clone()
}

#[test]
fn lists_are_read_in_every_order_and_looked_through() {
    on_each_server(story);
}

async fn fill(server: &Server) {
    for site in ["bj-1", "bj-2"] {
        server.make_site(site).await;
    }
    for (site, n) in [("bj-2", 4), ("bj-1", 2), ("bj-2", 1), ("bj-1", 5), ("bj-1", 3)] {
        let row = if n < 3 { "gpu" } else { "" };
        server.make_machine(site, n, json!({ "row": row })).await;
    }
    server
        .make_type("gpu", 0, json!({ "labels": { "row": "gpu" } }))
        .await;
    for machine in ["m2", "m4"] {
        let (status, _) = server
            .post(&format!("/api/v1/machines/{machine}/maintenance"), json!({}))
            .await;
        assert_eq!(status, StatusCode::OK);
    }
    let bmc = json!({ "bmc": { "driver": "ipmi", "address": "198.51.100.77:623", "username": "u", "password": "p" } });
    let (status, answer) = server.patch("/api/v1/machines/m3", bmc).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    server.upload("i", b"image".to_vec()).await;
    for (site, name) in [
        ("bj-1", "web-2"),
        ("bj-2", "db"),
        ("bj-1", "web-1"),
        ("bj-2", "a-b"),
        ("bj-1", "axb"),
    ] {
        let wish = json!({ "name": name, "site": site, "image": "i", "labels": { "no": "such" } });
        let (status, answer) = server.post("/api/v1/instances", wish).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    }
    let jobs = server.get("/api/v1/jobs?limit=2").await;
    for job in jobs["items"].as_array().unwrap() {
        let path = format!("/api/v1/jobs/{}/cancel", job["id"].as_str().unwrap());
        assert_eq!(
            server.call(Method::POST, &path, None).await.0,
            StatusCode::ACCEPTED
        );
    }
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn story(server: &Server) {
    fill(server).await;
    for (word, tie) in [
        ("name", "id"),
        ("state", "name"),
        ("site", "name"),
        ("machine_type", "name"),
        ("created_at", "name"),
    ] {
        is_ordered(server, "machines", word, tie).await;
    }
    for word in ["name", "state", "site", "created_at"] {
        is_ordered(server, "instances", word, "id").await;
    }
    for word in ["created_at", "state", "site"] {
        is_ordered(server, "jobs", word, "id").await;
    }
    assert_eq!(
        names(server, "machines", "site=bj-1&sort=-name").await,
        "m5 m3 m2"
    );
    for (query, expected) in [
        ("q=M4", "m4"),
        ("q=00:00:05", "m5"),
        ("q=52:54", "m1 m2 m3 m4 m5"),
        ("q=198.51.100.77", "m3"),
        ("q=198.51.100.77&site=bj-2", ""),
        ("q=m&state=maintenance&sort=-name", "m4 m2"),
        ("q=%25", ""),
        ("q=_", ""),
        ("q=+", "m1 m2 m3 m4 m5"),
    ] {
        assert_eq!(names(server, "machines", query).await, expected, "{query}");
    }
    for (query, expected) in [
        ("q=WEB&sort=name", "web-1 web-2"),
        ("q=web&site=bj-2", ""),
        ("q=a_b", ""),
        ("q=192.0", ""),
    ] {
        assert_eq!(names(server, "instances", query).await, expected, "{query}");
    }
    let web = server.get("/api/v1/instances/web-1").await;
    let by_name = all(server, "jobs", "q=eb-1", 1000).await;
    let id = by_name[0]["id"].as_str().unwrap();
    assert_eq!((by_name.len(), &by_name[0]["instance"]), (1, &web["id"]));
    assert_eq!(all(server, "jobs", &format!("q={id}"), 10).await, by_name);
    let (status, _) = server
        .patch("/api/v1/machines/m4", json!({ "name": "gone" }))
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(names(server, "machines", "q=m4").await, "");
    assert_eq!(names(server, "machines", "q=GONE").await, "gone");
    let page = server.get("/api/v1/machines?limit=1&sort=state").await;
    let cursor = page["next"].as_str().unwrap();
    for path in [
        format!("machines?sort=-state&cursor={cursor}"),
        format!("machines?cursor={cursor}"),
        format!("instances?cursor={cursor}"),
        format!("jobs?cursor={cursor}"),
        "machines?sort=state&cursor=m1".to_owned(),
    ] {
        assert_eq!(refused(server, &path).await, "cursor", "{path}");
    }
    assert_eq!(refused(server, "jobs?sort=name").await, "sort");
    let long = format!("machines?q={}", "x".repeat(256));
    assert_eq!(refused(server, &long).await, "query");
}

async fn found(store: &Store, q: &str) -> usize {
    let filter = machine_lists::Filter {
        q: Some(q.to_owned()),
        ..machine_lists::Filter::default()
    };
    let page = store.read(move |db| machine_lists::page(db, &filter, "", 10));
    page.await.unwrap().len()
}

#[tokio::test]
async fn machines_are_found_by_the_serial_number_an_agent_read() {
    on_each_database(|store| async move {
        let filled = store.transaction(|db| {
            make_site(db, "bj-1")?;
            make_machine(db, "bj-1")?;
            let machine = machines::get(db, "m1")?.unwrap();
            let inventory = Inventory {
                serial: Some("CZ3-77_X".into()),
                ..Inventory::default()
            };
            machines::set_inventory(db, machine.id, &inventory)
        });
        filled.await.unwrap();
        for (q, count) in [("cz3-77_x", 1), ("CZ3", 1), ("02:00:00", 1), ("cz3-77-x", 0)] {
            assert_eq!(found(&store, q).await, count, "{q}");
        }
        let deleted = store.transaction(|db| {
            let machine = machines::get(db, "m1")?.unwrap();
            machines::delete(db, machine.id)
        });
        assert!(deleted.await.unwrap());
        assert_eq!(found(&store, "m1").await, 0);
    })
    .await;
}
