//! What goes wrong in the field, on the real thing: kills, a cut WAN, an ambiguous disk, tampered messages and images.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};
use slipway_edge::bmc::{BootDevice, PowerAction};
use slipway_lab::commands::{disk_hash::disk_hash, exec::Place, power, up::Spec};
use slipway_tests::world::{Parts, World};

const INSTALL_LIMIT: Duration = Duration::from_secs(300);

async fn world(name: &str, spec: &Spec) -> World {
    let at = "127.0.0.1:0".parse().unwrap();
    let world = World::start(name, spec, Parts::from_environment().unwrap(), at)
        .await
        .unwrap();
    world.upload_guest("tiny").await.unwrap();
    world
}

fn step<'a>(job: &'a Value, id: &str) -> &'a Value {
    job["steps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["id"] == id)
        .unwrap_or(&Value::Null)
}

/// Installed, and nothing that must happen once happened twice.
fn assert_installed_once(world: &World, job: &Value) {
    assert_eq!(job["state"], "done", "{:#}\n{}", job["failure"], world.console(0));
    for once in ["boot-network", "choose-disk", "write-image", "reboot"] {
        assert_eq!(step(job, once)["attempt"], 1, "{once}: {:#}", job["steps"]);
    }
    let events = job["events"].as_array().unwrap();
    let booted = events
        .iter()
        .filter(|e| e["source"] == "http" && e["code"] == "overlay")
        .count();
    assert_eq!(booted, 1, "the LiveOS was booted once");
    let console = world.console(0);
    assert_eq!(
        console.matches("GUESTOS-UP").count(),
        1,
        "the guest was booted once"
    );
}

async fn wait_for_step(world: &World, job: &str, id: &str) {
    let done = async {
        let mut revision = 0;
        loop {
            let path = format!("/api/v1/jobs/{job}?after_revision={revision}&wait_s=5");
            let found = world.api.get(&path).await.unwrap();
            if step(&found, id)["state"] == "done" {
                return;
            }
            revision = found["revision"].as_u64().unwrap_or_default();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), done).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_disk_is_refused_by_name_and_nothing_is_written() {
    let world = world(
        "t-disk",
        &Spec {
            disks: 2,
            disk_gb: 1,
            ..Spec::default()
        },
    )
    .await;
    let hashes = || [1, 2].map(|disk| disk_hash(&world.id, "m1", disk).unwrap());
    let before = hashes();
    let (instance, job) = world
        .install("disk-1", "tiny", json!({ "disk": { "min_bytes": 1000 } }))
        .await
        .unwrap();
    let job = world.api.wait_for_job(&job, INSTALL_LIMIT).await.unwrap();
    assert_eq!(job["state"], "failed");
    assert_eq!(job["failure"]["code"], "disk_ambiguous");
    let message = job["failure"]["message"].as_str().unwrap();
    assert!(
        message.contains("DISK-m1-1") && message.contains("DISK-m1-2"),
        "{message}"
    );
    assert_eq!(step(&job, "write-image")["state"], "pending");
    assert_eq!(hashes(), before, "nothing on either disk changed");
    let instance = world
        .api
        .get(&format!("/api/v1/instances/{}", instance["id"].as_str().unwrap()))
        .await
        .unwrap();
    assert_eq!(instance["state"], "failed");
    // Named by its serial, the second disk is written and the first is not.
    let released = world
        .api
        .call(reqwest::Method::DELETE, "/api/v1/instances/disk-1", None)
        .await
        .unwrap();
    world
        .api
        .wait_for_job(released["job"]["id"].as_str().unwrap(), INSTALL_LIMIT)
        .await
        .unwrap();
    let (_, second) = world
        .install("disk-2", "tiny", json!({ "disk": { "serial": "DISK-m1-1" } }))
        .await
        .unwrap();
    let second = world.api.wait_for_job(&second, INSTALL_LIMIT).await.unwrap();
    assert_eq!(second["state"], "done", "{:#}", second["failure"]);
    assert_eq!(second["disk"]["serial"], "DISK-m1-1");
    let after = hashes();
    assert!(
        after[0] != before[0] && after[1] == before[1],
        "only the disk that was named"
    );
}

/// A plain MQTT tool at the site that has subscribed, and the messages it hears until it is killed.
fn listen(world: &World) -> (Child, JoinHandle<Vec<String>>) {
    // Its debug messages say when it has; a pipe's buffer would keep them back.
    let mut listener = world
        .command(Place::Site, "stdbuf")
        .unwrap()
        .args([
            "-oL",
            "mosquitto_sub",
            "-h",
            "127.0.0.1",
            "-d",
            "-v",
            "-t",
            "slipway/#",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(listener.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let subscribed = lines.any(|line| line.starts_with("Subscribed"));
    assert!(subscribed, "the tool ended before it had subscribed");
    let heard = std::thread::spawn(move || lines.filter(|line| line.starts_with("slipway/")).collect());
    (listener, heard)
}

#[tokio::test(flavor = "multi_thread")]
async fn people_read_the_messages_and_flipped_bytes_are_refused_and_counted() {
    let world = world("t-flip", &Spec::default()).await;
    let (mut listener, heard) = listen(&world);
    let (_, job) = world.install("flip-1", "tiny", json!({})).await.unwrap();
    let job = world.api.wait_for_job(&job, INSTALL_LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{:#}", job["failure"]);
    listener.kill().unwrap();
    listener.wait().unwrap();
    let heard = heard.join().unwrap();
    let line = |part: &str| {
        let found = heard.iter().find(|line| line.contains(part));
        found.unwrap_or_else(|| panic!("{part} in {heard:#?}"))
    };
    let (order_topic, order) = line("/cmd/order/").split_once(' ').unwrap();
    assert!(
        order.contains(r#""do":"agent_write_image""#),
        "a person can read the order"
    );
    let password = world.lab.bmc_password.as_str();
    assert!(
        !heard.iter().any(|line| line.contains(password)),
        "and no password"
    );
    let (report_topic, report) = line("/evt/report/").split_once(' ').unwrap();
    assert!(report.contains(r#""state":"done""#) || report.contains(r#""state":"running""#));

    flipped_report_is_counted(&world, &job, (report_topic, report), (order_topic, order)).await;
}

/// Puts a flipped report in by the hand that holds the keys, the edge's own certificate at the central broker.
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn flipped_report_is_counted(
    world: &World,
    job: &Value,
    (report_topic, report): (&str, &str),
    (order_topic, order): (&str, &str),
) {
    let identity: Value =
        serde_json::from_slice(&std::fs::read(world.folder.join("edge/identity.json")).unwrap()).unwrap();
    let write = |name: &str, text: &Value| {
        let path = world.folder.join(name);
        std::fs::write(&path, text.as_str().unwrap()).unwrap();
        path.display().to_string()
    };
    let (ca, certificate, key) = (
        write("ca.pem", &identity["ca"]),
        write("edge.pem", &identity["certificate"]),
        write("edge.key", &identity["key"]),
    );
    let flipped = report
        .replacen(r#""state":"done""#, r#""state":"gone""#, 1)
        .replacen(r#""attempt":1"#, r#""attempt":2"#, 1);
    assert_ne!(flipped, report);
    let publish = |topic: &str, payload: &str| {
        let centre = world.lab.centre_address.to_string();
        let mut command = world.command(Place::Site, "mosquitto_pub").unwrap();
        command.args([
            "-h",
            &centre,
            "-p",
            "8883",
            "--cafile",
            &ca,
            "--cert",
            &certificate,
            "--key",
            &key,
        ]);
        command
            .args(["-i", "bj-1", "-t", topic, "-m", payload, "-q", "1"])
            .output()
            .unwrap()
    };
    let refused = async || {
        let page = world.api.get("/metrics").await.unwrap();
        slipway_tests::world::metric(
            page.as_str().unwrap(),
            "slipway_messages_refused_total",
            "bad_signature",
        )
    };
    assert_eq!(refused().await, 0.0);
    assert!(publish(report_topic, &flipped).status.success());
    let limit = tokio::time::Instant::now() + Duration::from_secs(20);
    while refused().await < 1.0 {
        assert!(
            tokio::time::Instant::now() < limit,
            "the flipped report was not counted"
        );
    }
    let unchanged = world
        .api
        .get(&format!("/api/v1/jobs/{}", job["id"].as_str().unwrap()))
        .await
        .unwrap();
    assert_eq!(unchanged["steps"], job["steps"], "and changed nothing");
    // An edge's certificate opens no door to commands: not even its own site's.
    publish(order_topic, order);
    let page = world.api.get("/metrics").await.unwrap();
    let at_the_door =
        slipway_tests::world::metric(page.as_str().unwrap(), "slipway_broker_refused_total", "publish");
    assert!(
        at_the_door >= 1.0,
        "a command from an edge is refused at the broker"
    );
}

/// Kills of the edge (and the site's broker with it) and the control plane (and the central broker with it) in turn, each
/// during an install: one kill each.
#[tokio::test(flavor = "multi_thread")]
async fn kills_of_every_process_during_installs_end_installed() {
    installs_with_kills([1, 5, 9]).await;
}

/// The same at ten moments spread over an install.
#[tokio::test(flavor = "multi_thread")]
async fn long_kills_at_ten_moments_end_installed() {
    installs_with_kills(0..10).await;
}

async fn installs_with_kills(rounds: impl IntoIterator<Item = u64>) {
    let mut world = world("t-kill", &Spec::default()).await;
    for round in rounds {
        let name = format!("kill-{round}");
        let (_, job) = world.install(&name, "tiny", json!({})).await.unwrap();
        // Moments from "just dispatched" to "guest booting", some 0.2 to 9.4 s after the request.
        tokio::time::sleep(Duration::from_millis(200 + round * 1020)).await;
        match round % 3 {
            0 => {
                world.kill_edge();
                world.start_edge().unwrap();
            }
            1 => {
                world.kill_control_plane();
                world.start_control_plane().unwrap();
            }
            _ => {
                world.kill_edge();
                world.kill_control_plane();
                world.start_control_plane().unwrap();
                world.start_edge().unwrap();
            }
        }
        let job = world.api.wait_for_job(&job, INSTALL_LIMIT).await.unwrap();
        assert_eq!(
            job["state"],
            "done",
            "round {round}: {:#}\n{}",
            job["failure"],
            world.console(0)
        );
        for once in ["choose-disk", "write-image", "reboot"] {
            assert_eq!(
                step(&job, once)["attempt"],
                1,
                "round {round}, {once}: {:#}",
                job["steps"]
            );
        }
        let events = job["events"].as_array().unwrap();
        let booted = events
            .iter()
            .filter(|e| e["source"] == "http" && e["code"] == "overlay")
            .count();
        assert!(booted <= 1, "round {round}: the LiveOS was booted {booted} times");
        release(&world, &name).await;
    }
}

/// The disk holds a system. Another hand resets the machine to it between the edge's reset and the LiveOS, as firmware
/// goes on to the disk by itself when the edge is away at the wrong moment. That the machine asks for an address as a system does
/// shows nothing, since anybody can ask in its name; that its former system phones home from the machine's own port does.
#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_goes_astray_is_repeated() {
    let world = world("t-astray", &Spec::default()).await;
    let (_, job) = world.install("first", "tiny", json!({})).await.unwrap();
    let job = world.api.wait_for_job(&job, INSTALL_LIMIT).await.unwrap();
    assert_installed_once(&world, &job);
    release(&world, "first").await;
    let (_, job) = world.install("astray", "tiny", json!({})).await.unwrap();
    wait_for_step(&world, &job, "boot-network").await;
    power::boot(&world.id, "m1", BootDevice::Disk).unwrap();
    power::power(&world.id, "m1", PowerAction::Reset).unwrap();
    let job = world.api.wait_for_job(&job, INSTALL_LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{:#}\n{:#}", job["failure"], job["events"]);
    assert_eq!(step(&job, "boot-network")["attempt"], 2, "{:#}", job["steps"]);
    assert_eq!(step(&job, "write-image")["attempt"], 1, "{:#}", job["steps"]);
}

async fn release(world: &World, name: &str) {
    let path = format!("/api/v1/instances/{name}");
    let released = world
        .api
        .call(reqwest::Method::DELETE, &path, None)
        .await
        .unwrap();
    let job = released["job"]["id"].as_str().unwrap();
    let job = world.api.wait_for_job(job, INSTALL_LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{name}: {:#}", job["failure"]);
}
