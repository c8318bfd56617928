//! Lists of machines narrowed by state, type and labels, over HTTP, on both databases.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::server::{Server, on_each_server};

#[test]
fn machines_are_found_by_state_type_and_labels() {
    on_each_server(story);
}

async fn story(server: &Server) {
    server.make_site("bj-1").await;
    server.make_site("bj-2").await;
    for (site, n, labels) in [
        ("bj-1", 1, json!({ "rack": "a1", "row": "3" })),
        ("bj-1", 2, json!({ "rack": "a1", "row": "4" })),
        ("bj-2", 3, json!({ "rack": "a1", "row": "3", "eq": "x=y" })),
        ("bj-2", 4, json!({})),
    ] {
        server.make_machine(site, n, labels).await;
    }
    server
        .make_type("gpu", 0, json!({ "labels": { "row": "3" } }))
        .await;
    let (status, _) = server.post("/api/v1/machines/m2/maintenance", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    for (query, expected) in [
        ("", "m1 m2 m3 m4"),
        ("state=maintenance", "m2"),
        ("state=available&site=bj-1", "m1"),
        ("state=retired", ""),
        ("machine_type=gpu", "m1 m3"),
        ("machine_type=gpu&site=bj-2", "m3"),
        ("machine_type=none", ""),
        ("label=rack=a1", "m1 m2 m3"),
        ("label=rack=a1&label=row=3", "m1 m3"),
        ("label=rack%3Da1&label=row%3D3&site=bj-1", "m1"),
        ("label=row=3&label=row=4", ""),
        ("label=eq=x=y", "m3"),
        ("label=rack=", ""),
        ("label=rack=a1&state=available&machine_type=gpu&site=bj-2", "m3"),
        ("label=rack=a1&limit=1&cursor=m1", "m2"),
    ] {
        let answer = server.get(&format!("/api/v1/machines?{query}")).await;
        let name = |machine: &Value| machine["name"].as_str().unwrap().to_owned();
        let names: Vec<String> = answer["items"].as_array().unwrap().iter().map(name).collect();
        assert_eq!(names.join(" "), expected, "{query}");
    }
    let many = "label=a=b&".repeat(17);
    for query in ["state=lost", "label=rack", "label==a1", "label", many.as_str()] {
        let (status, answer) = server
            .call(Method::GET, &format!("/api/v1/machines?{query}"), None)
            .await;
        assert_eq!(
            (status, &answer["code"]),
            (StatusCode::BAD_REQUEST, &json!("query")),
            "{query}"
        );
    }
}
