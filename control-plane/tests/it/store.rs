//! Every table function that decides something, on SQLite and on PostgreSQL.

use std::collections::BTreeMap;

use crate::common::on_each_database;
use chrono::{TimeDelta, Utc};
use slipway_control_plane::{
    access::Visible,
    domain,
    store::{
        Database, Store, StoreError, credentials, discovered,
        events::{self, Filter, Order},
        free, idempotency, images,
        instances::{self, Instance, Wish},
        jobs::{self, Job},
        machines::{self, Machine, MachineDetails},
        orders, reports,
        sites::{self, SiteSettings},
    },
    workflow::{
        release,
        state::{InstanceState, JobKind, JobState, MachineState},
    },
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MacAddr, MachineId, SiteId},
    image::Manifest,
    inventory::{DiskRule, FirmwareKind, Inventory, Nic},
    order::Hardware,
    report::{Failure, MachineSeen, Outcome, Report},
};
use uuid::Uuid;

fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

fn settings() -> SiteSettings {
    SiteSettings {
        dhcp_relays: vec![],
        description: "d".into(),
        discover: false,
        subnets: vec![],
        limits: Default::default(),
        offline: Default::default(),
    }
}

fn machine(n: u8) -> Machine {
    Machine {
        id: MachineId(Uuid::from_u128(n.into())),
        name: format!("m{n}"),
        site: site(),
        state: MachineState::Available,
        address: [192, 0, 2, n].into(),
        details: MachineDetails {
            macs: vec![MacAddr([2, 0, 0, 0, 0, n])],
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
    }
}

fn job(n: u8) -> JobId {
    JobId(Uuid::from_u128(1000 + u128::from(n)))
}

async fn with_site_and_machine(store: &Store) {
    store
        .transaction(|db| {
            sites::insert(db, &site(), &settings(), Utc::now())?;
            machines::insert(db, &machine(1))
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_site_changes_only_for_who_saw_its_last_revision() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let again = store
            .transaction(|db| sites::insert(db, &site(), &settings(), Utc::now()))
            .await;
        assert!(matches!(again, Err(StoreError::Taken)), "{again:?}");
        let change = |revision| {
            let settings = SiteSettings {
                dhcp_relays: vec![],
                discover: true,
                ..settings()
            };
            store.transaction(move |db| sites::update(db, &site(), revision, &settings))
        };
        assert!(change(1).await.unwrap());
        assert!(!change(1).await.unwrap(), "somebody changed it meanwhile");
        let found = store
            .transaction(|db| sites::get(db, "bj-1"))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((found.revision, found.settings.discover), (2, true));
        store
            .transaction(|db| sites::raise_revision(db, &site(), 9))
            .await
            .unwrap();
        assert_eq!(
            store
                .transaction(|db| sites::get(db, "bj-1"))
                .await
                .unwrap()
                .unwrap()
                .revision,
            10
        );
    })
    .await;
}

#[tokio::test]
async fn a_machine_is_taken_by_one_job_and_left_by_the_same() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let id = machine(1).id;
        let take = |n| store.transaction(move |db| machines::take(db, id, MachineState::Available, job(n)));
        let both = tokio::join!(take(1), take(2));
        assert_eq!(
            u8::from(both.0.unwrap()) + u8::from(both.1.unwrap()),
            1,
            "one of two at once"
        );
        let holder = store
            .transaction(|db| machines::get(db, "m1"))
            .await
            .unwrap()
            .unwrap()
            .live_job
            .unwrap();
        let other = if holder == job(1) { job(2) } else { job(1) };
        let leave = |job| store.transaction(move |db| machines::leave(db, id, job, MachineState::Available));
        assert!(!leave(other).await.unwrap());
        assert!(leave(holder).await.unwrap());
        assert!(
            store
                .transaction(|db| free::any(db, &site(), &free::Selector::default()))
                .await
                .unwrap()
                .is_some()
        );
        let twin = store
            .transaction(|db| {
                machines::insert(
                    db,
                    &Machine {
                        name: "twin".into(),
                        ..machine(1)
                    },
                )
            })
            .await;
        assert!(matches!(twin, Err(StoreError::Taken)));
    })
    .await;
}

fn order(n: u8) -> slipway_protocol::order::Order {
    let hardware = Hardware {
        macs: vec![],
        firmware: FirmwareKind::Bios,
        bmc: None,
    };
    release::compile(machine(1).id, job(n), Utc::now(), hardware, BTreeMap::new())
}

#[tokio::test]
async fn orders_only_go_up_and_reports_never_back() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let put = |n| store.transaction(move |db| orders::put(db, &site(), &order(n)));
        assert_eq!((put(1).await.unwrap(), put(2).await.unwrap()), (1, 2));
        store
            .transaction(|db| orders::raise_revision(db, machine(1).id, 40))
            .await
            .unwrap();
        assert_eq!(put(3).await.unwrap(), 42);
        let report = |outcome| Report {
            machine: machine(1).id,
            job: job(3),
            order_revision: 42,
            retry: 0,
            outcome,
            steps: vec![],
            disk: None,
            inventory: None,
            agent: None,
            events: vec![],
            hardware_faults: vec![],
            local: Vec::new(),
            bmc: None,
        };
        let take = |revision, outcome| {
            let report = report(outcome);
            store.transaction(move |db| reports::put(db, &site(), revision, &report))
        };
        assert!(take(5, Outcome::Running).await.unwrap().is_some());
        assert!(take(7, Outcome::Done { at: Utc::now() }).await.unwrap().is_some());
        assert!(
            take(6, Outcome::Running).await.unwrap().is_none(),
            "a late one changes nothing"
        );
        assert!(
            take(7, Outcome::Running).await.unwrap().is_none(),
            "a repeat changes nothing"
        );
        let held = store
            .transaction(|db| reports::of_job(db, job(3)))
            .await
            .unwrap()
            .unwrap();
        assert!(held.0 == 7 && held.1.outcome.is_final());
        assert_eq!(
            store
                .transaction(|db| reports::revisions(db, &site()))
                .await
                .unwrap()[0]
                .1,
            7
        );
    })
    .await;
}

fn instance() -> Instance {
    Instance {
        id: InstanceId(Uuid::from_u128(77)),
        name: "web-1".into(),
        site: site(),
        machine: Some(machine(1).id),
        image: ImageId::of(b"i"),
        state: InstanceState::Installing,
        job: job(1),
        wish: Wish {
            machine: None,
            disk: DiskRule::default(),
            user: "u".into(),
            ssh_keys: vec![],
            user_data: None,
            ..Wish::default()
        },
        created_at: Utc::now(),
        project: "default".into(),
        locked: false,
    }
}

/// A job's end moves job, instance and machine together, once.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn a_final_report_ends_the_job_once() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let now = Utc::now();
        store
            .transaction(move |db| {
                instances::insert(db, &instance())?;
                let queued = Job {
                    id: job(1),
                    instance: Some(instance().id),
                    site: site(),
                    machine: None,
                    kind: JobKind::Install,
                    priority: 0,
                    waiting: None,
                    state: JobState::Queued,
                    failure: None,
                    deadline: now + TimeDelta::hours(1),
                    created_at: now,
                    finished_at: None,
                };
                jobs::insert(db, &queued)?;
                assert!(machines::take(
                    db,
                    machine(1).id,
                    MachineState::Available,
                    job(1)
                )?);
                assert!(jobs::start(db, job(1), machine(1).id)?);
                assert!(!jobs::start(db, job(1), machine(1).id)?, "started once");
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
        let failure = Failure {
            code: "disk_ambiguous".into(),
            message: "two".into(),
            transient: false,
        };
        let report = Report {
            machine: machine(1).id,
            job: job(1),
            order_revision: 1,
            retry: 0,
            outcome: Outcome::Failed {
                at: now,
                step: None,
                failure,
            },
            steps: vec![],
            disk: None,
            inventory: None,
            agent: None,
            events: vec![],
            hardware_faults: vec![],
            local: Vec::new(),
            bmc: None,
        };
        for (revision, news) in [(5, true), (5, false), (4, false)] {
            let report = report.clone();
            let taken =
                store.transaction(move |db| domain::jobs::take_report(db, &site(), revision, &report, now));
            assert_eq!(taken.await.unwrap(), news, "revision {revision}");
        }
        let (job, instance, machine, lines) = store
            .transaction(|db| {
                let job = jobs::get(db, &job(1).to_string())?.unwrap();
                let instance = instances::get(db, "web-1", &Visible::All)?.unwrap();
                events::number(db)?;
                let of_instance = Filter {
                    instance: Some(instance.id.to_string()),
                    ..Filter::default()
                };
                let lines = events::list(db, &of_instance, Order::Oldest, 100)?;
                Ok::<_, StoreError>((job, instance, machines::get(db, "m1")?.unwrap(), lines))
            })
            .await
            .unwrap();
        assert_eq!(
            (job.state, job.failure.unwrap().code.as_str()),
            (JobState::Failed, "disk_ambiguous")
        );
        assert_eq!(
            (instance.state, machine.state, machine.live_job),
            (InstanceState::Failed, MachineState::Allocated, None)
        );
        let kinds: Vec<&str> = lines.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(
            kinds,
            ["job.failed", "instance.failed", "machine.left"],
            "told once"
        );
    })
    .await;
}

#[tokio::test]
async fn tokens_answers_images_and_sightings_are_kept() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let now = Utc::now();
        store
            .transaction(move |db| {
                credentials::insert(db, "h", "setup", "n", now)?;
                assert_eq!(credentials::holder(db, "h", "api")?, None, "of another kind");
                assert!(credentials::use_up(db, "h", now)? && !credentials::use_up(db, "h", now)?);
                assert_eq!(credentials::holder(db, "h", "setup")?, None, "used up");
                sites::insert_token(db, "t", &site(), "s", now)?;
                assert!(sites::use_token(db, "t", now)? && !sites::use_token(db, "t", now)?);
                let given = idempotency::Given {
                    request: "r".into(),
                    status: 202,
                    body: "{}".into(),
                };
                idempotency::put(db, "k", &given, now)?;
                assert_eq!(idempotency::get(db, "k", now)?, Some(given));
                assert_eq!(
                    idempotency::get(db, "k", now + TimeDelta::hours(25))?,
                    None,
                    "forgotten after a day"
                );
                let manifest = Manifest {
                    size_bytes: 0,
                    chunk_bytes: 4,
                    chunks: vec![],
                };
                let image = images::Image {
                    id: manifest.id(),
                    name: "i".into(),
                    manifest,
                    edition: images::Edition::default(),
                    created_at: now,
                };
                images::insert(db, &image)?;
                assert_eq!(images::get(db, "i")?.unwrap().id, image.id);
                let seen = MachineSeen {
                    at: now,
                    address: [192, 0, 2, 200].into(),
                    inventory: None,
                };
                let stranger = MacAddr([2, 0, 0, 0, 0, 99]);
                discovered::put(db, &site(), stranger, &seen, now)?;
                discovered::put(db, &site(), machine(1).details.macs[0], &seen, now)?;
                let listed = discovered::page(db, None, ("", ""), 10)?;
                let listed: Vec<MacAddr> = listed.into_iter().map(|(_, mac, _)| mac).collect();
                assert_eq!(listed, [stranger], "an enrolled machine is not told of");
                Ok::<_, StoreError>(())
            })
            .await
            .unwrap();
    })
    .await;
}

/// All ports that nobody knows, as they are listed.
fn page_by_page(db: &mut Database) -> Result<Vec<(SiteId, MacAddr)>, StoreError> {
    let mut all = Vec::new();
    let mut after = (String::new(), String::new());
    loop {
        let page = discovered::page(db, None, (&after.0, &after.1), 1000)?;
        let Some((site, mac, _)) = page.last() else {
            return Ok(all);
        };
        after = (mac.to_string(), site.to_string());
        all.extend(page.into_iter().map(|(site, mac, _)| (site, mac)));
    }
}

#[tokio::test]
async fn unknown_ports_are_each_sites_own_bounded_and_forgotten() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let now = Utc::now();
        let mac = |n: u32| {
            let [_, a, b, c] = n.to_be_bytes();
            MacAddr([2, 0, 1, a, b, c])
        };
        let kept = store.transaction(move |db| {
            let address = [192, 0, 2, 200].into();
            let seen = |product: &str| MachineSeen {
                at: now,
                address,
                inventory: Some(Inventory {
                    product: Some(product.to_owned()),
                    ..Inventory::default()
                }),
            };
            let (ours, other) = (site(), SiteId::new("bj-2").unwrap());
            sites::insert(db, &other, &settings(), now)?;
            assert!(discovered::put(db, &ours, mac(1), &seen("true"), now)?);
            assert!(discovered::put(db, &other, mac(1), &seen("a lie"), now)?);
            let found = discovered::inventory_of(db, &ours, &[mac(1)])?.unwrap();
            assert_eq!(
                found.product.as_deref(),
                Some("true"),
                "another site's word changes nothing"
            );
            let most = u32::try_from(discovered::MOST_PER_SITE).unwrap();
            let bare = MachineSeen {
                inventory: None,
                ..seen("")
            };
            for n in 2..most + 5 {
                let at = now + TimeDelta::milliseconds(n.into());
                discovered::put(db, &ours, mac(n), &bare, at)?;
            }
            let all = page_by_page(db)?;
            let of_ours: Vec<MacAddr> = all
                .iter()
                .filter(|(at, _)| *at == ours)
                .map(|(_, mac)| *mac)
                .collect();
            assert_eq!(of_ours.len(), usize::try_from(most).unwrap());
            assert!(
                !of_ours.contains(&mac(1)) && of_ours.contains(&mac(most + 4)),
                "the oldest fall out"
            );
            assert_eq!(all.len() - of_ours.len(), 1, "the other site's is still there");
            let only = discovered::page(db, Some(&[other.to_string()]), ("", ""), 10)?;
            assert_eq!(only.len(), 1);
            let in_a_month = now + discovered::KEPT_FOR + TimeDelta::minutes(1);
            discovered::prune(db, in_a_month - discovered::KEPT_FOR)?;
            discovered::page(db, None, ("", ""), 10)
        });
        assert_eq!(kept.await.unwrap(), []);
    })
    .await;
}

/// By its other port, or by its serial number; said once, and nothing of another site's machine.
#[tokio::test]
async fn a_machine_that_comes_up_by_another_port_is_recognised() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let now = Utc::now();
        let nic = |n: u8| Nic {
            name: format!("eth{n}"),
            mac: MacAddr([2, 0, 0, 0, 0, n]),
            speed_mbit: None,
            link: true,
            neighbour: None,
        };
        let told = store.transaction(move |db| {
            let seen = |nics: &[u8], serial: &str| MachineSeen {
                at: now,
                address: [192, 0, 2, 200].into(),
                inventory: Some(Inventory {
                    serial: Some(serial.to_owned()),
                    nics: nics.iter().map(|n| nic(*n)).collect(),
                    ..Inventory::default()
                }),
            };
            let known = Inventory {
                serial: Some("S3Z8NB0K".to_owned()),
                ..Inventory::default()
            };
            machines::set_inventory(db, machine(1).id, &known)?;
            let other = SiteId::new("bj-2").unwrap();
            sites::insert(db, &other, &settings(), now)?;
            let mut come = |site: &SiteId, n: u8, seen: &MachineSeen| {
                domain::machines::seen(db, site, MacAddr([2, 0, 0, 0, 0, n]), seen, now)
            };
            come(&site(), 70, &seen(&[70, 1], "x"))?;
            come(&site(), 70, &seen(&[70, 1], "x"))?;
            come(&site(), 71, &seen(&[71], "S3Z8NB0K"))?;
            come(&site(), 72, &seen(&[72], "Default string"))?;
            come(&other, 73, &seen(&[73, 1], "S3Z8NB0K"))?;
            come(&site(), 1, &seen(&[1], "S3Z8NB0K"))?;
            events::number(db)?;
            let filter = Filter {
                kind: Some("machine.other_port".to_owned()),
                visible: Visible::All,
                ..Filter::default()
            };
            events::list(db, &filter, Order::Oldest, 100)
        });
        let told = told.await.unwrap();
        let texts: Vec<&str> = told.iter().map(|event| event.text.as_str()).collect();
        assert_eq!(told.len(), 2, "{texts:?}");
        assert!(texts[0].contains("02:00:00:00:00:46") && texts[0].contains("its port 02:00:00:00:00:01"));
        assert!(texts[1].contains("its serial number S3Z8NB0K"));
        assert!(
            told.iter()
                .all(|event| event.machine == Some(machine(1).id.to_string()))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_measured_alike_on_both_databases() {
    on_each_database(|store| async move {
        with_site_and_machine(&store).await;
        let measured = store
            .read(slipway_control_plane::store::measures::read)
            .await
            .unwrap();
        let (object, machines) = &measured.states[2];
        assert_eq!((*object, machines.len(), machines[0].count), ("machine", 1, 1));
        assert_eq!(machines[0].state, "available");
        assert!(measured.sites.is_empty(), "nobody joined it: {measured:?}");
        assert!(measured.unacknowledged.is_empty() && measured.delivery_waits.is_none());
        assert_eq!((measured.behind, measured.alerts_open), (0, 0));
    })
    .await;
}
