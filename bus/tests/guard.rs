//! The guard against each defect of the broker behind it, over real sockets; and the client against broker restarts.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use slipway_bus::{
    Client, Event, Options,
    acl::Acl,
    broker::{self, Backend},
    guard::{Admission, Admitted, Applicant, Guard},
    tls::{self, Identity},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(40);

/// Sites by certificate, or by client id on a door without TLS; remembers what it refused.
#[derive(Default)]
struct Sites {
    refusals: Mutex<Vec<(&'static str, String)>>,
}

impl Admission for Sites {
    fn admit(&self, applicant: &Applicant) -> Result<Admitted, String> {
        if applicant
            .certificate
            .as_ref()
            .is_some_and(|certificate| certificate.common_name != applicant.client_id)
        {
            return Err("client id is not the certificate's".into());
        }
        let site = &applicant.client_id;
        Ok(Acl {
            publish: vec![format!("slipway/v1/{site}/evt/#")],
            subscribe: vec![
                format!("slipway/v1/{site}/cmd/#"),
                format!("slipway/v1/{site}/evt/#"),
            ],
        }
        .into())
    }

    fn refused(&self, what: &'static str, _applicant: &str, reason: &str) {
        let mut refusals = self.refusals.lock().unwrap();
        // Of a flood the first ones are enough, but no panic is missed.
        if refusals.len() < 10_000 || what == "panic" {
            refusals.push((what, reason.to_owned()));
        }
    }
}

impl Sites {
    async fn wait_for_refusal(&self, what: &str) {
        let seen = || self.refusals.lock().unwrap().iter().any(|(w, _)| *w == what);
        let wait = async {
            while !seen() {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            timeout(LIMIT, wait).await.is_ok(),
            "no refusal `{what}` in {:?}",
            self.refusals.lock().unwrap()
        );
    }
}

struct World {
    address: SocketAddr,
    sites: Arc<Sites>,
    backend: Backend,
    ca: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
    stop: CancellationToken,
}

async fn open_door(backend: Backend, with_tls: bool, max_connections: usize) -> World {
    tls::install_provider();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "test authority");
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let ca = issuer.pem();
    let server = identity(&issuer, "localhost");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World {
        address: listener.local_addr().unwrap(),
        sites: Arc::default(),
        backend: backend.clone(),
        ca: ca.clone(),
        issuer,
        stop: CancellationToken::new(),
    };
    let guard = Guard {
        listener,
        tls: with_tls.then(|| tls::server_config(&server, Some(&ca)).unwrap()),
        admission: Arc::clone(&world.sites) as Arc<dyn Admission>,
        backend,
        max_connections,
    };
    tokio::spawn(guard.run(world.stop.clone()));
    world
}

fn identity(issuer: &CertifiedIssuer<'static, KeyPair>, name: &str) -> Identity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, issuer).unwrap();
    Identity {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

impl World {
    fn client(
        &self,
        certificate: Option<&str>,
        client_id: &str,
        filter: &str,
    ) -> (Client, mpsc::Receiver<Event>) {
        let identity = certificate.map(|name| identity(&self.issuer, name));
        let tls = identity.map(|identity| tls::client_config(&self.ca, Some(&identity)).unwrap());
        let options = Options {
            client_id: client_id.into(),
            host: "localhost".into(),
            port: self.address.port(),
            tls,
            credentials: None,
            subscriptions: vec![filter.into()],
            will: None,
        };
        Client::start(options, self.stop.clone())
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    timeout(LIMIT, events.recv())
        .await
        .expect("an event in time")
        .expect("the client runs")
}

async fn until_message(events: &mut mpsc::Receiver<Event>) -> (String, Vec<u8>) {
    loop {
        if let Event::Message { topic, payload } = next(events).await {
            return (topic, payload.to_vec());
        }
    }
}

/// A CONNECT of MQTT 3.1.1 by hand, optionally with a last will.
fn connect_packet(client_id: &str, will_topic: Option<&str>) -> Vec<u8> {
    let text = |s: &str| [&u16::try_from(s.len()).unwrap().to_be_bytes()[..], s.as_bytes()].concat();
    let mut body = [
        text("MQTT"),
        vec![4, if will_topic.is_some() { 6 } else { 2 }, 0, 30],
        text(client_id),
    ]
    .concat();
    if let Some(topic) = will_topic {
        body.extend([text(topic), text("gone")].concat());
    }
    packet(0x10, &body)
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    [&[first, u8::try_from(body.len()).unwrap()][..], body].concat()
}

/// Connects as `client_id`, then sends `attack`; gives back what is said after that until the guard closes.
async fn attack(address: SocketAddr, client_id: &str, attack: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(&connect_packet(client_id, None)).await.unwrap();
    let mut welcome = [0; 4];
    timeout(LIMIT, tcp.read_exact(&mut welcome))
        .await
        .expect("welcomed in time")
        .unwrap();
    assert_eq!(welcome, [0x20, 2, 0, 0], "CONNACK: accepted");
    tcp.write_all(attack).await.unwrap();
    until_closed(tcp).await
}

/// Sends bytes and gives back what the guard says until it closes.
async fn say(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    until_closed(tcp).await
}

async fn until_closed(mut tcp: TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    timeout(LIMIT, tcp.read_to_end(&mut heard))
        .await
        .expect("closed in time")
        .ok();
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn right_topics_pass_over_mutual_tls() {
    let world = open_door(broker::start().unwrap(), true, 100).await;
    let (client, mut events) = world.client(Some("bj-1"), "bj-1", "slipway/v1/bj-1/evt/#");
    assert_eq!(next(&mut events).await, Event::Connected);
    client
        .publish("slipway/v1/bj-1/evt/hello", b"hi".to_vec())
        .unwrap();
    assert_eq!(
        until_message(&mut events).await,
        ("slipway/v1/bj-1/evt/hello".into(), b"hi".to_vec())
    );
    let big = vec![b'x'; 3_000_000];
    client.publish("slipway/v1/bj-1/evt/hello", big.clone()).unwrap();
    assert_eq!(
        until_message(&mut events).await.1.len(),
        big.len(),
        "no 10 kB limit"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_foreign_authority_and_foreign_id_are_refused() {
    let backend = broker::start().unwrap();
    let world = open_door(backend.clone(), true, 100).await;
    let stranger = open_door(backend, true, 100).await;
    let foreign = identity(&stranger.issuer, "bj-1");
    let options = Options {
        client_id: "bj-1".into(),
        host: "localhost".into(),
        port: world.address.port(),
        tls: Some(tls::client_config(&world.ca, Some(&foreign)).unwrap()),
        credentials: None,
        subscriptions: vec![],
        will: None,
    };
    let (_client, mut events) = Client::start(options.clone(), world.stop.clone());
    assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));
    let without = Options {
        tls: Some(tls::client_config(&world.ca, None).unwrap()),
        ..options
    };
    let (_client, mut events) = Client::start(without, world.stop.clone());
    assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));
    world.sites.wait_for_refusal("tls").await;
    let (_client, mut events) = world.client(Some("bj-1"), "bj-2", "slipway/v1/bj-2/cmd/#");
    assert!(matches!(next(&mut events).await, Event::Disconnected { .. }));
    world.sites.wait_for_refusal("connect").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_topics_wide_filters_and_wills_are_refused() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    let connect = connect_packet("bj-1", None);
    let topic = |t: &str| [&[0, u8::try_from(t.len()).unwrap()][..], t.as_bytes()].concat();
    let publish = |t: &str| packet(0x30, &[topic(t), b"x".to_vec()].concat());
    let subscribe = |f: &str| packet(0x82, &[vec![0, 1], topic(f), vec![0]].concat());
    for (what, packet) in [
        ("publish", publish("slipway/v1/bj-2/evt/hello")),
        ("publish", publish("slipway/v1/bj-1/cmd/config")),
        ("subscribe", subscribe("#")),
        ("subscribe", subscribe("slipway/v1/+/cmd/#")),
        ("packet", connect.clone()),
    ] {
        world.sites.refusals.lock().unwrap().clear();
        assert!(
            attack(world.address, "bj-1", &packet).await.is_empty(),
            "closed without a word"
        );
        world.sites.wait_for_refusal(what).await;
    }
    let refused = say(
        world.address,
        &connect_packet("bj-1", Some("slipway/v1/bj-2/evt/presence")),
    )
    .await;
    assert_eq!(refused, [0x20, 2, 0, 5], "CONNACK: not authorised");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_handshake_stops_nobody() {
    let world = open_door(broker::start().unwrap(), true, 100).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(TcpStream::connect(world.address).await.unwrap());
    }
    let (_client, mut events) = world.client(Some("bj-1"), "bj-1", "slipway/v1/bj-1/cmd/#");
    assert_eq!(next(&mut events).await, Event::Connected);
    world.sites.wait_for_refusal("handshake").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_client_ids_and_the_connection_limit_kill_nothing() {
    let world = open_door(broker::start().unwrap(), false, 8).await;
    for id in ["a+b", "a#", "a/b", "$a"] {
        for _ in 0..2 {
            assert_eq!(
                say(world.address, &connect_packet(id, None)).await,
                [0x20, 2, 0, 5],
                "{id}"
            );
        }
    }
    let mut crowd = Vec::new();
    for n in 0..30 {
        let mut tcp = TcpStream::connect(world.address).await.unwrap();
        // Beyond the limit the guard closes at once, so the write may fail; that is the point.
        let _ = tcp.write_all(&connect_packet(&format!("crowd-{n}"), None)).await;
        crowd.push(tcp);
        // One of the same name puts the one before out, and takes no more places.
        let mut same = TcpStream::connect(world.address).await.unwrap();
        let _ = same.write_all(&connect_packet("same-id", None)).await;
        crowd.push(same);
    }
    world.sites.wait_for_refusal("connections").await;
    drop(crowd);
    let (_client, mut events) = world.client(None, "bj-1", "slipway/v1/bj-1/cmd/#");
    while next(&mut events).await != Event::Connected {}
}

/// Whoever says nothing takes only so many places, and others come in.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_of_one_address_leave_room_for_others() {
    let world = open_door(broker::start().unwrap(), false, 1000).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(world.address).await.unwrap());
    }
    world.sites.wait_for_refusal("connections").await;
    let elsewhere = tokio::net::TcpSocket::new_v4().unwrap();
    elsewhere.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut tcp = elsewhere.connect(world.address).await.unwrap();
    tcp.write_all(&connect_packet("bj-1", None)).await.unwrap();
    let mut welcome = [0; 4];
    timeout(LIMIT, tcp.read_exact(&mut welcome))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(welcome, [0x20, 2, 0, 0]);
    drop(silent);
    let (_client, mut events) = world.client(None, "bj-2", "slipway/v1/bj-2/cmd/#");
    while next(&mut events).await != Event::Connected {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_name_gets_one() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    for _ in 0..2 {
        assert!(
            attack(world.address, "", &[0xe0, 0]).await.is_empty(),
            "welcomed, and let go at its DISCONNECT"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_packets_and_garbage_are_cut_off() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    assert!(
        attack(world.address, "bj-1", &[0x30, 0xff, 0xff, 0xff, 0x7f])
            .await
            .is_empty()
    );
    world.sites.wait_for_refusal("packet").await;
    assert!(say(world.address, &[0xff; 64]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_retained_and_every_unsubscribe_is_answered() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    let topic = b"slipway/v1/bj-1/evt/x";
    let length = u8::try_from(topic.len()).unwrap();
    let retained = packet(0x31, &[&[0, length][..], topic, b"keep me"].concat());
    let unsubscribe = packet(0xa2, &[&[0, 7, 0, length][..], topic].concat());
    let mut tcp = TcpStream::connect(world.address).await.unwrap();
    tcp.write_all(&[connect_packet("bj-1", None), retained, unsubscribe].concat())
        .await
        .unwrap();
    let mut heard = [0; 8];
    timeout(LIMIT, tcp.read_exact(&mut heard))
        .await
        .expect("answered in time")
        .unwrap();
    assert_eq!(heard, [0x20, 2, 0, 0, 0xb0, 2, 0, 7], "CONNACK, then UNSUBACK");
    let (client, mut events) = world.client(None, "bj-1", "slipway/v1/bj-1/evt/#");
    while next(&mut events).await != Event::Connected {}
    client
        .publish("slipway/v1/bj-1/evt/x", b"fresh".to_vec())
        .unwrap();
    assert_eq!(
        until_message(&mut events).await.1,
        b"fresh",
        "the first message heard is not a retained one"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_comes_back_and_subscribes_anew_after_the_door_was_shut() {
    let backend = broker::start().unwrap();
    let first = open_door(backend.clone(), false, 100).await;
    let (client, mut events) = first.client(None, "bj-1", "slipway/v1/bj-1/evt/#");
    assert_eq!(next(&mut events).await, Event::Connected);
    // The client keeps running under its own token; only the door is shut.
    let stop = CancellationToken::new();
    let options = Options {
        client_id: "bj-9".into(),
        host: "localhost".into(),
        port: first.address.port(),
        tls: None,
        credentials: None,
        subscriptions: vec!["slipway/v1/bj-9/evt/#".into()],
        will: None,
    };
    let (second, mut second_events) = Client::start(options, stop);
    assert_eq!(next(&mut second_events).await, Event::Connected);
    first.stop.cancel();
    drop(client);
    while !matches!(next(&mut second_events).await, Event::Disconnected { .. }) {}
    assert!(
        second.publish("slipway/v1/bj-9/evt/x", vec![]).is_err(),
        "offline is said, not queued"
    );
    let listener = loop {
        match TcpListener::bind(first.address).await {
            Ok(listener) => break listener,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let guard = Guard {
        listener,
        tls: None,
        admission: Arc::clone(&first.sites) as Arc<dyn Admission>,
        backend,
        max_connections: 100,
    };
    tokio::spawn(guard.run(CancellationToken::new()));
    while next(&mut second_events).await != Event::Connected {}
    second.publish("slipway/v1/bj-9/evt/x", b"back".to_vec()).unwrap();
    assert_eq!(until_message(&mut second_events).await.1, b"back");
}

/// The same client code against a broker nobody here wrote.
#[tokio::test(flavor = "multi_thread")]
async fn the_client_works_with_mosquitto_and_survives_its_kill() {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = dir.path().join("mosquitto.conf");
    std::fs::write(
        &config,
        format!("listener {port} 127.0.0.1\nallow_anonymous true\n"),
    )
    .unwrap();
    let spawn = || {
        std::process::Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .spawn()
            .expect("mosquitto is installed (Debian package mosquitto)")
    };
    let mut mosquitto = spawn();
    let options = Options {
        client_id: "bj-1".into(),
        host: "127.0.0.1".into(),
        port,
        tls: None,
        credentials: None,
        subscriptions: vec!["slipway/v1/bj-1/evt/#".into()],
        will: None,
    };
    let (client, mut events) = Client::start(options, CancellationToken::new());
    while next(&mut events).await != Event::Connected {}
    client.publish("slipway/v1/bj-1/evt/x", b"one".to_vec()).unwrap();
    assert_eq!(until_message(&mut events).await.1, b"one");
    mosquitto.kill().unwrap();
    mosquitto.wait().unwrap();
    while !matches!(next(&mut events).await, Event::Disconnected { .. }) {}
    let mut mosquitto = spawn();
    while next(&mut events).await != Event::Connected {}
    client.publish("slipway/v1/bj-1/evt/x", b"two".to_vec()).unwrap();
    assert_eq!(until_message(&mut events).await.1, b"two");
    mosquitto.kill().unwrap();
    mosquitto.wait().unwrap();
}

/// A filter in a packet: its length and its bytes.
fn text(text: &str) -> Vec<u8> {
    [
        &u16::try_from(text.len()).unwrap().to_be_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

fn subscribe_packet(filters: &[&str], qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        body.extend(text(filter));
        body.push(qos);
    }
    long_packet(0x82, &body)
}

/// A packet of any length (MQTT 3.1.1, 2.2.3).
fn long_packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).unwrap();
        left /= 128;
        packet.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// Whether an honest site is served: what it says comes back to it.
async fn is_served(world: &World, site: &str) -> bool {
    let (client, mut events) = world.client(None, site, &format!("slipway/v1/{site}/evt/#"));
    while next(&mut events).await != Event::Connected {}
    let topic = format!("slipway/v1/{site}/evt/x");
    client.publish(&topic, b"served".to_vec()).unwrap();
    until_message(&mut events).await.1 == b"served"
}

/// One such SUBSCRIBE ended the former broker for good where debug assertions are on.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_is_also_shared_ends_nothing() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    let own = "slipway/v1/bj-1/cmd/#";
    for filters in [
        vec![own, "$share/g/slipway/v1/bj-1/cmd/#"],
        vec!["$share/g/slipway/v1/bj-1/cmd/#", own],
        vec!["$share/g/slipway/v1/bj-1/cmd/#"],
        vec!["$share//slipway/v1/bj-1/cmd/#"],
        vec!["$share/g"],
    ] {
        world.sites.refusals.lock().unwrap().clear();
        let heard = attack(world.address, "bj-1", &subscribe_packet(&filters, 1)).await;
        assert!(heard.is_empty(), "{filters:?}: {heard:?}");
        world.sites.wait_for_refusal("subscribe").await;
        assert!(is_served(&world, "bj-2").await, "{filters:?}");
    }
}

/// A reader that stalled while its client id was taken over ended the former broker for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_that_is_taken_over_ends_nothing() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    let (speaker, mut events) = world.client(None, "bj-1", "slipway/v1/bj-1/cmd/#");
    while next(&mut events).await != Event::Connected {}
    for _ in 0..4 {
        let mut stalled = TcpStream::connect(world.address).await.unwrap();
        stalled
            .write_all(
                &[
                    connect_packet("bj-3", None),
                    subscribe_packet(&["slipway/v1/bj-3/evt/#"], 1),
                ]
                .concat(),
            )
            .await
            .unwrap();
        // It speaks to itself and never reads, until its socket takes no more.
        let payload = vec![7; 100_000];
        let message = long_packet(0x30, &[text("slipway/v1/bj-3/evt/x"), payload].concat());
        for _ in 0..200 {
            let written = timeout(Duration::from_millis(200), stalled.write_all(&message)).await;
            if !matches!(written, Ok(Ok(()))) {
                break;
            }
        }
        assert!(is_served(&world, "bj-3").await, "who takes the id over is served");
        assert!(is_served(&world, "bj-2").await, "and so are others");
        drop(stalled);
    }
    speaker.publish("slipway/v1/bj-1/evt/x", Vec::new()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_send_is_bounded() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    let own = |n: usize| format!("slipway/v1/bj-1/cmd/{n}");
    let many: Vec<String> = (0..5).map(own).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = format!("slipway/v1/bj-1/cmd/{}", "x".repeat(600));
    let twice = [subscribe_packet(&many[..3], 0), subscribe_packet(&many[3..], 0)].concat();
    let topic = text("slipway/v1/bj-1/evt/x");
    let at_most_twice = packet(0x34, &[&topic[..], &[0, 1], b"x"].concat());
    for (what, attack_with, why) in [
        ("subscribe", subscribe_packet(&many, 0), "five filters at once"),
        ("subscribe", twice, "five filters one after the other"),
        ("packet", subscribe_packet(&[&long], 0), "a long filter"),
        (
            "subscribe",
            subscribe_packet(&["slipway/v1/bj-1/cmd/#/x"], 0),
            "no filter at all",
        ),
        ("packet", at_most_twice, "QoS 2"),
        ("packet", packet(0x62, &[0, 1]), "an acknowledgement of QoS 2"),
    ] {
        world.sites.refusals.lock().unwrap().clear();
        attack(world.address, "bj-1", &attack_with).await;
        world.sites.wait_for_refusal(what).await;
        assert!(is_served(&world, "bj-2").await, "{why}");
    }
    // A CONNECT of three kilobytes is no client's of ours.
    let body = [text("MQTT"), vec![4, 2, 0, 30], text(&"x".repeat(3000))].concat();
    world.sites.refusals.lock().unwrap().clear();
    say(world.address, &long_packet(0x10, &body)).await;
    world.sites.wait_for_refusal("connect").await;
}

/// Third-party clients: Mosquitto's tools at the embedded broker.
#[tokio::test(flavor = "multi_thread")]
async fn mosquittos_tools_publish_and_hear_at_each_quality() {
    let world = open_door(broker::start().unwrap(), false, 100).await;
    let port = world.address.port().to_string();
    for (published, subscribed) in [("0", "0"), ("1", "0"), ("0", "1"), ("1", "1"), ("1", "2")] {
        let reader = tokio::process::Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-i", "bj-1", "-q", subscribed])
            .args(["-t", "slipway/v1/bj-1/evt/#", "-C", "1", "-W", "30"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("Mosquitto's tools are installed (Debian package mosquitto-clients)");
        let reading = tokio::spawn(reader.wait_with_output());
        // It says so again until the reader has subscribed.
        while !reading.is_finished() {
            let said = tokio::process::Command::new("mosquitto_pub")
                .args([
                    "-h",
                    "127.0.0.1",
                    "-p",
                    &port,
                    "-i",
                    "bj-1-writer",
                    "-q",
                    published,
                ])
                .args(["-t", "slipway/v1/bj-1-writer/evt/x", "-m", "to nobody"])
                .status()
                .await
                .unwrap();
            assert!(said.success(), "{published}");
            world.backend.router.publish(
                "slipway/v1/bj-1/evt/x",
                bytes::Bytes::from_static(b"hello"),
                slipway_bus::router::Delivery::AtLeastOnce,
            );
        }
        let heard = reading.await.unwrap().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&heard.stdout),
            "hello\n",
            "{published} {subscribed}"
        );
    }
}

/// Seconds to fuzz for, from the environment; a short run without.
fn fuzz_rounds() -> (u64, Option<std::time::Instant>) {
    let seconds = std::env::var("SLIPWAY_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let until = seconds.map(|seconds| std::time::Instant::now() + Duration::from_secs(seconds));
    (if until.is_some() { u64::MAX } else { 300 }, until)
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A packet with up to three changes.
fn mutated(model: &[u8], dice: &mut rand::rngs::StdRng) -> Vec<u8> {
    use rand::Rng as _;
    let mut packet = model.to_vec();
    for _ in 0..dice.random_range(0..4) {
        let at = dice.random_range(0..packet.len());
        match dice.random_range(0..4) {
            0 => packet[at] = dice.random(),
            1 => packet.truncate(at.max(1)),
            2 => packet.insert(at, dice.random()),
            _ => packet[at] ^= 1 << dice.random_range(0..8),
        }
    }
    packet
}

/// Packets of every kind, mutated, from one client after the other: none of them ends anything, and memory stays flat.
#[tokio::test(flavor = "multi_thread")]
async fn mutated_packets_end_nothing() {
    use rand::{Rng as _, SeedableRng as _};
    let world = open_door(broker::start().unwrap(), false, 100).await;
    let mut dice = rand::rngs::StdRng::seed_from_u64(14);
    let topic = text("slipway/v1/bj-1/evt/x");
    let models = [
        connect_packet("bj-1", None),
        connect_packet("bj-1", Some("slipway/v1/bj-1/evt/presence")),
        subscribe_packet(&["slipway/v1/bj-1/cmd/#"], 1),
        packet(0x30, &[&topic[..], b"x"].concat()),
        packet(0x32, &[&topic[..], &[0, 1], b"x"].concat()),
        packet(0xa2, &[&[0, 7][..], &topic].concat()),
        packet(0x40, &[0, 1]),
        packet(0xc0, &[]),
        packet(0xe0, &[]),
    ];
    let (rounds, until) = fuzz_rounds();
    let (mut sent, mut settled) = (0_u64, 0);
    for round in 0..rounds {
        if until.is_some_and(|until| std::time::Instant::now() > until) {
            break;
        }
        let mut bytes = if dice.random_bool(0.8) {
            connect_packet("bj-1", None)
        } else {
            Vec::new()
        };
        for _ in 0..dice.random_range(1..40) {
            bytes.extend(mutated(&models[dice.random_range(0..models.len())], &mut dice));
            sent += 1;
        }
        let mut tcp = TcpStream::connect(world.address).await.unwrap();
        let _ = tcp.write_all(&bytes).await;
        let _ = tcp.shutdown().await;
        until_closed(tcp).await;
        if round == 100 {
            settled = rss_kib();
        }
    }
    assert!(is_served(&world, "bj-2").await);
    let panics = world
        .sites
        .refusals
        .lock()
        .unwrap()
        .iter()
        .filter(|(what, _)| *what == "panic")
        .count();
    assert_eq!(panics, 0);
    println!("MQTT guard: {sent} packets, {} KiB", rss_kib());
    assert!(
        rss_kib() < settled + 64 * 1024,
        "memory grew from {settled} to {} KiB",
        rss_kib()
    );
}
