//! Many instances at once, by type and labels, within quotas; over HTTP, on both databases.

use crate::common::server::{Server, on_each_server};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

async fn batch(server: &Server, more: Value) -> (StatusCode, Value) {
    let mut body = json!({ "instance": { "name": "web-{n}", "site": "bj-1", "image": "i" }, "count": 3 });
    for (name, value) in more.as_object().unwrap() {
        if name == "instance" {
            let common = body["instance"].as_object_mut().unwrap();
            common.extend(value.as_object().unwrap().clone());
        } else {
            body[name] = value.clone();
        }
    }
    server.post("/api/v1/instances/batch", body).await
}

async fn names(server: &Server) -> Vec<String> {
    let list = server.get("/api/v1/instances?limit=1000").await;
    let items = list["items"].as_array().unwrap();
    let live = items.iter().filter(|i| i["state"] != "released");
    live.map(|i| i["name"].as_str().unwrap().to_owned()).collect()
}

async fn with_type(server: &Server) {
    server.make_site("bj-1").await;
    server.upload("i", b"image".to_vec()).await;
    server.make_machine("bj-1", 1, json!({ "rack": "a1" })).await;
    server
        .make_type("big", 0, json!({ "labels": { "rack": "a1" } }))
        .await;
}

#[test]
fn many_are_made_or_none() {
    on_each_server(made);
}

async fn made(server: &Server) {
    with_type(server).await;
    let (status, answer) = batch(server, json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
    assert_eq!(names(server).await, ["web-1", "web-2", "web-3"]);
    assert_eq!(answer["items"][2]["instance"]["name"], "web-3");
    assert_eq!(answer["items"][2]["job"]["kind"], "install");
    let cases = [
        (json!({ "first": 3 }), "taken"),
        (json!({ "instance": { "name": "x" } }), "names"),
        (json!({ "names": ["a"] }), "names"),
        (
            json!({ "count": null, "instance": { "name": "" }, "names": ["a", "a"] }),
            "names",
        ),
        (json!({ "count": 1001, "first": 10 }), "names"),
        (json!({ "first": 10, "instance": { "machine": "m1" } }), "machine"),
        (
            json!({ "first": 10, "instance": { "machine_type": "none" } }),
            "not_found",
        ),
        (
            json!({ "first": 10, "instance": { "image": "none" } }),
            "not_found",
        ),
        (json!({ "first": 10, "instance": { "name": "Web-{n}" } }), "name"),
    ];
    for (more, code) in cases {
        let (status, answer) = batch(server, more.clone()).await;
        assert!(status.is_client_error(), "{more}: {status}");
        assert_eq!(answer["code"], code, "{more}: {answer}");
        assert_eq!(names(server).await.len(), 3, "none is made: {more}");
    }
    let (_, refused) = server
        .post(
            "/api/v1/instances",
            json!({ "name": "batch", "site": "bj-1", "image": "i" }),
        )
        .await;
    assert_eq!(refused["code"], "name");
    let again = async || {
        let body = json!({ "instance": { "site": "bj-1", "image": "i" }, "names": ["a", "b"] });
        let request = server.http.post(format!("{}/api/v1/instances/batch", server.url));
        let request = request.bearer_auth(&server.token).header("Idempotency-Key", "k");
        request
            .json(&body)
            .send()
            .await
            .unwrap()
            .json::<Value>()
            .await
            .unwrap()
    };
    let (first, second) = (again().await, again().await);
    let ids = |answer: &Value| [0, 1].map(|n| answer["items"][n]["instance"]["id"].clone());
    assert!(ids(&first)[1].is_string(), "{first}");
    assert_eq!(ids(&first), ids(&second), "one key, the very same instances");
    assert_eq!(names(server).await.len(), 5);
}

#[test]
fn each_of_many_stands_for_itself() {
    on_each_server(worked_on);
}

async fn worked_on(server: &Server) {
    with_type(server).await;
    batch(server, json!({})).await;
    server
        .patch("/api/v1/instances/web-2", json!({ "locked": true }))
        .await;
    let body = json!({ "instances": ["web-1", "web-2", "web-9", "web-3"] });
    let (status, answer) = server.post("/api/v1/instances/batch/release", body).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let told: Vec<(u64, Value)> = answer["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["status"].as_u64().unwrap(), item["code"].clone()))
        .collect();
    let expected = [
        (202, Value::Null),
        (409, json!("instance_locked")),
        (404, json!("not_found")),
        (202, Value::Null),
    ];
    assert_eq!(told, expected);
    assert!(answer["items"][0]["job"].is_string() && answer["items"][1]["detail"].is_string());
    assert_eq!(names(server).await, ["web-2"]);
    for (verb, body, code) in [
        ("release", json!({ "instances": [] }), "instances"),
        (
            "stop",
            json!({ "instances": ["web-2"], "grace_s": 3601 }),
            "grace_s",
        ),
        ("polish", json!({ "instances": ["web-2"] }), "path"),
    ] {
        let (_, answer) = server
            .post(&format!("/api/v1/instances/batch/{verb}"), body)
            .await;
        assert_eq!(answer["code"], code, "{verb}");
    }
}

#[test]
fn quotas_count_by_type() {
    on_each_server(quotas);
}

async fn quotas(server: &Server) {
    with_type(server).await;
    let set = async |kind: &str, machines: Value| {
        let path = format!("/api/v1/projects/default/quotas/{kind}");
        server.put(&path, json!({ "machines": machines })).await
    };
    assert_eq!(set("none", json!(1)).await.1["code"], "not_found");
    set("big", json!(2)).await;
    let of_type = json!({ "machine_type": "big" });
    let (_, refused) = batch(server, json!({ "instance": of_type })).await;
    assert_eq!(refused["code"], "quota", "three do not fit into two: {refused}");
    assert!(
        refused["detail"].as_str().unwrap().contains("of type `big`"),
        "{refused}"
    );
    let (status, _) = batch(server, json!({ "instance": of_type, "count": 2 })).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let project = server.get("/api/v1/projects/default").await;
    assert_eq!(
        project["quotas"],
        json!([{ "machine_type": "big", "machines": 2, "used": 2 }])
    );
    let named = json!({ "name": "named", "site": "bj-1", "image": "i", "machine": "m1" });
    let (_, refused) = server.post("/api/v1/instances", named).await;
    assert_eq!(
        refused["code"], "quota",
        "the machine that is named is of the type: {refused}"
    );
    let any = json!({ "name": "any", "site": "bj-1", "image": "i" });
    assert_eq!(
        server.post("/api/v1/instances", any).await.0,
        StatusCode::ACCEPTED
    );
    let (_, refused) = server
        .call(Method::DELETE, "/api/v1/machine-types/big", None)
        .await;
    assert_eq!(refused["code"], "machine_type_in_use");
    set("*", json!(3)).await;
    let (_, refused) = server
        .post(
            "/api/v1/instances",
            json!({ "name": "more", "site": "bj-1", "image": "i" }),
        )
        .await;
    assert_eq!(refused["code"], "quota");
}
