//! The edge box of a site, from its joining to its loss: real edge code joins and renews, its certificates are shown to the
//! real broker door. On both databases.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use reqwest::StatusCode;
use serde_json::{Value, json};
use slipway_bus::{
    Client, Event, Options,
    tls::{self, Shown},
};
use slipway_edge::{
    identity::Identity,
    join,
    renew::{Renewal, is_due, validity},
};
use slipway_protocol::{
    keys::{KeyRing, Signer, Stamp},
    site::{JoinToken, RenewRequest},
    topic::{self, Topic},
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::common::server::{Server, on_each_server};

const LIMIT: Duration = Duration::from_secs(20);

/// A box that joined, with the folder it keeps its identity in.
pub(crate) async fn join(server: &Server) -> (Identity, TempDir) {
    join_site(server, "bj-1").await
}

/// The same at any site.
pub(crate) async fn join_site(server: &Server, site: &str) -> (Identity, TempDir) {
    let path = format!("/api/v1/sites/{site}/tokens");
    let (status, token) = server.post(&path, json!({})).await;
    assert_eq!(status, StatusCode::CREATED, "{token}");
    let token = JoinToken::from_text(token["token"].as_str().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let addresses = ["192.0.2.1".parse().unwrap()];
    let identity = join::join(&token, &addresses, dir.path(), Utc::now())
        .await
        .unwrap();
    (identity, dir)
}

/// Its connection to the centre; ended by dropping the guard.
struct Link {
    events: mpsc::Receiver<Event>,
    _stop: tokio_util::sync::DropGuard,
}

fn connect(identity: &Identity, shown: Shown) -> Link {
    let stop = CancellationToken::new();
    let options = Options {
        client_id: identity.site.to_string(),
        host: identity.broker_host.clone(),
        port: identity.broker_port,
        tls: Some(tls::renewed_client_config(&identity.ca, shown).unwrap()),
        credentials: None,
        subscriptions: vec![topic::site_commands(&identity.site)],
        will: None,
    };
    let (_, events) = Client::start(options, stop.clone());
    Link {
        events,
        _stop: stop.drop_guard(),
    }
}

impl Link {
    /// Waits for the next change of the connection: whether it is up.
    async fn is_up(&mut self) -> bool {
        let next = async {
            loop {
                match self.events.recv().await {
                    Some(Event::Connected) => return true,
                    Some(Event::Disconnected { .. }) => return false,
                    Some(Event::Message { .. }) => {}
                    None => panic!("the client ended"),
                }
            }
        };
        tokio::time::timeout(LIMIT, next).await.unwrap()
    }
}

async fn renewal_refused(server: &Server, payload: Vec<u8>) -> Value {
    let request = server
        .http
        .post(format!("{}/api/v1/sites/bj-1/renew", server.url));
    let answer = request.body(payload).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    answer.json().await.unwrap()
}

fn request_of(signer: &Signer, age: TimeDelta) -> Vec<u8> {
    let at = Utc::now() - age;
    let stamp = Stamp {
        revision: 1,
        issued_at: at,
        expires_at: at + TimeDelta::minutes(10),
    };
    let request = RenewRequest {
        csr: String::new(),
        agent_csr: String::new(),
    };
    signer.seal(&Topic::Renew("bj-1".parse().unwrap()), stamp, &request)
}

#[test]
fn certificates_run_out_and_are_renewed_by_their_edge_alone() {
    on_each_server(async |server| {
        server.make_site("bj-1").await;
        let (identity, dir) = join(server).await;
        let now = Utc::now();
        let (from, until) = validity(&identity.certificate).unwrap();
        assert!(until > now + TimeDelta::days(89) && until < now + TimeDelta::days(91));
        assert!(!is_due((from, until), now) && is_due((from, until), now + TimeDelta::days(61)));
        let mut renewal = Renewal {
            uplink: Shown::new(&identity.uplink_tls()).unwrap(),
            agents: Shown::new(&identity.agent_tls()).unwrap(),
            identity: identity.clone(),
            data_dir: dir.path().into(),
            addresses: identity.addresses.clone(),
        };
        let mut link = connect(&identity, renewal.uplink.clone());
        assert!(link.is_up().await);
        let keys = KeyRing::new(identity.verifying_keys.iter().copied());
        let renewed_until = renewal.renew(&keys, Utc::now()).await.unwrap();
        assert!(renewed_until >= until);
        let kept = Identity::load(dir.path()).unwrap();
        assert_ne!(kept.certificate, identity.certificate);
        assert_ne!(kept.key, identity.key, "its TLS key is new, too");
        assert_eq!(kept.report_key, identity.report_key);
        assert!(connect(&kept, renewal.uplink.clone()).is_up().await);
        let site = server.get("/api/v1/sites/bj-1").await;
        let told: chrono::DateTime<Utc> = site["certificate_until"].as_str().unwrap().parse().unwrap();
        assert!(told >= until, "{told}");
        // The one before is good until the new one was taken; the one before that is not.
        assert!(
            connect(&identity, Shown::new(&identity.uplink_tls()).unwrap())
                .is_up()
                .await
        );
        renewal.renew(&keys, Utc::now()).await.unwrap();
        let oldest = Shown::new(&identity.uplink_tls()).unwrap();
        assert!(!connect(&identity, oldest).is_up().await, "two renewals ago");
        let (thief, _) = Signer::generate().unwrap();
        let refused = renewal_refused(server, request_of(&thief, TimeDelta::zero())).await;
        assert_eq!(refused["code"], "renewal", "{refused}");
        let own = identity.signer().unwrap();
        let refused = renewal_refused(server, request_of(&own, TimeDelta::minutes(11))).await;
        assert!(
            refused["detail"].as_str().unwrap().contains("expired"),
            "{refused}"
        );
        let refused = renewal_refused(server, b"{}".to_vec()).await;
        assert_eq!(refused["code"], "renewal");
    });
}

#[test]
fn a_lost_box_is_revoked_and_another_takes_its_place() {
    on_each_server(lost_box);
}

async fn job_of(server: &Server, instance: &str) -> Value {
    let shown = server.get(&format!("/api/v1/instances/{instance}")).await;
    server
        .get(&format!("/api/v1/jobs/{}", shown["job"].as_str().unwrap()))
        .await
}

async fn until_running(server: &Server) {
    let limit = tokio::time::Instant::now() + LIMIT;
    while job_of(server, "w").await["state"] != "running" {
        assert!(tokio::time::Instant::now() < limit, "the job was not given out");
    }
}

#[expect(clippy::too_many_lines, reason = "one story told in its order")]
async fn lost_box(server: &Server) {
    server.make_site("bj-1").await;
    let revoke = async |reason: &str| {
        let body = json!({ "reason": reason });
        server.post("/api/v1/sites/bj-1/revoke", body).await
    };
    assert_eq!(revoke("stolen").await.1["code"], "not_joined");
    let (identity, _dir) = join(server).await;
    assert_eq!(revoke(" ").await.1["code"], "reason");
    let body = json!({ "name": "m1", "site": "bj-1", "macs": ["52:54:00:00:00:01"], "firmware": "uefi", "bmc":
        { "driver": "ipmi", "address": "192.0.2.101:623", "username": "root", "password": "s3cret" } });
    let (status, machine) = server.post("/api/v1/machines", body).await;
    assert_eq!(status, StatusCode::CREATED, "{machine}");
    server.upload("i", b"image".to_vec()).await;
    let body = json!({ "name": "w", "site": "bj-1", "image": "i" });
    server.post("/api/v1/instances", body).await;
    until_running(server).await;
    let mut link = connect(&identity, Shown::new(&identity.uplink_tls()).unwrap());
    assert!(link.is_up().await);
    let unused = server.post("/api/v1/sites/bj-1/tokens", json!({})).await.1;

    let (status, site) = revoke("stolen on Friday").await;
    assert_eq!(
        (status, &site["joined"], &site["online"]),
        (StatusCode::OK, &json!(false), &json!(false)),
        "{site}"
    );
    assert!(site["revoked_at"].is_string() && site["certificate_until"].is_null());
    assert!(!link.is_up().await, "who is in is put out");
    let mut again = connect(&identity, Shown::new(&identity.uplink_tls()).unwrap());
    assert!(!again.is_up().await, "and does not come in again");
    let own = identity.signer().unwrap();
    let refused = renewal_refused(server, request_of(&own, TimeDelta::zero())).await;
    assert_eq!(refused["code"], "not_joined");
    let token = JoinToken::from_text(unused["token"].as_str().unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let late = join::join(&token, &[], dir.path(), Utc::now()).await;
    let error = late.err().unwrap().to_string();
    assert!(
        error.contains("used already"),
        "tokens found on the desk are void: {error}"
    );
    let job = job_of(server, "w").await;
    assert_eq!(
        (&job["state"], &job["failure"]["code"]),
        (&json!("failed"), &json!("edge_revoked")),
        "{job}"
    );
    let machine = server.get("/api/v1/machines/m1").await;
    assert!(
        machine["reason"]
            .as_str()
            .is_some_and(|why| why.contains("stolen on Friday")),
        "{machine}"
    );

    let (next, _next_dir) = join(server).await;
    let site = server.get("/api/v1/sites/bj-1").await;
    assert_eq!(
        (&site["joined"], &site["revoked_at"]),
        (&json!(true), &Value::Null)
    );
    assert!(
        connect(&next, Shown::new(&next.uplink_tls()).unwrap())
            .is_up()
            .await
    );
    assert!(!again.is_up().await, "the lost box stays out");
    let (third, _third_dir) = join(server).await;
    let mut second = connect(&next, Shown::new(&next.uplink_tls()).unwrap());
    assert!(!second.is_up().await, "a box that was replaced is out");
    assert!(
        connect(&third, Shown::new(&third.uplink_tls()).unwrap())
            .is_up()
            .await
    );
    let audit = server.get("/api/v1/audit?limit=1000").await.to_string();
    assert!(audit.contains("site.revoke") && audit.contains("stolen on Friday"));
}

/// A box on loopback with all it needs, and the address of its set-up page.
fn fit_box(dir: &std::path::Path) -> (slipway_edge::config::Config, std::net::SocketAddr) {
    for file in ["vmlinuz", "initramfs.img", "undionly.kpxe", "snponly.efi"] {
        std::fs::write(dir.join(file), "x").unwrap();
    }
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let config = slipway_edge::config::Config {
        data_dir: dir.join("data"),
        interfaces: vec!["lo=127.88.0.1".parse().unwrap()],
        auto: false,
        dhcp: false,
        http_port: free().port(),
        mqtt_port: free().port(),
        mqtt_debug: free(),
        setup: None,
        status: None,
        cut_off_after: chrono::TimeDelta::seconds(60),
        image_cache_bytes: None,
        liveos: dir.into(),
        boot_programs: dir.into(),
    };
    (config, free())
}

#[test]
fn a_box_has_more_addresses_than_its_sites() {
    on_each_server(async |server| {
        server.make_site("bj-1").await;
        let addresses = |texts: &[&str]| -> Vec<std::net::IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let (_, token) = server.post("/api/v1/sites/bj-1/tokens", json!({})).await;
        let token = JoinToken::from_text(token["token"].as_str().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = addresses(&["198.51.100.7"]);
        let refused = join::join(&token, &elsewhere, dir.path(), Utc::now()).await;
        let refused = refused.err().unwrap().to_string();
        assert!(
            refused.contains("198.51.100.7") || refused.contains("not this site"),
            "{refused}"
        );
        let both = addresses(&["198.51.100.7", "192.0.2.1"]);
        let identity = join::join(&token, &both, dir.path(), Utc::now()).await.unwrap();
        let names = |certificate: &str| {
            let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).unwrap();
            let certificate = pem.parse_x509().unwrap();
            let names = certificate.subject_alternative_name().unwrap().unwrap();
            format!("{:?}", names.value.general_names)
        };
        assert_eq!(
            names(&identity.agent_certificate),
            "[IPAddress([192, 0, 2, 1])]",
            "the other address is left out"
        );
        // The box got another one on its way to the centre: its agents must find theirs still.
        let mut renewal = Renewal {
            uplink: Shown::new(&identity.uplink_tls()).unwrap(),
            agents: Shown::new(&identity.agent_tls()).unwrap(),
            addresses: addresses(&["198.51.100.8", "192.0.2.1"]),
            identity,
            data_dir: dir.path().into(),
        };
        let keys = KeyRing::new([token.verifying_key]);
        renewal.renew(&keys, Utc::now()).await.unwrap();
        let kept = Identity::load(dir.path()).unwrap();
        assert_eq!(kept.addresses, renewal.addresses);
        assert_eq!(names(&kept.agent_certificate), "[IPAddress([192, 0, 2, 1])]");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_joins_by_its_own_page() {
    let server = crate::common::server::server().await;
    let subnet = json!({ "network": "127.88.0.0/24", "server": "127.88.0.1" });
    let site = json!({ "id": "bj-1", "subnets": [subnet] });
    assert_eq!(server.post("/api/v1/sites", site).await.0, StatusCode::CREATED);
    let dir = tempfile::tempdir().unwrap();
    let (config, at) = fit_box(dir.path());
    let (stop, served) = (CancellationToken::new(), config.clone());
    let ended = stop.clone();
    let page = tokio::spawn(async move { slipway_edge::setup::serve(&served, at, &ended).await });
    let url = format!("http://{at}/");
    let limit = tokio::time::Instant::now() + LIMIT;
    let shown = loop {
        match server.http.get(&url).send().await {
            Ok(answer) => break answer.text().await.unwrap(),
            Err(_) => assert!(tokio::time::Instant::now() < limit, "no page at {url}"),
        }
    };
    assert!(
        shown.contains("HTTP boot on 127.88.0.1") && !shown.contains(">FAIL<"),
        "{shown}"
    );
    let give = async |token: &str| {
        let form = format!("token={token}");
        let request = server.http.post(&url).body(form);
        let kind = "application/x-www-form-urlencoded";
        let answer = request.header("Content-Type", kind).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    assert_eq!(give("hello").await.0, StatusCode::BAD_REQUEST);
    let (_, token) = server.post("/api/v1/sites/bj-1/tokens", json!({})).await;
    let token = token["token"].as_str().unwrap();
    let taken = std::net::TcpListener::bind(("127.88.0.1", config.http_port)).unwrap();
    let (status, text) = give(token).await;
    assert_eq!(status, StatusCode::CONFLICT, "{text}");
    assert!(text.contains(">FAIL<") && !Identity::is_there(&config.data_dir));
    drop(taken);
    let (status, text) = give(token).await;
    assert_eq!(status, StatusCode::OK, "the token is still good: {text}");
    assert!(
        text.contains("Joined site bj-1") && text.contains("central broker"),
        "{text}"
    );
    assert!(page.await.unwrap().unwrap(), "the page has ended");
    assert!(Identity::is_there(&config.data_dir));
    assert_eq!(server.get("/api/v1/sites/bj-1").await["joined"], true);
}
