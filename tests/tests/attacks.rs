//! Attacks on the real binaries, from outside: a control plane and two edges as processes of their own, and somebody who has a place on
//! the provisioning network, a site's stolen box, a key that was taken back, or a file that is no image. Each was seen to succeed on the
//! binaries of before (`SLIPWAY_BINARIES` names others).

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};
use slipway_bus::{Client, Event, Options, tls};
use slipway_edge::identity::Identity;
use slipway_protocol::{
    ids::{JobId, MachineId},
    inventory::Inventory,
    keys::Stamp,
    report::{Outcome, Report},
    topic::Topic,
};
use slipway_tests::{
    fleet::{Database, Fleet, Spec},
    world::wait_for,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

const LIMIT: Duration = Duration::from_secs(20);
/// Somebody on the network of the first site who is none of its machines.
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 199, 0, 1);

async fn fleet() -> Fleet {
    let spec = Spec {
        sites: 2,
        machines: 2,
        replicas: 1,
        database: Database::Sqlite,
        seed: 1,
    };
    Fleet::start(spec).await.unwrap()
}

/// The stolen box of the second site, in other hands.
struct Stolen {
    identity: Identity,
    client: Client,
    _stop: DropGuard,
}

impl Stolen {
    async fn connect(fleet: &Fleet, subscriptions: &[&str]) -> Self {
        slipway_bus::tls::install_provider();
        fleet.edges[1].kill(&fleet.api).await;
        let identity = Identity::load(&fleet.folder().join("site-001")).unwrap();
        let stop = CancellationToken::new();
        let options = Options {
            client_id: identity.site.to_string(),
            host: identity.broker_host.clone(),
            port: identity.broker_port,
            tls: Some(tls::client_config(&identity.ca, Some(&identity.uplink_tls())).unwrap()),
            credentials: None,
            subscriptions: subscriptions.iter().map(ToString::to_string).collect(),
            will: None,
        };
        let (client, mut events) = Client::start(options, stop.clone());
        let connected = async { while events.recv().await.unwrap() != (Event::Connected {}) {} };
        // Whoever subscribes to what it may not is put out again and again.
        let connected = tokio::time::timeout(Duration::from_secs(5), connected).await;
        assert!(connected.is_ok() || !subscriptions.is_empty());
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        Self {
            identity,
            client,
            _stop: stop.drop_guard(),
        }
    }

    fn say<T: serde::Serialize>(&self, topic: &Topic, at: DateTime<Utc>, body: &T) {
        let stamp = Stamp {
            revision: at.timestamp_millis().cast_unsigned(),
            issued_at: at,
            expires_at: at.checked_add_signed(TimeDelta::days(1)).unwrap_or(at),
        };
        let payload = self.identity.signer().unwrap().seal(topic, stamp, body);
        self.client.publish(&topic.to_string(), payload).unwrap();
    }
}

/// Whether the first site's edge and the control plane still do their work: an install that is asked for now ends well.
async fn works(fleet: &Fleet) {
    let machine = machine_of_site_0(fleet, 0).await;
    let body = json!({ "name": "after", "site": "site-000", "image": "guest", "machine": machine["name"] });
    let accepted = fleet.api.post("/api/v1/instances", body).await.unwrap();
    let job = accepted["job"]["id"].as_str().unwrap();
    let job = fleet
        .api
        .wait_for_job(job, Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(job["state"], "done", "{job:#}");
    assert_eq!(fleet.ended(), Vec::<String>::new(), "no process ended");
}

async fn machine_of_site_0(fleet: &Fleet, index: usize) -> Value {
    let machines = fleet.api.get("/api/v1/machines?site=site-000").await.unwrap();
    machines["items"][index].clone()
}

/// Whoever asked for `/boot/{MAC}.ipxe` was given the machine's overlay, and with the token in it its order.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_given_nothing_of_a_boot_by_the_real_edge() {
    let fleet = fleet().await;
    let machine = machine_of_site_0(&fleet, 0).await;
    let mac = machine["macs"][0].as_str().unwrap().replace(':', "-");
    let body = json!({ "name": "victim", "site": "site-000", "image": "guest", "machine": machine["name"] });
    let accepted = fleet.api.post("/api/v1/instances", body).await.unwrap();
    let job = accepted["job"]["id"].as_str().unwrap().to_owned();
    let http = reqwest::Client::builder()
        .local_address(IpAddr::V4(STRANGER))
        .build()
        .unwrap();
    let url = format!("http://{}/boot/{mac}.ipxe", fleet.block.site(0).edge_http());
    let steal = async {
        let mut asked = 0;
        loop {
            let script = http.get(&url).send().await.unwrap().text().await.unwrap();
            assert!(!script.contains("overlay"), "after {asked} times: {script}");
            asked += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::select! {
        done = fleet.api.wait_for_job(&job, Duration::from_secs(60)) => done.unwrap(),
        () = steal => unreachable!("it goes on for ever"),
    };
    assert_eq!(done["state"], "done");
}

/// It overwrote that machine's report and inventory.
#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_box_says_nothing_of_another_sites_machine() {
    let fleet = fleet().await;
    let victim = machine_of_site_0(&fleet, 1).await;
    let id: MachineId = victim["id"].as_str().unwrap().parse().unwrap();
    let stolen = Stolen::connect(&fleet, &[]).await;
    let report = Report {
        machine: id,
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
    };
    let topic = Topic::Report(stolen.identity.site.clone(), id);
    stolen.say(&topic, Utc::now(), &report);
    // What it says of its own is heard after it, so that was handled.
    works(&fleet).await;
    let shown = fleet.api.get(&format!("/api/v1/machines/{id}")).await.unwrap();
    assert_ne!(shown["inventory"]["product"], "made up", "{shown:#}");
}

/// One hello from the year 262142 ended the control plane, and again after each restart.
#[tokio::test(flavor = "multi_thread")]
async fn a_hello_of_the_far_future_ends_no_real_control_plane() {
    let fleet = fleet().await;
    let stolen = Stolen::connect(&fleet, &[]).await;
    let topic = Topic::Hello(stolen.identity.site.clone());
    let digest = slipway_protocol::ids::Digest::of(b"nothing");
    let hello =
        json!({ "version": "1", "wire": [1, 1], "actions": [], "commands": digest, "reports": digest });
    for at in [
        DateTime::<Utc>::MAX_UTC,
        "+262142-12-31T23:59:59Z".parse().unwrap(),
    ] {
        stolen.say(&topic, at, &hello);
    }
    works(&fleet).await;
}

/// One SUBSCRIBE of a filter and of the same one as a shared filter ended the broker for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_doubled_filter_ends_no_real_broker() {
    let fleet = fleet().await;
    let stolen = Stolen::connect(
        &fleet,
        &["slipway/v1/site-001/cmd/#", "$share/g/slipway/v1/site-001/cmd/#"],
    )
    .await;
    works(&fleet).await;
    drop(stolen);
}

/// A stream that was open went on after its reader's key was taken back.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_key_of_its_reader() {
    let fleet = fleet().await;
    let key = json!({ "name": "ci", "permissions": ["events.read", "sites.read"] });
    let made = fleet.api.post("/api/v1/me/keys", key).await.unwrap();
    let secret = made["key"].as_str().unwrap();
    let url = format!("{}/api/v1/events?after=0", fleet.api.base());
    let mut stream = reqwest::Client::new()
        .get(url)
        .bearer_auth(secret)
        .header("Accept", "text/event-stream")
        .send()
        .await
        .unwrap()
        .error_for_status()
        .unwrap();
    let path = format!("/api/v1/me/keys/{}", made["id"].as_str().unwrap());
    fleet.api.call(Method::DELETE, &path, None).await.unwrap();
    let began = Instant::now();
    let ends = async { while let Ok(Some(_)) = stream.chunk().await {} };
    assert!(
        tokio::time::timeout(LIMIT, ends).await.is_ok(),
        "it goes on after {:?}",
        began.elapsed()
    );
}

fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |entry: std::fs::DirEntry| match entry.path().is_dir() {
        true => files_below(&entry.path()),
        false => 1,
    };
    entries.map(count).sum()
}

/// An upload that was refused after its last byte left all that it had sent on the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_upload_leaves_no_chunk_of_it() {
    let fleet = fleet().await;
    let chunks = fleet.folder().join("control-plane").join("chunks");
    let before = files_below(&chunks);
    assert!(before > 0, "the fleet's image lies at {}", chunks.display());
    let disk = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = (0..6_u32 << 20)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1])
        .collect();
    std::fs::write(disk.path(), bytes).unwrap();
    let refused = fleet.api.upload("guest", disk.path()).await;
    assert!(refused.is_err(), "its name is taken");
    let gone = || (files_below(&chunks) == before).then_some(());
    wait_for("what was refused is gone", LIMIT, gone).await.unwrap();
}
