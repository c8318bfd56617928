//! Machines' power: what callers may ask for and are refused, and what is kept of what reports say, on both databases.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_control_plane::{
    domain,
    store::{Store, StoreError},
};
use slipway_protocol::{
    bmc::{BmcState, Power},
    ids::{JobId, MachineId, SiteId, StepId},
    report::{Outcome, Report, StepReport},
};
use uuid::Uuid;

use crate::{
    common::server::{Server, on_each_server, server},
    cut_off::installed,
};

fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

async fn ask(server: &Server, machine: &str, body: Value) -> (StatusCode, Value) {
    server
        .post(&format!("/api/v1/machines/{machine}/power"), body)
        .await
}

async fn refused(server: &Server, body: Value, status: StatusCode, code: &str) -> String {
    let (found, answer) = ask(server, "m1", body.clone()).await;
    assert_eq!(
        (found, &answer["code"]),
        (status, &json!(code)),
        "{body}: {answer}"
    );
    answer["detail"].as_str().unwrap_or_default().to_owned()
}

fn bmc() -> Value {
    json!({ "driver": "ipmi", "address": "127.0.0.1:9", "username": "admin", "password": "s" })
}

/// A machine with a BMC at a site that is connected, and whose edge says nothing.
async fn connected(server: &Server) -> MachineId {
    server.make_site("bj-1").await;
    server.make_machine("bj-1", 1, json!({})).await;
    let (status, changed) = server.patch("/api/v1/machines/m1", json!({ "bmc": bmc() })).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    let _edge = crate::edges::join(server).await;
    let store = Store::open(&server.database_url).await.unwrap();
    let heard = store.transaction(|db| domain::sites::heard(db, &site(), true, Utc::now()));
    heard.await.unwrap();
    changed["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_cannot_be_switched_is_refused_with_a_code() {
    let server = server().await;
    server.make_site("bj-1").await;
    server.make_machine("bj-1", 1, json!({})).await;
    let (conflict, bad) = (StatusCode::CONFLICT, StatusCode::BAD_REQUEST);
    refused(&server, json!({ "do": "on" }), conflict, "no_bmc").await;
    server.patch("/api/v1/machines/m1", json!({ "bmc": bmc() })).await;
    refused(&server, json!({ "do": "read" }), conflict, "site_not_joined").await;
    let _edge = crate::edges::join(&server).await;
    refused(&server, json!({ "do": "off" }), conflict, "site_offline").await;
    refused(&server, json!({ "do": "off", "grace_s": 3601 }), bad, "grace_s").await;
    for wrong in [
        json!({ "do": "cycle" }),
        json!({}),
        json!({ "do": "on", "grace": 1 }),
    ] {
        let (status, answer) = ask(&server, "m1", wrong.clone()).await;
        assert_eq!(status, bad, "{wrong}: {answer}");
    }
    let (status, answer) = ask(&server, "nobody", json!({ "do": "on" })).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::NOT_FOUND, &json!("not_found"))
    );
    let (_, retired) = server.post("/api/v1/machines/m1/retire", json!({})).await;
    assert_eq!(retired["state"], "retired");
    refused(&server, json!({ "do": "on" }), conflict, "machine_retired").await;
}

fn steps(order: &Value) -> Vec<&str> {
    let steps = order["order"]["steps"].as_array().unwrap();
    steps.iter().map(|step| step["id"].as_str().unwrap()).collect()
}

#[test]
fn a_free_machine_is_switched_by_a_job_of_its_own() {
    on_each_server(switched);
}

async fn switched(server: &Server) {
    connected(server).await;
    let (status, job) = ask(server, "m1", json!({ "do": "restart", "grace_s": 7 })).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    assert_eq!(
        (&job["kind"], &job["instance"], &job["state"]),
        (&json!("switch_power"), &Value::Null, &json!("running"))
    );
    let order = server.get("/api/v1/machines/m1/order").await;
    assert_eq!(steps(&order), ["shut-down", "power-on"], "{order}");
    assert_eq!(order["order"]["steps"][0]["action"]["grace_s"], 7);
    let busy = refused(
        server,
        json!({ "do": "read" }),
        StatusCode::CONFLICT,
        "machine_busy",
    )
    .await;
    assert!(busy.contains("being worked on"), "{busy}");

    let job = job["id"].as_str().unwrap();
    let (status, answer) = server
        .post(&format!("/api/v1/jobs/{job}/cancel"), json!({}))
        .await;
    assert_eq!(
        (status, &answer["state"]),
        (StatusCode::ACCEPTED, &json!("cancelled"))
    );
    let order = server.get("/api/v1/machines/m1/order").await;
    assert_eq!(order["order"]["steps"], json!([]), "{order}");
    let machine = server.get("/api/v1/machines/m1").await;
    assert_eq!(
        (&machine["live_job"], &machine["state"]),
        (&json!(null), &json!("available"))
    );
    let audit = server.get("/api/v1/audit?limit=1000").await.to_string();
    assert!(audit.contains("machine.power"), "{audit}");
}

#[test]
fn what_an_instance_runs_on_is_read_and_not_switched() {
    on_each_server(held);
}

async fn held(server: &Server) {
    let machine = connected(server).await;
    let store = Store::open(&server.database_url).await.unwrap();
    store.transaction(move |db| installed(db, machine)).await.unwrap();
    for (ask, command) in [("on", "start"), ("off", "stop"), ("restart", "restart")] {
        let detail = refused(
            server,
            json!({ "do": ask }),
            StatusCode::CONFLICT,
            "machine_allocated",
        )
        .await;
        assert!(
            detail.contains(&format!("slipway instance {command} i1")),
            "{detail}"
        );
    }
    let (status, job) = ask(server, "m1", json!({ "do": "read" })).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    let order = server.get("/api/v1/machines/m1/order").await;
    assert_eq!(
        steps(&order),
        ["bind-address", "serve-disk", "read-bmc"],
        "{order}"
    );
    assert_eq!(server.get("/api/v1/instances/i1").await["state"], "running");

    let (job, machine_id) = (job["id"].as_str().unwrap().to_owned(), machine);
    let failed = store.transaction(move |db| {
        let failure = slipway_protocol::report::Failure {
            code: "bmc_timeout".into(),
            message: "silent".into(),
            transient: true,
        };
        let report = Report {
            outcome: Outcome::Failed {
                at: Utc::now(),
                step: None,
                failure,
            },
            // One without steps would be on a withdrawn order, and end nothing.
            steps: vec![StepReport::pending(StepId::new("read-bmc").unwrap())],
            ..report(machine_id, job.parse().unwrap(), None)
        };
        // Above the one that the install left.
        assert!(domain::jobs::take_report(db, &site(), 100, &report, Utc::now())?);
        Ok::<_, StoreError>(job)
    });
    let job = failed.await.unwrap();
    let (status, answer) = server.post(&format!("/api/v1/jobs/{job}/retry"), json!({})).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("job_not_retried"))
    );
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("slipway machine power"), "{detail}");
    let machine = server.get("/api/v1/machines/m1").await;
    assert_eq!(
        (&machine["live_job"], &machine["state"]),
        (&json!(null), &json!("allocated"))
    );
    assert_eq!(server.get("/api/v1/instances/i1").await["state"], "running");
}

fn report(machine: MachineId, job: JobId, bmc: Option<BmcState>) -> Report {
    Report {
        machine,
        job,
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Running,
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: vec![],
        bmc,
    }
}

/// A report of a site says how the BMC was; the machine as it is shown then.
async fn told(server: &Server, site: &str, revision: u64, state: BmcState) -> Value {
    let machine = server.get("/api/v1/machines/m1").await;
    let machine: MachineId = machine["id"].as_str().unwrap().parse().unwrap();
    let site = SiteId::new(site).unwrap();
    let store = Store::open(&server.database_url).await.unwrap();
    let taken = store.transaction(move |db| {
        let report = report(machine, JobId(Uuid::from_u128(3)), Some(state));
        domain::jobs::take_report(db, &site, revision, &report, Utc::now())
    });
    assert!(taken.await.unwrap(), "the report is news");
    server.get("/api/v1/machines/m1").await
}

/// To whole seconds, as both databases keep it.
fn ago(seconds: i64) -> DateTime<Utc> {
    let now = DateTime::from_timestamp(Utc::now().timestamp(), 0).unwrap();
    now - TimeDelta::seconds(seconds)
}

#[test]
fn what_reports_say_of_a_bmc_is_shown_and_an_older_word_changes_nothing() {
    on_each_server(seen);
}

async fn seen(server: &Server) {
    server.make_site("bj-1").await;
    server.make_site("bj-2").await;
    server.make_machine("bj-1", 1, json!({})).await;
    let machine = server.get("/api/v1/machines/m1").await;
    assert_eq!(machine["bmc_state"], Value::Null, "nobody has asked");
    server.patch("/api/v1/machines/m1", json!({ "bmc": bmc() })).await;
    let version = server.get("/api/v1/machines/m1").await["version"].clone();
    // What is read after the machine got its BMC is of that.
    let (first, second) = (Utc::now(), Utc::now() + TimeDelta::microseconds(9));
    let read = BmcState {
        manufacturer: Some(674),
        product: Some(256),
        firmware: Some("2.81".into()),
        security: Some("cipher suite 17".into()),
        ..BmcState::of_power(Power::On, first)
    };
    let machine = told(server, "bj-1", 1, read.clone()).await;
    let state = &machine["bmc_state"];
    assert_eq!(
        (&state["power"], &state["manufacturer"], &state["firmware"]),
        (&json!("on"), &json!(674), &json!("2.81")),
        "{machine}"
    );
    assert_eq!(machine["version"], version, "it is no operator's change");

    let machine = told(server, "bj-1", 2, BmcState::of_power(Power::Off, second)).await;
    let state = &machine["bmc_state"];
    assert_eq!(
        (&state["power"], &state["firmware"]),
        (&json!("off"), &json!("2.81")),
        "what was not asked is still known: {machine}"
    );
    let machine = told(server, "bj-1", 3, read).await;
    assert_eq!(machine["bmc_state"]["power"], "off", "an older word: {machine}");

    // An edge whose clock is ahead has not the last word for ever.
    let ahead = BmcState::of_power(Power::On, Utc::now() + TimeDelta::days(1));
    let machine = told(server, "bj-1", 4, ahead).await;
    assert_eq!(machine["bmc_state"]["power"], "on");
    let machine = told(server, "bj-1", 5, BmcState::of_power(Power::Off, Utc::now())).await;
    assert_eq!(machine["bmc_state"]["power"], "off", "{machine}");

    let machine = told(server, "bj-2", 6, BmcState::of_power(Power::On, Utc::now())).await;
    assert_eq!(
        machine["bmc_state"]["power"], "off",
        "another site's word: {machine}"
    );
    another_bmc(server).await;
}

/// What was read of a former BMC is forgotten with it, also if an edge tells it once more.
async fn another_bmc(server: &Server) {
    let other = json!({ "bmc": { "address": "127.0.0.1:10", "password": "t" } });
    let (status, machine) = server.patch("/api/v1/machines/m1", other).await;
    assert_eq!(
        (status, &machine["bmc_state"]),
        (StatusCode::OK, &Value::Null),
        "{machine}"
    );
    let machine = told(server, "bj-1", 7, BmcState::of_power(Power::On, ago(60))).await;
    assert_eq!(machine["bmc_state"], Value::Null, "{machine}");
    let machine = told(server, "bj-1", 8, BmcState::of_power(Power::On, Utc::now())).await;
    assert_eq!(machine["bmc_state"]["power"], "on", "{machine}");
    assert_eq!(machine["bmc_state"].get("firmware"), None, "{machine}");
}
