//! A BMC gets a new password: a real control plane, the edge's own parts, and a BMC that speaks IPMI over UDP. The edge is killed
//! where it hurts most.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_control_plane::store::Store;
use slipway_edge::{
    bmc::{
        Bmc as _, Drivers,
        ipmi::{Credentials, IpmiBmc, Timing},
    },
    identity::Identity,
};
use slipway_lab::bmc::{self, Faults, MemoryChassis, Passwords, Users};
use slipway_protocol::ids::MachineId;
use tempfile::TempDir;
use tokio::{net::UdpSocket, runtime::Runtime};

use crate::{
    common::server::{Server, on_each_server},
    cut_off::{installed, start_edge, until},
    edges::join,
};

const OLD: &str = "bmc-secret";

/// A machine's BMC.
struct World {
    users: Users,
    faults: Arc<Faults>,
    address: SocketAddr,
}

impl World {
    /// A site with a machine that an instance runs on.
    async fn make(server: &Server) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (users, faults) = (Users::administrator("admin", OLD), Arc::new(Faults::default()));
        let chassis = Arc::new(MemoryChassis::default());
        let serve = bmc::serve_with_faults(socket, users.clone(), chassis, Arc::clone(&faults));
        tokio::spawn(serve);
        server.make_site("bj-1").await;
        let bmc = json!({ "driver": "ipmi", "address": address, "username": "admin", "password": OLD });
        let body = json!({ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01"], "firmware": "uefi", "bmc": bmc });
        let (status, made) = server.post("/api/v1/machines", body).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        let machine: MachineId = made["id"].as_str().unwrap().parse().unwrap();
        let store = Store::open(&server.database_url).await.unwrap();
        store.transaction(move |db| installed(db, machine)).await.unwrap();
        Self {
            users,
            faults,
            address,
        }
    }

    /// What the BMC has for a password.
    fn password(&self) -> String {
        self.users.numbered(2).unwrap().password
    }

    async fn opens(&self, password: &str) -> bool {
        let credentials = Credentials::new("admin", password);
        let client = IpmiBmc::new(self.address, credentials, Timing::default());
        let opens = client.power_state().await.is_ok();
        client.close().await;
        opens
    }
}

/// An edge's process.
struct Edge(Option<Runtime>);

impl Edge {
    async fn start(identity: &Identity, dir: &TempDir) -> Self {
        let runtime = Runtime::new().unwrap();
        let (identity, dir) = (identity.clone(), dir.path().to_owned());
        let started = runtime.spawn(async move {
            let stop = start_edge(
                &identity,
                &dir,
                identity.broker_port,
                Arc::new(Drivers::default()),
            );
            std::mem::forget(stop);
        });
        started.await.unwrap();
        Self(Some(runtime))
    }

    /// Nothing of it runs on, and nothing is put in order.
    async fn kill(mut self) {
        let runtime = self.0.take().unwrap();
        let end = tokio::task::spawn_blocking(move || runtime.shutdown_timeout(Duration::from_secs(10)));
        end.await.unwrap();
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

async fn rotate(server: &Server) -> String {
    let (status, job) = server
        .call(Method::POST, "/api/v1/machines/m1/bmc-password", None)
        .await;
    assert_eq!(status, StatusCode::ACCEPTED, "{job}");
    assert_eq!(
        (&job["kind"], &job["instance"], &job["state"]),
        (&json!("rotate_bmc_password"), &Value::Null, &json!("running"))
    );
    job["id"].as_str().unwrap().to_owned()
}

async fn ended(server: &Server, job: &str) -> Value {
    let path = format!("/api/v1/jobs/{job}");
    let is_final = async || !matches!(server.get(&path).await["state"].as_str(), Some("running"));
    until("the job ends", is_final).await;
    server.get(&path).await
}

#[test]
fn a_bmc_gets_a_new_password_whenever_the_edge_is_killed() {
    on_each_server(story);
}

async fn story(server: &Server) {
    let world = World::make(server).await;
    let (identity, dir) = join(server).await;
    let edge = Edge::start(&identity, &dir).await;
    let online = async || server.get("/api/v1/sites/bj-1").await["online"] == true;
    until("the site is online", online).await;

    // Killed when the BMC has the new password, and nobody has heard so.
    world.faults.passwords(Passwords::HangUp);
    let job = rotate(server).await;
    until("the BMC has it", async || world.password() != OLD).await;
    edge.kill().await;
    let machine = server.get("/api/v1/machines/m1").await;
    assert_eq!(
        (&machine["bmc_password_unsettled"], &machine["state"]),
        (&json!(true), &json!("allocated"))
    );
    assert!(!world.opens(OLD).await);
    let edge = Edge::start(&identity, &dir).await;
    let done = ended(server, &job).await;
    assert_eq!(done["state"], "done", "{done}");
    assert_eq!(
        server.get("/api/v1/machines/m1").await["bmc_password_unsettled"],
        false
    );
    let first = world.password();
    assert_eq!((first.len(), world.faults.failed_logins()), (16, 0));

    // The instance goes on, and its work goes by the new password.
    assert_eq!(server.get("/api/v1/instances/i1").await["state"], "running");
    restart(server).await;

    // A refusal leaves all as it was, and says so.
    world.faults.passwords(Passwords::Refuse(0xcc));
    let refused = ended(server, &rotate(server).await).await;
    assert_eq!(refused["failure"]["code"], "bmc_password_refused", "{refused}");
    assert_eq!(world.password(), first);
    assert_eq!(
        server.get("/api/v1/machines/m1").await["bmc_password_unsettled"],
        false
    );
    world.faults.passwords(Passwords::Store);
    restart(server).await;

    // And once more, from the password that was made here.
    let done = ended(server, &rotate(server).await).await;
    assert_eq!(done["state"], "done", "{done}");
    let second = world.password();
    assert!(second != first && world.opens(&second).await);
    assert_eq!(world.faults.failed_logins(), 0, "nothing ever tried a wrong one");
    shown_nowhere(server, [OLD, &first, &second]).await;
    edge.kill().await;
}

async fn restart(server: &Server) {
    let path = "/api/v1/instances/i1/restart?grace_s=0";
    let (status, begun) = server.post(path, json!({})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{begun}");
    let done = ended(server, begun["job"]["id"].as_str().unwrap()).await;
    assert_eq!(done["state"], "done", "{done}");
}

/// No password stands anywhere that can be read.
async fn shown_nowhere(server: &Server, passwords: [&str; 3]) {
    for path in [
        "machines/m1",
        "machines/m1/order",
        "machines/m1/report",
        "machines/m1/history",
        "machines/m1/timeline",
        "jobs",
        "audit?limit=1000",
        "events?limit=1000",
    ] {
        let text = server.get(&format!("/api/v1/{path}")).await.to_string();
        for password in passwords {
            assert!(!text.contains(password), "{path}");
        }
    }
    let audit = server.get("/api/v1/audit?limit=1000").await.to_string();
    assert!(audit.contains("machine.rotate_bmc_password"), "{audit}");
}
