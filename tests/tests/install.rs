//! The main story, in BIOS and in UEFI: a blank machine becomes a running Debian over real IPMI, PXE, TFTP, HTTP and
//! MQTT, and takes a login over its network.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use slipway_lab::{
    commands::{exec::Place, up::Spec},
    state::MachineFirmware,
    switch,
};
use slipway_tests::{
    timeline,
    world::{Parts, World, wait_for},
};

const INSTALL_LIMIT: Duration = Duration::from_secs(600);

async fn world(name: &str, firmware: MachineFirmware) -> World {
    let spec = Spec {
        machines: 1,
        firmware: vec![firmware],
        memory_mb: 768,
        ..Spec::default()
    };
    World::start(
        name,
        &spec,
        Parts::from_environment().unwrap(),
        "127.0.0.1:0".parse().unwrap(),
    )
    .await
    .unwrap()
}

/// The machine is known to be at its port of the switch, by the switch's own word.
async fn assert_cabled(world: &World, machine: &str) {
    let machine = world
        .api
        .get(&format!("/api/v1/machines/{machine}"))
        .await
        .unwrap();
    let neighbour = &machine["inventory"]["nics"][0]["neighbour"];
    let port = switch::port_of(&world.lab.machines[0]);
    assert_eq!(neighbour["system"], switch::NAME, "{machine:#}");
    assert_eq!(
        (&neighbour["port"], &neighbour["vlan"]),
        (&json!(port), &json!(100))
    );
}

/// Installs Debian and logs in by SSH with the key of the request.
/// `user_data` is the tenant's; `said` is what the system answers to who it is.
async fn debian_comes_up(world: &World, user_data: Option<&str>, said_to_be: &str) -> Value {
    let key_file = world.folder.join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key_file)
        .status();
    assert!(made.unwrap().success());
    let key = std::fs::read_to_string(key_file.with_extension("pub")).unwrap();
    world.upload_guest("debian").await.unwrap();
    let more = json!({ "ssh_keys": [key.trim()], "user": "ops", "user_data": user_data });
    let (instance, job) = world.install("web-1", "debian", more).await.unwrap();
    let job = world.api.wait_for_job(&job, INSTALL_LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{:#}\n{}", job["failure"], world.console(0));
    println!("{}", timeline::table(&job));
    let instance = world
        .api
        .get(&format!("/api/v1/instances/{}", instance["id"].as_str().unwrap()))
        .await
        .unwrap();
    assert_eq!(instance["state"], "running");
    assert_cabled(world, instance["machine"]["id"].as_str().unwrap()).await;
    let address = instance["machine"]["address"].as_str().unwrap().to_owned();
    let login = || {
        let output = world
            .command(Place::Site, "ssh")
            .unwrap()
            .arg("-i")
            .arg(&key_file)
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "ConnectTimeout=5",
            ])
            .args([
                "-o",
                "BatchMode=yes",
                &format!("ops@{address}"),
                "hostname; sudo -n id -u; id -un tenant; sudo -n cat /run/tenant",
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.contains('\n').then_some(said)
    };
    let said = wait_for("a login by SSH", Duration::from_secs(60), login)
        .await
        .unwrap();
    assert_eq!(
        said, said_to_be,
        "the host name asked for, sudo, and what the tenant's user-data did"
    );
    job
}

/// The job's log holds what the agent said on the machine's console, from its boot on, and what the edge did.
async fn its_log_tells(world: &World, job: &Value) {
    let (mut log, mut after, mut ended) = (String::new(), 0, false);
    while !ended {
        let path = format!(
            "/api/v1/jobs/{}/log?after={after}&wait_s=20",
            job["id"].as_str().unwrap()
        );
        let part = world.api.get(&path).await.unwrap();
        log.push_str(part["text"].as_str().unwrap());
        assert_eq!(part["missing"], 0, "{log}");
        (after, ended) = (part["next"].as_u64().unwrap(), part["ended"] == true);
    }
    let line = |who: &str, said: &str| {
        let found = log
            .lines()
            .any(|line| line.starts_with(who) && line.contains(said));
        assert!(found, "{who} did not say `{said}`:\n{log}");
    };
    line("agent ", "Slipway LiveOS");
    line("agent ", "network is up");
    line("agent ", "step done step=write-image");
    line("edge ", "step done step=boot-network");
    line("edge ", "the job is done");
}

/// A tenant that makes a user and has its systems reported to itself: neither takes the place of ours.
const TENANTS: &str = "\u{feff}
#cloud-config
users:
  - name: tenant
    shell: /bin/sh
phone_home:
  url: http://127.0.0.1:9/
  tries: 1
runcmd:
  - echo by runcmd > /run/tenant
";

#[tokio::test(flavor = "multi_thread")]
async fn debian_on_bios() {
    let world = world("t-bios", MachineFirmware::Bios).await;
    let job = debian_comes_up(&world, None, "web-1\n0\n").await;
    its_log_tells(&world, &job).await;
    let released = world
        .api
        .call(reqwest::Method::DELETE, "/api/v1/instances/web-1", None)
        .await
        .unwrap();
    let job = world
        .api
        .wait_for_job(released["job"]["id"].as_str().unwrap(), Duration::from_secs(60))
        .await
        .unwrap();
    assert_eq!(job["state"], "done");
    let machine = world.api.get("/api/v1/machines/m1").await.unwrap();
    assert_eq!(machine["state"], "available");
    let power = slipway_lab::commands::status::status(&world.id).unwrap().machines[0].power;
    assert_eq!(format!("{power:?}"), "Off", "a released machine is switched off");
}

#[tokio::test(flavor = "multi_thread")]
async fn debian_on_uefi() {
    let world = world("t-uefi", MachineFirmware::Uefi).await;
    let job = debian_comes_up(&world, Some(TENANTS), "web-1\n0\ntenant\nby runcmd\n").await;
    let events = job["events"].as_array().unwrap();
    assert!(
        events
            .iter()
            .any(|e| e["source"] == "tftp" && e["code"] == "file"),
        "UEFI loads iPXE by TFTP"
    );
    assert_eq!(job["steps"].as_array().unwrap().len(), 11);
}
