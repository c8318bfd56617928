//! The scheduler on a real store: what waits without hope holds up nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use metrics_exporter_prometheus::PrometheusBuilder;
use slipway_control_plane::{
    app::App,
    config::Given,
    scheduler,
    store::{
        Database, Store, StoreResult,
        instances::{self, Instance, Wish},
        jobs::{self, Job},
        machines::{self, Machine, MachineDetails},
        sites::{self, SiteSettings},
    },
    workflow::state::{InstanceState, JobKind, JobState, MachineState},
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MacAddr, MachineId, SiteId},
    inventory::{DiskRule, FirmwareKind},
    keys::Signer,
    seal::OpeningKey,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

fn site(name: &str) -> SiteId {
    SiteId::new(name).unwrap()
}

fn make_site(db: &mut Database, name: &str) -> StoreResult<()> {
    let settings = SiteSettings {
        description: String::new(),
        discover: false,
        subnets: vec![],
        limits: Default::default(),
    };
    sites::insert(db, &site(name), &settings, Utc::now())?;
    let report_key = Signer::generate().unwrap().0.verifying_key();
    let sealing_key = OpeningKey::generate().unwrap().0.sealing_key();
    sites::set_keys(db, &site(name), report_key, sealing_key, "-")
}

fn make_machine(db: &mut Database, at: &str) -> StoreResult<()> {
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
        class: machines::Class::default(),
        hold: machines::Hold::default(),
        live_job: None,
        version: 1,
        created_at: Utc::now(),
    };
    machines::insert(db, &machine)
}

/// A wish made `n` microseconds after `begun`.
fn ask(
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
        },
        project: "default".into(),
        locked: false,
        created_at,
    };
    instances::insert(db, &instance)?;
    let queued = Job {
        id: job,
        instance: id,
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
