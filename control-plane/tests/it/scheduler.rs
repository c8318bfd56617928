//! The scheduler on a real store: what waits without hope holds up nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::common::on_each_database;
use chrono::{DateTime, TimeDelta, Utc};
use metrics_exporter_prometheus::PrometheusBuilder;
use slipway_control_plane::{
    app::App,
    config::Given,
    domain, scheduler,
    store::{
        Database, Store, StoreError, StoreResult,
        free::{self, Selector},
        images::{self, Edition, Image},
        instances::{self, Instance, Wish},
        jobs::{self, Job},
        machines::{self, Machine, MachineDetails},
        projects,
        sites::{self, SiteSettings},
    },
    workflow::state::{InstanceState, JobKind, JobState, MachineState},
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MacAddr, MachineId, SiteId},
    image::Manifest,
    inventory::{DiskRule, FirmwareKind},
    keys::Signer,
    seal::OpeningKey,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

pub(crate) fn make_site(db: &mut Database, name: &str) -> StoreResult<()> {
    let settings = SiteSettings {
        dhcp_relays: vec![],
        description: String::new(),
        discover: false,
        subnets: vec![],
        limits: Default::default(),
        offline: Default::default(),
    };
    sites::insert(db, &site(name), &settings, Utc::now())?;
    let report_key = Signer::generate().unwrap().0.verifying_key();
    let sealing_key = OpeningKey::generate().unwrap().0.sealing_key();
    sites::set_keys(db, &site(name), report_key, sealing_key, ("-", &report_key.id()))
}

pub(crate) fn make_machine(db: &mut Database, at: &str) -> StoreResult<()> {
    let machine = Machine {
        id: MachineId(Uuid::from_u128(1)),
        name: "m1".into(),
        site: site(at),
        state: MachineState::Available,
        address: [192, 0, 2, 1].into(),
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
        class: machines::Class::default(),
        hold: machines::Hold::default(),
        live_job: None,
        version: 1,
        created_at: Utc::now(),
    };
    machines::insert(db, &machine)
}

/// A wish made `n` microseconds after `begun`.
pub(crate) fn ask(
    db: &mut Database,
    (n, at): (u32, &str),
    user_data: Option<&str>,
    begun: DateTime<Utc>,
) -> StoreResult<JobId> {
    let (id, job) = (
        InstanceId(Uuid::from_u128(n.into())),
        JobId(Uuid::from_u128(n.into())),
    );
    let created_at = begun + TimeDelta::microseconds(n.into());
    let instance = Instance {
        id,
        name: format!("i{n}"),
        site: site(at),
        machine: None,
        image: ImageId::of(b"i"),
        state: InstanceState::Requested,
        job,
        wish: Wish {
            machine: None,
            disk: DiskRule::default(),
            user: "u".into(),
            ssh_keys: vec![],
            user_data: user_data.map(str::to_owned),
            ..Wish::default()
        },
        project: "default".into(),
        locked: false,
        created_at,
    };
    instances::insert(db, &instance)?;
    let queued = Job {
        id: job,
        instance: Some(id),
        site: site(at),
        machine: None,
        kind: JobKind::Install,
        priority: 0,
        waiting: None,
        state: JobState::Queued,
        failure: None,
        deadline: created_at + TimeDelta::hours(2),
        created_at,
        finished_at: None,
    };
    jobs::insert(db, &queued)?;
    Ok(job)
}

#[tokio::test]
async fn neither_a_full_site_nor_a_broken_wish_holds_up_another() {
    let dir = tempfile::tempdir().unwrap();
    let given = Given {
        data_dir: Some(dir.path().into()),
        ..Given::default()
    };
    let config = given.resolve().unwrap();
    let store = Store::open(&config.database_url).await.unwrap();
    let begun = Utc::now();
    let last = store
        .transaction(move |db| {
            make_site(db, "full")?;
            make_site(db, "free")?;
            make_machine(db, "free")?;
            // More than are read at once.
            for n in 1..=600 {
                ask(db, (n, "full"), None, begun)?;
            }
            ask(db, (601, "free"), Some("not what the vault encrypted"), begun)?;
            ask(db, (602, "free"), None, begun)
        })
        .await
        .unwrap();
    let app = App::new(config, store, PrometheusBuilder::new().build_recorder().handle()).unwrap();
    let mut words = app.sites.subscribe();
    let stop = CancellationToken::new();
    let scheduler = tokio::spawn(scheduler::run(Arc::clone(&app), stop.clone()));
    let word = tokio::time::timeout(Duration::from_secs(30), words.recv()).await;
    assert_eq!(word.unwrap().unwrap(), "free");
    let job = app
        .store
        .read(move |db| jobs::get(db, &last.to_string()))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(job.state, JobState::Running);
    stop.cancel();
    scheduler.await.unwrap();
}

/// A machine of a type and with a label, as operators and rules left it.
fn make_typed(db: &mut Database, n: u8, machine_type: &str, rack: &str) -> StoreResult<()> {
    let machine = Machine {
        id: MachineId(Uuid::from_u128(n.into())),
        name: format!("m{n}"),
        site: site("bj-1"),
        state: MachineState::Available,
        address: [192, 0, 2, n].into(),
        details: MachineDetails {
            macs: vec![MacAddr([2, 0, 0, 0, 0, n])],
            firmware: FirmwareKind::Bios,
            bmc: None,
            labels: BTreeMap::from([("rack".to_owned(), rack.to_owned())]),
            inventory: None,
        },
        bmc_password: None,
        bmc_candidates: Vec::new(),
        bmc_state: None,
        class: machines::Class {
            machine_type: Some(machine_type.to_owned()),
            ..machines::Class::default()
        },
        hold: machines::Hold::default(),
        live_job: None,
        version: 1,
        created_at: Utc::now(),
    };
    machines::insert(db, &machine)
}

#[tokio::test]
async fn a_free_machine_is_found_by_type_and_labels() {
    on_each_database(|store| async move {
        let found = store
            .transaction(|db| {
                make_site(db, "bj-1")?;
                make_typed(db, 1, "big", "a1")?;
                make_typed(db, 2, "small", "a1")?;
                make_typed(db, 3, "small", "a2")?;
                let mut any = |types: Option<&str>, except: &str, rack: Option<&str>| {
                    let wanted = Selector {
                        types: types.map(|name| vec![name.to_owned()]),
                        except: vec![except.to_owned()],
                        labels: rack
                            .map(|rack| ("rack".to_owned(), rack.to_owned()))
                            .into_iter()
                            .collect(),
                    };
                    free::any(db, &site("bj-1"), &wanted).map(|found| found.map(|m| m.name))
                };
                Ok::<_, StoreError>([
                    any(None, "", None)?,
                    any(Some("small"), "", None)?,
                    any(Some("small"), "", Some("a2"))?,
                    any(None, "big", None)?,
                    any(None, "small", Some("a2"))?,
                    any(Some("huge"), "", None)?,
                ])
            })
            .await
            .unwrap();
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(
            found,
            [named("m1"), named("m2"), named("m3"), named("m2"), None, None]
        );
    })
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn an_instance_gets_what_it_asked_for_within_its_quota_or_is_told_what_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let given = Given {
        data_dir: Some(dir.path().into()),
        ..Given::default()
    };
    let config = given.resolve().unwrap();
    let store = Store::open(&config.database_url).await.unwrap();
    let begun = Utc::now();
    store
        .transaction(move |db| {
            make_site(db, "bj-1")?;
            make_typed(db, 1, "big", "a1")?;
            for n in 1..=3 {
                ask(db, (n, "bj-1"), None, begun)?;
            }
            projects::set_quota(db, "default", "big", Some(0))?;
            let mut picky = instances::by_id(db, InstanceId(Uuid::from_u128(2)))?.unwrap();
            picky.wish.machine_type = Some("big".to_owned());
            picky.wish.labels = BTreeMap::from([("rack".to_owned(), "a2".to_owned())]);
            instances::set_wish(db, picky.id, picky.image, &picky.wish)?;
            picky.wish.labels = BTreeMap::from([("rack".to_owned(), "a1".to_owned())]);
            instances::set_wish(db, InstanceId(Uuid::from_u128(3)), picky.image, &picky.wish)
        })
        .await
        .unwrap();
    let app = App::new(config, store, PrometheusBuilder::new().build_recorder().handle()).unwrap();
    let dispatch = async |n: u128| {
        let done = domain::instances::dispatch(&app, InstanceId(Uuid::from_u128(n))).await;
        done.unwrap().map(|site| site.to_string())
    };
    assert_eq!(
        dispatch(1).await,
        Err("site bj-1 has no free machine".to_owned()),
        "its project may have none of type big"
    );
    assert_eq!(
        dispatch(2).await,
        Err("site bj-1 has no free machine of type big with labels rack=a2".to_owned())
    );
    let bind = |machine_type: &str| {
        let image = Image {
            id: ImageId::of(b"i"),
            name: "i".into(),
            manifest: Manifest {
                size_bytes: 0,
                chunk_bytes: 1,
                chunks: vec![],
            },
            edition: Edition {
                machine_types: vec![machine_type.to_owned()],
                ..Edition::default()
            },
            created_at: begun,
        };
        app.store.transaction(move |db| {
            if images::get(db, "i")?.is_some() {
                return images::update(db, &image);
            }
            images::insert(db, &image)
        })
    };
    bind("gpu").await.unwrap();
    assert_eq!(
        dispatch(1).await,
        Err("site bj-1 has no free machine of type gpu".to_owned())
    );
    assert_eq!(
        dispatch(3).await,
        Err("its image is no longer for machines of the type it asks for".to_owned())
    );
    bind("big").await.unwrap();
    assert_eq!(
        dispatch(3).await,
        Ok("bj-1".to_owned()),
        "its quota was looked at when it was made"
    );
}
