//! A site that is cut off: the edge's own parts with a real control plane over a way that is cut and healed. What is done at the
//! box meanwhile is done once, and told afterwards.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_bus::{Client, Options, Publish, PublishError, tls};
use slipway_control_plane::{
    config::Given,
    store::{
        Database, Store as CentralStore, StoreResult,
        instances::{self, Instance, Wish},
        jobs, machines, orders,
    },
    workflow::{
        power::{self, Installed, Switch},
        state::{InstanceState, JobKind, JobState, MachineState},
    },
};
use slipway_edge::{
    bmc::{
        Bmc, BmcError, BmcInfo, BootDevice, Firmware, PowerAction, PowerState, Reach,
        event_log::{Bounds, EventLog, Mark},
    },
    boot::BootTable,
    boots::Boots,
    context::{Context, Outbox},
    identity::Identity,
    images::{ImageCache, Source},
    job_log::JobLogs,
    ledger::Ledger,
    link::Link,
    local::{Answer, Local, MachineView, Request, server as door},
    runner::actor::Runner,
    store::Store,
    uplink::{self, Uplink, Word},
};
use slipway_protocol::{
    ids::{Digest, ImageId, InstanceId, JobId, MachineId, SiteId},
    inventory::{DiskRule, FirmwareKind},
    lease::Operation,
    order::{BmcAccess, Hardware},
    seal::Secret,
    topic::{self, Topic},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::{
    common::server::{Server, server},
    edges::join,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A machine's power, and what its BMC was asked for.
#[derive(Clone)]
struct Machine(Arc<Mutex<(PowerState, Vec<PowerAction>)>>);

impl Machine {
    fn asked(&self) -> Vec<PowerAction> {
        self.0.lock().unwrap().1.clone()
    }
}

impl Reach for Machine {
    fn reach(&self, _access: &BmcAccess, passwords: &[Secret]) -> Box<dyn Bmc> {
        assert_eq!(
            passwords,
            [Secret::new("bmc-secret")],
            "what was sealed to the site is opened there"
        );
        Box::new(self.clone())
    }
}

#[async_trait]
impl Bmc for Machine {
    async fn power_state(&self) -> Result<PowerState, BmcError> {
        Ok(self.0.lock().unwrap().0)
    }
    async fn power(&self, action: PowerAction) -> Result<(), BmcError> {
        let mut machine = self.0.lock().unwrap();
        machine.1.push(action);
        machine.0 = match action {
            PowerAction::On => PowerState::On,
            PowerAction::Off | PowerAction::Soft => PowerState::Off,
            PowerAction::Cycle | PowerAction::Reset => machine.0,
        };
        Ok(())
    }
    async fn set_next_boot(&self, _device: BootDevice, _firmware: Firmware) -> Result<(), BmcError> {
        Ok(())
    }
    async fn next_boot(&self) -> Result<Option<BootDevice>, BmcError> {
        Ok(None)
    }
    async fn change_password(&self, _new: &Secret) -> Result<(), BmcError> {
        unreachable!("nobody changes it here")
    }
    async fn restart(&self) -> Result<(), BmcError> {
        Ok(())
    }
    async fn device(&self) -> Result<BmcInfo, BmcError> {
        Ok(BmcInfo {
            protocol: "test".into(),
            manufacturer: 0,
            product: 0,
            firmware: String::new(),
            security: String::new(),
        })
    }
    async fn event_log(&self, _since: Option<&Mark>, _bounds: Bounds) -> Result<Option<EventLog>, BmcError> {
        Ok(None)
    }
    async fn close(&self) {}
}

/// The way to the control plane's broker, which can be cut.
struct Wan {
    port: u16,
    is_cut: watch::Sender<bool>,
}

impl Wan {
    async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_cut, cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                tokio::spawn(async move {
                    if *cut.borrow_and_update() {
                        return;
                    }
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", broker)).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { port, is_cut }
    }
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

struct Words(mpsc::Sender<Word>);

impl Outbox for Words {
    fn report_changed(&self, machine: MachineId) {
        self.0.try_send(Word::Report(machine)).unwrap();
    }
    fn to_agent(&self, _topic: &Topic, _payload: Vec<u8>) {}
}

/// The edge without its boot services: link, runner, store, and the socket.
pub(crate) fn start_edge(identity: &Identity, dir: &Path, port: u16, bmcs: Arc<dyn Reach>) -> DropGuard {
    let stop = CancellationToken::new();
    let (words, words_receiver) = mpsc::channel(1024);
    let store = Store::open(&dir.join("edge.db")).unwrap();
    let context = Arc::new(Context {
        site: identity.site.clone(),
        boots: Boots::load(store.clone()).unwrap(),
        store,
        ledger: Ledger::default(),
        logs: JobLogs::default(),
        table: Arc::new(BootTable::default()),
        images: ImageCache::new(dir.join("chunks"), Arc::new(Nowhere)),
        signer: identity.signer().unwrap(),
        opening: identity.opening_key().unwrap(),
        outbox: Arc::new(Words(words)),
        bmcs,
        now: Utc::now,
        keys: RwLock::new(identity.verifying_keys.clone()),
    });
    uplink::fill_ledger(&context).unwrap();
    let (runner, task) = Runner::start(Arc::clone(&context), stop.clone()).unwrap();
    tokio::spawn(task);
    let options = Options {
        client_id: identity.site.to_string(),
        host: "127.0.0.1".to_owned(),
        port,
        tls: Some(tls::client_config(&identity.ca, Some(&identity.uplink_tls())).unwrap()),
        credentials: None,
        subscriptions: vec![topic::site_commands(&identity.site)],
        will: None,
    };
    let (central, events) = Client::start(options, stop.clone());
    let link = Arc::new(Link::down_since(Utc::now()));
    let uplink = Uplink {
        context: Arc::clone(&context),
        runner: runner.clone(),
        central: Arc::new(central),
        mirror: Arc::new(Nowhere),
        link: Arc::clone(&link),
        on_config: Box::new(|_| {}),
        starting: AtomicBool::new(true),
        run: slipway_protocol::ids::EdgeRunId(uuid::Uuid::new_v4()),
        proof: std::sync::Mutex::default(),
        retirement: slipway_edge::retirement::Retirement::of(tokio_util::sync::CancellationToken::new()),
    };
    tokio::spawn(uplink.run(events, words_receiver, stop.clone()));
    let local = Arc::new(Local::new(context, runner, link, TimeDelta::zero()));
    let socket = door::bind(&door::path(dir)).unwrap();
    tokio::spawn(door::run(local, socket, stop.clone()));
    stop.drop_guard()
}

/// Asks at the socket, as `slipway-edge local` does.
async fn ask(dir: &Path, request: &Request) -> Answer {
    let mut stream = UnixStream::connect(door::path(dir)).await.unwrap();
    let mut line = serde_json::to_vec(request).unwrap();
    line.push(b'\n');
    stream.write_all(&line).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    serde_json::from_str(&answer).unwrap()
}

async fn list(dir: &Path) -> (bool, Option<MachineView>) {
    match ask(dir, &Request::List).await {
        Answer::Machines {
            cut_off_since,
            machines,
        } => (cut_off_since.is_some(), machines.into_iter().next()),
        other => panic!("{other:?}"),
    }
}

/// Code of the refusal; empty if the offer was taken.
async fn operate(dir: &Path, operation: Operation, code: &str) -> String {
    let request = Request::Do {
        operation,
        machine: "m1".into(),
        code: Secret::new(code),
    };
    match ask(dir, &request).await {
        Answer::Taken { .. } => String::new(),
        Answer::Refused { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, wait).await;
    assert!(waited.is_ok(), "not in time: {what}");
}

/// An instance that runs on the machine, as an install leaves it.
pub(crate) fn installed(db: &mut Database, machine: MachineId) -> StoreResult<()> {
    let (site, now) = (SiteId::new("bj-1").unwrap(), Utc::now());
    let (id, job) = (InstanceId(Uuid::from_u128(5)), JobId(Uuid::from_u128(6)));
    let instance = Instance {
        id,
        name: "i1".into(),
        site: site.clone(),
        machine: Some(machine),
        image: ImageId::of(b"i"),
        state: InstanceState::Running,
        job,
        wish: Wish {
            disk: DiskRule::default(),
            user: "u".into(),
            ..Wish::default()
        },
        created_at: now,
        project: "default".into(),
        locked: false,
    };
    instances::insert(db, &instance)?;
    let install = jobs::Job {
        id: job,
        kind: JobKind::Install,
        priority: 0,
        waiting: None,
        instance: Some(id),
        site: site.clone(),
        machine: Some(machine),
        state: JobState::Queued,
        failure: None,
        deadline: now + TimeDelta::hours(2),
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &install)?;
    machines::take(db, machine, MachineState::Available, job)?;
    jobs::start(db, job, machine)?;
    let order = Installed {
        machine,
        job,
        deadline: now + TimeDelta::hours(2),
        hardware: Hardware {
            macs: vec![],
            firmware: FirmwareKind::Uefi,
            bmc: None,
        },
        address: [192, 0, 2, 9].into(),
        hostname: "i1".into(),
        secrets: BTreeMap::new(),
    };
    orders::put(db, &site, &power::compile(order, Switch::Start))?;
    jobs::finish(db, job, JobState::Done, None, now)?;
    machines::leave(db, machine, job, MachineState::Allocated)?;
    Ok(())
}

async fn make_world(server: &Server) -> String {
    server.make_site("bj-1").await;
    let bmc = json!({ "driver": "ipmi", "address": "127.0.0.1:6230", "username": "admin", "password": "bmc-secret" });
    let body = json!({ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01"], "firmware": "uefi", "bmc": bmc });
    let (status, made) = server.post("/api/v1/machines", body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let machine: MachineId = made["id"].as_str().unwrap().parse().unwrap();
    let given = Given {
        data_dir: Some(server.dir.path().into()),
        ..Given::default()
    };
    let store = CentralStore::open(&given.resolve().unwrap().database_url)
        .await
        .unwrap();
    store.transaction(move |db| installed(db, machine)).await.unwrap();
    let offline = json!({ "offline": { "hours": 24, "operations": ["restart", "power_off"] } });
    let (status, site) = server.patch("/api/v1/sites/bj-1", offline).await;
    assert_eq!(status, StatusCode::OK, "{site}");
    for (hours, operation) in [(0, "restart"), (169, "restart"), (24, "wipe")] {
        let bad = json!({ "offline": { "hours": hours, "operations": [operation] } });
        let (status, refused) = server.patch("/api/v1/sites/bj-1", bad).await;
        assert_eq!(
            (status, &refused["code"]),
            (StatusCode::BAD_REQUEST, &json!("offline"))
        );
    }
    let (status, code) = server.post("/api/v1/sites/bj-1/emergency-code", json!({})).await;
    assert_eq!(status, StatusCode::CREATED, "{code}");
    assert_eq!(server.get("/api/v1/sites/bj-1").await["emergency_code"], true);
    code["code"].as_str().unwrap().to_owned()
}

fn has(machine: Option<&MachineView>, open: &[Operation], last: &str) -> bool {
    machine.is_some_and(|m| m.open == open && m.last.as_deref() == Some(last))
}

/// Off and on, then off, while the way is cut; each once, each told afterwards.
#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn what_is_done_while_cut_off_is_done_once_and_told_afterwards() {
    let server = server().await;
    let code = make_world(&server).await;
    let (identity, dir) = join(&server).await;
    let wan = Wan::to(identity.broker_port).await;
    let machine = Machine(Arc::new(Mutex::new((PowerState::On, Vec::new()))));
    let edge = start_edge(&identity, dir.path(), wan.port, Arc::new(machine.clone()));
    let dir = dir.path();
    let mode = std::fs::metadata(door::path(dir)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "nobody else may ask");
    let both = [Operation::Restart, Operation::PowerOff];
    until("the lease is there", async || {
        has(list(dir).await.1.as_ref(), &both, "done")
    })
    .await;
    assert_eq!(operate(dir, Operation::Restart, &code).await, "site_is_online");

    wan.is_cut.send(true).unwrap();
    until("the site is cut off", async || list(dir).await.0).await;
    assert_eq!(operate(dir, Operation::Restart, "wrong").await, "wrong_code");
    assert_eq!(operate(dir, Operation::Release, &code).await, "not_offered");
    assert_eq!(operate(dir, Operation::Restart, &code.to_uppercase()).await, "");
    until("it is restarted", async || {
        has(list(dir).await.1.as_ref(), &both, "done") && machine.asked().len() == 2
    })
    .await;
    assert_eq!(machine.asked(), [PowerAction::Soft, PowerAction::On]);
    // The edge begins anew, and goes on with what is on disk.
    drop(edge);
    let _edge = start_edge(&identity, dir, wan.port, Arc::new(machine.clone()));
    until("the second one is taken", async || {
        operate(dir, Operation::PowerOff, &code).await.is_empty()
    })
    .await;
    until("it is off", async || {
        has(list(dir).await.1.as_ref(), &[], "done") && machine.asked().len() == 3
    })
    .await;
    assert_eq!(operate(dir, Operation::Restart, &code).await, "offer_used");

    wan.is_cut.send(false).unwrap();
    let state = async || server.get("/api/v1/instances/i1").await["state"].clone();
    until("it is told", async || state().await == "stopped").await;
    until("a new lease is there", async || {
        has(list(dir).await.1.as_ref(), &both, "done")
    })
    .await;
    let asked = [PowerAction::Soft, PowerAction::On, PowerAction::Soft];
    assert_eq!(machine.asked(), asked, "nothing is done twice");
    let kinds = |page: &Value, name: &str| -> Vec<String> {
        let items = page["items"].as_array().unwrap().iter();
        items
            .map(|item| item[name].as_str().unwrap().to_owned())
            .collect()
    };
    let timeline = kinds(&server.get("/api/v1/machines/m1/timeline").await, "kind");
    let expected = ["local.restart", "job.done", "local.power_off", "job.done"];
    let told: Vec<&String> = timeline
        .iter()
        .filter(|kind| expected.contains(&kind.as_str()))
        .collect();
    assert_eq!(told, expected, "{timeline:?}");
    let audit = server.get("/api/v1/audit?limit=1000").await;
    let by = |line: &&Value| {
        line["actor"]
            .as_str()
            .unwrap()
            .starts_with("emergency at bj-1 (uid ")
    };
    assert_eq!(audit["items"].as_array().unwrap().iter().filter(by).count(), 2);
    let Answer::Log { lines } = ask(dir, &Request::Log).await else {
        panic!("no journal");
    };
    let refused: Vec<&str> = lines.iter().filter_map(|line| line.refused.as_deref()).collect();
    for code in ["site_is_online", "wrong_code", "not_offered", "offer_used"] {
        assert!(refused.contains(&code), "{refused:?}");
    }
    assert_eq!(lines.iter().filter(|line| line.job.is_some()).count(), 2);
}
