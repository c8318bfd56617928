//! Finding things by a text, and views that users save, over HTTP, on both databases.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::server::{Server, on_each_server};

async fn call_as(
    server: &Server,
    key: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let mut request = server
        .http
        .request(method, format!("{}{path}", server.url))
        .bearer_auth(key);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let body = answer.text().await.unwrap();
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// What is found, as `kind name`, in its order.
async fn found(server: &Server, key: &str, query: &str) -> String {
    let path = format!("/api/v1/search?q={query}");
    let (status, answer) = call_as(server, key, Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    let hit = |hit: &Value| {
        format!(
            "{} {}",
            hit["kind"].as_str().unwrap(),
            hit["name"].as_str().unwrap()
        )
    };
    let hits: Vec<String> = answer["items"].as_array().unwrap().iter().map(hit).collect();
    hits.join(", ")
}

#[test]
fn things_are_found_by_who_may_see_them() {
    on_each_server(finding);
}

async fn finding(server: &Server) {
    for site in ["web-site", "bj-1"] {
        server.make_site(site).await;
    }
    for n in 1..=7 {
        server.make_machine("bj-1", n, json!({})).await;
    }
    server.upload("web", b"image".to_vec()).await;
    for (project, name) in [("web", "my-web"), ("db", "web-2"), ("db", "web")] {
        server.post("/api/v1/projects", json!({ "id": project })).await;
        let wish = json!({ "name": name, "site": "bj-1", "image": "web", "project": project,
            "labels": { "no": "such" } });
        let (status, answer) = server.post("/api/v1/instances", wish).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    }
    let webster = server.user("webster", &[("owner", "project:web")]).await;
    let olga = server.user("olga", &[("operator", "site:web-site")]).await;
    let nobody = server.user("nobody", &[]).await;
    let ann = server.token.as_str();
    assert_eq!(
        found(server, ann, "WEB").await,
        "instance web, image web, project web, site web-site, instance web-2, user webster, instance my-web"
    );
    assert_eq!(
        found(server, &webster, "web").await,
        "image web, project web, site web-site, instance my-web",
        "a tenant finds what is theirs, and every site to choose from"
    );
    assert_eq!(found(server, &olga, "bj").await, "", "a site of others");
    assert_eq!(found(server, &olga, "m1").await, "");
    assert_eq!(found(server, &nobody, "web").await, "");
    assert_eq!(found(server, ann, "00:00:03").await, "machine m3");
    assert_eq!(
        found(server, ann, "52:54&limit=2").await,
        "machine m1, machine m2"
    );
    assert_eq!(found(server, ann, "52:54").await.split(", ").count(), 5);
    assert_eq!(found(server, ann, "%25%25").await, "");
    let jobs = server.get("/api/v1/jobs").await;
    let job = jobs["items"][0]["id"].as_str().unwrap();
    assert_eq!(found(server, ann, job).await, format!("job {job}"));
    assert_eq!(found(server, ann, &job[..30]).await, format!("job {job}"));
    assert_eq!(
        found(server, &webster, job).await,
        "",
        "the newest job is of the other project"
    );
    let machine = server.get("/api/v1/machines/m2").await["id"].clone();
    assert_eq!(found(server, ann, machine.as_str().unwrap()).await, "machine m2");
    for query in ["q=x", "q=%20x%20", "", &format!("q={}", "x".repeat(256))] {
        let path = format!("/api/v1/search?{query}");
        let (status, answer) = call_as(server, ann, Method::GET, &path, None).await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::BAD_REQUEST, &json!("query")),
            "{query}"
        );
    }
}

#[test]
fn views_are_saved_for_oneself() {
    on_each_server(saving);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn saving(server: &Server) {
    let bob = server.user("bob", &[]).await;
    let of = |name: &str| format!("/api/v1/me/views/{name}");
    let view = json!({ "page": "machines", "query": "site=bj-1&sort=-name", "columns": ["name", "state"] });
    let (status, saved) = call_as(server, &bob, Method::PUT, &of("free%20ones"), Some(view.clone())).await;
    assert_eq!(
        (status, &saved["name"]),
        (StatusCode::OK, &json!("free ones")),
        "{saved}"
    );
    let listed = async |key: &str| {
        let (_, answer) = call_as(server, key, Method::GET, "/api/v1/me/views", None).await;
        answer["items"].as_array().unwrap().clone()
    };
    assert_eq!(listed(&bob).await, [saved]);
    assert!(listed(&server.token).await.is_empty(), "they are bob's own");
    let other = json!({ "page": "jobs", "query": "" });
    let (_, changed) = call_as(server, &bob, Method::PUT, &of("free%20ones"), Some(other.clone())).await;
    assert_eq!(
        (&changed["page"], &changed["columns"]),
        (&json!("jobs"), &Value::Null)
    );
    assert_eq!(listed(&bob).await.len(), 1, "saved in place of it");
    let narrow = json!({ "name": "narrow", "permissions": [] });
    let (status, narrow) = call_as(server, &bob, Method::POST, "/api/v1/me/keys", Some(narrow)).await;
    assert_eq!(status, StatusCode::CREATED, "{narrow}");
    let narrow = narrow["key"].as_str().unwrap();
    assert_eq!(listed(narrow).await.len(), 1, "a key sees its holder's");
    let (status, _) = call_as(server, narrow, Method::PUT, &of("x"), Some(other.clone())).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let long = "x".repeat(64);
    for (name, page, query, columns, code) in [
        (long.as_str(), "jobs", "", json!(null), "name"),
        ("a%0Ab", "jobs", "", json!(null), "name"),
        ("a", "Jobs", "", json!(null), "page"),
        ("a", "", "", json!(null), "page"),
        ("a", "jobs", &"q".repeat(4097), json!(null), "view_query"),
        ("a", "jobs", "", json!([""]), "columns"),
        ("a", "jobs", "", json!(7), "body"),
    ] {
        let body = json!({ "page": page, "query": query, "columns": columns });
        let (status, answer) = call_as(server, &bob, Method::PUT, &of(name), Some(body)).await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::BAD_REQUEST, &json!(code)),
            "{name} {answer}"
        );
    }
    for n in 1..100 {
        let (status, _) = call_as(
            server,
            &bob,
            Method::PUT,
            &of(&format!("v{n}")),
            Some(other.clone()),
        )
        .await;
        assert_eq!(status, StatusCode::OK);
    }
    let (status, full) = call_as(server, &bob, Method::PUT, &of("v100"), Some(other.clone())).await;
    assert_eq!(
        (status, &full["code"]),
        (StatusCode::CONFLICT, &json!("too_many_views"))
    );
    let (status, _) = call_as(server, &bob, Method::PUT, &of("v99"), Some(view)).await;
    assert_eq!(status, StatusCode::OK, "one that is there can still be saved");
    let (status, _) = call_as(server, &bob, Method::DELETE, &of("v99"), None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let (status, gone) = call_as(server, &bob, Method::DELETE, &of("v99"), None).await;
    assert_eq!(
        (status, &gone["code"]),
        (StatusCode::NOT_FOUND, &json!("not_found"))
    );
    let log = server.get("/api/v1/audit?action=view.delete").await;
    assert_eq!(log["items"][0]["object"], "view/bob/v99", "{log}");
    let (status, _) = server.call(Method::DELETE, "/api/v1/users/bob", None).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "views keep nobody");
}
