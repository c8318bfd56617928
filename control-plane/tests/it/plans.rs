//! Plans of installs: what they say, that they refuse what the real thing refuses, and that they leave nothing behind; on
//! both databases.

use std::sync::Arc;

use chrono::Utc;
use metrics_exporter_prometheus::PrometheusBuilder;
use slipway_control_plane::{
    access::{Actor, Caller, Permission, Scope, Via, caller::Held as Grant},
    app::App,
    config::Given,
    domain::instances::{self, Anew, Held, NewInstance, UserDataCheck},
    error::ApiError,
    store::{
        Store, StoreError,
        events::{self, Filter, Order},
        images::{self, Edition, Image},
        instances as rows, jobs, machines,
        projects::{self, Project},
        reports,
    },
    workflow::state::{InstanceState, JobState, MachineState},
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MachineId},
    image::Manifest,
    inventory::{Disk, DiskKind, DiskRule, Inventory},
    report::{Outcome, Report},
};
use uuid::Uuid;

use crate::{
    common::on_each_database,
    scheduler::{ask, make_machine, make_site, site},
};

fn caller() -> Caller {
    caller_in(Scope::Global)
}

fn caller_in(scope: Scope) -> Caller {
    let held = Grant {
        scope,
        permissions: Permission::ALL.iter().copied().collect(),
    };
    Caller {
        user: "u".into(),
        actor: Actor {
            name: "ann".into(),
            via: Via::Key,
            address: "192.0.2.9".into(),
        },
        held: Arc::new([held]),
        narrowed: false,
        credential: slipway_control_plane::access::caller::Credential::None,
    }
}

fn disk(serial: &str, size_bytes: u64) -> Disk {
    Disk {
        serial: Some(serial.into()),
        wwn: None,
        model: Some("M".into()),
        size_bytes,
        kind: DiskKind::Ssd,
    }
}

fn wish(name: &str, serial: Option<&str>) -> NewInstance {
    NewInstance {
        project: "default".into(),
        priority: 0,
        names: vec![name.into()],
        site: site("bj-1"),
        machine: None,
        machine_type: None,
        labels: std::collections::BTreeMap::new(),
        image: "debian".into(),
        disk: DiskRule {
            serial: serial.map(str::to_owned),
            ..DiskRule::default()
        },
        user: "debian".into(),
        ssh_keys: vec![],
        user_data: None,
        user_data_check: UserDataCheck::On,
    }
}

fn code(error: ApiError) -> &'static str {
    match error {
        ApiError::Bad(code, _) | ApiError::Conflict(code, _) => code,
        ApiError::NotFound(..) => "not_found",
        other => panic!("{other:?}"),
    }
}

async fn fill(store: &Store) -> ImageId {
    let manifest = Manifest {
        size_bytes: 1,
        chunk_bytes: 1,
        chunks: vec![],
    };
    let id = manifest.id();
    let filled = store.transaction(move |db| {
        make_site(db, "bj-1")?;
        make_machine(db, "bj-1")?;
        let image = Image {
            id,
            name: "debian".into(),
            manifest,
            edition: Edition::default(),
            created_at: Utc::now(),
        };
        images::insert(db, &image)
    });
    filled.await.unwrap();
    id
}

/// Everything that a change would have been told in.
async fn traces(app: &App) -> (usize, usize, MachineState) {
    let read = app.store.transaction(|db| {
        events::number(db)?;
        let filter = Filter::default();
        let told = events::list(db, &filter, Order::Oldest, 1000)?.len();
        let left = rows::in_state(db, InstanceState::Requested, None, 10)?.len();
        let machine = machines::get(db, "m1")?.unwrap();
        Ok::<_, StoreError>((told, left, machine.state))
    });
    read.await.unwrap()
}

fn app(store: Store, dir: &tempfile::TempDir) -> Arc<App> {
    let given = Given {
        data_dir: Some(dir.path().into()),
        ..Given::default()
    };
    let recorder = PrometheusBuilder::new().build_recorder().handle();
    App::new(given.resolve().unwrap(), store, recorder).unwrap()
}

#[tokio::test]
async fn a_plan_says_what_would_be_written_and_changes_nothing() {
    on_each_database(|store| async move {
        let dir = tempfile::tempdir().unwrap();
        let image = fill(&store).await;
        let app = app(store, &dir);
        let ann = caller();
        let before = traces(&app).await;
        let plan = instances::plan_create(&app, &ann, wish("web-1", None))
            .await
            .unwrap();
        let on = plan.on.unwrap();
        assert_eq!((on.machine.name.as_str(), plan.instance.image), ("m1", image));
        assert_eq!(on.disk.unwrap_err().0, "not_inspected");
        let steps: Vec<&str> = on.steps.iter().map(|step| step.id.as_str()).collect();
        assert_eq!((steps[0], steps.last()), ("ensure-image", Some(&"verify-guest")));
        let inspected = app.store.transaction(|db| {
            let inventory = Inventory {
                disks: vec![disk("A", 100), disk("B", 200)],
                ..Inventory::default()
            };
            let machine = machines::get(db, "m1")?.unwrap();
            machines::set_inventory(db, machine.id, &inventory)
        });
        inspected.await.unwrap();
        let chosen = async |serial: Option<&str>| {
            let plan = instances::plan_create(&app, &ann, wish("web-1", serial))
                .await
                .unwrap();
            plan.on.unwrap().disk.map_err(|(code, _)| code)
        };
        assert_eq!(chosen(None).await, Err("disk_ambiguous"));
        assert_eq!(chosen(Some("B")).await, Ok(disk("B", 200)));
        assert_eq!(chosen(Some("C")).await, Err("disk_not_found"));
        let mut wrong = wish("web-1", None);
        wrong.image = "none".into();
        assert_eq!(
            code(instances::plan_create(&app, &ann, wrong).await.unwrap_err()),
            "not_found"
        );
        let bad = instances::plan_create(&app, &ann, wish("plan", None)).await;
        assert_eq!(code(bad.unwrap_err()), "name", "it would be the address of plans");
        let mut other = wish("web-1", None);
        other.labels.insert("rack".into(), "a1".into());
        let waiting = instances::plan_create(&app, &ann, other)
            .await
            .unwrap()
            .on
            .unwrap_err();
        assert!(
            waiting.contains("no free machine with labels rack=a1"),
            "{waiting}"
        );
        assert_eq!(traces(&app).await, before, "nothing was left behind");
    })
    .await;
}

#[tokio::test]
async fn a_plan_to_install_anew_knows_what_is_on_the_disk() {
    on_each_database(|store| async move {
        let dir = tempfile::tempdir().unwrap();
        let image = fill(&store).await;
        let app = app(store, &dir);
        let (job, id) = (JobId(Uuid::from_u128(7)), InstanceId(Uuid::from_u128(7)));
        let installed = app.store.transaction(move |db| {
            let machine = machines::get(db, "m1")?.unwrap();
            ask(db, (7, "bj-1"), None, Utc::now())?;
            let instance = rows::by_id(db, id)?.unwrap();
            rows::set_wish(db, id, image, &instance.wish)?;
            machines::take(db, machine.id, MachineState::Available, job)?;
            rows::set_machine(db, id, machine.id)?;
            rows::advance(db, id, InstanceState::Requested, InstanceState::Running)?;
            jobs::start(db, job, machine.id)?;
            jobs::finish(db, job, JobState::Done, None, Utc::now())?;
            machines::leave(db, machine.id, job, MachineState::Allocated)?;
            let inventory = Inventory {
                disks: vec![disk("A", 100), disk("B", 200)],
                ..Inventory::default()
            };
            machines::set_inventory(db, machine.id, &inventory)?;
            let report = report_of(machine.id, job);
            reports::put(db, &site("bj-1"), 3, &report)?;
            Ok::<_, StoreError>(())
        });
        installed.await.unwrap();
        let ann = caller();
        let anew = |serial: &str| Anew {
            disk: Some(DiskRule {
                serial: Some(serial.into()),
                ..DiskRule::default()
            }),
            wipe_data_disks: true,
            ..Anew::default()
        };
        let plan = instances::plan_reinstall(&app, &ann, "i7".into(), anew("A"))
            .await
            .unwrap();
        let on = plan.on.unwrap();
        let Some(Held::Known(held)) = on.held else {
            panic!("an administrator sees what is on it: {:?}", on.held)
        };
        assert_eq!(
            (Some(held.instance.as_str()), held.image.as_deref()),
            (Some("i7"), Some("debian"))
        );
        assert_eq!((held.disk, held.state.as_str()), (disk("A", 100), "done"));
        assert!(on.steps.iter().any(|step| step.id.as_str() == "wipe-data-disks"));
        let plan = instances::plan_reinstall(&app, &ann, "i7".into(), anew("B"))
            .await
            .unwrap();
        assert_eq!(plan.on.unwrap().held, None, "nothing is known of the other disk");
        let locked = app.store.transaction(move |db| rows::rename(db, id, "i7", true));
        locked.await.unwrap();
        let refused = instances::plan_reinstall(&app, &ann, "i7".into(), anew("A")).await;
        assert_eq!(code(refused.unwrap_err()), "instance_locked");
    })
    .await;
}

#[tokio::test]
async fn a_plan_tells_a_tenant_nothing_of_another_ones_install() {
    on_each_database(|store| async move {
        let dir = tempfile::tempdir().unwrap();
        fill(&store).await;
        let app = app(store, &dir);
        let (job, id) = (JobId(Uuid::from_u128(7)), InstanceId(Uuid::from_u128(7)));
        let released = app.store.transaction(move |db| {
            let machine = machines::get(db, "m1")?.unwrap();
            ask(db, (7, "bj-1"), None, Utc::now())?;
            machines::take(db, machine.id, MachineState::Available, job)?;
            rows::set_machine(db, id, machine.id)?;
            jobs::start(db, job, machine.id)?;
            jobs::finish(db, job, JobState::Done, None, Utc::now())?;
            rows::advance(db, id, InstanceState::Requested, InstanceState::Released)?;
            machines::leave(db, machine.id, job, MachineState::Available)?;
            let inventory = Inventory {
                disks: vec![disk("A", 100)],
                ..Inventory::default()
            };
            machines::set_inventory(db, machine.id, &inventory)?;
            reports::put(db, &site("bj-1"), 3, &report_of(machine.id, job))?;
            let other = Project {
                id: "other".into(),
                description: String::new(),
                created_at: Utc::now(),
            };
            projects::insert(db, &other)
        });
        released.await.unwrap();
        let held_for = async |caller: &Caller, project: &str| {
            let new = NewInstance {
                project: project.into(),
                ..wish("web-1", Some("A"))
            };
            let plan = instances::plan_create(&app, caller, new).await.unwrap();
            plan.on.unwrap().held
        };
        let other = caller_in(Scope::Project("other".into()));
        let held = held_for(&other, "other").await;
        assert!(
            matches!(held, Some(Held::OfOthers { .. })),
            "that the disk is not empty is said, and no more: {held:?}"
        );
        for own in [caller_in(Scope::Project("default".into())), caller()] {
            let held = held_for(&own, "default").await;
            assert!(
                matches!(&held, Some(Held::Known(last)) if last.instance == "i7"),
                "{held:?}"
            );
        }
    })
    .await;
}

fn report_of(machine: MachineId, job: JobId) -> Report {
    Report {
        machine,
        job,
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Done { at: Utc::now() },
        steps: vec![],
        disk: Some(disk("A", 100)),
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: vec![],
        bmc: None,
    }
}
