//! What the edge of another site says, with its own key and on its own topics: about machines of others, by a clock of the far
//! future, and more than anybody can hold. It is refused by a code before anything of it is kept.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use slipway_bus::{Client, Event, Options, tls};
use slipway_edge::identity::Identity;
use slipway_protocol::{
    ids::{Digest, JobId, MachineId},
    inventory::{Inventory, Nic},
    keys::Stamp,
    limits::{MAX_CLOCK_AHEAD, MAX_INVENTORY_BYTES},
    log::{LogTold, MAX_TOLD},
    report::{LogChunk, MachineSeen, Outcome, Presence, Report},
    sync::{Held, Hello, Lists},
    topic::{Kind, Topic},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::{
    MESSAGES_REFUSED,
    world::{Broker, LIMIT, World},
};
use crate::common::program;

/// The box of site bj-2, in the hands of somebody who lies.
struct Liar {
    identity: Identity,
    client: Client,
    _stop: DropGuard,
}

impl Liar {
    async fn connect(world: &World) -> Self {
        let identity = world.neighbour.clone();
        let stop = CancellationToken::new();
        let options = Options {
            client_id: identity.site.to_string(),
            host: identity.broker_host.clone(),
            port: identity.broker_port,
            tls: Some(tls::client_config(&identity.ca, Some(&identity.uplink_tls())).unwrap()),
            credentials: None,
            subscriptions: Vec::new(),
            will: None,
        };
        let (client, mut events) = Client::start(options, stop.clone());
        let connected = async { while events.recv().await.unwrap() != (Event::Connected {}) {} };
        tokio::time::timeout(LIMIT, connected).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        Self {
            identity,
            client,
            _stop: stop.drop_guard(),
        }
    }

    fn say<T: Serialize>(&self, topic: &Topic, stamp: Stamp, body: &T) {
        let payload = self.identity.signer().unwrap().seal(topic, stamp, body);
        self.client.publish(&topic.to_string(), payload).unwrap();
    }

    fn report_topic(&self, machine: MachineId) -> Topic {
        Topic::Report(self.identity.site.clone(), machine)
    }

    fn hello_topic(&self) -> Topic {
        Topic::Hello(self.identity.site.clone())
    }
}

fn stamp(at: DateTime<Utc>) -> Stamp {
    Stamp {
        revision: at.timestamp_millis().cast_unsigned(),
        issued_at: at,
        expires_at: at.checked_add_signed(TimeDelta::days(1)).unwrap_or(at),
    }
}

fn now() -> Stamp {
    stamp(Utc::now())
}

/// A report that says that the machine is a very large one.
fn report(machine: MachineId) -> Report {
    Report {
        machine,
        job: JobId(Uuid::new_v4()),
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Running,
        steps: Vec::new(),
        disk: None,
        inventory: Some(Inventory {
            product: Some("made up".to_owned()),
            ..Inventory::default()
        }),
        agent: None,
        events: Vec::new(),
        hardware_faults: Vec::new(),
        local: Vec::new(),
        bmc: None,
    }
}

fn hello() -> Hello {
    Hello {
        version: "1".to_owned(),
        wire: (1, 1),
        actions: Vec::new(),
        commands: Digest::of(b"something"),
        reports: Digest::of(b"else"),
        starting: true,
        leases: None,
        lists: None,
        logs: Vec::new(),
        run: None,
        proof: None,
    }
}

async fn make_machine(world: &World, name: &str, site: &str, mac: &str) -> MachineId {
    let bmc =
        json!({ "driver": "ipmi", "address": "127.0.0.1:9", "username": "admin", "password": "hunter2" });
    let body = json!({ "name": name, "site": site, "macs": [mac], "firmware": "uefi", "bmc": bmc });
    let (status, made) = world.post("/api/v1/machines", body).await;
    assert!(status.is_success(), "{made}");
    made["id"].as_str().unwrap().parse().unwrap()
}

async fn get(world: &World, path: &str) -> Value {
    program::call(&world.place, &world.key, path, None).await.1
}

/// Waits until one more message was refused by that code than `before`, while the honest edge is answered.
async fn until_refused(world: &mut World, code: &str, before: f64) {
    let label = format!("code=\"{code}\"");
    let limit = tokio::time::Instant::now() + LIMIT;
    while world.counter(MESSAGES_REFUSED, &label).await <= before {
        assert!(
            tokio::time::Instant::now() < limit,
            "nothing was refused as {code}: {}",
            world.log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(world.honest.is_answered(LIMIT).await, "others are served");
}

async fn refused_so_far(world: &World, code: &str) -> f64 {
    world.counter(MESSAGES_REFUSED, &format!("code=\"{code}\"")).await
}

const VICTIM: &str = "52:54:00:00:00:01";

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_is_refused_what_it_says_of_machines_of_another_site() {
    let mut world = World::start(Broker::Embedded).await;
    let victim = make_machine(&world, "m1", "bj-1", VICTIM).await;
    let stranger = MachineId(Uuid::new_v4());
    let liar = Liar::connect(&world).await;
    for machine in [victim, stranger] {
        let before = refused_so_far(&world, "not_its_machine").await;
        liar.say(&liar.report_topic(machine), now(), &report(machine));
        until_refused(&mut world, "not_its_machine", before).await;
    }
    let before = refused_so_far(&world, "not_its_machine").await;
    let seen = MachineSeen {
        at: Utc::now(),
        address: "192.0.2.9".parse().unwrap(),
        inventory: report(victim).inventory,
    };
    let sighting = Topic::Machine(liar.identity.site.clone(), VICTIM.parse().unwrap());
    liar.say(&sighting, now(), &seen);
    until_refused(&mut world, "not_its_machine", before).await;
    let before = refused_so_far(&world, "not_its_job").await;
    let chunk = LogChunk {
        job: JobId(Uuid::new_v4()),
        boot: None,
        offset: 0,
        text: "made up\n".to_owned(),
    };
    liar.say(&Topic::Log(liar.identity.site.clone(), victim), now(), &chunk);
    until_refused(&mut world, "not_its_job", before).await;

    let shown = get(&world, "/api/v1/machines/m1").await;
    assert_eq!(shown["inventory"], Value::Null, "nothing of it was kept: {shown}");
    let discovered = get(&world, "/api/v1/discovered").await;
    assert_eq!(discovered["items"], json!([]), "{discovered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_of_the_far_future_silences_nobody() {
    let mut world = World::start(Broker::Embedded).await;
    let machine = make_machine(&world, "m2", "bj-2", "52:54:00:00:00:02").await;
    let liar = Liar::connect(&world).await;
    let limit = Utc::now() + MAX_CLOCK_AHEAD;
    let in_a_year = Utc::now() + TimeDelta::days(365);
    let numbered = |revision| Stamp { revision, ..now() };
    for (stamp, code) in [
        (stamp(limit + TimeDelta::minutes(1)), "clock_ahead"),
        (stamp(in_a_year), "clock_ahead"),
        (numbered(1 << 62), "clock_ahead"),
        (numbered(u64::MAX), "clock_ahead"),
        (stamp(DateTime::<Utc>::MAX_UTC), "out_of_bounds"),
    ] {
        let before = refused_so_far(&world, code).await;
        liar.say(&liar.report_topic(machine), stamp, &report(machine));
        until_refused(&mut world, code, before).await;
    }
    let shown = get(&world, "/api/v1/machines/m2").await;
    assert_eq!(shown["inventory"], Value::Null, "nothing of it was kept: {shown}");

    let honest = report(machine);
    liar.say(&liar.report_topic(machine), now(), &honest);
    let limit = tokio::time::Instant::now() + LIMIT;
    while get(&world, "/api/v1/machines/m2").await["inventory"]["product"] != "made up" {
        assert!(tokio::time::Instant::now() < limit, "an honest word is not heard");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An inventory of about so many bytes.
fn inventory_of(bytes: usize) -> Inventory {
    let nic = Nic {
        name: "n".repeat(1024),
        mac: VICTIM.parse().unwrap(),
        speed_mbit: None,
        link: true,
        neighbour: None,
    };
    Inventory {
        nics: vec![nic; bytes / 1024],
        ..Inventory::default()
    }
}

/// A hello of the year 262142 ended the control plane, and did so again after each restart.
#[tokio::test(flavor = "multi_thread")]
async fn no_message_of_an_edge_ends_the_control_plane() {
    let mut world = World::start(Broker::Embedded).await;
    let machine = make_machine(&world, "m2", "bj-2", "52:54:00:00:00:02").await;
    let liar = Liar::connect(&world).await;
    let says = async |world: &mut World, body: &Hello, stamp: Stamp, code: &str| {
        let before = refused_so_far(world, code).await;
        liar.say(&liar.hello_topic(), stamp, body);
        until_refused(world, code, before).await;
    };
    for at in [
        DateTime::<Utc>::MAX_UTC,
        "+262142-12-31T23:59:59Z".parse().unwrap(),
        "+10000-01-01T00:00:00Z".parse().unwrap(),
        "-0001-01-01T00:00:00Z".parse().unwrap(),
    ] {
        says(&mut world, &hello(), stamp(at), "out_of_bounds").await;
    }
    let told = |start, sent| LogTold {
        job: JobId(Uuid::nil()),
        start,
        sent,
    };
    for logs in [
        vec![told(u64::MAX, u64::MAX)],
        vec![told(0, 1 << 53)],
        vec![told(0, 1); MAX_TOLD + 1],
    ] {
        says(&mut world, &Hello { logs, ..hello() }, now(), "out_of_bounds").await;
    }
    for bytes in [MAX_INVENTORY_BYTES, 100 * 1024, 3 * 1024 * 1024] {
        let before = refused_so_far(&world, "out_of_bounds").await;
        let large = Report {
            inventory: Some(inventory_of(bytes)),
            ..report(machine)
        };
        liar.say(&liar.report_topic(machine), now(), &large);
        until_refused(&mut world, "out_of_bounds", before).await;
    }
    let shown = get(&world, "/api/v1/machines/m2").await;
    assert_eq!(shown["inventory"], Value::Null, "nothing of it was kept: {shown}");
    numbers_that_were_never_given_out_are_not_believed(&mut world, &liar).await;
}

/// Nothing is numbered above what an edge only says that it holds.
async fn numbers_that_were_never_given_out_are_not_believed(world: &mut World, liar: &Liar) {
    let lists = Lists {
        commands: vec![Held {
            kind: Kind::Config,
            subject: "-".to_owned(),
            revision: (1 << 53) - 1,
        }],
        reports: Vec::new(),
        leases: Vec::new(),
    };
    let lists = Some(lists);
    liar.say(
        &liar.hello_topic(),
        now(),
        &Hello {
            lists,
            starting: false,
            ..hello()
        },
    );
    liar.say(
        &Topic::Presence(liar.identity.site.clone()),
        now(),
        &Presence { online: true },
    );
    assert!(world.honest.is_answered(LIMIT).await);
    let site = get(world, "/api/v1/sites/bj-2").await;
    assert!(site["revision"].as_u64().unwrap() < 1 << 40, "{site}");
}
