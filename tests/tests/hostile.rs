//! A hostile broker in the control plane's place: it has a certificate the edge trusts and says what it likes. No order
//! that was changed on the way is acted upon, nor an image that was.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use slipway_lab::commands::{exec::Place, up::Spec};
use slipway_tests::world::{Parts, World, wait_for};

const INSTALL_LIMIT: Duration = Duration::from_secs(300);

/// A server certificate by the stolen authority, for the central broker's address.
fn steal_certificate(folder: &Path, address: &str) {
    let authority = folder.join("control-plane");
    let script = format!(
        "openssl req -newkey rsa:2048 -nodes -subj /CN=broker -keyout broker.key -out broker.csr && \
         printf 'subjectAltName=IP:{address}\\nextendedKeyUsage=serverAuth\\n' > broker.ext && \
         openssl x509 -req -in broker.csr -CA {0}/ca.pem -CAkey {0}/ca.key -set_serial 7 -days 2 -extfile broker.ext -out broker.pem && \
         chmod 644 broker.key",
        authority.display()
    );
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

struct Hostile(Child);

impl Hostile {
    fn start(world: &World, address: &str) -> Self {
        let folder = world.folder.display();
        let config = format!(
            "user root\nlistener 8883 {address}\nallow_anonymous true\nrequire_certificate true\n\
             cafile {folder}/control-plane/ca.pem\ncertfile {folder}/broker.pem\nkeyfile {folder}/broker.key\n"
        );
        let path = world.folder.join("hostile.conf");
        std::fs::write(&path, config).unwrap();
        let mut command = world.command(Place::Centre, "mosquitto").unwrap();
        let child = command
            .arg("-c")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn a_changed_order_is_refused_and_counted_by_the_edge() {
    let at = "127.0.0.1:0".parse().unwrap();
    let mut world = World::start(
        "t-hostile",
        &Spec::default(),
        Parts::from_environment().unwrap(),
        at,
    )
    .await
    .unwrap();
    world.upload_guest("tiny").await.unwrap();
    let (_, job) = world.install("web-1", "tiny", json!({})).await.unwrap();
    let job = world.api.wait_for_job(&job, INSTALL_LIMIT).await.unwrap();
    assert_eq!(job["state"], "done", "{:#}", job["failure"]);

    // The true order, as the edge keeps it.
    let database = world.folder.join("edge/edge.db");
    let held = || {
        let query = "SELECT subject || ' ' || CAST(payload AS TEXT) FROM documents WHERE kind = 'order'";
        let output = Command::new("sqlite3")
            .arg(&database)
            .arg(query)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let before = held();
    let (machine, order) = before.split_once(' ').unwrap();
    let parsed: Value = serde_json::from_str(order).unwrap();
    assert_eq!(parsed["msg"]["revision"], 1);
    let changed = order.replacen(r#""revision":1"#, r#""revision":2"#, 1);
    assert_ne!(changed, order);

    world.kill_control_plane();
    let address = world.lab.centre_address.to_string();
    steal_certificate(&world.folder, &address);
    let identity: Value =
        serde_json::from_slice(&std::fs::read(world.folder.join("edge/identity.json")).unwrap()).unwrap();
    for (file, key) in [("edge.pem", "certificate"), ("edge.key", "key")] {
        std::fs::write(world.folder.join(file), identity[key].as_str().unwrap()).unwrap();
    }
    let _hostile = Hostile::start(&world, &address);
    let topic = format!("slipway/v1/bj-1/cmd/order/{machine}");
    let said_and_refused = || {
        let mut command = world.command(Place::Centre, "mosquitto_pub").unwrap();
        command.current_dir(&world.folder);
        command.args(["-h", &address, "-p", "8883", "--cafile", "control-plane/ca.pem"]);
        command.args([
            "--cert", "edge.pem", "--key", "edge.key", "-t", &topic, "-q", "1", "-m", &changed,
        ]);
        // The broker may not be up yet; it is said again until the edge has heard and refused it.
        let _ = command.output().unwrap();
        let refused = world
            .edge_metric("slipway_messages_refused_total", "bad_signature")
            .unwrap();
        (refused >= 1.0).then_some(())
    };
    wait_for(
        "the edge's refusal of a changed order",
        Duration::from_secs(90),
        said_and_refused,
    )
    .await
    .unwrap();
    assert_eq!(held(), before, "the true order is the one that holds");
}
