//! A machine is switched and read: a real control plane, the edge's own parts, and a BMC that speaks IPMI over UDP.

use std::sync::Arc;

use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_edge::bmc::{Drivers, PowerAction};
use slipway_lab::bmc::{self, Faults, MemoryChassis, Users};
use slipway_protocol::ids::MachineId;
use tokio::net::UdpSocket;

use crate::{
    common::server::{Server, on_each_server},
    cut_off::{installed, start_edge, until},
    edges::join,
};

/// Asks for it, and sees the job end well; the machine then.
async fn done(server: &Server, ask: &str) -> Value {
    let body = json!({ "do": ask, "grace_s": 0 });
    let (status, job) = server.post("/api/v1/machines/m1/power", body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    let path = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    let is_final = async || server.get(&path).await["state"] != "running";
    until("the job ends", is_final).await;
    let job = server.get(&path).await;
    assert_eq!(job["state"], "done", "{ask}: {job}");
    let machine = server.get("/api/v1/machines/m1").await;
    assert_eq!(machine["live_job"], Value::Null, "{machine}");
    machine
}

#[test]
fn a_machine_is_switched_and_read_by_its_bmc() {
    on_each_server(story);
}

#[expect(clippy::too_many_lines, reason = "a story is told in one piece")]
async fn story(server: &Server) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let chassis = Arc::new(MemoryChassis::default());
    let users = Users::administrator("admin", "s");
    let faults = Arc::new(Faults::default());
    let served = Arc::clone(&chassis);
    tokio::spawn(bmc::serve_with_faults(socket, users, served, faults));
    server.make_site("bj-1").await;
    let bmc = json!({ "driver": "ipmi", "address": address, "username": "admin", "password": "s" });
    let body = json!({ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01"], "firmware": "uefi", "bmc": bmc });
    let (status, made) = server.post("/api/v1/machines", body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let (identity, dir) = join(server).await;
    let _stop = start_edge(
        &identity,
        dir.path(),
        identity.broker_port,
        Arc::new(Drivers::default()),
    );
    let online = async || server.get("/api/v1/sites/bj-1").await["online"] == true;
    until("the site is online", online).await;

    let machine = done(server, "on").await;
    assert_eq!(machine["bmc_state"]["power"], "on", "{machine}");
    assert_eq!(
        machine["bmc_state"].get("firmware"),
        None,
        "it was not asked about itself"
    );
    let machine = done(server, "read").await;
    let state = &machine["bmc_state"];
    assert_eq!(state["power"], "on", "{machine}");
    let suite = state["security"].as_str().unwrap();
    assert!(suite.starts_with("cipher suite"), "{machine}");
    assert!(state["firmware"].is_string(), "{machine}");
    let machine = done(server, "restart").await;
    assert_eq!(
        (&machine["bmc_state"]["power"], machine["state"].as_str()),
        (&json!("on"), Some("available"))
    );
    let machine = done(server, "off").await;
    assert_eq!(machine["bmc_state"]["power"], "off", "{machine}");
    assert!(
        machine["bmc_state"]["firmware"].is_string(),
        "known from before: {machine}"
    );
    let switches = chassis.actions();
    let expected = [
        PowerAction::On,
        PowerAction::Off,
        PowerAction::On,
        PowerAction::Off,
    ];
    assert_eq!(switches, expected, "a read switches nothing");

    // An instance's machine is read, its BMC being asked in the same way, and its instance is left alone.
    let id: MachineId = made["id"].as_str().unwrap().parse().unwrap();
    let store = slipway_control_plane::store::Store::open(&server.database_url)
        .await
        .unwrap();
    store.transaction(move |db| installed(db, id)).await.unwrap();
    let machine = done(server, "read").await;
    assert_eq!(
        (&machine["bmc_state"]["power"], &machine["state"]),
        (&json!("off"), &json!("allocated"))
    );
    assert_eq!(server.get("/api/v1/instances/i1").await["state"], "running");
    assert_eq!(chassis.actions(), expected);
}
