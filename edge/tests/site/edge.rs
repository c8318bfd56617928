//! An edge without a control plane: the real intake, runner, store and socket. The control plane is a signer.

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
    job_log::JobLogs,
    ledger::Ledger,
    link::Link,
    local::{Answer, Local, Request},
    runner::actor::{Input, Runner},
    store::Store,
    uplink::{self, Uplink},
};
use slipway_protocol::{
    ids::{Digest, JobId, MachineId, SiteId},
    inventory::FirmwareKind,
    keys::{Signer, Stamp},
    lease::{Lease, Offer, Operation, offer_context},
    order::{Action, Hardware, Order, Step},
    report::{Outcome, Report},
    seal::{self, OpeningKey, Secret},
    site::{SiteConfig, emergency_code_text},
    topic::Topic,
};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

pub(crate) const CODE: &str = "0000-1111-2222";
/// The clock in seconds; each test is a process of its own.
pub(crate) static NOW: AtomicI64 = AtomicI64::new(1_800_000_000);

pub(crate) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(NOW.load(Ordering::Relaxed), 0).unwrap()
}

pub(crate) fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

pub(crate) fn machine() -> MachineId {
    MachineId(Uuid::from_u128(1))
}

pub(crate) fn centre() -> Signer {
    Signer::from_seed(&[1; 32]).unwrap()
}

pub(crate) fn opening() -> OpeningKey {
    OpeningKey::from_bytes([2; 32])
}

pub(crate) struct Nowhere;

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

pub(crate) struct Edge {
    pub(crate) context: Arc<Context>,
    pub(crate) runner: Runner,
    pub(crate) store: Store,
    pub(crate) local: Arc<Local>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) stop: CancellationToken,
    _stop: DropGuard,
}

impl Edge {
    pub(crate) fn start(dir: &Path) -> Self {
        let stop = CancellationToken::new();
        let store = Store::open(&dir.join("edge.db")).unwrap();
        let context = Arc::new(Context {
            site: site(),
            boots: Boots::load(store.clone()).unwrap(),
            store: store.clone(),
            ledger: Ledger::default(),
            logs: JobLogs::default(),
            table: Arc::new(BootTable::default()),
            images: ImageCache::new(dir.join("chunks"), Arc::new(Nowhere)),
            signer: Signer::from_seed(&[3; 32]).unwrap(),
            opening: opening(),
            outbox: Arc::new(Nowhere),
            bmcs: Arc::new(Drivers::default()),
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
            run: slipway_protocol::ids::EdgeRunId(uuid::Uuid::new_v4()),
            proof: std::sync::Mutex::default(),
            retirement: slipway_edge::retirement::Retirement::of(tokio_util::sync::CancellationToken::new()),
        };
        let (_, words) = mpsc::channel(1);
        tokio::spawn(uplink.run(receiver, words, stop.clone()));
        let shared = (Arc::clone(&context), runner.clone());
        let local = Arc::new(Local::new(context, runner, link, TimeDelta::seconds(60)));
        Self {
            context: shared.0,
            runner: shared.1,
            store,
            local,
            events,
            stop: stop.clone(),
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) async fn send(&self, topic: &Topic, payload: Vec<u8>) {
        let (topic, payload) = (topic.to_string(), Bytes::from(payload));
        self.events.send(Event::Message { topic, payload }).await.unwrap();
    }

    pub(crate) async fn configure(&self, revision: u64, code: Option<&str>) {
        let hash = |code: &str| Argon2::default().hash_password(emergency_code_text(code).as_bytes());
        let config = SiteConfig {
            subnets: vec![],
            verifying_keys: vec![centre().verifying_key()],
            discover: false,
            dhcp_relays: vec![],
            emergency_code: code.map(|code| hash(code).unwrap().to_string()),
        };
        let topic = Topic::Config(site());
        self.send(&topic, centre().seal(&topic, stamp(revision), &config))
            .await;
    }

    /// The code of the refusal; empty if the offer was taken.
    pub(crate) async fn ask(&self, operation: Operation, machine: &str, code: &str) -> String {
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

    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Store) -> bool) {
        let wait = async {
            while !holds(&self.store) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
        assert!(waited.is_ok(), "not in time: {what}");
    }

    pub(crate) fn report(&self) -> Option<Report> {
        self.store.report(machine()).unwrap().map(|held| held.report)
    }
}

pub(crate) fn stamp(revision: u64) -> Stamp {
    Stamp {
        revision,
        issued_at: now(),
        expires_at: now() + TimeDelta::hours(24),
    }
}

/// An order that is done at once: it gives the machine its address, and nothing else.
pub(crate) fn order(job: u128) -> Order {
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

pub(crate) fn sealed_order(signer: &Signer, job: u128, revision: u64) -> Vec<u8> {
    signer.seal(&Topic::Order(site(), machine()), stamp(revision), &order(job))
}

pub(crate) fn offer(signer: &Signer, operation: Operation, (job, revision): (u128, u64)) -> Offer {
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
pub(crate) async fn started(dir: &Path) -> Edge {
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

pub(crate) async fn with_code(edge: &Edge) {
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
