//! Machines on and off the shelf, in maintenance, quarantined and retired; over HTTP and in the store, on both databases.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::common::{
    on_each_database,
    server::{Server, on_each_server},
};
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_control_plane::{
    domain,
    store::{
        Database, StoreError, StoreResult, holds,
        instances::{self, Instance, Wish},
        jobs::{self, Job},
        machines::{self, Class, Hold, Machine, MachineDetails},
        sites::{self, SiteSettings},
    },
    workflow::state::{InstanceState, JobKind, JobState, MachineState},
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MacAddr, MachineId, SiteId},
    inventory::{DiskRule, FirmwareKind},
    report::{Outcome, Report},
};
use uuid::Uuid;

#[test]
fn operators_move_machines_and_say_why() {
    on_each_server(life_story);
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn life_story(server: &Server) {
    server.make_site("bj-1").await;
    server.make_machine("bj-1", 1, json!({})).await;
    let body = json!({ "name": "m2", "site": "bj-1", "macs": ["52:54:00:00:00:02"], "firmware": "uefi", "shelved": true });
    let (status, shelved) = server.post("/api/v1/machines", body).await;
    assert_eq!(
        (status, &shelved["state"]),
        (StatusCode::CREATED, &json!("enrolled"))
    );
    let go = async |machine: &str, how: &str, reason: Option<&str>| {
        let (status, answer) = server
            .post(
                &format!("/api/v1/machines/{machine}/{how}"),
                json!({ "reason": reason }),
            )
            .await;
        let seen = if status.is_success() {
            &answer["state"]
        } else {
            &answer["code"]
        };
        (seen.as_str().unwrap().to_owned(), answer["reason"].clone())
    };
    let told = |state: &str, reason: Value| (state.to_owned(), reason);
    assert_eq!(
        go("m2", "unshelve", Some("x")).await,
        told("available", Value::Null)
    );
    assert_eq!(
        go("m1", "maintenance", Some("new disk")).await,
        told("maintenance", json!("new disk"))
    );
    assert_eq!(go("m1", "maintenance", None).await.0, "machine_state");
    assert_eq!(go("m1", "return", None).await, told("available", Value::Null));
    assert_eq!(go("m1", "return", None).await.0, "machine_state");
    assert_eq!(go("m1", "shelve", None).await.0, "enrolled");
    assert_eq!(
        go("m1", "quarantine", Some("ECC")).await,
        told("quarantined", json!("ECC"))
    );
    assert_eq!(
        go("m1", "shelve", Some("looks well")).await,
        told("enrolled", json!("looks well"))
    );
    assert_eq!(
        go("m1", "retire", Some("sold")).await,
        told("retired", json!("sold"))
    );
    for how in [
        "shelve",
        "unshelve",
        "maintenance",
        "quarantine",
        "return",
        "retire",
    ] {
        assert_eq!(
            go("m1", how, None).await.0,
            "machine_state",
            "{how}: retired is the end"
        );
    }
    assert_eq!(go("m1", "polish", None).await.0, "path");
    assert_eq!(go("m2", "quarantine", Some(&"x".repeat(501))).await.0, "reason");
    let (_, refused) = server
        .patch("/api/v1/machines/m1", json!({ "labels": { "a": "b" } }))
        .await;
    assert_eq!(refused["code"], "machine_retired");
    let kinds: Vec<Value> = server.get("/api/v1/machines/m1/timeline").await["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["kind"].clone())
        .collect();
    let expected = [
        "added",
        "maintenance",
        "available",
        "enrolled",
        "quarantined",
        "enrolled",
        "retired",
    ];
    assert_eq!(kinds, expected.map(|kind| json!(format!("machine.{kind}"))));
    let audit = server.get("/api/v1/audit?limit=1000").await;
    let line = audit["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|l| l["action"] == "machine.retire");
    assert_eq!(line.unwrap()["after"]["reason"], "sold");
}

/// A machine in the hands of an instance that is being given back.
#[expect(clippy::too_many_lines, reason = "rows written out")]
fn held(db: &mut Database, now: DateTime<Utc>) -> StoreResult<(MachineId, Job)> {
    let site = SiteId::new("bj-1").unwrap();
    let settings = SiteSettings {
        dhcp_relays: vec![],
        description: String::new(),
        discover: false,
        subnets: vec![],
        limits: Default::default(),
        offline: Default::default(),
    };
    sites::insert(db, &site, &settings, now)?;
    let (id, instance, job) = (
        MachineId(Uuid::from_u128(1)),
        InstanceId(Uuid::from_u128(2)),
        JobId(Uuid::from_u128(3)),
    );
    let machine = Machine {
        id,
        name: "m1".into(),
        site: site.clone(),
        state: MachineState::Available,
        address: Ipv4Addr::new(192, 0, 2, 9),
        details: MachineDetails {
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            firmware: FirmwareKind::Bios,
            bmc: None,
            labels: BTreeMap::new(),
            inventory: None,
        },
        bmc_password: None,
        bmc_candidates: Vec::new(),
        bmc_state: None,
        class: Class::default(),
        hold: Hold::default(),
        live_job: None,
        version: 1,
        created_at: now,
    };
    machines::insert(db, &machine)?;
    machines::take(db, id, MachineState::Available, job)?;
    let erasing = Instance {
        id: instance,
        name: "web-1".into(),
        site: site.clone(),
        machine: Some(id),
        image: ImageId::of(b"i"),
        state: InstanceState::Erasing,
        job,
        wish: Wish {
            machine: None,
            disk: DiskRule::default(),
            user: "u".into(),
            ssh_keys: vec![],
            user_data: None,
            ..Wish::default()
        },
        created_at: now,
        project: "default".into(),
        locked: false,
    };
    instances::insert(db, &erasing)?;
    let job = Job {
        id: job,
        instance: Some(instance),
        site,
        machine: Some(id),
        kind: JobKind::Release,
        priority: 0,
        waiting: None,
        state: JobState::Running,
        failure: None,
        deadline: now + TimeDelta::hours(2),
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &job)?;
    Ok((id, job))
}

fn done(machine: MachineId, job: JobId, at: DateTime<Utc>) -> Report {
    Report {
        machine,
        job,
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Done { at },
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: Vec::new(),
        bmc: None,
    }
}

#[tokio::test]
async fn a_machine_that_an_instance_holds_is_quarantined_when_it_is_given_back() {
    on_each_database(|store| async move {
        let now = Utc::now();
        let (marked, left) = store
            .transaction(move |db| {
                let (id, job) = held(db, now)?;
                assert!(domain::machines::quarantine(db, id, "disk failed twice", now)?);
                let marked = machines::get(db, "m1")?.unwrap();
                domain::jobs::take_report(db, &job.site, 1, &done(id, job.id, now), now)?;
                let left = machines::get(db, "m1")?.unwrap();
                assert!(
                    !domain::machines::quarantine(db, id, "again", now)?,
                    "it is already"
                );
                Ok::<_, StoreError>((marked, left))
            })
            .await
            .unwrap();
        assert_eq!(
            (marked.state, marked.hold.quarantine),
            (MachineState::Allocated, true)
        );
        assert_eq!(
            (left.state, left.hold.quarantine),
            (MachineState::Quarantined, false)
        );
        assert_eq!(left.hold.reason.as_deref(), Some("disk failed twice"));
    })
    .await;
}

#[tokio::test]
async fn a_machine_without_a_mark_is_free_again() {
    on_each_database(|store| async move {
        let now = Utc::now();
        let left = store
            .transaction(move |db| {
                let (id, job) = held(db, now)?;
                domain::jobs::take_report(db, &job.site, 1, &done(id, job.id, now), now)?;
                assert!(
                    !holds::hold(db, id, &Hold::default())?,
                    "nobody holds it any more"
                );
                Ok::<_, StoreError>(machines::get(db, "m1")?.unwrap())
            })
            .await
            .unwrap();
        assert_eq!(left.state, MachineState::Available);
    })
    .await;
}
