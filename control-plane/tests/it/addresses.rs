//! Addresses of a site: shown, reserved, and not taken away under machines. Over HTTP, on both databases.

use crate::common::server::{Server, on_each_server};
use reqwest::{Method, StatusCode};
use serde_json::json;

#[test]
fn addresses_are_shown_reserved_and_kept() {
    on_each_server(story);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn story(server: &Server) {
    server.make_site("bj-1").await;
    server.make_machine("bj-1", 1, json!({})).await;
    let reserve = async |body| server.post("/api/v1/sites/bj-1/reservations", body).await;
    let (status, made) =
        reserve(json!({ "first": "192.0.2.3", "last": "192.0.2.9", "note": "switches" })).await;
    assert_eq!(
        (status, &made["last"]),
        (StatusCode::CREATED, &json!("192.0.2.9")),
        "{made}"
    );
    assert_eq!(
        server.make_machine("bj-1", 2, json!({})).await["address"],
        "192.0.2.10"
    );
    for (body, code) in [
        (json!({ "first": "192.0.2.2" }), "address_taken"),
        (
            json!({ "first": "192.0.2.9", "last": "192.0.2.9" }),
            "address_reserved",
        ),
        (json!({ "first": "192.0.2.20", "last": "192.0.2.19" }), "range"),
        (json!({ "first": "192.0.2.20", "last": "198.51.100.1" }), "range"),
        (json!({ "first": "192.0.2.20", "note": "x".repeat(201) }), "note"),
        (json!({ "first": "x" }), "body"),
    ] {
        let (status, answer) = reserve(body.clone()).await;
        assert!(status.is_client_error(), "{body}: {status}");
        assert_eq!(answer["code"], code, "{body}: {answer}");
    }
    let machine = json!({ "name": "m3", "site": "bj-1", "macs": ["52:54:00:00:00:03"], "firmware": "uefi", "address": "192.0.2.5" });
    assert_eq!(
        server.post("/api/v1/machines", machine.clone()).await.1["code"],
        "address_reserved"
    );
    let shown = server.get("/api/v1/sites/bj-1/addresses").await["items"][0].clone();
    assert_eq!(
        (&shown["used"], &shown["free"]),
        (&json!(2), &json!(254 - 1 - 2 - 7)),
        "{shown}"
    );
    assert_eq!(
        shown["holders"][1],
        json!({ "address": "192.0.2.10", "machine": "m2" })
    );
    assert_eq!(shown["reservations"][0]["note"], "switches");
    let subnets = async |nets: &[(&str, &str)]| {
        let nets: Vec<_> = nets
            .iter()
            .map(|(net, server)| json!({ "network": net, "server": server }))
            .collect();
        let (status, answer) = server
            .patch("/api/v1/sites/bj-1", json!({ "subnets": nets }))
            .await;
        if status.is_success() {
            "done".to_owned()
        } else {
            answer["code"].as_str().unwrap().to_owned()
        }
    };
    let (home, far) = (("192.0.2.0/24", "192.0.2.1"), ("198.51.100.0/24", "198.51.100.1"));
    assert_eq!(subnets(&[far]).await, "subnet_in_use");
    assert_eq!(
        subnets(&[("192.0.2.0/24", "192.0.2.10")]).await,
        "subnet_in_use",
        "a machine has the address"
    );
    assert_eq!(
        subnets(&[home, ("192.0.2.128/25", "192.0.2.129")]).await,
        "subnet_overlap"
    );
    assert_eq!(subnets(&[home, far]).await, "done");
    assert_eq!(
        subnets(&[("192.0.2.0/28", "192.0.2.1")]).await,
        "done",
        "what nobody has may go"
    );
    let gone = server
        .call(Method::DELETE, "/api/v1/sites/bj-1/reservations/192.0.2.3", None)
        .await;
    assert_eq!(gone.0, StatusCode::NO_CONTENT);
    let again = server
        .call(Method::DELETE, "/api/v1/sites/bj-1/reservations/192.0.2.3", None)
        .await;
    assert_eq!(again.1["code"], "not_found");
    assert_eq!(
        server.post("/api/v1/machines", machine).await.0,
        StatusCode::CREATED
    );
    reserve(json!({ "first": "192.0.2.13" })).await;
    for machine in ["m1", "m2", "m3"] {
        server
            .call(Method::DELETE, &format!("/api/v1/machines/{machine}"), None)
            .await;
    }
    assert_eq!(
        subnets(&[far]).await,
        "subnet_in_use",
        "a reservation is kept too"
    );
    let site = server.call(Method::DELETE, "/api/v1/sites/bj-1", None).await;
    assert_eq!(site.0, StatusCode::NO_CONTENT, "its reservations go with a site");
}
