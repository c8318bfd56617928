//! The handbook's example, applied to a real control plane.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use slipway_control_plane::{config::Given, serve};
use tokio_util::sync::CancellationToken;

use super::{Apply, carry_out, plan, planned};
use crate::client::Client;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/site.yaml");

fn free() -> std::net::SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A control plane with an administrator, and her client.
async fn control_plane(dir: &Path) -> Client {
    slipway_bus::tls::install_provider();
    let given = Given {
        http: Some(free()),
        mqtt: Some(free()),
        data_dir: Some(dir.to_owned()),
        ..Given::default()
    };
    let config = given.resolve().unwrap();
    let url = config.public_url.clone();
    let (told, link) = tokio::sync::oneshot::channel();
    let announce = |link: &str| told.send(link.to_owned()).unwrap();
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    tokio::spawn(serve::run(config, metrics, announce, CancellationToken::new()));
    let link: String = tokio::time::timeout(Duration::from_secs(30), link)
        .await
        .unwrap()
        .unwrap();
    let token = link.split_once("token=").unwrap().1;
    let stranger = Client::new(&url, None).unwrap();
    while stranger.get("/healthz").await.is_err() {
        tokio::task::yield_now().await;
    }
    let made = stranger
        .post("/api/v1/setup", json!({ "token": token, "name": "ann" }))
        .await
        .unwrap();
    Client::new(&url, made["token"].as_str().map(str::to_owned)).unwrap()
}

fn file(path: &Path, prune: &[&str]) -> Apply {
    Apply {
        file: path.to_owned(),
        dry_run: false,
        prune: prune.iter().map(|kind| (*kind).to_owned()).collect(),
    }
}

/// Applies a file: what was done.
async fn apply(client: &Client, apply: Apply) -> anyhow::Result<Vec<String>> {
    let (source, steps) = planned(client, &apply).await?;
    let told = plan::as_json(&steps);
    carry_out(client, &source, steps).await?;
    let word = |step: &Value| {
        format!(
            "{} {}",
            step["change"].as_str().unwrap(),
            step["kind"].as_str().unwrap()
        )
    };
    Ok(told["items"].as_array().unwrap().iter().map(word).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_is_applied_once_and_then_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let client = control_plane(&dir.path().join("data")).await;
    let path = dir.path().join("site.yaml");
    std::fs::copy(EXAMPLE, &path).unwrap();
    // Without its secret's file, and without bob, it says where.
    let missing = apply(&client, file(&path, &[])).await.unwrap_err().to_string();
    assert!(
        missing.contains("site.yaml:43: machines.0.bmc.password_file: cannot read"),
        "{missing}"
    );
    std::fs::write(dir.path().join("m1.bmc"), "hunter2\n").unwrap();
    let nobody = apply(&client, file(&path, &[])).await.unwrap_err().to_string();
    assert!(
        nobody.contains("site.yaml:46: projects.0: project `web`: there is no user `bob` (not_found)"),
        "{nobody}"
    );
    client
        .post("/api/v1/users", json!({ "name": "bob" }))
        .await
        .unwrap();
    apply(&client, file(&path, &[])).await.unwrap();
    let again = apply(&client, file(&path, &[])).await.unwrap();
    assert_eq!(again.len(), 7);
    assert!(
        again.iter().all(|change| change.starts_with("unchanged")),
        "{again:?}"
    );
    let hook = dir.path().join("hook.secret");
    assert!(std::fs::read_to_string(&hook).unwrap().starts_with("whsec_"));
    assert_eq!(hook.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let m1 = client.get("/api/v1/machines/m1").await.unwrap();
    assert_eq!(
        (&m1["machine_type"], &m1["type_pinned"], &m1["state"]),
        (&json!("big"), &json!(true), &json!("enrolled"))
    );
    let web = client.get("/api/v1/projects/web").await.unwrap();
    assert_eq!(
        (&web["members"][0]["role"], &web["quotas"][0]["machines"]),
        (&json!("owner"), &json!(20))
    );
    let rules = client.get("/api/v1/alert-rules").await.unwrap();
    let hooks = client.get("/api/v1/webhooks").await.unwrap();
    assert_eq!(
        rules["items"][0]["webhooks"][0], hooks["items"][0]["id"],
        "a rule names a webhook by its URL"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_and_removals_are_those_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let client = control_plane(&dir.path().join("data")).await;
    let path = dir.path().join("f.yaml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write(
        "sites:\n  - id: a\n    limits: {max_installs: 7}\n  - id: b\nroles:\n  - name: r\n    permissions: [jobs.read]\nprojects:\n  - id: p\n",
    );
    apply(&client, file(&path, &[])).await.unwrap();
    write(
        "sites:\n  - id: a\n    description: new\n    limits: {max_failures: 3}\nroles:\n  - name: r\n    permissions: [jobs.write, jobs.read]\nprojects:\n  - id: p\n    quotas: {'*': 4}\n",
    );
    let only_shown = planned(&client, &file(&path, &["sites"])).await.unwrap().1;
    assert_eq!(only_shown.len(), 4);
    assert_eq!(
        client.get("/api/v1/sites/a").await.unwrap()["description"],
        "",
        "a plan changes nothing"
    );
    let done = apply(&client, file(&path, &["sites"])).await.unwrap();
    assert_eq!(
        done,
        ["update role", "update site", "update project", "delete site"]
    );
    let site = client.get("/api/v1/sites/a").await.unwrap();
    assert_eq!(
        (&site["limits"]["max_installs"], &site["limits"]["max_failures"]),
        (&json!(7), &json!(3)),
        "what is not named stays"
    );
    assert!(client.get("/api/v1/sites/b").await.is_err());
    let again = apply(&client, file(&path, &["sites"])).await.unwrap();
    assert_eq!(again, ["unchanged role", "unchanged site", "unchanged project"]);
    write("roles: []\n");
    let refused = planned(&client, &file(&path, &["sites"]))
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("--prune would remove all"), "{refused}");
    write("sites:\n  - id: a\n    subnets: [{network: nonsense, server: 192.0.2.1}]\n");
    let refused = apply(&client, file(&path, &[])).await.unwrap_err().to_string();
    assert!(
        refused.contains("f.yaml:2: sites.0: site `a`: ") && refused.contains("(body)"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn machines_their_types_and_reservations_become_as_the_file_says() {
    let dir = tempfile::tempdir().unwrap();
    let client = control_plane(&dir.path().join("data")).await;
    let path = dir.path().join("f.yaml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    let told = |changes: &[Value]| Value::from(changes.to_vec());
    std::fs::write(dir.path().join("m1.bmc"), "hunter2\n").unwrap();
    write(
        "machine_types:\n  - name: big\n    description: d\n    priority: 3\n    rules: {threads: {min: 64}, disks: [{count: {min: 2}}]}\n\
         sites:\n  - id: a\n    subnets: [{network: 192.0.2.0/24, server: 192.0.2.1}]\n    reservations: [{first: 192.0.2.10}, {first: 192.0.2.20, last: 192.0.2.29, note: n}]\n\
         machines:\n  - name: m1\n    site: a\n    macs: ['52:54:00:00:00:01']\n    firmware: uefi\n    labels: {rack: a1, old: x}\n    shelved: true\n",
    );
    apply(&client, file(&path, &[])).await.unwrap();
    let again = apply(&client, file(&path, &[])).await.unwrap();
    assert_eq!(
        again,
        ["unchanged machine type", "unchanged site", "unchanged machine"]
    );
    write(
        "machine_types:\n  - name: big\n    rules: {disks: [{count: {min: 2}}]}\n\
         sites:\n  - id: a\n    subnets: [{network: 198.51.100.0/24, server: 198.51.100.1}, {network: 192.0.2.0/24, server: 192.0.2.1}]\n    reservations: [{first: 198.51.100.7}, {first: 192.0.2.20, last: 192.0.2.29, note: n}]\n\
         machines:\n  - name: m1\n    site: a\n    macs: ['52:54:00:00:00:02', '52:54:00:00:00:03']\n    firmware: bios\n    address: 192.0.2.77\n    labels: {rack: b2, old: null}\n    machine_type: big\n    shelved: false\n    bmc: {driver: ipmi, address: 192.0.2.101:623, username: root, password_file: m1.bmc}\n",
    );
    let done = apply(&client, file(&path, &[])).await.unwrap();
    assert_eq!(done, ["update machine type", "update site", "update machine"]);
    let m1 = client.get("/api/v1/machines/m1").await.unwrap();
    let fields = [
        "state",
        "firmware",
        "address",
        "labels",
        "machine_type",
        "type_pinned",
    ];
    assert_eq!(
        told(&fields.map(|field| m1[field].clone())),
        json!(["available", "bios", "192.0.2.77", { "rack": "b2" }, "big", true])
    );
    assert_eq!(
        (&m1["macs"][1], &m1["bmc"]["username"]),
        (&json!("52:54:00:00:00:03"), &json!("root"))
    );
    let big = client.get("/api/v1/machine-types/big").await.unwrap();
    assert_eq!(
        told(&[
            big["description"].clone(),
            big["priority"].clone(),
            big["rules"]["threads"].clone()
        ]),
        json!(["d", 3, null]),
        "what is not named stays, and rules are meant whole"
    );
    let reserved = super::reservations::at(&client, "a").await.unwrap();
    assert_eq!(
        reserved,
        json!([{ "first": "192.0.2.20", "last": "192.0.2.29", "note": "n" }, { "first": "198.51.100.7", "last": "198.51.100.7", "note": "" }])
    );
    let again = apply(&client, file(&path, &[])).await.unwrap();
    assert!(
        again.iter().all(|change| change.starts_with("unchanged")),
        "{again:?}"
    );
    // By rules again, and no BMC any more.
    write(
        "machines:\n  - name: m1\n    site: a\n    macs: ['52:54:00:00:00:02', '52:54:00:00:00:03']\n    firmware: bios\n    machine_type: null\n    bmc: null\n",
    );
    apply(&client, file(&path, &[])).await.unwrap();
    let m1 = client.get("/api/v1/machines/m1").await.unwrap();
    assert_eq!((&m1["type_pinned"], &m1["bmc"]), (&json!(false), &Value::Null));
    write(
        "sites:\n  - id: b\nmachines:\n  - name: m1\n    site: b\n    macs: ['52:54:00:00:00:02']\n    firmware: bios\n",
    );
    let refused = apply(&client, file(&path, &[])).await.unwrap_err().to_string();
    assert!(
        refused.contains("f.yaml:5: machines.0.site: it stands at \"a\" there"),
        "{refused}"
    );
    assert!(
        client.get("/api/v1/sites/b").await.is_err(),
        "nothing was done before"
    );
}
