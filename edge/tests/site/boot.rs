//! A hostile machine on the provisioning network: what it gets of another one's boot, and what it costs others to be asked for in
//! a machine's name without end. The edge's real HTTP server, on loopback addresses that stand for the machines'.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use chrono::TimeDelta;
use metrics_exporter_prometheus::PrometheusBuilder;
use slipway_bus::guard::{Admission as _, Applicant};
use slipway_edge::{
    agents::AgentAdmission,
    dhcp::server::Sighting,
    http::{self, HttpState},
    neighbours::Neighbours,
    runner::actor::Input,
    tftp::server::Files,
    watch,
};
use slipway_protocol::{
    bmc::{BmcState, Power},
    boot::BootConfig,
    ids::{MacAddr, MachineId},
    order::{Action, Order, Step},
    report::{EventSource, StepState, TimelineEvent},
    site::SubnetConfig,
    topic::Topic,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};

use crate::edge::{Edge, NOW, centre, machine, now, order, site, stamp};

const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 9);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 66);
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 77, 0, 1);
const PORT: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const LIMIT: Duration = Duration::from_secs(20);

/// On loopback nobody has a neighbour.
struct Nobody;

impl Neighbours for Nobody {
    fn port_of(&self, _: Ipv4Addr) -> Option<MacAddr> {
        None
    }

    fn is_attached(&self, _: Ipv4Addr) -> bool {
        false
    }
}

fn step(id: &str, action: Action, needs: &[&str]) -> Step {
    Step {
        id: id.parse().unwrap(),
        role: action.role(),
        action,
        needs: needs.iter().map(|need| need.parse().unwrap()).collect(),
        no_progress_timeout_s: 600,
        retries: 1,
    }
}

/// An order that waits for the machine's boot.
fn waits_for_boot() -> Order {
    let bind = Action::DhcpBind {
        address: VICTIM,
        hostname: None,
    };
    let mut order = order(7);
    order.deadline = now() + TimeDelta::hours(1);
    order.hardware.macs = vec![PORT];
    order.steps = vec![
        step("bind-address", bind, &[]),
        step("serve-liveos", Action::BootLiveos, &["bind-address"]),
        step("inventory", Action::AgentInventory, &["serve-liveos"]),
    ];
    order
}

struct World {
    edge: Edge,
    server: SocketAddr,
    sightings: mpsc::Sender<Sighting>,
    _dir: tempfile::TempDir,
}

async fn until_the_boot_is_waited_for(edge: &Edge) {
    let waits = || {
        let entry = edge.context.table.entry(PORT);
        entry.is_some_and(|e| format!("{:?}", e.mode).contains("LiveOs"))
    };
    let wait = async {
        while !waits() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(LIMIT, wait).await;
    waited.expect("the boot is waited for");
}

impl World {
    async fn start() -> Self {
        slipway_bus::tls::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let edge = Edge::start(dir.path());
        let subnet = SubnetConfig {
            network: "127.77.0.0/24".parse().unwrap(),
            server: SERVER,
            gateway: None,
            dns: vec![],
            pool: None,
            lease_seconds: 600,
        };
        edge.context.table.set_site(&[subnet], false);
        let topic = Topic::Order(site(), machine());
        edge.send(&topic, centre().seal(&topic, stamp(1), &waits_for_boot()))
            .await;
        until_the_boot_is_waited_for(&edge).await;
        let (sightings, receiver) = mpsc::channel(256);
        let (_, unknown) = mpsc::channel(1);
        let (words, mut spoken) = mpsc::channel(64);
        tokio::spawn(async move { while spoken.recv().await.is_some() {} });
        tokio::spawn(watch::run(
            Arc::clone(&edge.context),
            edge.runner.clone(),
            (receiver, unknown),
            words,
            edge.stop.clone(),
        ));
        let listener = TcpListener::bind((SERVER, 0)).await.unwrap();
        let server = listener.local_addr().unwrap();
        let state = HttpState {
            context: Arc::clone(&edge.context),
            runner: edge.runner.clone(),
            liveos: dir.path().into(),
            boot_programs: Arc::new(Files::load(dir.path(), &[]).unwrap()),
            http_port: server.port(),
            mqtt_port: 8883,
            ca: "CA".to_owned(),
            neighbours: Arc::new(Nobody),
            serves_dhcp: true,
            sightings: sightings.clone(),
            metrics: PrometheusBuilder::new().build_recorder().handle(),
        };
        let service = http::router(Arc::new(state)).into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self {
            edge,
            server,
            sightings,
            _dir: dir,
        }
    }

    async fn get(&self, from: Ipv4Addr, path: &str) -> (u16, Vec<u8>) {
        let http = reqwest::Client::builder()
            .local_address(IpAddr::V4(from))
            .build()
            .unwrap();
        let answer = http
            .get(format!("http://{}{path}", self.server))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
    }

    async fn script(&self, from: Ipv4Addr) -> String {
        let (status, script) = self.get(from, &format!("/boot/{}.ipxe", PORT.hyphenated())).await;
        assert_eq!(status, 200, "firmware never gets an error page for a script");
        String::from_utf8(script).unwrap()
    }

    /// Whether an agent with this boot's password is let in.
    fn lets_in(&self, config: &BootConfig) -> Option<slipway_bus::guard::Admitted> {
        let admission = AgentAdmission {
            context: Arc::clone(&self.edge.context),
        };
        let applicant = Applicant {
            peer: (ATTACKER, 1).into(),
            certificate: None,
            client_id: format!("agent-{}", config.machine),
            login: Some((config.machine.to_string(), config.token.mqtt_password())),
        };
        admission.admit(&applicant).ok()
    }

    async fn until_told(&self, code: &str) {
        let told = |edge: &Edge| {
            let report = edge.report();
            report.is_some_and(|report| report.events.iter().any(|event| event.code == code))
        };
        let wait = async {
            while !told(&self.edge) {
                // What is seen is written with what else changes, and at the latest when time has passed.
                NOW.fetch_add(10, Ordering::Relaxed);
                let state = BmcState::of_power(Power::On, now());
                let machine = machine();
                self.edge.runner.tell(Input::Bmc { machine, state }).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, wait).await;
        assert!(
            waited.is_ok(),
            "no event {code}: {:?}",
            self.edge.report().map(|r| r.events)
        );
    }
}

/// Where a script says that the overlay is.
fn overlay_path(script: &str) -> String {
    let line = script
        .lines()
        .find(|line| line.contains("overlay.img ${base}"))
        .unwrap();
    let rest = line.split_once("${base}").unwrap().1;
    rest.split_once(' ').unwrap().0.to_owned()
}

fn boot_config(archive: &[u8]) -> BootConfig {
    let start = archive.windows(2).position(|two| two == b"{\"").unwrap();
    let mut values = serde_json::Deserializer::from_slice(&archive[start..]).into_iter::<BootConfig>();
    values.next().unwrap().unwrap()
}

/// Whoever asked for `/boot/{MAC}.ipxe` was given the machine's boot key, its overlay, and with the token in it its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_is_given_nothing_of_a_machine_s_boot() {
    let world = World::start().await;
    let theirs = world.script(ATTACKER).await;
    assert!(
        theirs.contains("boots its disk") && !theirs.contains("overlay"),
        "{theirs}"
    );
    world.until_told("not_the_machine").await;
    let own = world.script(VICTIM).await;
    let path = overlay_path(&own);
    assert_eq!(
        world.get(ATTACKER, &path).await.0,
        404,
        "a boot key that leaked opens nothing elsewhere"
    );
    let (status, archive) = world.get(VICTIM, &path).await;
    assert_eq!(status, 200);
    assert!(world.lets_in(&boot_config(&archive)).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_is_handed_out_once_a_boot_and_a_second_one_puts_the_first_out() {
    let world = World::start().await;
    let path = overlay_path(&world.script(VICTIM).await);
    let first = boot_config(&world.get(VICTIM, &path).await.1);
    let agent = world.lets_in(&first).unwrap();
    assert_eq!(
        world.get(VICTIM, &path).await.0,
        404,
        "while an agent is at work no boot is waited for"
    );
    world.until_told("agent_at_work").await;
    let leave = agent.leave.clone();
    drop(agent);
    let second = boot_config(&world.get(VICTIM, &path).await.1);
    assert_ne!(
        first.token.mqtt_password().reveal(),
        second.token.mqtt_password().reveal()
    );
    assert!(leave.is_cancelled(), "the former agent's connection is ended");
    assert!(world.lets_in(&first).is_none() && world.lets_in(&second).is_some());
    world.until_told("overlay_again").await;
}

/// Whoever fetched first and stays connected does not keep the machine itself out of the boots that are ordered later.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_is_ordered_puts_out_who_is_in_by_an_earlier_one() {
    let world = World::start().await;
    let path = overlay_path(&world.script(VICTIM).await);
    let first = boot_config(&world.get(VICTIM, &path).await.1);
    let stays = world.lets_in(&first).unwrap();
    world.edge.context.boots.boot_ordered(machine());
    assert!(stays.leave.is_cancelled());
    let (status, archive) = world.get(VICTIM, &path).await;
    assert_eq!(status, 200, "though the other one has not gone yet");
    assert!(world.lets_in(&first).is_none() && world.lets_in(&boot_config(&archive)).is_some());
    let report = world.edge.report().unwrap();
    assert!(!report.events.iter().any(|event| event.code == "overlay_again"));
}

/// As firmware and resumed downloads ask: slashes doubled, the head alone, a part.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_given_as_firmware_asks_for_them() {
    let world = World::start().await;
    let kernel: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::write(world._dir.path().join("vmlinuz"), &kernel).unwrap();
    let chunk = b"compressed".repeat(1000);
    let digest = slipway_protocol::ids::Digest::of(b"raw").to_string();
    let folder = world._dir.path().join("chunks").join(&digest[..2]);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(&digest), &chunk).unwrap();
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", world.server);
    for (path, whole) in [
        ("/liveos/vmlinuz".to_owned(), &kernel),
        ("//liveos///vmlinuz".to_owned(), &kernel),
        (format!("/chunks/{digest}"), &chunk),
        (format!("//chunks//{digest}"), &chunk),
    ] {
        assert_eq!(&world.get(VICTIM, &path).await.1, whole, "{path}");
        let head = http.head(url(&path)).send().await.unwrap();
        let length = head.headers()["content-length"].to_str().unwrap().to_owned();
        assert_eq!(
            (head.status().as_u16(), length),
            (200, whole.len().to_string()),
            "{path}"
        );
        for (range, part) in [
            ("bytes=0-99", &whole[..100]),
            ("bytes=4096-8191", &whole[4096..8192]),
            ("bytes=9000-", &whole[9000..]),
            ("bytes=-7", &whole[whole.len() - 7..]),
        ] {
            let answer = http.get(url(&path)).header("range", range).send().await.unwrap();
            assert_eq!(answer.status(), 206, "{path} {range}");
            assert_eq!(answer.bytes().await.unwrap(), part, "{path} {range}");
        }
        let beyond = http
            .get(url(&path))
            .header("range", "bytes=99999999-")
            .send()
            .await
            .unwrap();
        assert_eq!(beyond.status(), 416, "{path}");
    }
    let script = format!("//boot//{}.ipxe", PORT.hyphenated());
    assert!(world.get(VICTIM, &script).await.1.starts_with(b"#!ipxe"));
    assert_eq!(http.head(url("/liveos/none")).send().await.unwrap().status(), 404);
}

/// A box that stood still for seven minutes marked its machine for quarantine; one whose clock was set on did, too.
#[tokio::test(flavor = "multi_thread")]
async fn time_that_was_not_lived_through_fails_no_step() {
    let world = World::start().await;
    let path = overlay_path(&world.script(VICTIM).await);
    let agent = world
        .lets_in(&boot_config(&world.get(VICTIM, &path).await.1))
        .unwrap();
    // At its first attempt.
    let running = |report: &slipway_protocol::report::Report| {
        let step = report
            .steps
            .iter()
            .find(|step| step.id.to_string() == "inventory");
        step.is_some_and(|step| (step.state, step.attempt) == (StepState::Running, 1))
    };
    let turn = async || {
        let machine = machine();
        let state = BmcState::of_power(Power::On, now());
        world.edge.runner.tell(Input::Bmc { machine, state }).await;
        let (accepted, answer) = tokio::sync::oneshot::channel();
        let asks = Input::PhoneHome {
            machine,
            nonce: "none".to_owned(),
            text: String::new(),
            itself: false,
            accepted,
        };
        world.edge.runner.tell(asks).await;
        let _ = answer.await;
    };
    turn().await;
    assert!(
        running(&world.edge.report().unwrap()),
        "{:?}",
        world.edge.report()
    );
    for gap in [420, 700, 1500] {
        NOW.fetch_add(gap, Ordering::Relaxed);
        turn().await;
        assert!(
            running(&world.edge.report().unwrap()),
            "after {gap} s: {:?}",
            world.edge.report()
        );
    }
    // Silence that the edge heard, minute by minute, is silence.
    for _ in 0..11 {
        NOW.fetch_add(60, Ordering::Relaxed);
        turn().await;
    }
    assert!(
        !running(&world.edge.report().unwrap()),
        "{:?}",
        world.edge.report()
    );
    drop(agent);
}

/// A rescue's agent stays in after its job, and is put out by the next job.
#[tokio::test(flavor = "multi_thread")]
async fn the_agent_of_a_former_job_is_put_out_by_the_next_one() {
    let world = World::start().await;
    let path = overlay_path(&world.script(VICTIM).await);
    let first = boot_config(&world.get(VICTIM, &path).await.1);
    let stays = world.lets_in(&first).unwrap();
    let boots = &world.edge.context.boots;
    boots.end(machine()).unwrap();
    assert!(!stays.leave.is_cancelled() && world.lets_in(&first).is_none());
    boots
        .ensure(machine(), slipway_protocol::ids::JobId(uuid::Uuid::from_u128(77)))
        .unwrap();
    assert!(stays.leave.is_cancelled());
}

/// 200 script fetches a second in a machine's name slowed another machine's job from one second to 53.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_in_a_machine_s_name_costs_no_writes_and_nobody_waits_behind_it() {
    let world = World::start().await;
    let before = world.edge.context.ledger.report_revision(&machine().to_string());
    let sighting = |n: u32| Sighting {
        mac: PORT,
        address: VICTIM,
        unknown: false,
        event: TimelineEvent {
            at: now(),
            source: EventSource::Http,
            code: "script".to_owned(),
            text: format!("boot script {n}"),
        },
        system: n.is_multiple_of(2),
    };
    let flood = async {
        for n in 0..20_000 {
            // As the boot services do: what there is no room for is dropped.
            let _ = world.sightings.try_send(sighting(n));
            tokio::task::yield_now().await;
        }
    };
    let answered = async {
        for _ in 0..200 {
            let (accepted, answer) = oneshot::channel();
            let input = Input::PhoneHome {
                itself: false,
                machine: MachineId(uuid::Uuid::from_u128(99)),
                nonce: "x".to_owned(),
                text: String::new(),
                accepted,
            };
            world.edge.runner.tell(input).await;
            answer.await.unwrap();
        }
    };
    let both = async { tokio::join!(flood, answered) };
    tokio::time::timeout(LIMIT, both)
        .await
        .expect("others are answered meanwhile");
    let report = world.edge.report().unwrap();
    let scripts = report
        .events
        .iter()
        .filter(|event| event.code == "script")
        .count();
    assert!(scripts <= 10, "{scripts} of 20,000 repeats stand in the report");
    let after = world.edge.context.ledger.report_revision(&machine().to_string());
    // The clock stands still, so each write counts up by one.
    let written = after.unwrap_or(0) - before.unwrap_or(0);
    assert!(written <= 10, "{written} writes for 20,000 repeats");
    assert!(
        !report.steps.iter().any(|step| step.attempt > 1),
        "nothing was begun again on the word of the network: {:?}",
        report.steps
    );
}
