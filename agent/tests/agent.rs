//! A whole run as the edge sees it: a real broker behind its guard by TLS, a real HTTP server, disks that are files. The
//! link is cut in the middle, and strangers' messages stand on the topics.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use common::{JOB, MACHINE, World, far, site, stamp, step};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use slipway_agent::{run, steps::Machine};
use slipway_bus::{
    Client, Event, Options,
    acl::Acl,
    broker::{self, Backend},
    guard::{Admission, Admitted, Applicant, Guard},
    tls::{self, Identity},
};
use slipway_protocol::{
    boot::BootToken,
    ids::{JobId, MacAddr},
    inventory::{DiskRule, FirmwareKind},
    keys::{Expect, KeyRing, Signer},
    log::{self, Piece},
    order::{Action, GuestConfig, Hardware, Order, secret_context},
    report::{AgentHello, AgentReport, LogChunk, Release, ReleasedStep, StepState},
    seal::{self, Secret},
    topic::{self, Topic},
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(60);

/// Admits the one agent by what the token's password is.
struct Door(Secret);

impl Admission for Door {
    fn admit(&self, applicant: &Applicant) -> Result<Admitted, String> {
        let login = applicant.login.as_ref();
        if login != Some(&(MACHINE.to_string(), self.0.clone()))
            || applicant.client_id != format!("agent-{MACHINE}")
        {
            return Err("not the agent".into());
        }
        Ok(Acl {
            publish: vec![format!("{}#", topic::agent_events_prefix(&site(), MACHINE))],
            subscribe: vec![topic::agent_commands(&site(), MACHINE)],
        }
        .into())
    }
}

/// The edge's side of one machine.
struct Edge {
    world: World,
    backend: Backend,
    door: Arc<dyn Admission>,
    identity: Identity,
    address: SocketAddr,
    open: CancellationToken,
    guard: Option<tokio::task::JoinHandle<()>>,
    client: Client,
    events: mpsc::Receiver<Event>,
    ring: KeyRing,
    hello: Option<AgentHello>,
    hellos: usize,
    order: Order,
    /// What its log told so far.
    log: String,
}

impl Edge {
    async fn new(world: World, token: &BootToken) -> (Self, String) {
        tls::install_provider();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        let identity = Identity {
            certificate: params.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        };
        let backend = broker::start().unwrap();
        let options = Options {
            client_id: "edge".into(),
            host: backend.address.ip().to_string(),
            port: backend.address.port(),
            tls: None,
            credentials: Some((backend.login.0.clone(), Secret::new(backend.login.1.clone()))),
            subscriptions: vec![topic::all_agent_events(&site())],
            will: None,
        };
        let (client, events) = Client::start(options, CancellationToken::new());
        let edge = Self {
            order: order(&world, JOB),
            world,
            backend,
            door: Arc::new(Door(token.mqtt_password())),
            identity,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            open: CancellationToken::new(),
            guard: None,
            client,
            events,
            ring: KeyRing::new([token.signer().unwrap().verifying_key()]),
            hello: None,
            hellos: 0,
            log: String::new(),
        };
        (edge, issuer.pem())
    }

    /// Opens the door, at the port it had before; cuts the connections of an open one.
    async fn open_door(&mut self) {
        self.open.cancel();
        if let Some(former) = self.guard.take() {
            former.await.unwrap();
        }
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener: TcpListener = socket.listen(16).unwrap();
        self.address = listener.local_addr().unwrap();
        self.open = CancellationToken::new();
        let guard = Guard {
            listener,
            tls: Some(tls::server_config(&self.identity, None).unwrap()),
            admission: Arc::clone(&self.door),
            backend: self.backend.clone(),
            max_connections: 10,
        };
        self.guard = Some(tokio::spawn(guard.run(self.open.clone())));
    }

    fn send<T: serde::Serialize>(&self, topic: &Topic, signer: &Signer, revision: u64, body: &T) {
        let payload = signer.seal(&topic.signed_as(), stamp(revision), body);
        self.client.publish(&topic.to_string(), payload).unwrap();
    }

    fn send_order(&self) {
        let topic = Topic::AgentOrder(site(), MACHINE);
        self.send(&topic, &self.world.signer, 5, &self.order);
        // A stranger's order of a higher revision, and the edge's own key, which may not sign orders.
        let other = order(&self.world, JobId(Uuid::from_u128(666)));
        self.send(&topic, &Signer::generate().unwrap().0, 99, &other);
        self.send(&topic, &self.world.edge_signer, 99, &other);
        self.client
            .publish(&topic.to_string(), b"garbage".to_vec())
            .unwrap();
    }

    fn release(&self, index: usize, attempt: u32) {
        let hello = self.hello.as_ref().unwrap();
        let mut secrets = BTreeMap::new();
        let place = secret_context(&site(), MACHINE, JOB, "nonce");
        let sealed = seal::seal(hello.sealing_key, &place, &Secret::new("n0nce")).unwrap();
        secrets.insert("nonce".to_owned(), sealed);
        let run = self.order.steps.get(index).map(|step| ReleasedStep {
            id: step.id.clone(),
            attempt,
        });
        let release = Release {
            boot: hello.boot,
            job: JOB,
            order_revision: 5,
            run: run.into_iter().collect(),
            disk: None,
            secrets,
        };
        let topic = Topic::AgentRelease(site(), MACHINE);
        self.send(&topic, &self.world.edge_signer, 1, &release);
        // What a stranger releases does not run.
        let all = self.order.steps.iter().map(|step| ReleasedStep {
            id: step.id.clone(),
            attempt: 9,
        });
        let evil = Release {
            run: all.collect(),
            ..release
        };
        self.send(&topic, &Signer::generate().unwrap().0, 2, &evil);
    }

    /// The next report; hellos are answered on the way with the order and the release of step `index`.
    async fn report(&mut self, index: usize, attempt: u32) -> AgentReport {
        let expect = Expect {
            now: DateTime::<Utc>::MIN_UTC,
            held: None,
        };
        loop {
            let event = timeout(LIMIT, self.events.recv())
                .await
                .expect("a word of the agent in time");
            let Some(Event::Message { topic, payload }) = event else {
                continue;
            };
            let topic: Topic = topic.parse().unwrap();
            match topic {
                Topic::AgentMachine(..) => {
                    let hello: AgentHello = self.ring.open(&topic, &payload, expect).unwrap().into_body();
                    let same_boot = self.hello.as_ref().is_none_or(|before| before.boot == hello.boot);
                    assert!(same_boot, "a reconnect is not a restart");
                    self.hello = Some(hello);
                    self.hellos += 1;
                    self.send_order();
                    self.release(index, attempt);
                }
                Topic::AgentReport(..) => {
                    return self.ring.open(&topic, &payload, expect).unwrap().into_body();
                }
                Topic::AgentLog(..) => {
                    let chunk: LogChunk = self.ring.open(&topic, &payload, expect).unwrap().into_body();
                    let boot = self.hello.as_ref().map(|hello| hello.boot);
                    assert_eq!((chunk.job, chunk.boot), (JOB, boot));
                    let heard = Piece {
                        offset: chunk.offset,
                        text: chunk.text,
                    };
                    if let Some((missing, text)) = log::news(self.log.len() as u64, &heard) {
                        assert_eq!(missing, 0, "nothing was lost here");
                        self.log.push_str(text);
                    }
                }
                other => panic!("an agent has no word on {other}"),
            }
        }
    }

    /// Reports until the step of that index stands like this in that attempt.
    async fn until(&mut self, index: usize, attempt: u32, state: StepState) -> AgentReport {
        let id = self.order.steps[index].id.clone();
        loop {
            let report = self.report(index, attempt).await;
            assert_eq!(report.job, JOB);
            let stands = |s: &&slipway_protocol::report::StepReport| {
                s.id == id && s.state == state && s.attempt == attempt
            };
            if report.steps.iter().find(stands).is_some() {
                return report;
            }
        }
    }

    /// The log has what was said since before the first job, and no secret.
    fn log_tells(&self) {
        let said = |what: &str| {
            let lines = self.log.lines();
            let line = lines.into_iter().find(|line| line.contains(what));
            line.unwrap_or_else(|| panic!("the log has no `{what}`:\n{}", self.log))
        };
        assert!(
            self.log.starts_with("agent ")
                && self.log.lines().next() == Some(said("said before there was a job"))
        );
        assert!(said("code=\"image_missing\"").contains(" WARN step failed: "));
        assert!(said("step done step=write-image").contains(" INFO "));
        assert!(!self.log.contains("n0nce"), "no secret stands in it");
    }
}

/// Has what this process logs stand in the agent's log, as in its binary.
fn keep_what_is_said(machine: &Machine) {
    let subscriber = tracing_subscriber::registry().with(LevelFilter::INFO);
    subscriber.with(machine.log.layer()).init();
    tracing::info!("said before there was a job");
}

fn order(world: &World, job: JobId) -> Order {
    let guest = GuestConfig {
        instance_id: "i-1".into(),
        hostname: "web-1".into(),
        user: "ops".into(),
        ssh_keys: Vec::new(),
        user_data: None,
        phone_home: "nonce".into(),
    };
    let rule = DiskRule {
        serial: Some("B".into()),
        ..DiskRule::default()
    };
    let place = secret_context(&site(), MACHINE, job, "nonce");
    let (key, _) = slipway_protocol::seal::OpeningKey::generate().unwrap();
    let sealed = seal::seal(key.sealing_key(), &place, &Secret::new("for the edge alone")).unwrap();
    Order {
        machine: MACHINE,
        job,
        deadline: far(),
        retry: 0,
        settled: None,
        hardware: Hardware {
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            firmware: FirmwareKind::Bios,
            bmc: None,
        },
        secrets: BTreeMap::from([("nonce".to_owned(), sealed)]),
        steps: vec![
            step("inventory", Action::AgentInventory),
            step("choose-disk", Action::AgentChooseDisk { rule }),
            step("write-image", Action::AgentWriteImage { image: world.image }),
            step("configure", Action::AgentConfigure { guest }),
            step("reboot", Action::AgentReboot),
        ],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_install_with_a_cut_in_the_middle() {
    let world = World::new();
    let (a, b) = (world.disk("A", 16), world.disk("B", 16));
    let before = common::digest(&a);
    let token = BootToken::from_bytes([9; 32]);
    let mut machine = world.machine();
    let lost = format!("/chunks/{}", world.chunks[1]);
    let good = world.shelf.lock().unwrap().files[&lost].clone();
    let (mut edge, ca) = Edge::new(world, &token).await;
    edge.open_door().await;
    machine.config = edge.world.config(edge.address.port(), ca, token);
    keep_what_is_said(&machine);
    let agent = tokio::spawn(run::run(machine, CancellationToken::new()));

    edge.until(0, 1, StepState::Done).await;
    edge.release(1, 1);
    let report = edge.until(1, 1, StepState::Done).await;
    assert_eq!(report.disk.and_then(|d| d.serial).as_deref(), Some("B"));
    assert_eq!(report.steps.len(), 2, "only what was released was run");

    // a chunk the edge lacks fails the attempt; the next one is released and runs
    edge.world.shelf.lock().unwrap().files.remove(&lost);
    edge.release(2, 1);
    let report = edge.until(2, 1, StepState::Failed).await;
    let failure = report.steps[2].failure.clone().unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.transient),
        ("image_missing", true)
    );
    edge.world.shelf.lock().unwrap().files.insert(lost.clone(), good);
    edge.world.shelf.lock().unwrap().faults.insert(lost, vec![503; 4]);
    edge.release(2, 2);
    edge.until(2, 2, StepState::Running).await;
    // the link is cut while it writes; the work goes on, and is told after the reconnect
    edge.open_door().await;
    edge.until(2, 2, StepState::Done).await;
    while edge.hellos < 2 {
        edge.report(2, 2).await;
    }
    edge.release(3, 1);
    edge.until(3, 1, StepState::Done).await;
    edge.release(4, 1);
    edge.until(4, 1, StepState::Done).await;
    assert!(
        !edge.world.dir.path().join("rebooted").exists(),
        "it waits for the edge to have heard"
    );
    edge.release(5, 1);
    timeout(LIMIT, agent).await.unwrap().unwrap().unwrap();
    assert!(edge.world.dir.path().join("rebooted").exists());
    edge.log_tells();

    let written = std::fs::read(b).unwrap();
    assert!(
        written[8 << 20..] == edge.world.raw[8 << 20..],
        "the image stands on disk B"
    );
    assert_eq!(common::digest(&a), before, "disk A was not touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_taken_back_is_stopped_and_a_restart_does_not_wait_for_ever() {
    let world = World::new();
    world.disk("B", 16);
    let token = BootToken::from_bytes([9; 32]);
    let mut machine = world.machine();
    // the image cannot be had for longer than the test lasts
    machine.edge = machine.edge.with_patience(Duration::from_secs(600));
    let name = format!("/images/{}", world.image);
    world.shelf.lock().unwrap().faults.insert(name, vec![503; 10_000]);
    let (mut edge, ca) = Edge::new(world, &token).await;
    edge.open_door().await;
    machine.config = edge.world.config(edge.address.port(), ca, token);
    let agent = tokio::spawn(run::run(machine, CancellationToken::new()));

    edge.until(2, 1, StepState::Running).await;
    edge.release(4, 1);
    let report = edge.until(4, 1, StepState::Done).await;
    assert_eq!(
        report.steps.len(),
        1,
        "the step that was taken back is not spoken of"
    );
    // nothing more is said to it
    timeout(LIMIT, agent).await.unwrap().unwrap().unwrap();
    assert!(edge.world.dir.path().join("rebooted").exists());
}
