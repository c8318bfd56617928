//! Operations at the box: who is refused and by which word, how a lease is used up, and what a restart leaves of it. The real
//! intake, runner, store and socket; the control plane is a signer.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use argon2::{Argon2, password_hash::PasswordHasher as _};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use slipway_bus::{Event, Publish, PublishError};
use slipway_edge::{
    bmc::Drivers,
    boot::BootTable,
    boots::Boots,
    context::{Context, Outbox},
    images::{ImageCache, Source},
    ledger::Ledger,
    link::Link,
    local::{Answer, Local, Request, may_follow, server},
    runner::{
        actor::{Input, Runner},
        next,
    },
    store::Store,
    uplink::{self, Uplink},
};
use slipway_protocol::{
    ids::{Digest, JobId, MachineId, SiteId},
    inventory::FirmwareKind,
    keys::{Signer, Stamp},
    lease::{Lease, LocalUse, Offer, Operation, offer_context},
    order::{Action, Hardware, Order, Step},
    report::{Outcome, Report},
    seal::{self, OpeningKey, Secret},
    site::{SiteConfig, emergency_code_text},
    topic::Topic,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::mpsc,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const CODE: &str = "0000-1111-2222";
/// The clock in seconds; each test is a process of its own.
static NOW: AtomicI64 = AtomicI64::new(1_800_000_000);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW.load(Ordering::Relaxed), 0).unwrap()
}

fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

fn machine() -> MachineId {
    MachineId(Uuid::from_u128(1))
}

fn centre() -> Signer {
    Signer::from_seed(&[1; 32]).unwrap()
}

fn opening() -> OpeningKey {
    OpeningKey::from_bytes([2; 32])
}

struct Nowhere;

impl Publish for Nowhere {
    fn publish(&self, _topic: &str, _payload: Vec<u8>) -> Result<(), PublishError> {
        Err(PublishError::Offline)
    }
}

#[async_trait]
impl Source for Nowhere {
    async fn fetch(&self, _digest: Digest) -> Result<Bytes, String> {
        Err("there are no images".to_owned())
    }
}

impl Outbox for Nowhere {
    fn report_changed(&self, _machine: MachineId) {}
    fn to_agent(&self, _topic: &Topic, _payload: Vec<u8>) {}
}

struct Edge {
    store: Store,
    local: Arc<Local>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    _stop: DropGuard,
}

impl Edge {
    fn start(dir: &Path) -> Self {
        let stop = CancellationToken::new();
        let store = Store::open(&dir.join("edge.db")).unwrap();
        let context = Arc::new(Context {
            site: site(),
            boots: Boots::load(store.clone()).unwrap(),
            store: store.clone(),
            ledger: Ledger::default(),
            table: Arc::new(BootTable::default()),
            images: ImageCache::new(dir.join("chunks"), Arc::new(Nowhere)),
            signer: Signer::from_seed(&[3; 32]).unwrap(),
            opening: opening(),
            outbox: Arc::new(Nowhere),
            bmcs: Arc::new(Drivers),
            now,
            keys: RwLock::new(vec![centre().verifying_key()]),
        });
        uplink::fill_ledger(&context).unwrap();
        let (runner, task) = Runner::start(Arc::clone(&context), stop.clone()).unwrap();
        tokio::spawn(task);
        let told = runner.clone();
        // Nobody is there to say so; the edge would go on by itself after a while.
        tokio::spawn(async move { told.tell(Input::Compared).await });
        let link = Arc::new(Link::down_since(now()));
        let (events, receiver) = mpsc::channel(16);
        let uplink = Uplink {
            context: Arc::clone(&context),
            runner: runner.clone(),
            central: Arc::new(Nowhere),
            mirror: Arc::new(Nowhere),
            link: Arc::clone(&link),
            on_config: Box::new(|_| {}),
            starting: AtomicBool::new(false),
        };
        let (_, words) = mpsc::channel(1);
        tokio::spawn(uplink.run(receiver, words, stop.clone()));
        let local = Arc::new(Local::new(context, runner, link, TimeDelta::seconds(60)));
        Self {
            store,
            local,
            events,
            stop: stop.clone(),
            _stop: stop.drop_guard(),
        }
    }

    async fn send(&self, topic: &Topic, payload: Vec<u8>) {
        let (topic, payload) = (topic.to_string(), Bytes::from(payload));
        self.events.send(Event::Message { topic, payload }).await.unwrap();
    }

    async fn configure(&self, revision: u64, code: Option<&str>) {
        let hash = |code: &str| Argon2::default().hash_password(emergency_code_text(code).as_bytes());
        let config = SiteConfig {
            subnets: vec![],
            verifying_keys: vec![centre().verifying_key()],
            discover: false,
            emergency_code: code.map(|code| hash(code).unwrap().to_string()),
        };
        let topic = Topic::Config(site());
        self.send(&topic, centre().seal(&topic, stamp(revision), &config))
            .await;
    }

    /// The code of the refusal; empty if the offer was taken.
    async fn ask(&self, operation: Operation, machine: &str, code: &str) -> String {
        let request = Request::Do {
            operation,
            machine: machine.into(),
            code: Secret::new(code),
        };
        match self.local.answer(request, 7).await.unwrap() {
            Answer::Taken { .. } => String::new(),
            Answer::Refused { code, .. } => code,
            other => panic!("{other:?}"),
        }
    }

    async fn until(&self, what: &str, holds: impl Fn(&Store) -> bool) {
        let wait = async {
            while !holds(&self.store) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "not in time: {what}");
    }

    fn report(&self) -> Option<Report> {
        self.store.report(machine()).unwrap().map(|held| held.report)
    }
}

fn stamp(revision: u64) -> Stamp {
    Stamp {
        revision,
        issued_at: now(),
        expires_at: now() + TimeDelta::hours(24),
    }
}

/// An order that is done at once: it gives the machine its address, and nothing else.
fn order(job: u128) -> Order {
    let action = Action::DhcpBind {
        address: [192, 0, 2, 9].into(),
        hostname: None,
    };
    let step = Step {
        id: "bind-address".parse().unwrap(),
        role: action.role(),
        action,
        needs: vec![],
        no_progress_timeout_s: 60,
        retries: 0,
    };
    Order {
        machine: machine(),
        job: JobId(Uuid::from_u128(job)),
        deadline: now() + TimeDelta::hours(26),
        retry: 0,
        settled: None,
        hardware: Hardware {
            macs: vec![],
            firmware: FirmwareKind::Bios,
            bmc: None,
        },
        secrets: BTreeMap::new(),
        steps: vec![step],
    }
}

fn sealed_order(signer: &Signer, job: u128, revision: u64) -> Vec<u8> {
    signer.seal(&Topic::Order(site(), machine()), stamp(revision), &order(job))
}

fn offer(signer: &Signer, operation: Operation, (job, revision): (u128, u64)) -> Offer {
    let envelope = String::from_utf8(sealed_order(signer, job, revision)).unwrap();
    let job = JobId(Uuid::from_u128(job));
    let place = offer_context(&site(), machine(), job);
    Offer {
        operation,
        job,
        revision,
        order: seal::seal(opening().sealing_key(), &place, &Secret::new(envelope)).unwrap(),
    }
}

/// A site with order 1 in force and two uses of two operations on offer; `rescue` is offered by a stranger.
async fn started(dir: &Path) -> Edge {
    let edge = Edge::start(dir);
    edge.send(&Topic::Order(site(), machine()), sealed_order(&centre(), 1, 1))
        .await;
    let (good, stranger) = (centre(), Signer::from_seed(&[9; 32]).unwrap());
    let lease = Lease {
        name: "node-7".into(),
        instance: Some("web-1".into()),
        until: now() + TimeDelta::hours(24),
        offers: vec![
            offer(&good, Operation::Restart, (21, 2)),
            offer(&good, Operation::PowerOff, (22, 2)),
            offer(&stranger, Operation::Rescue, (23, 2)),
            offer(&good, Operation::Restart, (31, 3)),
        ],
    };
    let topic = Topic::Lease(site(), machine());
    edge.send(&topic, centre().seal(&topic, stamp(5), &lease)).await;
    edge.until("the lease is there", |store| !store.leases().unwrap().is_empty())
        .await;
    let done = |store: &Store| {
        let held = store.report(machine()).unwrap();
        held.is_some_and(|held| matches!(held.report.outcome, Outcome::Done { .. }))
    };
    edge.until("the first order is done", done).await;
    edge
}

async fn with_code(edge: &Edge) {
    edge.configure(1, Some(CODE)).await;
    let has = |store: &Store| {
        store
            .document(slipway_protocol::topic::Kind::Config, "-")
            .unwrap()
            .is_some()
    };
    edge.until("the configuration is there", has).await;
    NOW.fetch_add(60, Ordering::Relaxed);
}

#[tokio::test]
async fn who_may_not_is_refused_by_name_and_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let restart = async |machine: &str, code: &str| edge.ask(Operation::Restart, machine, code).await;
    assert_eq!(
        restart("node-7", CODE).await,
        "site_is_online",
        "not for long enough"
    );
    NOW.fetch_add(60, Ordering::Relaxed);
    assert_eq!(restart("node-7", CODE).await, "no_emergency_code");
    with_code(&edge).await;
    assert_eq!(restart("node-8", CODE).await, "no_lease");
    assert_eq!(edge.ask(Operation::Release, "node-7", CODE).await, "not_offered");
    assert_eq!(
        edge.ask(Operation::Rescue, "node-7", CODE).await,
        "bad_offer",
        "a stranger signed it"
    );
    for _ in 0..5 {
        assert_eq!(restart("node-7", "0000").await, "wrong_code");
    }
    assert_eq!(
        restart("node-7", CODE).await,
        "too_many_tries",
        "even with the right one"
    );
    NOW.fetch_add(60, Ordering::Relaxed);
    NOW.fetch_add(24 * 3600, Ordering::Relaxed);
    assert_eq!(restart("node-7", CODE).await, "lease_expired");
    edge.events.send(Event::Connected).await.unwrap();
    let online = async {
        while restart("node-7", CODE).await != "site_is_online" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), online)
        .await
        .unwrap();
    let lines = edge.store.journal(100).unwrap();
    assert!(
        lines
            .iter()
            .all(|line| line.uid == 7 && line.refused.is_some() && line.job.is_none())
    );
    assert!(lines.len() >= 12, "{lines:?}");
    assert_eq!(edge.report().unwrap().order_revision, 1, "nothing was done");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn a_lease_is_used_up_and_a_restart_forgets_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    with_code(&edge).await;
    assert_eq!(
        edge.ask(Operation::Restart, &machine().to_string(), CODE).await,
        ""
    );
    let at = |revision: u64| {
        move |store: &Store| {
            let report = store.report(machine()).unwrap().unwrap().report;
            report.order_revision == revision && report.outcome.is_final()
        }
    };
    edge.until("the first is done", at(2)).await;
    assert_eq!(
        edge.ask(Operation::PowerOff, "node-7", CODE).await,
        "offer_used",
        "its sibling was"
    );
    let told = edge.report().unwrap().local;
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].uid, told[0].revision, told[0].outcome.clone()),
        (7, 2, None)
    );
    edge.stop.cancel();
    drop(edge);

    let edge = Edge::start(dir.path());
    NOW.fetch_add(60, Ordering::Relaxed);
    assert_eq!(edge.ask(Operation::PowerOff, "node-7", CODE).await, "offer_used");
    assert_eq!(edge.ask(Operation::Restart, "node-7", CODE).await, "");
    edge.until("the second is done", at(3)).await;
    assert_eq!(edge.ask(Operation::Restart, "node-7", CODE).await, "offer_used");
    let told: Vec<(u64, bool)> = edge
        .report()
        .unwrap()
        .local
        .iter()
        .map(|u| (u.revision, u.outcome.is_some()))
        .collect();
    assert_eq!(told, [(2, true), (3, false)]);
    // An order of the control plane comes after it; what was done locally is told on.
    edge.send(&Topic::Order(site(), machine()), sealed_order(&centre(), 4, 4))
        .await;
    edge.until("the control plane's is done", at(4)).await;
    let told: Vec<bool> = edge
        .report()
        .unwrap()
        .local
        .iter()
        .map(|u| u.outcome.is_some())
        .collect();
    assert_eq!(told, [true, true]);
    assert_eq!(
        edge.store
            .journal(100)
            .unwrap()
            .iter()
            .filter(|line| line.job.is_some())
            .count(),
        2
    );
}

/// The process may die after the order was kept and before the runner took it.
#[tokio::test]
async fn a_local_operation_is_told_though_the_process_died_before_it_ran() {
    let dir = tempfile::tempdir().unwrap();
    drop(started(dir.path()).await);
    let store = Store::open(&dir.path().join("edge.db")).unwrap();
    let document = slipway_edge::store::Document {
        kind: slipway_protocol::topic::Kind::Order,
        subject: machine().to_string(),
        revision: 2,
        payload: sealed_order(&centre(), 21, 2),
    };
    let line = slipway_edge::store::Entry {
        at: now(),
        uid: 7,
        operation: Operation::Restart,
        machine: machine().to_string(),
        job: Some(JobId(Uuid::from_u128(21))),
        revision: Some(2),
        refused: None,
    };
    assert!(store.put_offered(&document, &line).unwrap());
    let edge = Edge::start(dir.path());
    let told = |store: &Store| {
        store
            .report(machine())
            .unwrap()
            .is_some_and(|held| held.report.local.len() == 1)
    };
    edge.until("it is told", told).await;
}

#[tokio::test]
async fn the_socket_answers_its_owner_a_line_each_way() {
    let dir = tempfile::tempdir().unwrap();
    let edge = started(dir.path()).await;
    let path = server::path(dir.path());
    std::fs::write(&path, "left by an earlier process").unwrap();
    let door = server::bind(&path).unwrap();
    tokio::spawn(server::run(Arc::clone(&edge.local), door, edge.stop.clone()));
    let say = async |line: &str| {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert_eq!(
        say("{\"ask\":\"wipe\"}\n").await,
        "",
        "what is no request is hung up on"
    );
    let answer: Answer = serde_json::from_str(&say("{\"ask\":\"list\"}\n").await).unwrap();
    let Answer::Machines {
        cut_off_since,
        machines,
    } = answer
    else {
        panic!("no list");
    };
    assert!(cut_off_since.is_none());
    assert_eq!(
        (machines[0].name.as_str(), machines[0].last.as_deref()),
        ("node-7", Some("done"))
    );
    assert_eq!(
        machines[0].open,
        [Operation::Restart, Operation::PowerOff, Operation::Rescue]
    );
}

#[test]
fn what_was_done_before_decides_what_may_follow() {
    let report = |operation, outcome: Outcome| {
        let mut report = next::begin(&order(1), 2, None);
        report.local.push(LocalUse {
            at: now(),
            operation,
            job: report.job,
            revision: 2,
            uid: 0,
            outcome: None,
        });
        report.outcome = outcome;
        report
    };
    let code = |operation, report: &Report| match may_follow("m", operation, Some(report)) {
        Ok(()) => "",
        Err(refusal) => refusal.code(),
    };
    let done = || Outcome::Done { at: now() };
    for operation in Operation::ALL {
        assert_eq!(
            code(operation, &report(Operation::Restart, Outcome::Running)),
            "machine_busy"
        );
        assert_eq!(code(operation, &report(Operation::Release, done())), "released");
        assert_eq!(code(operation, &report(Operation::PowerOff, done())), "");
        let expected = if operation == Operation::PowerOn {
            "use_restart"
        } else {
            ""
        };
        assert_eq!(code(operation, &report(Operation::Rescue, done())), expected);
        assert!(may_follow("m", operation, None).is_ok());
    }
}
