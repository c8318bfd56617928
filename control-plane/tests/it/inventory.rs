//! Machine types over HTTP and in the store, on both databases.

use std::collections::BTreeMap;

use crate::common::{
    on_each_database,
    server::{Server, on_each_server},
};
use chrono::Utc;
use metrics_exporter_prometheus::PrometheusBuilder;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::{
    app::App,
    config::Given,
    domain,
    store::{
        StoreError,
        machine_types::{self, MachineType},
        machines::{self, Class, Machine, MachineDetails},
        sites::{self, SiteSettings},
    },
    workflow::{classify::Rules, state::MachineState},
};
use slipway_protocol::{
    ids::{JobId, MacAddr, MachineId, SiteId},
    inventory::{FirmwareKind, Inventory},
};
use uuid::Uuid;

impl Server {
    pub(crate) async fn patch(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::PATCH, path, Some(&body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.call(Method::PUT, path, Some(&body)).await
    }

    /// Adds machine `m{n}` with labels.
    pub(crate) async fn make_machine(&self, site: &str, n: u8, labels: Value) -> Value {
        let mac = format!("52:54:00:00:00:{n:02x}");
        let body = json!({ "name": format!("m{n}"), "site": site, "macs": [mac], "firmware": "uefi", "labels": labels });
        let (status, answer) = self.post("/api/v1/machines", body).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer
    }

    pub(crate) async fn make_type(&self, name: &str, priority: i64, rules: Value) -> Value {
        let body = json!({ "priority": priority, "rules": rules });
        let (status, answer) = self.put(&format!("/api/v1/machine-types/{name}"), body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer
    }
}

#[test]
fn machines_get_their_types_by_rules_and_by_hand() {
    on_each_server(types_story);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn types_story(server: &Server) {
    server.make_site("bj-1").await;
    for (n, rack) in [(1, "a1"), (2, "a1"), (3, "a2")] {
        server.make_machine("bj-1", n, json!({ "rack": rack })).await;
    }
    let type_of = async |machine: &str| {
        let shown = server.get(&format!("/api/v1/machines/{machine}")).await;
        (
            shown["machine_type"].clone(),
            shown["type_reason"].clone(),
            shown["type_pinned"].clone(),
        )
    };
    let made = server
        .make_type("row-a", 0, json!({ "labels": { "rack": "a1" } }))
        .await;
    assert_eq!(made["machines"], 2, "it is applied when the answer comes");
    assert_eq!(type_of("m1").await, (json!("row-a"), Value::Null, json!(false)));
    assert_eq!(type_of("m3").await.0, Value::Null);
    server.make_type("uefi", 0, json!({ "firmware": "uefi" })).await;
    assert_eq!(
        type_of("m1").await,
        (Value::Null, json!("matches row-a and uefi"), json!(false))
    );
    assert_eq!(type_of("m3").await.0, "uefi");
    let try_it = |rules: Value, priority: i64| json!({ "rules": rules, "priority": priority });
    let path = "/api/v1/machine-types/row-a/preview";
    let (status, tried) = server
        .post(path, try_it(json!({ "labels": { "rack": "a1" } }), 1))
        .await;
    assert_eq!((status, &tried["count"]), (StatusCode::OK, &json!(2)));
    assert_eq!(
        (
            &tried["items"][0]["machine"],
            &tried["items"][0]["machine_type"],
            &tried["items"][0]["becomes"]
        ),
        (&json!("m1"), &Value::Null, &json!("row-a"))
    );
    assert_eq!(type_of("m1").await.0, Value::Null, "a preview changes nothing");
    server
        .make_type("row-a", 1, json!({ "labels": { "rack": "a1" } }))
        .await;
    assert_eq!(type_of("m1").await.0, "row-a");
    let (status, moved) = server
        .patch(
            "/api/v1/machines/m1",
            json!({ "labels": { "rack": "a2", "u": "7" } }),
        )
        .await;
    assert_eq!(
        (status, &moved["machine_type"]),
        (StatusCode::OK, &json!("uefi")),
        "{moved}"
    );
    assert_eq!(moved["labels"], json!({ "rack": "a2", "u": "7" }));
    let (_, moved) = server
        .patch("/api/v1/machines/m1", json!({ "labels": { "u": null } }))
        .await;
    assert_eq!(moved["labels"], json!({ "rack": "a2" }), "labels are merged");
    let (_, pinned) = server
        .patch("/api/v1/machines/m1", json!({ "machine_type": "row-a" }))
        .await;
    assert_eq!(
        (&pinned["machine_type"], &pinned["type_pinned"]),
        (&json!("row-a"), &json!(true))
    );
    let refused = server
        .call(Method::DELETE, "/api/v1/machine-types/row-a", None)
        .await;
    assert_eq!(refused.1["code"], "machine_type_in_use");
    server.make_type("uefi", 9, json!({ "firmware": "uefi" })).await;
    assert_eq!(
        type_of("m1").await.0,
        "row-a",
        "rules do not change what an operator gave"
    );
    let (_, unpinned) = server
        .patch("/api/v1/machines/m1", json!({ "machine_type": null }))
        .await;
    assert_eq!(
        (&unpinned["machine_type"], &unpinned["type_pinned"]),
        (&json!("uefi"), &json!(false))
    );
    let gone = server
        .call(Method::DELETE, "/api/v1/machine-types/uefi", None)
        .await;
    assert_eq!(gone.0, StatusCode::NO_CONTENT);
    assert_eq!(type_of("m2").await.0, "row-a");
    assert_eq!(type_of("m1").await.0, Value::Null);
    let list = server.get("/api/v1/machine-types").await;
    assert_eq!(
        (&list["items"][0]["name"], &list["items"][0]["machines"]),
        (&json!("row-a"), &json!(1))
    );
    for (path, body, code) in [
        ("/api/v1/machine-types/Bad", json!({ "rules": {} }), "name"),
        (
            "/api/v1/machine-types/x",
            json!({ "rules": { "threads": { "min": 2, "max": 1 } } }),
            "rules",
        ),
        (
            "/api/v1/machine-types/x",
            json!({ "rules": {}, "priority": 1001 }),
            "priority",
        ),
        (
            "/api/v1/machine-types/x",
            json!({ "rules": { "colour": "red" } }),
            "body",
        ),
    ] {
        assert_eq!(server.put(path, body.clone()).await.1["code"], code, "{body}");
    }
    let (_, missing) = server.post("/api/v1/machine-types/none/preview", json!({})).await;
    assert_eq!(missing["code"], "not_found");
}

#[test]
fn a_machine_is_changed_by_who_saw_it_and_keeps_its_secrets() {
    on_each_server(change_story);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn change_story(server: &Server) {
    server.make_site("bj-1").await;
    server.make_machine("bj-1", 1, json!({})).await;
    server.make_machine("bj-1", 2, json!({})).await;
    let cases = [
        (json!({ "name": "m2" }), "taken"),
        (json!({ "name": "Bad Name" }), "name"),
        (json!({ "macs": [] }), "no_mac"),
        (json!({ "macs": ["52:54:00:00:00:02"] }), "taken"),
        (json!({ "address": "192.0.2.1" }), "address"),
        (json!({ "address": "192.0.2.3" }), "address_taken"),
        (json!({ "bmc": { "username": "root" } }), "bmc"),
        (json!({ "labels": { "a b": "c" } }), "label"),
        (json!({ "machine_type": "none" }), "not_found"),
        (json!({ "colour": "red" }), "body"),
    ];
    for (body, code) in cases {
        let (status, answer) = server.patch("/api/v1/machines/m1", body.clone()).await;
        assert!(status.is_client_error(), "{body}: {status}");
        assert_eq!(answer["code"], code, "{body}: {answer}");
    }
    let bmc =
        json!({ "driver": "ipmi", "address": "192.0.2.101:623", "username": "root", "password": "s3cret" });
    let body = json!({ "name": "db-1", "macs": ["52:54:00:00:00:09"], "address": "192.0.2.9", "bmc": bmc });
    let (status, changed) = server.patch("/api/v1/machines/m1", body).await;
    assert_eq!(
        (status, &changed["version"]),
        (StatusCode::OK, &json!(2)),
        "{changed}"
    );
    assert_eq!(
        (&changed["name"], &changed["address"]),
        (&json!("db-1"), &json!("192.0.2.9"))
    );
    let (_, changed) = server
        .patch("/api/v1/machines/db-1", json!({ "bmc": { "username": "admin" } }))
        .await;
    assert_eq!(
        changed["bmc"],
        json!({ "driver": "ipmi", "address": "192.0.2.101:623", "username": "admin" })
    );
    let moved = json!({ "bmc": { "address": "192.0.2.102:623" } });
    let (status, refused) = server.patch("/api/v1/machines/db-1", moved).await;
    assert_eq!(
        (status, &refused["code"]),
        (StatusCode::BAD_REQUEST, &json!("bmc_password")),
        "a password that is kept is not sent elsewhere: {refused}"
    );
    let moved = json!({ "bmc": { "address": "192.0.2.102:623", "password": "s3cret" } });
    let (_, changed) = server.patch("/api/v1/machines/db-1", moved).await;
    assert_eq!(changed["bmc"]["address"], "192.0.2.102:623");
    let stale = server
        .http
        .patch(format!("{}/api/v1/machines/db-1", server.url))
        .bearer_auth(&server.token)
        .header("If-Match", "\"1\"")
        .json(&json!({ "firmware": "bios" }))
        .send()
        .await
        .unwrap();
    assert_eq!(stale.status(), StatusCode::PRECONDITION_FAILED);
    let (_, changed) = server
        .patch("/api/v1/machines/db-1", json!({ "bmc": null }))
        .await;
    assert_eq!(changed["bmc"], Value::Null);
    let audit = server.get("/api/v1/audit?limit=1000").await.to_string();
    assert!(audit.contains("machine.update") && !audit.contains("s3cret"));
    assert!(audit.contains(r#""bmc_password":"set anew""#), "{audit}");
}

#[test]
fn a_type_that_an_instance_waits_for_stays() {
    on_each_server(async |server| {
        server.make_site("bj-1").await;
        server
            .make_type("gpu", 0, json!({ "labels": { "gpu": "yes" } }))
            .await;
        server.upload("i", b"image".to_vec()).await;
        let body = json!({ "name": "one", "site": "bj-1", "image": "i", "machine_type": "gpu" });
        assert_eq!(
            server.post("/api/v1/instances", body).await.0,
            StatusCode::ACCEPTED
        );
        let delete = async || {
            server
                .call(Method::DELETE, "/api/v1/machine-types/gpu", None)
                .await
        };
        let (_, refused) = delete().await;
        assert_eq!(refused["code"], "machine_type_in_use", "{refused}");
        let (status, _) = server.call(Method::DELETE, "/api/v1/instances/one", None).await;
        assert_eq!(status, StatusCode::ACCEPTED);
        assert_eq!(delete().await.0, StatusCode::NO_CONTENT);
    });
}

#[test]
fn stock_is_counted_by_site_type_and_state() {
    on_each_server(stock_story);
}

async fn stock_story(server: &Server) {
    server.make_site("bj-1").await;
    server.make_site("sh-1").await;
    for n in 1..=3 {
        server.make_machine("bj-1", n, json!({ "rack": "a1" })).await;
    }
    server.make_machine("bj-1", 4, json!({})).await;
    server.make_machine("sh-1", 5, json!({ "rack": "a1" })).await;
    server
        .make_type("big", 0, json!({ "labels": { "rack": "a1" } }))
        .await;
    server.post("/api/v1/machines/m1/maintenance", json!({})).await;
    server.post("/api/v1/machines/m2/retire", json!({})).await;
    let row = |site: &str, machine_type: Option<&str>, (total, available): (i64, i64), states: Value| json!({ "site": site, "machine_type": machine_type, "total": total, "available": available, "states": states });
    let big = row(
        "bj-1",
        Some("big"),
        (2, 1),
        json!({ "available": 1, "maintenance": 1, "retired": 1 }),
    );
    let none = row("bj-1", None, (1, 1), json!({ "available": 1 }));
    let far = row("sh-1", Some("big"), (1, 1), json!({ "available": 1 }));
    assert_eq!(
        server.get("/api/v1/stock").await["items"],
        json!([none, big, far])
    );
    assert_eq!(
        server.get("/api/v1/stock?site=bj-1").await["items"],
        json!([none, big])
    );
    assert_eq!(
        server.get("/api/v1/stock?machine_type=big").await["items"],
        json!([big, far])
    );
    assert_eq!(
        server.get("/api/v1/stock?machine_type=none&site=x").await["items"],
        json!([])
    );
}

fn machine(n: u32) -> Machine {
    Machine {
        id: MachineId(Uuid::from_u128(n.into())),
        name: format!("m{n}"),
        site: SiteId::new("bj-1").unwrap(),
        state: MachineState::Available,
        address: std::net::Ipv4Addr::from(0x0a00_0000 + n),
        details: MachineDetails {
            macs: vec![MacAddr([
                2,
                0,
                0,
                0,
                u8::try_from(n / 256).unwrap(),
                u8::try_from(n % 256).unwrap(),
            ])],
            firmware: FirmwareKind::Bios,
            bmc: None,
            labels: BTreeMap::new(),
            inventory: None,
        },
        bmc_password: None,
        bmc_candidates: Vec::new(),
        bmc_state: None,
        class: Class::default(),
        hold: machines::Hold::default(),
        live_job: None,
        version: 1,
        created_at: Utc::now(),
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn an_inventory_decides_the_type_and_is_kept_beside_what_operators_say() {
    on_each_database(|store| async move {
        let now = Utc::now();
        let job = JobId(Uuid::from_u128(9));
        let found = Inventory {
            threads: 64,
            ..Inventory::default()
        };
        let (behind, shown) = store
            .transaction(move |db| {
                let settings = SiteSettings {
                    dhcp_relays: vec![],
                    description: String::new(),
                    discover: false,
                    subnets: vec![],
                    limits: Default::default(),
                    offline: Default::default(),
                };
                sites::insert(db, &machine(1).site, &settings, now)?;
                machines::insert(db, &machine(1))?;
                machines::insert(db, &machine(2))?;
                let rules: Rules = serde_json::from_value(json!({ "threads": { "min": 64 } })).unwrap();
                let big = MachineType {
                    name: "big".into(),
                    description: String::new(),
                    priority: 0,
                    rules,
                    created_at: now,
                };
                machine_types::put(db, &big)?;
                domain::machines::found(db, (machine(1).id, job), &found, now)?;
                domain::machines::found(db, (MachineId(Uuid::from_u128(77)), job), &found, now)?;
                let revision = machine_types::revision(db)?;
                let behind = machine_types::classed_before(db, revision, 10)?;
                Ok::<_, StoreError>((behind, machines::get(db, "m1")?))
            })
            .await
            .unwrap();
        let shown = shown.unwrap();
        assert_eq!(shown.class.machine_type.as_deref(), Some("big"));
        assert_eq!(shown.details.inventory.map(|found| found.threads), Some(64));
        assert_eq!(behind.len(), 1, "the other one is still to be classified");
        let renewed = store
            .transaction(move |db| {
                let former = behind[0].clone();
                // Somebody who knows it better comes first.
                domain::machines::found(
                    db,
                    (former.id, job),
                    &Inventory {
                        threads: 65,
                        ..Inventory::default()
                    },
                    now,
                )?;
                machine_types::reclass(
                    db,
                    &former,
                    &Class {
                        revision: 1,
                        ..Class::default()
                    },
                )?;
                machines::get(db, &former.name)
            })
            .await
            .unwrap();
        assert_eq!(renewed.unwrap().class.machine_type.as_deref(), Some("big"));
    })
    .await;
}

/// More than two batches; what a crash leaves behind is found by the same call.
#[tokio::test]
async fn many_machines_are_classified_batch_by_batch_and_each_once() {
    on_each_database(|store| async move {
        let now = Utc::now();
        store
            .transaction(move |db| {
                let settings = SiteSettings {
                    dhcp_relays: vec![],
                    description: String::new(),
                    discover: false,
                    subnets: vec![],
                    limits: Default::default(),
                    offline: Default::default(),
                };
                sites::insert(db, &machine(1).site, &settings, now)?;
                (1..=1200).try_for_each(|n| machines::insert(db, &machine(n)))
            })
            .await
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let given = Given {
            data_dir: Some(dir.path().into()),
            ..Given::default()
        };
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let app = App::new(given.resolve().unwrap(), store, metrics).unwrap();
        let change = async |rules: Value| {
            let rules: Rules = serde_json::from_value(rules).unwrap();
            let bios = MachineType {
                name: "old".into(),
                description: String::new(),
                priority: 0,
                rules,
                created_at: now,
            };
            app.store
                .transaction(move |db| machine_types::put(db, &bios))
                .await
                .unwrap();
            domain::machine_types::reclassify(&app).await.unwrap();
            let counted = app.store.read(|db| {
                let revision = machine_types::revision(db)?;
                let behind = machine_types::classed_before(db, revision, 10)?.len();
                Ok::<_, StoreError>((machine_types::machines_of(db, "old")?, behind))
            });
            counted.await.unwrap()
        };
        assert_eq!(change(json!({ "firmware": "bios" })).await, (1200, 0));
        assert_eq!(
            change(json!({ "firmware": "bios", "labels": {} })).await,
            (1200, 0),
            "all stay what they are"
        );
        assert_eq!(change(json!({ "firmware": "uefi" })).await, (0, 0));
    })
    .await;
}
