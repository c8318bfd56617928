//! An owner who is locked out gets back in, on a real (virtual) machine with a real Debian: a new password, a rescue by
//! SSH, and an install anew that wipes the data disk.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{path::PathBuf, process::Command, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use slipway_lab::commands::{exec::Place, up::Spec};
use slipway_tests::world::{Parts, World, wait_for};

const LIMIT: Duration = Duration::from_secs(600);

struct Key {
    file: PathBuf,
    public: String,
}

fn key(world: &World) -> Key {
    let file = world.folder.join("key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&file)
        .status();
    assert!(made.unwrap().success());
    let public = std::fs::read_to_string(file.with_extension("pub")).unwrap();
    let public = public.trim().to_owned();
    Key { file, public }
}

/// What a command says in the LiveOS of the rescue.
async fn in_rescue(world: &World, key: &Key, command: &str) -> String {
    let instance = world.api.get("/api/v1/instances/home").await.unwrap();
    let address = instance["machine"]["address"].as_str().unwrap().to_owned();
    let login = || {
        let mut ssh = world.command(Place::Site, "ssh").unwrap();
        ssh.arg("-i").arg(&key.file);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "ConnectTimeout=5",
            "BatchMode=yes",
        ] {
            ssh.args(["-o", option]);
        }
        let output = ssh.arg(format!("root@{address}")).arg(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(said)
    };
    wait_for("a login into the LiveOS", Duration::from_secs(60), login)
        .await
        .unwrap()
}

/// Asks for work, sees it end well, and gives back what was accepted.
async fn work(world: &World, what: &str, body: Value) -> Value {
    let path = format!("/api/v1/instances/home/{what}");
    let accepted = world.api.call(Method::POST, &path, Some(body)).await.unwrap();
    let job = accepted["job"]["id"].as_str().unwrap();
    let job = world.api.wait_for_job(job, LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{what}: {job:#}\n{}", world.console(0));
    accepted
}

async fn state(world: &World) -> String {
    let instance = world.api.get("/api/v1/instances/home").await.unwrap();
    instance["state"].as_str().unwrap().to_owned()
}

/// The line of a user in the shadow file of the Debian on the disk, as the rescue finds it.
const SHADOW: &str = "for part in /dev/vda?; do mount -t ext4 -o ro $part /mnt 2>/dev/null && \
                      { cat /mnt/etc/shadow 2>/dev/null; umount /mnt; }; done | grep ^ops:";

fn check_hash(line: &str, password: &str) {
    let hash = line.split(':').nth(1).unwrap();
    let salt = hash.split('$').rev().nth(1).unwrap();
    let told = Command::new("openssl")
        .args(["passwd", "-6", "-salt", salt, password])
        .output();
    let told = String::from_utf8(told.unwrap().stdout).unwrap();
    let end = |hash: &str| hash.trim().rsplit('$').next().unwrap().to_owned();
    assert_eq!(end(hash), end(&told), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_is_locked_out_gets_back_in() {
    let spec = Spec {
        memory_mb: 768,
        disks: 2,
        ..Spec::default()
    };
    let at = "127.0.0.1:0".parse().unwrap();
    let world = World::start("t-owner", &spec, Parts::from_environment().unwrap(), at)
        .await
        .unwrap();
    let key = key(&world);
    world.upload_guest("debian").await.unwrap();
    world.upload_guest("tiny").await.unwrap();
    let disks = &world.lab.machines[0].disks;
    let more = json!({ "user": "ops", "ssh_keys": [key.public], "disk": { "serial": disks[0].serial } });
    let (_, job) = world.install("home", "debian", more).await.unwrap();
    let job = world.api.wait_for_job(&job, LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{:#}\n{}", job["failure"], world.console(0));

    let accepted = work(&world, "reset-password", json!({})).await;
    let password = accepted["password"].as_str().unwrap();
    assert_eq!(state(&world).await, "running");

    work(&world, "rescue", json!({})).await;
    assert_eq!(state(&world).await, "rescue");
    let first = in_rescue(&world, &key, "cat /proc/1/comm; id -u").await;
    assert_eq!(first, "init\n0\n", "the agent, and root");
    check_hash(&in_rescue(&world, &key, SHADOW).await, password);
    // What the data disk holds.
    in_rescue(&world, &key, "echo kept > /dev/vdb && sync").await;
    let held = || std::fs::read(&disks[1].path).unwrap();
    assert!(held().starts_with(b"kept\n"));

    work(&world, "start", json!({})).await;
    assert_eq!(state(&world).await, "running");
    let anew = json!({ "image": "tiny", "wipe_data_disks": true });
    work(&world, "reinstall", anew).await;
    assert!(
        held().iter().all(|byte| *byte == 0),
        "the data disk reads as zeros"
    );
    let audit = world
        .api
        .get("/api/v1/audit?limit=1000")
        .await
        .unwrap()
        .to_string();
    assert!(audit.contains("instance.reset_password") && !audit.contains(password));
}
