//! What sites may do while they are cut off: leases issued, renewed and taken back; and what a site says that it did, taken in
//! after it. On both databases.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use slipway_control_plane::{
    access::{Actor, Caller, Permission, Scope, Via, caller::Held},
    app::App,
    config::Given,
    domain::{self, instances::Work},
    gateway::records::Records,
    store::{
        Database, Store, StoreResult, audit, instances,
        jobs::{self, Job},
        machines,
        offers::{self, LeaseRow},
        orders, sites,
    },
    workflow::{
        power::{self, Installed, Switch},
        state::{InstanceState, JobState, MachineState},
    },
};
use slipway_protocol::{
    ids::{InstanceId, JobId, MachineId, SiteId, StepId},
    inventory::FirmwareKind,
    keys::{Expect, KeyRing},
    lease::{LocalUse, Offer, Operation, offer_context},
    order::{Hardware, Order},
    report::{Failure, Outcome, Report, StepReport},
    seal::OpeningKey,
    sync::Held as HeldDocument,
    topic::{Kind, Topic},
};
use uuid::Uuid;

use crate::{
    common::on_each_database,
    scheduler::{ask, make_machine, make_site, site},
};

/// By how much the clock is ahead, in seconds; each test is a process of its own.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn now() -> DateTime<Utc> {
    (Utc::now() + TimeDelta::seconds(AHEAD.load(Ordering::Relaxed))).trunc_subsecs(6)
}

fn machine() -> MachineId {
    MachineId(Uuid::from_u128(1))
}

struct World {
    app: Arc<App>,
    caller: Caller,
    opening: OpeningKey,
    reported: u64,
    _dir: tempfile::TempDir,
}

/// The order in force of a machine whose system runs.
fn in_force(job: JobId) -> Order {
    let installed = Installed {
        machine: machine(),
        job,
        deadline: now() + TimeDelta::hours(2),
        hardware: Hardware {
            macs: vec![],
            firmware: FirmwareKind::Bios,
            bmc: None,
        },
        address: [192, 0, 2, 1].into(),
        hostname: "i1".into(),
        secrets: BTreeMap::new(),
    };
    power::compile(installed, Switch::Start)
}

/// A site with an edge that takes leases, and an instance that runs there.
fn running(db: &mut Database, opening: &OpeningKey) -> StoreResult<()> {
    make_site(db, "bj-1")?;
    let row = sites::get(db, "bj-1")?.unwrap();
    let report_key = row.report_key.unwrap();
    let keys = (report_key, opening.sealing_key());
    sites::set_keys(db, &site("bj-1"), keys.0, keys.1, ("-", &report_key.id()))?;
    sites::set_presence(db, &site("bj-1"), true, now())?;
    sites::set_takes_leases(db, &site("bj-1"), true)?;
    make_machine(db, "bj-1")?;
    let job = ask(db, (1, "bj-1"), None, now())?;
    let id = InstanceId(Uuid::from_u128(1));
    machines::take(db, machine(), MachineState::Available, job)?;
    jobs::start(db, job, machine())?;
    instances::set_machine(db, id, machine())?;
    instances::advance(db, id, InstanceState::Requested, InstanceState::Running)?;
    orders::put(db, &site("bj-1"), &in_force(job))?;
    jobs::finish(db, job, JobState::Done, None, now())?;
    machines::leave(db, machine(), job, MachineState::Allocated)?;
    Ok(())
}

impl World {
    async fn new(store: Store) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let given = Given {
            data_dir: Some(dir.path().into()),
            ..Given::default()
        };
        let (opening, bytes) = OpeningKey::generate().unwrap();
        let made = store.transaction(move |db| running(db, &OpeningKey::from_bytes(bytes)));
        made.await.unwrap();
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let mut app = App::new(given.resolve().unwrap(), store, metrics).unwrap();
        Arc::get_mut(&mut app).unwrap().now = now;
        let held = Held {
            scope: Scope::Global,
            permissions: Permission::ALL.iter().copied().collect(),
        };
        let actor = Actor {
            name: "ann".into(),
            via: Via::Key,
            address: "192.0.2.1".into(),
        };
        let caller = Caller {
            user: "ann".into(),
            actor,
            held: Arc::from([held]),
            narrowed: false,
            credential: slipway_control_plane::access::caller::Credential::None,
        };
        Self {
            app,
            caller,
            opening,
            reported: 0,
            _dir: dir,
        }
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Database) -> StoreResult<T> + Send + Sync + 'static,
    ) -> T {
        self.app.store.transaction(move |db| work(db)).await.unwrap()
    }

    async fn allow(&self, operations: &[Operation]) {
        let operations = operations.iter().copied().collect();
        let set = domain::sites::update(&self.app, &self.caller, "bj-1".into(), None, move |settings| {
            settings.offline.operations = operations;
        });
        set.await.unwrap();
    }

    /// The lease as it is after another look.
    async fn lease(&self) -> Option<LeaseRow> {
        domain::offline::reconcile(&self.app).await.unwrap();
        self.with(|db| offers::lease_of(db, &site("bj-1"), machine()))
            .await
    }

    async fn standing(&self) -> (u64, u64) {
        self.with(|db| Ok(orders::standing(db, machine())?.unwrap()))
            .await
    }

    async fn instance(&self) -> instances::Instance {
        self.with(|db| Ok(instances::by_id(db, InstanceId(Uuid::from_u128(1)))?.unwrap()))
            .await
    }

    async fn job(&self, id: JobId) -> Option<Job> {
        self.with(move |db| jobs::get(db, &id.to_string())).await
    }

    /// The edge tells of an offer at work, and of what was done locally.
    async fn report(&mut self, offer: &Offer, outcome: Outcome, local: Vec<LocalUse>) {
        self.reported += 1;
        let report = Report {
            machine: machine(),
            job: offer.job,
            order_revision: offer.revision,
            retry: 0,
            outcome,
            steps: vec![StepReport::pending(StepId::new("bind-address").unwrap())],
            disk: None,
            inventory: None,
            agent: None,
            events: vec![],
            hardware_faults: vec![],
            local,
            bmc: None,
        };
        let revision = self.reported;
        let taken =
            self.with(move |db| domain::jobs::take_report(db, &site("bj-1"), revision, &report, now()));
        assert!(taken.await, "it was news");
    }

    async fn audited(&self) -> Vec<(String, String, Option<Value>)> {
        let lines = self
            .with(|db| audit::list(db, &audit::Filter::default(), audit::From::After(0), 1000))
            .await;
        let local = lines.into_iter().filter(|line| line.action.starts_with("local."));
        local.map(|line| (line.action, line.actor, line.after)).collect()
    }
}

fn used(offer: &Offer, outcome: Option<Outcome>) -> LocalUse {
    LocalUse {
        at: now(),
        operation: offer.operation,
        job: offer.job,
        revision: offer.revision,
        uid: 7,
        outcome,
    }
}

fn offer(lease: &LeaseRow, operation: Operation, n: usize) -> Offer {
    let mut of_kind = lease.lease.offers.iter().filter(|o| o.operation == operation);
    of_kind.nth(n).unwrap().clone()
}

#[tokio::test]
async fn a_lease_is_issued_renewed_and_taken_back() {
    on_each_database(|store| async move {
        AHEAD.store(0, Ordering::Relaxed);
        let world = World::new(store).await;
        assert!(
            world.lease().await.is_none(),
            "nothing may be done if nothing is allowed"
        );
        world.allow(&[Operation::Restart, Operation::Rescue]).await;
        let first = world.lease().await.unwrap();
        let told: Vec<(Operation, u64)> = first
            .lease
            .offers
            .iter()
            .map(|o| (o.operation, o.revision))
            .collect();
        // It has no SSH key, so nobody could be let in.
        assert_eq!(told, [(Operation::Restart, 2), (Operation::Restart, 3)]);
        assert_eq!(world.standing().await, (1, 3));
        assert_eq!(
            (first.lease.name.as_str(), first.lease.instance.as_deref()),
            ("m1", Some("i1"))
        );
        check_envelope(&world, &first);
        assert_eq!(world.lease().await.unwrap().revision, first.revision, "it holds");
        AHEAD.store(12 * 3600 + 1, Ordering::Relaxed);
        let renewed = world.lease().await.unwrap();
        assert!(renewed.revision > first.revision && renewed.lease.until > first.lease.until);
        assert_eq!(
            renewed.lease.offers[0].revision, 4,
            "no revision is offered twice"
        );
        let begun = domain::instances::work(&world.app, &world.caller, "i1".into(), Work::Restart(60));
        let job = begun.await.unwrap().1.id;
        assert_eq!(
            world.standing().await,
            (6, 5),
            "what comes later is above what was offered"
        );
        let withdrawn = world.lease().await.unwrap();
        assert!(withdrawn.lease.offers.is_empty() && withdrawn.revision > renewed.revision);
        assert_eq!(world.lease().await.unwrap().revision, withdrawn.revision);
        world
            .with(move |db| {
                let done = Report {
                    job,
                    order_revision: 6,
                    ..report_of(job)
                };
                domain::jobs::take_report(db, &site("bj-1"), 1, &done, now()).map(drop)
            })
            .await;
        assert_eq!(
            world.lease().await.unwrap().lease.offers.len(),
            2,
            "and issued anew after the job"
        );
        world.allow(&[]).await;
        assert!(world.lease().await.unwrap().lease.offers.is_empty());
    })
    .await;
}

fn report_of(job: JobId) -> Report {
    Report {
        machine: machine(),
        job,
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Done { at: now() },
        steps: vec![StepReport::pending(StepId::new("bind-address").unwrap())],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: vec![],
        bmc: None,
    }
}

/// What is sealed to the site is an order as any other, which the edge will verify as any other.
fn check_envelope(world: &World, row: &LeaseRow) {
    let keys = KeyRing::new(world.app.signing.verifying());
    let topic = Topic::Order(site("bj-1"), machine());
    for offer in &row.lease.offers {
        let place = offer_context(&site("bj-1"), machine(), offer.job);
        let envelope = world.opening.open(&offer.order, &place).unwrap();
        let expect = Expect {
            now: row.lease.until,
            held: Some(1),
        };
        let order = keys
            .open::<Order>(&topic, envelope.reveal().as_bytes(), expect)
            .unwrap();
        assert_eq!(order.header().revision, offer.revision);
        assert_eq!((order.body().job, order.body().check()), (offer.job, Ok(())));
        assert!(
            order.body().deadline > row.lease.until,
            "what was begun runs to its end"
        );
    }
}

#[tokio::test]
async fn what_a_site_did_is_taken_in_as_a_job_of_its_own() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        world.allow(&[Operation::Restart, Operation::PowerOff]).await;
        let lease = world.lease().await.unwrap();
        let restart = offer(&lease, Operation::Restart, 0);
        world
            .report(&restart, Outcome::Running, vec![used(&restart, None)])
            .await;
        let job = world.job(restart.job).await.unwrap();
        assert_eq!((job.state, job.machine), (JobState::Running, Some(machine())));
        assert_eq!(world.instance().await.state, InstanceState::Restarting);
        assert_eq!(world.instance().await.job, restart.job);
        assert_eq!(
            world.standing().await.0,
            restart.revision,
            "both sides hold the same order"
        );
        let work = domain::instances::work(&world.app, &world.caller, "i1".into(), Work::Start).await;
        assert_eq!(work.err().unwrap().code(), "instance_busy");
        let done = Outcome::Done { at: now() };
        world
            .report(&restart, done.clone(), vec![used(&restart, None)])
            .await;
        assert_eq!(world.instance().await.state, InstanceState::Running);
        // The second one is of the lease that the site held, whatever was issued meanwhile.
        world.lease().await.unwrap();
        let off = offer(&lease, Operation::PowerOff, 1);
        let both = vec![used(&restart, Some(done.clone())), used(&off, None)];
        // It overtakes nothing: its revision is above the one in force.
        world.report(&off, done, both).await;
        assert_eq!(world.instance().await.state, InstanceState::Stopped);
        assert_eq!(world.job(off.job).await.unwrap().state, JobState::Done);
        let audited = world.audited().await;
        assert_eq!(audited.len(), 2, "{audited:?}");
        assert!(audited.iter().all(|(_, by, _)| by == "emergency at bj-1 (uid 7)"));
    })
    .await;
}

#[tokio::test]
async fn two_uses_in_one_report_are_taken_in_one_after_the_other() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        world.allow(&[Operation::Restart, Operation::Release]).await;
        let lease = world.lease().await.unwrap();
        let (restart, release) = (
            offer(&lease, Operation::Restart, 0),
            offer(&lease, Operation::Release, 1),
        );
        let failed = Outcome::Failed {
            at: now(),
            step: None,
            failure: Failure {
                code: "bmc".into(),
                message: "no answer".into(),
                transient: true,
            },
        };
        let both = vec![used(&restart, Some(failed)), used(&release, None)];
        world.report(&release, Outcome::Done { at: now() }, both).await;
        let first = world.job(restart.job).await.unwrap();
        assert_eq!(
            (first.state, first.failure.unwrap().code),
            (JobState::Failed, "bmc".to_owned())
        );
        assert_eq!(world.job(release.job).await.unwrap().state, JobState::Done);
        assert_eq!(world.instance().await.state, InstanceState::Released);
        let machine = world.with(|db| Ok(machines::get(db, "m1")?.unwrap())).await;
        assert_eq!((machine.state, machine.live_job), (MachineState::Available, None));
        assert!(world.lease().await.unwrap().lease.offers.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_newer_order_of_the_control_plane_overtakes() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        world.allow(&[Operation::Restart]).await;
        let lease = world.lease().await.unwrap();
        let restart = offer(&lease, Operation::Restart, 0);
        let begun = domain::instances::work(&world.app, &world.caller, "i1".into(), Work::Stop(60));
        let (_, central) = begun.await.unwrap();
        let standing = world.standing().await;
        assert!(standing.0 > restart.revision);
        world
            .report(&restart, Outcome::Running, vec![used(&restart, None)])
            .await;
        let job = world.job(restart.job).await.unwrap();
        assert_eq!(
            (job.state, job.failure.unwrap().code),
            (JobState::Cancelled, "overtaken".to_owned())
        );
        assert_eq!(world.standing().await, standing, "the newer order stays in force");
        assert_eq!(world.instance().await.state, InstanceState::Stopping);
        assert_eq!(world.job(central.id).await.unwrap().state, JobState::Running);
        assert_eq!(
            world.audited().await.len(),
            1,
            "who did it is written down all the same"
        );
    })
    .await;
}

#[tokio::test]
async fn what_was_never_offered_is_left_alone() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        world.allow(&[Operation::Restart]).await;
        let lease = world.lease().await.unwrap();
        let good = offer(&lease, Operation::Restart, 0);
        let forged = Offer {
            job: JobId(Uuid::from_u128(99)),
            ..good.clone()
        };
        let other_revision = LocalUse {
            revision: good.revision + 1,
            ..used(&good, None)
        };
        world
            .report(
                &forged,
                Outcome::Running,
                vec![used(&forged, None), other_revision],
            )
            .await;
        assert!(world.job(forged.job).await.is_none() && world.job(good.job).await.is_none());
        assert_eq!(world.instance().await.state, InstanceState::Running);
        assert!(world.audited().await.is_empty());
        assert_eq!(world.standing().await.0, 1);
    })
    .await;
}

/// An edge that is ahead by what it was offered is waited for; by anything else it is overruled, above all that was offered.
#[tokio::test]
async fn an_edge_is_ahead_by_what_it_was_offered() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        world.allow(&[Operation::Restart]).await;
        let lease = world.lease().await.unwrap();
        let restart = offer(&lease, Operation::Restart, 0);
        let ahead = |revision| {
            vec![HeldDocument {
                kind: Kind::Order,
                subject: machine().to_string(),
                revision,
            }]
        };
        let id: SiteId = site("bj-1");
        world.app.raise(&id, ahead(restart.revision)).await.unwrap();
        assert_eq!(world.standing().await.0, 1, "its report will tell");
        let begun = domain::instances::work(&world.app, &world.caller, "i1".into(), Work::Stop(60));
        begun.await.unwrap();
        world
            .report(&restart, Outcome::Running, vec![used(&restart, None)])
            .await;
        let (revision, reserved) = world.standing().await;
        world.app.raise(&id, ahead(revision + 5)).await.unwrap();
        assert_eq!(world.standing().await, (revision + 6, reserved));
    })
    .await;
}

#[tokio::test]
async fn offers_are_forgotten_when_a_later_lease_is_held() {
    on_each_database(|store| async move {
        let world = World::new(store).await;
        world.allow(&[Operation::Restart]).await;
        let first = world.lease().await.unwrap();
        world.allow(&[Operation::PowerOff]).await;
        let second = world.lease().await.unwrap();
        let id = site("bj-1");
        let kept = async |offer: Offer| world.with(move |db| offers::get(db, offer.job)).await.is_some();
        world
            .app
            .holds_leases(&id, vec![(machine(), first.revision)])
            .await
            .unwrap();
        assert!(
            kept(offer(&first, Operation::Restart, 0)).await,
            "it may have been used"
        );
        world
            .app
            .holds_leases(&id, vec![(machine(), second.revision)])
            .await
            .unwrap();
        assert!(!kept(offer(&first, Operation::Restart, 0)).await);
        assert!(kept(offer(&second, Operation::PowerOff, 1)).await);
        let heads = world.app.leases(&id).await.unwrap();
        assert_eq!(heads, [(machine(), second.revision)]);
        world.app.takes_leases(&id, false).await.unwrap();
        assert!(
            world.app.leases(&id).await.unwrap().is_empty(),
            "an edge that takes none is sent none"
        );
    })
    .await;
}
