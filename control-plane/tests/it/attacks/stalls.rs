//! Attacks by doing nothing, too much, or what was allowed until just now.

use std::{net::TcpStream, time::Duration};

use serde_json::json;

use super::{
    REFUSED,
    raw::{Raw, Seen, connect, publish, subscribe},
    table::{self, Shown},
    world::{Broker, CONNECTIONS, LIMIT, World, hello},
};

async fn until_counted(world: &World, what: &str, at_least: f64) {
    let label = format!("what=\"{what}\"");
    let wait = async {
        while world.counter(REFUSED, &label).await < at_least {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "not counted as {what}: {}", world.log());
}

async fn stalled(broker: Broker) {
    let mut world = World::start(broker).await;
    let silent: Vec<TcpStream> = (0..10)
        .map(|_| TcpStream::connect(world.door()).unwrap())
        .collect();
    let shown = table::tls(&world, Shown::Neighbour);
    let mut half: Vec<Raw> = (0..10).map(|_| Raw::open(world.door(), shown.clone())).collect();
    // TLS is done and the CONNECT begun, but never ended.
    assert!(half.iter_mut().all(|raw| raw.say(&connect("bj-2", None)[..5])));
    for _ in 0..3 {
        assert!(
            world.honest.is_answered(LIMIT).await,
            "others are served meanwhile"
        );
    }
    let mut neighbour = Raw::open(world.door(), shown);
    assert_eq!(neighbour.connect(&connect("bj-2", None)), Ok(()), "and let in");
    if broker == Broker::Embedded {
        until_counted(&world, "handshake", 20.0).await;
        assert!(
            world.is_logged(0, "no TLS handshake within 15 s").await,
            "{}",
            world.log()
        );
        assert!(
            world.is_logged(0, "no CONNECT within 15 s").await,
            "{}",
            world.log()
        );
    }
    drop((silent, half));
}

#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_stop_nobody_at_the_embedded_broker_and_are_ended() {
    stalled(Broker::Embedded).await;
}

/// Mosquitto ends them by its own limit for silence, a minute and a half; until then they count as connections.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_handshakes_stop_nobody_at_mosquitto() {
    stalled(Broker::Mosquitto).await;
}

async fn flooded(broker: Broker) {
    let mut world = World::start(broker).await;
    let shown = table::tls(&world, Shown::Neighbour);
    let flood: Vec<TcpStream> = (0..CONNECTIONS + 20)
        .map(|_| TcpStream::connect(world.door()).unwrap())
        .collect();
    assert!(world.honest.is_answered(LIMIT).await, "who is in stays in");
    match broker {
        Broker::Embedded => {
            until_counted(&world, "connections", 20.0).await;
            assert!(
                world.is_logged(0, "the connection limit is reached").await,
                "{}",
                world.log()
            );
        }
        Broker::Mosquitto => assert!(
            world.is_logged(0, "max_connections exceeded").await,
            "{}",
            world.log()
        ),
    }
    drop(flood);
    let again = async {
        loop {
            let mut raw = Raw::open(world.door(), shown.clone());
            if raw.connect(&connect("bj-2", None)).is_ok() {
                break;
            }
        }
    };
    assert!(
        tokio::time::timeout(LIMIT, again).await.is_ok(),
        "there is room again"
    );
    assert!(world.honest.is_answered(LIMIT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_puts_nobody_out_at_the_embedded_broker() {
    flooded(Broker::Embedded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_connections_puts_nobody_out_at_mosquitto() {
    flooded(Broker::Mosquitto).await;
}

async fn unread(broker: Broker) {
    let mut world = World::start(broker).await;
    let mut raw = Raw::open(world.door(), table::tls(&world, Shown::Neighbour));
    raw.connect(&connect("bj-2", None)).unwrap();
    assert_eq!(raw.attack(&subscribe("slipway/v1/bj-2/cmd/#")), Seen::Silence);
    raw.read_little();
    let ask = publish(
        b"slipway/v1/bj-2/evt/hello",
        &hello(&world.neighbour, true),
        false,
    );
    // Each is answered by the whole configuration, and no answer is read.
    for _ in 0..60 {
        if !raw.say(&ask.repeat(50)) {
            break;
        }
        assert!(
            world.honest.is_answered(2 * LIMIT).await,
            "others are served meanwhile"
        );
    }
    if broker == Broker::Embedded {
        until_counted(&world, "slow", 1.0).await;
        assert!(
            world.is_logged(0, "the client does not read").await,
            "{}",
            world.log()
        );
    }
    assert!(world.honest.is_answered(LIMIT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_put_out_by_the_embedded_broker() {
    unread(Broker::Embedded).await;
}

/// Mosquitto keeps as much as `max_queued_bytes` for it, and drops the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_nobody_up_at_mosquitto() {
    unread(Broker::Mosquitto).await;
}

async fn revoke(world: &World) {
    let (status, answer) = world
        .post("/api/v1/sites/bj-2/revoke", json!({ "reason": "stolen" }))
        .await;
    assert!(status.is_success(), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_put_out_of_the_embedded_broker_at_once() {
    let mut world = World::start(Broker::Embedded).await;
    let shown = table::tls(&world, Shown::Neighbour);
    let mut inside = Raw::open(world.door(), shown.clone());
    inside.connect(&connect("bj-2", None)).unwrap();
    revoke(&world).await;
    assert_eq!(inside.attack(&[]), Seen::Closed);
    until_counted(&world, "revoked", 1.0).await;
    // The same TLS session would be resumed without a look at its certificate.
    let mut again = Raw::open(world.door(), shown);
    assert_eq!(again.connect(&connect("bj-2", None)), Err(Seen::Refused));
    assert!(world.is_logged(0, "it was revoked").await, "{}", world.log());
    until_counted(&world, "connect", 1.0).await;
    assert!(world.honest.is_answered(LIMIT).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_is_refused_by_mosquitto_after_a_reload() {
    let mut world = World::start(Broker::Mosquitto).await;
    let shown = table::tls(&world, Shown::Neighbour);
    let mut inside = Raw::open(world.door(), shown.clone());
    inside.connect(&connect("bj-2", None)).unwrap();
    revoke(&world).await;
    world.configure();
    world.mosquitto.as_ref().unwrap().reload();
    assert!(world.is_logged(0, "Reloading config").await, "{}", world.log());
    assert!(world.honest.is_answered(LIMIT).await);
    let mut again = Raw::open(world.door(), shown);
    assert_eq!(again.connect(&connect("bj-2", None)), Err(Seen::Closed));
    assert_eq!(
        inside.attack(&[]),
        Seen::Silence,
        "a reload puts nobody out, the thief neither"
    );
    world.mosquitto.as_mut().unwrap().restart();
    assert_eq!(inside.attack(&[]), Seen::Closed, "a restart puts it out");
    world.honest.until_connected().await;
    let mut again = Raw::open(world.door(), table::tls(&world, Shown::Neighbour));
    assert_eq!(again.connect(&connect("bj-2", None)), Err(Seen::Closed));
    world.until_answered().await;
}
