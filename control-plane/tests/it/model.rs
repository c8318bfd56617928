//! No state can be stuck: every combination of instance, job, machine, order and report that any input can bring about is
//! visited, by the real code on a real store with a clock that the test sets. The inputs are what people ask, what the
//! edge does (its own pure runner), what is lost, late or repeated on the way, and time. From each combination it is shown
//! that silence alone ends all work within its deadlines, and that the owner can then give the machine back.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::RunQueryDsl as _;
use metrics_exporter_prometheus::PrometheusBuilder;
use slipway_control_plane::{
    access::{Actor, Caller, Permission, Scope, Via, caller::Held},
    app::App,
    config::Given,
    domain::{self, instances::Work},
    error::ApiError,
    store::{
        Database, Store, StoreResult, instances, jobs,
        machines::{self, Machine},
        orders, sites,
    },
    workflow::{
        overdue::{GRACE, SITE_LOST},
        state::{InstanceState, JobState, MachineState},
    },
};
use slipway_edge::runner::next::{self, StepUpdate};
use slipway_protocol::{
    ids::{InstanceId, MachineId},
    order::Order,
    report::{Failure, Report},
    seal::Secret,
};
use uuid::Uuid;

use crate::scheduler::{ask, make_machine, make_site, site};

static CLOCK: AtomicI64 = AtomicI64::new(1_800_000_000);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(CLOCK.load(Ordering::Relaxed), 0).unwrap()
}

fn pass(time: TimeDelta) {
    CLOCK.fetch_add(time.num_seconds(), Ordering::Relaxed);
}

/// Longest life of a job, as the documentation says.
const JOB_LIFE: TimeDelta = TimeDelta::hours(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Start,
    Stop,
    Restart,
    Reinstall,
    Rescue,
    ResetPassword,
    Release,
    Cancel,
    Retry,
    /// The scheduler looks.
    Tick,
    /// The edge hears the order in force; not to take this is how an order is lost.
    Hear,
    /// The edge ends the order well.
    Succeed,
    /// The edge does its first step, and the second fails for good.
    Fail,
    /// The edge's present report arrives; not to take this is how it is lost.
    Tell,
    /// The last report on the former order arrives, late.
    TellLate,
    /// The job's life and grace go by, with the site connected.
    Wait,
    /// The same with the site cut off.
    WaitCut,
}

use Input::*;

const INPUTS: [Input; 17] = [
    Start,
    Stop,
    Restart,
    Reinstall,
    Rescue,
    ResetPassword,
    Release,
    Cancel,
    Retry,
    Tick,
    Hear,
    Succeed,
    Fail,
    Tell,
    TellLate,
    Wait,
    WaitCut,
];

/// What the edge holds.
#[derive(Debug, Clone, Default)]
struct Edge {
    held: Option<(Order, u64)>,
    report: Option<(u64, Report)>,
    told: u64,
    late: Option<(u64, Report)>,
}

impl Edge {
    fn hear(&mut self, order: Order, revision: u64) {
        if self.held.as_ref().is_some_and(|(_, held)| *held >= revision) {
            return;
        }
        let earlier = self.report.take();
        let report = next::begin(&order, revision, earlier.as_ref().map(|(_, report)| report));
        if let Some(former) = earlier.filter(|(_, former)| former.job != order.job) {
            self.late = Some(former);
        }
        self.held = Some((order, revision));
        self.change(report);
    }

    fn change(&mut self, report: Report) {
        let revision = self
            .report
            .as_ref()
            .or(self.late.as_ref())
            .map_or(self.told, |(r, _)| *r);
        self.report = Some((revision.max(self.told) + 1, report));
    }

    /// Lets the runner go on, each step that begins ending as said, `most` of them.
    fn work(&mut self, update: &StepUpdate, most: usize) {
        let (Some((order, _)), Some((_, report))) = (self.held.clone(), self.report.clone()) else {
            return;
        };
        let (mut report, mut ended) = (report, 0);
        while !report.outcome.is_final() && !order.steps.is_empty() && ended < most {
            next::advance(&order, &mut report, now());
            let running = [next::Side::Edge, next::Side::Agent]
                .into_iter()
                .flat_map(|side| next::running(&order, &report, side))
                .map(|(step, _)| step.id.clone())
                .next();
            let Some(step) = running else {
                // A retry that waits for its moment.
                pass(TimeDelta::seconds(31));
                continue;
            };
            next::apply(&order, &mut report, &step, update.clone(), now());
            ended += 1;
        }
        next::advance(&order, &mut report, now());
        self.change(report);
    }
}

fn failure() -> StepUpdate {
    StepUpdate::Failed(Failure {
        code: "model".into(),
        message: "as the model has it".into(),
        transient: false,
    })
}

/// All that is kept of a combination, to go back to it.
struct Snapshot {
    number: usize,
    clock: i64,
    edge: Edge,
}

const TABLES: [&str; 7] = [
    "instances",
    "jobs",
    "machines",
    "orders",
    "reports",
    "job_reports",
    "sites",
];
const INSTANCE: InstanceId = InstanceId(Uuid::from_u128(1));

struct World {
    app: Arc<App>,
    caller: Caller,
    edge: Edge,
    _dir: tempfile::TempDir,
}

fn sql(db: &mut Database, text: &str) -> StoreResult<()> {
    diesel::sql_query(text).execute(db)?;
    Ok(())
}

impl World {
    async fn new() -> Self {
        // In memory: thousands of transactions, none of which need outlive the test.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let given = Given {
            data_dir: Some(dir.path().into()),
            ..Given::default()
        };
        let config = given.resolve().unwrap();
        let store = Store::open(&config.database_url).await.unwrap();
        let begun = now();
        let made = store.transaction(move |db| {
            make_site(db, "bj-1")?;
            make_machine(db, "bj-1")?;
            ask(db, (1, "bj-1"), None, begun)
        });
        made.await.unwrap();
        let mut app = App::new(config, store, PrometheusBuilder::new().build_recorder().handle()).unwrap();
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
        let world = Self {
            app,
            caller,
            edge: Edge::default(),
            _dir: dir,
        };
        // The wish has a key, so that it can be rescued.
        world.with(|db| sql(db, "UPDATE instances SET wish = json_set(wish, '$.ssh_keys', json('[\"ssh-ed25519 AAAA me\"]'))")).await;
        world.set_link(true).await;
        world
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Database) -> StoreResult<T> + Send + Sync + 'static,
    ) -> T {
        self.app.store.transaction(move |db| work(db)).await.unwrap()
    }

    async fn save(&self, number: usize) -> Snapshot {
        self.with(move |db| {
            TABLES.iter().try_for_each(|table| {
                sql(
                    db,
                    &format!("CREATE TABLE s{number}_{table} AS SELECT * FROM {table}"),
                )
            })
        })
        .await;
        Snapshot {
            number,
            clock: CLOCK.load(Ordering::Relaxed),
            edge: self.edge.clone(),
        }
    }

    async fn restore(&mut self, to: &Snapshot, database_too: bool) {
        CLOCK.store(to.clock, Ordering::Relaxed);
        self.edge = to.edge.clone();
        if !database_too {
            return;
        }
        let number = to.number;
        self.with(move |db| {
            sql(db, "PRAGMA defer_foreign_keys = ON")?;
            TABLES.iter().try_for_each(|table| {
                sql(db, &format!("DELETE FROM {table}"))?;
                sql(
                    db,
                    &format!("INSERT INTO {table} SELECT * FROM s{number}_{table}"),
                )
            })
        })
        .await;
    }

    /// One input; whether the database may have changed. What is refused rolls its transaction back.
    async fn input(&mut self, input: Input) -> bool {
        if let Some(work) = wanted(input) {
            return refusable(
                domain::instances::work(&self.app, &self.caller, INSTANCE.to_string(), work).await,
            );
        }
        match input {
            Cancel | Retry => {
                let (_, job, _, _) = self.look().await;
                let id = job.id.to_string();
                if input == Cancel {
                    return refusable(domain::jobs::cancel(&self.app, &self.caller, id).await);
                }
                return refusable(domain::instances::retry(&self.app, &self.caller, id).await);
            }
            Tick => {
                domain::instances::dispatch(&self.app, INSTANCE)
                    .await
                    .unwrap()
                    .ok();
                domain::jobs::fail_overdue(&self.app).await.unwrap();
            }
            Hear => {
                if let Some(row) = self.look().await.3 {
                    self.edge.hear(row.order, row.revision);
                }
                return false;
            }
            Succeed => {
                self.edge.work(&StepUpdate::Done, usize::MAX);
                return false;
            }
            Fail => {
                self.edge.work(&StepUpdate::Done, 1);
                self.edge.work(&failure(), 1);
                return false;
            }
            Tell => {
                if let Some((revision, report)) = self.edge.report.clone() {
                    self.edge.told = revision;
                    self.tell(revision, report).await;
                }
            }
            TellLate => {
                if let Some((revision, report)) = self.edge.late.clone() {
                    self.tell(revision, report).await;
                }
            }
            _ => {
                self.set_link(input == Wait).await;
                pass(JOB_LIFE + GRACE + TimeDelta::seconds(1));
            }
        }
        true
    }

    /// Only time tells a site that is cut off from one that is slow, so this comes with time alone.
    async fn set_link(&self, online: bool) {
        self.with(move |db| sql(db, &format!("UPDATE sites SET online = {online}")))
            .await;
    }

    async fn tell(&self, revision: u64, report: Report) {
        self.with(move |db| domain::jobs::take_report(db, &site("bj-1"), revision, &report, now()))
            .await;
    }

    async fn look(&self) -> (instances::Instance, jobs::Job, Machine, Option<orders::OrderRow>) {
        self.with(|db| {
            let instance = instances::by_id(db, INSTANCE)?.unwrap();
            let job = jobs::get(db, &instance.job.to_string())?.unwrap();
            let machine = machines::get(db, "m1")?.unwrap();
            let order = orders::get(db, MachineId(Uuid::from_u128(1)))?;
            Ok((instance, job, machine, order))
        })
        .await
    }

    /// What tells one combination from another.
    async fn key(&self) -> String {
        let (instance, job, machine, order) = self.look().await;
        let online = self.with(|db| Ok(sites::get(db, "bj-1")?.unwrap().online)).await;
        let order = order.map(|row| {
            (
                row.order.job == job.id,
                row.order.steps.is_empty(),
                row.order.retry.min(1),
                row.revision,
            )
        });
        let heard = self.edge.held.as_ref().map(|(held, revision)| {
            (
                held.job == job.id,
                order.is_some_and(|(.., now)| now == *revision),
                held.steps.is_empty(),
                held.retry.min(1),
            )
        });
        let report = self.edge.report.as_ref().map(|(revision, report)| {
            let outcome = serde_json::to_value(&report.outcome).unwrap()["is"].to_string();
            // To tell again what was told changes nothing, and neither does progress.
            let news = report.outcome.is_final() && *revision > self.edge.told;
            (outcome, news)
        });
        let late = self
            .edge
            .late
            .as_ref()
            .is_some_and(|(_, report)| report.outcome.is_final());
        let overdue = !job.state.is_final() && now() >= job.deadline;
        format!(
            "{:?} {:?} {:?} {:?} live={} order={:?} heard={heard:?} report={report:?} late={late} overdue={overdue} online={}",
            instance.state,
            job.kind,
            job.state,
            machine.state,
            machine.live_job.is_some(),
            order.map(|(job, empty, retry, _)| (job, empty, retry)),
            online || !overdue,
        )
    }

    /// What must hold in every combination.
    async fn check(&self, trace: &str) {
        let (instance, job, machine, order) = self.look().await;
        let at_work = !job.state.is_final();
        assert_eq!(
            machine.live_job,
            at_work
                .then_some(job.id)
                .filter(|_| job.state == JobState::Running),
            "a machine is worked on by the instance's running job or by none: {trace}"
        );
        let rests = [
            InstanceState::Running,
            InstanceState::Stopped,
            InstanceState::Rescue,
            InstanceState::Released,
            InstanceState::Failed,
        ]
        .contains(&instance.state);
        assert_eq!(
            rests, !at_work,
            "an instance is at work exactly while its job is: {trace}"
        );
        if job.state == JobState::Running {
            assert_eq!(
                order.unwrap().order.job,
                job.id,
                "a running job has its order in force: {trace}"
            );
        }
        let free = machine.state == MachineState::Available;
        let holds = instance.machine.is_some() && instance.state != InstanceState::Released;
        assert!(!(free && holds), "a machine is free or held, not both: {trace}");
    }

    async fn rests(&self) -> bool {
        self.look().await.1.state.is_final()
    }

    /// Nothing is heard of the site any more; the scheduler looks after each deadline.
    async fn silence_ends_it(&mut self, trace: &str) {
        let online = self.with(|db| Ok(sites::get(db, "bj-1")?.unwrap().online)).await;
        // One that is dispatched at the last moment has its deadline all the same.
        for limit in [
            JOB_LIFE + GRACE,
            if online { TimeDelta::zero() } else { SITE_LOST },
        ] {
            pass(limit + TimeDelta::seconds(1));
            self.input(Tick).await;
        }
        assert!(self.rests().await, "{} is stuck: {trace}", self.key().await);
        self.check(trace).await;
    }

    /// The site is back and works: what the owner gives back is given back.
    async fn the_owner_gets_rid_of_it(&mut self, trace: &str) {
        self.set_link(true).await;
        for input in [Release, Hear, Succeed, Tell] {
            self.input(input).await;
        }
        let (instance, job, machine, _) = self.look().await;
        assert_eq!(
            instance.state,
            InstanceState::Released,
            "{:?}: {trace}",
            job.failure
        );
        assert_eq!(
            (machine.state, machine.live_job),
            (MachineState::Available, None),
            "{trace}"
        );
    }
}

/// The work that an owner asks for.
fn wanted(input: Input) -> Option<Work> {
    match input {
        Start => Some(Work::Start),
        Stop => Some(Work::Stop(0)),
        Restart => Some(Work::Restart(0)),
        Reinstall => Some(Work::Reinstall(Box::default())),
        Rescue => Some(Work::Rescue(vec![])),
        ResetPassword => Some(Work::ResetPassword(None, Secret::new("$6$x$y"))),
        Release => Some(Work::Release),
        _ => None,
    }
}

/// Whether it was done. A refusal is an answer; a failure of the control plane is not.
fn refusable<T>(result: Result<T, ApiError>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => {
            assert!(!matches!(error, ApiError::Internal(_)), "{error:?}");
            false
        }
    }
}

#[tokio::test]
async fn no_combination_is_stuck() {
    let mut world = World::new().await;
    let mut seen = BTreeSet::from([world.key().await]);
    let mut open = VecDeque::from([(world.save(0).await, String::new())]);
    let mut transitions = 0;
    while let Some((from, trace)) = open.pop_front() {
        world.restore(&from, true).await;
        world.silence_ends_it(&trace).await;
        world.the_owner_gets_rid_of_it(&trace).await;
        let mut changed = true;
        for input in INPUTS {
            world.restore(&from, changed).await;
            changed = world.input(input).await;
            transitions += 1;
            let key = world.key().await;
            if !seen.insert(key) {
                continue;
            }
            let trace = format!("{trace} {input:?}");
            world.check(&trace).await;
            open.push_back((world.save(seen.len()).await, trace));
        }
        let done = from.number;
        world
            .with(move |db| {
                TABLES
                    .iter()
                    .try_for_each(|table| sql(db, &format!("DROP TABLE s{done}_{table}")))
            })
            .await;
    }
    println!("{} combinations, {transitions} transitions", seen.len());
    for state in [
        "Requested",
        "Installing",
        "Running",
        "Stopping",
        "Stopped",
        "Starting",
        "Restarting",
        "Reinstalling",
        "Rescuing",
        "Rescue",
        "Erasing",
        "Released",
        "Failed",
    ] {
        assert!(
            seen.iter().any(|key| key.starts_with(&format!("{state} "))),
            "{state} was never reached"
        );
    }
}
