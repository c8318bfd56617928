//! What is known of a BMC's password after a rotation: in the store on both databases, and what callers may ask for.

use std::collections::BTreeMap;

use crate::common::{
    on_each_database,
    server::{Server, server},
};
use chrono::{DateTime, Utc};
use reqwest::{Method, StatusCode};
use serde_json::json;
use slipway_control_plane::{
    domain,
    store::{
        Database, Store, StoreError, StoreResult,
        bmc_passwords::{self, BmcCandidate},
        holds,
        jobs::{self, Job},
        machines::{self, BmcDetails, Class, Hold, Machine, MachineDetails},
        sites::{self, SiteSettings},
    },
    workflow::{
        machine_job::LIFE,
        state::{JobKind, JobState, MachineState},
    },
};
use slipway_protocol::{
    ids::{JobId, MachineId, SiteId, StepId},
    inventory::FirmwareKind,
    order::BmcDriver,
    report::{Failure, Outcome, Report, StepReport, StepState},
};
use uuid::Uuid;

const JOB: JobId = JobId(Uuid::from_u128(7));

fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

fn candidate(password: &str, job: Option<JobId>) -> BmcCandidate {
    BmcCandidate {
        password: password.to_owned(),
        job,
        sealed_to: None,
    }
}

fn machine(now: DateTime<Utc>) -> Machine {
    let bmc = BmcDetails {
        driver: BmcDriver::Ipmi,
        address: "127.0.0.1:623".parse().unwrap(),
        username: "admin".into(),
    };
    Machine {
        id: MachineId(Uuid::from_u128(1)),
        name: "m1".into(),
        site: site(),
        state: MachineState::Maintenance,
        address: [192, 0, 2, 9].into(),
        details: MachineDetails {
            macs: vec![],
            firmware: FirmwareKind::Bios,
            bmc: Some(bmc),
            labels: BTreeMap::new(),
            inventory: None,
        },
        bmc_password: Some("old".into()),
        bmc_candidates: vec![candidate("older", None)],
        bmc_state: None,
        class: Class::default(),
        hold: Hold::default(),
        live_job: None,
        version: 1,
        created_at: now,
    }
}

/// A machine in maintenance whose BMC is being given the password `new`.
fn rotating(db: &mut Database, now: DateTime<Utc>) -> StoreResult<Job> {
    let settings = SiteSettings {
        dhcp_relays: vec![],
        description: String::new(),
        discover: false,
        subnets: vec![],
        limits: Default::default(),
        offline: Default::default(),
    };
    sites::insert(db, &site(), &settings, now)?;
    let machine = machine(now);
    machines::insert(db, &machine)?;
    let candidates = [candidate("older", None), candidate("new", Some(JOB))];
    assert!(bmc_passwords::begin(db, &machine, JOB, &candidates)?);
    assert!(
        !bmc_passwords::begin(db, &machine, JobId(Uuid::from_u128(8)), &[])?,
        "a job works on it"
    );
    let job = Job {
        id: JOB,
        instance: None,
        site: site(),
        machine: Some(machine.id),
        kind: JobKind::RotateBmcPassword,
        priority: 0,
        waiting: None,
        state: JobState::Running,
        failure: None,
        deadline: now + LIFE,
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &job)?;
    Ok(job)
}

/// A report on the rotation: done, failed with a code, or still running with `""`.
fn report(code: Option<&str>, now: DateTime<Utc>) -> Report {
    let step = StepId::new("set-bmc-password").unwrap();
    let (state, outcome) = match code {
        None => (StepState::Done, Outcome::Done { at: now }),
        Some("") => (StepState::Running, Outcome::Running),
        Some(code) => {
            let failure = Failure {
                code: code.into(),
                message: String::new(),
                transient: false,
            };
            let outcome = Outcome::Failed {
                at: now,
                step: Some(step.clone()),
                failure,
            };
            (StepState::Failed, outcome)
        }
    };
    let step = StepReport {
        state,
        ..StepReport::pending(step)
    };
    Report {
        machine: MachineId(Uuid::from_u128(1)),
        job: JOB,
        order_revision: 1,
        retry: 0,
        outcome,
        steps: vec![step],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: vec![],
        bmc: None,
    }
}

/// Takes reports one after the other; answers the password on record, what may be it instead, and the machine.
async fn after(store: &Store, reports: &[(&str, Option<&str>)]) -> (String, Vec<String>, Machine) {
    let now = Utc::now();
    let reports: Vec<(SiteId, Report)> = reports
        .iter()
        .map(|(site, code)| (SiteId::new(*site).unwrap(), report(*code, now)))
        .collect();
    let machine = store.transaction(move |db| {
        for (revision, (site, report)) in (1..).zip(&reports) {
            domain::jobs::take_report(db, site, revision, report, now)?;
        }
        Ok::<_, StoreError>(machines::get(db, "m1")?.unwrap())
    });
    let machine = machine.await.unwrap();
    let candidates = machine.bmc_candidates.iter().map(|c| c.password.clone());
    (
        machine.bmc_password.clone().unwrap(),
        candidates.collect(),
        machine,
    )
}

/// Each story begins in a database of its own.
async fn each(reports: &[(&str, Option<&str>)], password: &str, candidates: &[&str]) {
    on_each_database(async |store: Store| {
        let now = Utc::now();
        store.transaction(move |db| rotating(db, now)).await.unwrap();
        let (found, others, machine) = after(&store, reports).await;
        assert_eq!(
            (found.as_str(), others),
            (password, candidates.iter().map(|&c| c.to_owned()).collect()),
            "{reports:?}"
        );
        let ended = reports
            .iter()
            .any(|(site, code)| *site == "bj-1" && *code != Some(""));
        assert_eq!(machine.live_job.is_none(), ended, "{reports:?}");
        assert_eq!(
            machine.state,
            MachineState::Maintenance,
            "its state is not the rotation's"
        );
    })
    .await;
}

#[tokio::test]
async fn the_new_password_is_on_record_when_the_bmc_has_proved_it() {
    each(&[("bj-1", Some("")), ("bj-1", None)], "new", &[]).await;
}

#[tokio::test]
async fn a_refused_password_is_forgotten_and_no_other() {
    each(&[("bj-1", Some("bmc_password_refused"))], "old", &["older"]).await;
}

#[tokio::test]
async fn after_any_other_end_all_are_kept() {
    each(&[("bj-1", Some("bmc_timeout"))], "old", &["older", "new"]).await;
    each(&[("bj-1", Some("no_progress"))], "old", &["older", "new"]).await;
}

/// The edge had told of a failure, and found out later; or was put back to a state in which it did not know yet.
#[tokio::test]
async fn a_late_word_still_tells_what_is_in_force() {
    each(&[("bj-1", Some("bmc_timeout")), ("bj-1", None)], "new", &[]).await;
}

#[tokio::test]
async fn another_site_cannot_say_that_a_password_is_in_force() {
    each(&[("bj-2", None)], "old", &["older", "new"]).await;
}

#[tokio::test]
async fn a_mark_that_was_set_meanwhile_counts_when_the_rotation_ends() {
    on_each_database(async |store: Store| {
        let now = Utc::now();
        let mark = Hold {
            reason: Some("ECC".into()),
            quarantine: true,
        };
        let begun = store.transaction(move |db| {
            let job = rotating(db, now)?;
            holds::hold(db, job.machine.unwrap(), &mark)
        });
        assert!(begun.await.unwrap());
        let (_, _, machine) = after(&store, &[("bj-1", None)]).await;
        assert_eq!(
            (machine.state, machine.live_job),
            (MachineState::Quarantined, None)
        );
    })
    .await;
}

async fn rotate(server: &Server, machine: &str) -> (StatusCode, serde_json::Value) {
    let path = format!("/api/v1/machines/{machine}/bmc-password");
    server.call(Method::POST, &path, None).await
}

#[tokio::test]
async fn what_cannot_be_rotated_is_refused_with_a_code() {
    let server = server().await;
    server.make_site("bj-1").await;
    server.make_machine("bj-1", 1, json!({})).await;
    let (status, answer) = rotate(&server, "m1").await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("no_bmc"))
    );
    let bmc = json!({ "driver": "ipmi", "address": "127.0.0.1:9", "username": "admin", "password": "s" });
    let (status, changed) = server.patch("/api/v1/machines/m1", json!({ "bmc": bmc })).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    let (status, answer) = rotate(&server, "m1").await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("site_not_joined"))
    );
    let _edge = crate::edges::join(&server).await;
    let (status, answer) = rotate(&server, "m1").await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("site_offline"))
    );
    let (status, answer) = rotate(&server, "nobody").await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::NOT_FOUND, &json!("not_found"))
    );
    let (_, retired) = server.post("/api/v1/machines/m1/retire", json!({})).await;
    assert_eq!(retired["state"], "retired");
    let (status, answer) = rotate(&server, "m1").await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("machine_retired"))
    );
}

/// The site is connected, and its edge says nothing.
async fn begun(server: &Server) -> String {
    server.make_site("bj-1").await;
    let bmc = json!({ "driver": "ipmi", "address": "127.0.0.1:9", "username": "admin", "password": "s" });
    server.make_machine("bj-1", 1, json!({})).await;
    let (status, changed) = server.patch("/api/v1/machines/m1", json!({ "bmc": bmc })).await;
    assert_eq!(status, StatusCode::OK, "{changed}");
    let _edge = crate::edges::join(server).await;
    let store = Store::open(&server.database_url).await.unwrap();
    let heard = store.transaction(|db| domain::sites::heard(db, &site(), true, Utc::now()));
    heard.await.unwrap();
    let (status, job) = rotate(server, "m1").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    job["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn nobody_else_works_on_a_bmc_that_gets_a_new_password() {
    let server = server().await;
    let job = begun(&server).await;
    let (status, answer) = rotate(&server, "m1").await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("machine_busy"))
    );
    let password = json!({ "bmc": { "password": "another" } });
    let (status, answer) = server.patch("/api/v1/machines/m1", password.clone()).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("machine_busy"))
    );
    let (status, answer) = server
        .patch("/api/v1/machines/m1", json!({ "labels": { "a": "b" } }))
        .await;
    assert_eq!(status, StatusCode::OK, "the rest may be changed: {answer}");

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
    let seen = (
        &machine["live_job"],
        &machine["state"],
        &machine["bmc_password_unsettled"],
    );
    assert_eq!(
        seen,
        (&json!(null), &json!("available"), &json!(true)),
        "nobody knows what the BMC heard"
    );
    let (status, answer) = server.patch("/api/v1/machines/m1", password).await;
    assert_eq!(
        (status, &answer["bmc_password_unsettled"]),
        (StatusCode::OK, &json!(true))
    );
    let bmc = json!({ "bmc": { "address": "127.0.0.1:10", "password": "of another BMC" } });
    let (status, answer) = server.patch("/api/v1/machines/m1", bmc).await;
    assert_eq!(
        (status, &answer["bmc_password_unsettled"]),
        (StatusCode::OK, &json!(false))
    );
}

#[tokio::test]
async fn a_rotation_that_failed_is_not_taken_up_but_begun_anew() {
    let server = server().await;
    let job = begun(&server).await;
    let store = Store::open(&server.database_url).await.unwrap();
    let machine = server.get("/api/v1/machines/m1").await["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let failed = store.transaction(move |db| {
        let now = Utc::now();
        let report = Report {
            machine: machine.parse().unwrap(),
            job: job.parse().unwrap(),
            ..report(Some("bmc_timeout"), now)
        };
        domain::jobs::take_report(db, &site(), 1, &report, now)?;
        Ok::<_, StoreError>(job)
    });
    let job = failed.await.unwrap();
    let (status, answer) = server.post(&format!("/api/v1/jobs/{job}/retry"), json!({})).await;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &json!("job_not_retried"))
    );
    assert!(
        answer["detail"]
            .as_str()
            .unwrap()
            .contains("slipway machine rotate-bmc")
    );
    let (status, again) = rotate(&server, "m1").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{again}");
    let order = server.get("/api/v1/machines/m1/order").await;
    let others = order["order"]["hardware"]["bmc"]["other_passwords"]
        .as_array()
        .unwrap()
        .len();
    assert_eq!(others, 1, "the password that was made is tried again: {order}");
}
