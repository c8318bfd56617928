//! Machines from a list: all or none, tried before, and never told what is secret. Over HTTP, on both databases.

use crate::common::server::{Server, on_each_server};
use reqwest::StatusCode;
use serde_json::{Value, json};

async fn send(server: &Server, query: &str, kind: &str, text: String) -> (StatusCode, Value) {
    let request = server
        .http
        .post(format!("{}/api/v1/machines/import?{query}", server.url));
    let request = request.bearer_auth(&server.token).header("Content-Type", kind);
    let answer = request.body(text).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn count(server: &Server) -> usize {
    let list = server.get("/api/v1/machines?limit=1000").await;
    list["items"].as_array().unwrap().len()
}

const LIST: &str = "\
name,site,macs,firmware,address,bmc,bmc_user,bmc_password,labels,shelved
m1,bj-1,52:54:00:00:00:01 52:54:00:00:00:11,bios,,192.0.2.101:623,root,s3cret,rack=a1;u=7,
m2,bj-1,52:54:00:00:00:02,,192.0.2.2,,,,,true
";

#[test]
fn a_list_is_tried_then_done_then_nothing_is_left_to_do() {
    on_each_server(story);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn story(server: &Server) {
    server.make_site("bj-1").await;
    let csv = async |query: &str, text: &str| send(server, query, "text/csv", text.to_owned()).await;
    let counts =
        |answer: &Value| ["created", "updated", "unchanged", "errors"].map(|n| answer[n].as_u64().unwrap());
    let (status, tried) = csv("dry_run=true", LIST).await;
    assert_eq!(
        (status, counts(&tried)),
        (StatusCode::OK, [2, 0, 0, 0]),
        "{tried}"
    );
    assert_eq!(count(server).await, 0, "a dry run does nothing");
    let (status, done) = csv("", LIST).await;
    assert_eq!((status, counts(&done)), (StatusCode::OK, [2, 0, 0, 0]), "{done}");
    let m1 = server.get("/api/v1/machines/m1").await;
    assert_eq!(
        m1["address"], "192.0.2.3",
        "the one that another row asks for is not chosen"
    );
    assert_eq!(
        (&m1["labels"], &m1["bmc"]["username"]),
        (&json!({ "rack": "a1", "u": "7" }), &json!("root"))
    );
    assert_eq!(server.get("/api/v1/machines/m2").await["state"], "enrolled");
    let (_, again) = csv("", LIST).await;
    assert_eq!(counts(&again), [0, 0, 2, 0], "{again}");
    let other = LIST
        .replace("rack=a1;u=7", "rack=a2")
        .replace("s3cret", "changed");
    let (status, differs) = csv("", &other).await;
    assert_eq!(
        (status, &differs["code"]),
        (StatusCode::BAD_REQUEST, &json!("import"))
    );
    let error = &differs["rows"][0]["errors"][0];
    assert_eq!(
        (&error["field"], &error["code"]),
        (&json!("labels"), &json!("differs"))
    );
    assert!(
        error["detail"].as_str().unwrap().contains("labels, bmc_password"),
        "{error}"
    );
    let (_, updated) = csv("update=true", &other).await;
    assert_eq!(counts(&updated), [0, 1, 1, 0], "{updated}");
    assert_eq!(
        server.get("/api/v1/machines/m1").await["labels"],
        json!({ "rack": "a2" })
    );
    let (_, again) = csv("update=true", &other).await;
    assert_eq!(counts(&again), [0, 0, 2, 0]);
    let moved = json!([{ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01", "52:54:00:00:00:11"],
        "bmc": "192.0.2.102:623" }]);
    let (_, refused) = send(server, "update=true", "application/json", moved.to_string()).await;
    assert_eq!(
        refused["rows"][0]["errors"][0]["code"], "bmc_password",
        "a password that is kept is not sent elsewhere: {refused}"
    );
    let one_bmc = json!([
        { "name": "n1", "site": "bj-1", "macs": ["52:54:00:00:00:21"], "bmc": "192.0.2.150:623" },
        { "name": "n2", "site": "bj-1", "macs": ["52:54:00:00:00:22"], "bmc": "192.0.2.150:623" },
        { "name": "n3", "site": "bj-1", "macs": ["52:54:00:00:00:23"], "bmc": "192.0.2.101:623" },
    ]);
    let (_, refused) = send(server, "", "application/json", one_bmc.to_string()).await;
    let codes: Vec<&Value> = (0..3).map(|n| &refused["rows"][n]["errors"][0]["code"]).collect();
    assert_eq!(
        codes,
        [&Value::Null, &json!("twice"), &json!("bmc_taken")],
        "{refused}"
    );
    let bmc = json!({ "driver": "ipmi", "address": "192.0.2.101:623", "username": "root", "password": "x" });
    let body = json!({ "name": "n4", "site": "bj-1", "macs": ["52:54:00:00:00:24"], "firmware": "uefi", "bmc": bmc });
    let (status, refused) = server.post("/api/v1/machines", body).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::CONFLICT, &json!("bmc_taken")),
        "{refused}"
    );
    let (status, refused) = server.patch("/api/v1/machines/m2", json!({ "bmc": bmc })).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::CONFLICT, &json!("bmc_taken")),
        "{refused}"
    );
    let same = json!({ "bmc": { "username": "root" }, "labels": { "rack": "a2" } });
    let (status, changed) = server.patch("/api/v1/machines/m1", same).await;
    assert_eq!(status, StatusCode::OK, "its own is no other's: {changed}");
    let wrong = json!([
        { "name": "n1", "site": "bj-1", "macs": ["52:54:00:00:00:21"] },
        { "name": "n2", "site": "nowhere", "macs": ["52:54:00:00:00:22"] },
        { "name": "n1", "site": "bj-1", "macs": ["52:54:00:00:00:21"], "address": "192.0.2.1" },
        { "name": "n4", "site": "bj-1", "macs": ["52:54:00:00:00:01"] },
        { "name": "n5", "site": "bj-1", "macs": ["52:54:00:00:00:25"], "address": "192.0.2.2" },
        { "name": "import", "site": "bj-1", "macs": ["52:54:00:00:00:26"] },
        { "name": "m1", "site": "sh-1", "macs": ["52:54:00:00:00:27"] },
    ]);
    server.make_site("sh-1").await;
    let (status, refused) = send(server, "", "application/json", wrong.to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let rows = refused["rows"].as_array().unwrap().iter();
    let told: Vec<Vec<(&str, &str)>> = rows
        .map(|row| {
            let errors = row["errors"].as_array().unwrap().iter();
            errors
                .map(|e| (e["field"].as_str().unwrap(), e["code"].as_str().unwrap()))
                .collect()
        })
        .collect();
    let expected = [
        vec![],
        vec![("site", "not_found")],
        vec![("name", "twice"), ("macs", "twice")],
        vec![("macs", "taken")],
        vec![("address", "address_taken")],
        vec![("name", "name")],
        vec![("site", "machine_site")],
    ];
    assert_eq!(told, expected);
    assert_eq!(count(server).await, 2, "none is done if one is wrong");
    let everything = server.get("/api/v1/audit?limit=1000").await.to_string() + &refused.to_string();
    assert!(!everything.contains("s3cret") && !everything.contains("changed\""));
    for (kind, text, code) in [
        ("text/csv", "name,site\nm1,bj-1\n".to_owned(), "columns"),
        ("text/csv", "name,site,macs\n".to_owned(), "rows"),
        ("application/json", "{}".to_owned(), "body"),
        (
            "text/csv",
            format!("name,site,macs\n{}", "m,bj-1,x\n".repeat(5001)),
            "rows",
        ),
    ] {
        assert_eq!(send(server, "", kind, text).await.1["code"], code);
    }
}

#[test]
fn hundreds_of_machines_get_addresses_of_their_own() {
    on_each_server(many);
}

async fn many(server: &Server) {
    let subnet = json!({ "network": "198.51.100.0/22", "server": "198.51.100.1" });
    server
        .post("/api/v1/sites", json!({ "id": "sz-1", "subnets": [subnet] }))
        .await;
    let rows: Vec<Value> = (0..700)
        .map(|n| json!({ "name": format!("r{n}"), "site": "sz-1", "macs": [format!("52:54:00:00:{:02x}:{:02x}", n / 256, n % 256)] }))
        .collect();
    let (status, done) = send(server, "", "application/json", json!(rows).to_string()).await;
    assert_eq!(
        (status, &done["created"]),
        (StatusCode::OK, &json!(700)),
        "{done}"
    );
    let list = server.get("/api/v1/machines?limit=1000").await;
    let addresses: std::collections::BTreeSet<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["address"].as_str().unwrap())
        .collect();
    assert_eq!(addresses.len(), 700);
}
