//! What a dashboard shows: since when things are in their states, and everything counted by site, on both databases.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{
    access::Visible,
    store::{StoreError, overview, states},
};

use crate::{
    common::{
        on_each_database,
        server::{Server, on_each_server},
    },
    scheduler::{ask, make_machine, make_site},
};

fn at(view: &Value, field: &str) -> DateTime<Utc> {
    let text = view[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {view}"));
    text.parse().unwrap()
}

/// Asks as somebody else.
async fn get_as(server: &Server, key: &str, path: &str) -> Value {
    let request = server.http.get(format!("{}{path}", server.url)).bearer_auth(key);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.json().await.unwrap()
}

#[test]
fn everything_is_counted_for_who_may_see_it() {
    on_each_server(story);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn story(server: &Server) {
    let empty = server.get("/api/v1/overview").await;
    assert_eq!(
        (&empty["sites"], &empty["totals"]["sites"]),
        (&json!([]), &json!(0))
    );
    for site in ["bj-1", "bj-2"] {
        server.make_site(site).await;
    }
    server.make_machine("bj-1", 1, json!({})).await;
    server.make_machine("bj-1", 2, json!({})).await;
    let made = server.make_machine("bj-2", 3, json!({})).await;
    assert_eq!(at(&made, "state_since"), at(&made, "created_at"));
    let (status, moved) = server.post("/api/v1/machines/m2/maintenance", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    assert!(at(&moved, "state_since") > at(&moved, "created_at"), "{moved}");
    let listed = server.get("/api/v1/machines").await;
    assert_eq!(listed["items"][1]["state_since"], moved["state_since"]);
    assert_eq!(moved["state_limit_s"], Value::Null, "nothing ends maintenance");
    server.upload("i", b"image".to_vec()).await;
    for project in ["web", "db"] {
        let (status, _) = server.post("/api/v1/projects", json!({ "id": project })).await;
        assert_eq!(status, StatusCode::CREATED);
        let wish = json!({ "name": "one", "site": "bj-2", "image": "i", "project": project,
            "labels": { "no": "such" } });
        let (status, accepted) = server.post("/api/v1/instances", wish).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
        let (instance, job) = (&accepted["instance"], &accepted["job"]);
        assert_eq!(at(instance, "state_since"), at(instance, "created_at"));
        assert_eq!(instance["state_limit_s"], 7200, "somebody waits for it");
        assert_eq!(at(job, "state_since"), at(job, "created_at"));
    }
    let jobs = server.get("/api/v1/jobs").await;
    assert!(at(&jobs["items"][0], "state_since") >= at(&jobs["items"][1], "state_since"));
    let overview = server.get("/api/v1/overview").await;
    let site = |n: usize| &overview["sites"][n];
    assert_eq!(site(0)["machines"], json!({ "available": 1, "maintenance": 1 }));
    assert_eq!(
        site(1)["jobs"],
        json!({ "queued": 2, "running": 0, "failed_24h": 0 })
    );
    assert_eq!(
        (&site(0)["online"], &site(0)["lag_s"]),
        (&json!(false), &Value::Null)
    );
    let totals = json!({ "sites": 2, "online": 0, "machines": { "available": 2, "maintenance": 1 },
        "jobs": { "queued": 2, "running": 0, "failed_24h": 0 }, "open_alerts": 0, "oldest_stuck": null });
    assert_eq!(overview["totals"], totals);
    // A job that was called off has failed for nobody.
    let job = jobs["items"][0]["id"].as_str().unwrap();
    let (status, cancelled) = server
        .call(Method::POST, &format!("/api/v1/jobs/{job}/cancel"), None)
        .await;
    assert_eq!(status, StatusCode::ACCEPTED, "{cancelled}");
    assert!(at(&cancelled, "state_since") > at(&cancelled, "created_at"));
    let rule = json!({ "name": "kept", "condition": { "is": "state_older_than", "object": "machine",
        "state": "maintenance", "seconds": 0 } });
    let (status, answer) = server.post("/api/v1/alert-rules", rule).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let alerted = loop {
        let overview = server.get("/api/v1/overview").await;
        if overview["totals"]["open_alerts"] == 1 {
            break overview;
        }
        assert!(tokio::time::Instant::now() < limit, "no alert: {overview}");
        tokio::task::yield_now().await;
    };
    assert_eq!(alerted["sites"][0]["open_alerts"], 1);
    let nobody = server.user("nobody", &[]).await;
    let wendy = server.user("wendy", &[("owner", "project:web")]).await;
    let olga = server.user("olga", &[("operator", "site:bj-1")]).await;
    assert_eq!(
        get_as(server, &nobody, "/api/v1/overview").await["sites"],
        json!([])
    );
    let hers = get_as(server, &wendy, "/api/v1/overview").await;
    assert_eq!(
        hers["totals"]["machines"],
        json!({}),
        "tenants see no hardware: {hers}"
    );
    assert_eq!(
        (&hers["totals"]["sites"], &hers["totals"]["open_alerts"]),
        (&json!(2), &json!(0))
    );
    // The newest job, which was called off, was the other project's.
    assert_eq!(hers["totals"]["jobs"]["queued"], 1);
    let hers = get_as(server, &olga, "/api/v1/overview").await;
    assert_eq!(hers["sites"].as_array().unwrap().len(), 1);
    assert_eq!(
        hers["totals"]["machines"],
        json!({ "available": 1, "maintenance": 1 })
    );
}

#[tokio::test]
async fn what_is_past_its_time_is_found_for_who_may_see_it() {
    on_each_database(|store| async move {
        let now = Utc::now();
        let begun = now - TimeDelta::hours(3);
        let found = store.transaction(move |db| {
            make_site(db, "bj-1")?;
            make_machine(db, "bj-1")?;
            ask(db, (1, "bj-1"), None, begun)?;
            ask(db, (2, "bj-1"), None, now)?;
            let id = |n: u128| uuid::Uuid::from_u128(n).to_string();
            for (object, state) in [("instance", "requested"), ("job", "queued")] {
                states::enter(db, (object, &id(1)), state, begun)?;
                states::enter(db, (object, &id(2)), state, now)?;
            }
            // Its own row says otherwise, and has the last word.
            states::enter(db, ("machine", &id(1)), "erasing", begun)?;
            let before = now - TimeDelta::hours(2);
            let only = |sites: &[&str], projects: &[&str]| {
                let set = |names: &[&str]| {
                    names
                        .iter()
                        .map(|name| (*name).to_owned())
                        .collect::<BTreeSet<_>>()
                };
                Visible::Only {
                    sites: set(sites),
                    projects: set(projects),
                }
            };
            let mut found = Vec::new();
            for visible in [
                Visible::All,
                only(&["bj-1"], &[]),
                only(&[], &["default"]),
                only(&["bj-2"], &["web"]),
            ] {
                let mut stuck = overview::stuck_machines(db, &visible, (&["erasing"], before))?;
                stuck.extend(overview::stuck_instances(db, &visible, (&["requested"], before))?);
                stuck.extend(overview::stuck_jobs(db, &visible, (&["queued"], now))?);
                let failed = overview::failed_jobs(db, &visible, begun)?;
                assert_eq!(failed, []);
                let waiting = overview::jobs(db, &visible, &["queued", "running"])?;
                let told = stuck.iter().map(|s| format!("{} {} {}", s.kind, s.name, s.state));
                found.push((
                    told.collect::<Vec<_>>().join(", "),
                    waiting.first().map(|(.., n)| *n),
                ));
            }
            Ok::<_, StoreError>(found)
        });
        let found = found.await.unwrap();
        let job = uuid::Uuid::from_u128(1);
        let all = (format!("instance i1 requested, job {job} queued"), Some(2));
        assert_eq!(found, [all.clone(), all.clone(), all, (String::new(), None)]);
    })
    .await;
}
