//! What is tried at a broker by one client, and how each broker takes it.

use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;
use slipway_bus::tls::{self, Identity};
use slipway_control_plane::pki::{Authority, Validity};

use super::{
    raw::{
        Seen::{self, Closed, Refused, Silence},
        connect, connect_5, publish, subscribe,
    },
    world::World,
};

/// Which certificate is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// That of the edge of another site.
    Neighbour,
    None,
    /// One of another authority, with the neighbour's name.
    Foreign,
    /// One that has run out.
    Expired,
}

/// How a broker takes it, and what it writes into its log (nothing, where it does not log such a thing). The embedded one counts
/// it in `slipway_broker_refused_total` under the word; Mosquitto counts nothing by reason.
pub(crate) struct Answer {
    pub(crate) seen: Seen,
    pub(crate) logged: &'static str,
    pub(crate) counted: &'static str,
}

pub(crate) struct Attack {
    pub(crate) name: &'static str,
    pub(crate) shown: Shown,
    pub(crate) connect: Vec<u8>,
    pub(crate) then: Vec<u8>,
    pub(crate) embedded: Answer,
    pub(crate) mosquitto: Answer,
}

const NEIGHBOUR: &str = "bj-2";
/// Below its own `evt/`, so that a message on it does come to the control plane.
pub(crate) const OWN: &[u8] = b"slipway/v1/bj-2/evt/nothing";
const HELLO: &[u8] = b"slipway/v1/bj-1/evt/hello";

fn embedded(seen: Seen, counted: &'static str, logged: &'static str) -> Answer {
    Answer {
        seen,
        logged,
        counted,
    }
}

fn mosquitto(seen: Seen, logged: &'static str) -> Answer {
    Answer {
        seen,
        logged,
        counted: "",
    }
}

fn by_neighbour(name: &'static str, then: Vec<u8>, embedded: Answer, mosquitto: Answer) -> Attack {
    Attack {
        name,
        shown: Shown::Neighbour,
        connect: connect(NEIGHBOUR, None),
        then,
        embedded,
        mosquitto,
    }
}

/// What is said on topics that are not the neighbour's to say anything on.
pub(crate) fn publishes() -> Vec<Attack> {
    let refused = || embedded(Closed, "publish", "may not publish on");
    let own_command = b"slipway/v1/bj-2/cmd/config";
    let listen_and_say = [
        subscribe("slipway/v1/bj-2/cmd/#"),
        publish(own_command, b"x", false),
    ]
    .concat();
    let say = |topic: &[u8]| publish(topic, b"x", false);
    vec![
        by_neighbour("a foreign event", say(HELLO), refused(), mosquitto(Silence, "")),
        by_neighbour(
            "a command of its own",
            listen_and_say,
            refused(),
            mosquitto(Silence, ""),
        ),
        by_neighbour(
            "a foreign command",
            say(b"slipway/v1/bj-1/cmd/config"),
            refused(),
            mosquitto(Silence, ""),
        ),
        by_neighbour(
            "a topic with wildcards",
            say(b"slipway/v1/+/evt/hello"),
            embedded(Closed, "packet", "Incorrect packet format"),
            mosquitto(Closed, "disconnected due to protocol error"),
        ),
        by_neighbour(
            "a topic with NUL",
            say(b"slipway/v1/bj-2/evt/\0"),
            embedded(Closed, "packet", "Malformed packet"),
            mosquitto(Closed, "malformed packet"),
        ),
        by_neighbour(
            "a topic that is not UTF-8",
            say(b"slipway/v1/bj-2/evt/\xff\xfe"),
            embedded(Closed, "packet", "UTF-8"),
            mosquitto(Closed, "malformed packet"),
        ),
        by_neighbour(
            "a retained message",
            publish(OWN, b"x", true),
            // The flag is taken off; `bus/tests/guard.rs` shows that nothing is kept.
            embedded(Silence, "", ""),
            mosquitto(Closed, "Bad socket read/write on client bj-2"),
        ),
    ]
}

/// Mosquitto grants any subscription and judges each message before it hands it out.
pub(crate) fn subscriptions() -> Vec<Attack> {
    [
        "slipway/v1/bj-1/cmd/#",
        "#",
        "+/#",
        "$SYS/#",
        "$share/x/#",
        "slipway/v1/+/cmd/#",
        "slipway/v1/+/evt/#",
        "$share/control-plane/slipway/v1/+/evt/#",
    ]
    .map(|filter| {
        let reason = if filter.starts_with("$share/") {
            "shared subscriptions are not to be had"
        } else {
            "may not subscribe to"
        };
        by_neighbour(
            filter,
            subscribe(filter),
            embedded(Closed, "subscribe", reason),
            mosquitto(Silence, ""),
        )
    })
    .into()
}

/// Who connects as somebody else, or not as MQTT 3.1.1 would have it.
pub(crate) fn connections() -> Vec<Attack> {
    let connecting = |name, connect, embedded, mosquitto| Attack {
        connect,
        ..by_neighbour(name, Vec::new(), embedded, mosquitto)
    };
    let oversized = |first: u8| vec![first, 0xff, 0xff, 0xff, 0x7f];
    let refused = |logged| embedded(Refused, "connect", logged);
    vec![
        connecting(
            "a foreign client id",
            connect("bj-1", None),
            refused("the client id is not `bj-2`"),
            // Its id is its name, whatever it says.
            mosquitto(Silence, "as bj-2"),
        ),
        connecting(
            "a last will on a foreign topic",
            connect(NEIGHBOUR, Some("slipway/v1/bj-1/evt/presence")),
            refused("the last will is on"),
            mosquitto(Silence, ""),
        ),
        connecting(
            "a last will with wildcards",
            connect(NEIGHBOUR, Some("slipway/v1/+/evt/presence")),
            refused("the last will is on"),
            mosquitto(Closed, ""),
        ),
        connecting(
            "MQTT 5",
            connect_5(NEIGHBOUR),
            refused("no CONNECT: Invalid protocol level"),
            // Mosquitto speaks it; the rights are the same.
            mosquitto(Silence, ""),
        ),
        connecting(
            "garbage",
            vec![0xff; 64],
            embedded(Closed, "connect", "no CONNECT"),
            mosquitto(Closed, ""),
        ),
        connecting(
            "an oversized CONNECT",
            oversized(0x10),
            embedded(Closed, "connect", "no CONNECT"),
            mosquitto(Closed, ""),
        ),
        by_neighbour(
            "an oversized packet",
            oversized(0x30),
            embedded(Closed, "packet", "bj-2"),
            mosquitto(Closed, "oversize packet"),
        ),
        by_neighbour(
            "a second CONNECT",
            connect("bj-1", None),
            embedded(Closed, "packet", "a second CONNECT"),
            mosquitto(Closed, "Client bj-2"),
        ),
    ]
}

/// Who has no certificate that is good.
pub(crate) fn certificates() -> Vec<Attack> {
    let refused = |name, shown, logged| Attack {
        shown,
        ..by_neighbour(
            name,
            Vec::new(),
            embedded(Closed, "tls", logged),
            mosquitto(Closed, "SSL routines"),
        )
    };
    vec![
        refused("no certificate", Shown::None, "peer sent no certificates"),
        refused("another authority", Shown::Foreign, "invalid peer certificate"),
        refused(
            "a certificate that ran out",
            Shown::Expired,
            "certificate expired",
        ),
    ]
}

/// TLS with that certificate.
pub(crate) fn tls(world: &World, shown: Shown) -> Arc<ClientConfig> {
    let ca = &world.neighbour.ca;
    let identity = match shown {
        Shown::Neighbour => return world.tls_of(&world.neighbour),
        Shown::None => None,
        Shown::Foreign => {
            let dir = tempfile::tempdir().unwrap();
            Some(issue(&Authority::open(dir.path()).unwrap(), TimeDelta::days(1)))
        }
        Shown::Expired => Some(issue(
            &Authority::open(&world.place.dir).unwrap(),
            TimeDelta::hours(-1),
        )),
    };
    tls::client_config(ca, identity.as_ref()).unwrap()
}

fn issue(authority: &Authority, left: TimeDelta) -> Identity {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(Vec::new()).unwrap();
    let request = request.serialize_request(&key).unwrap().pem().unwrap();
    let now = Utc::now();
    let validity = Validity {
        from: now - TimeDelta::days(2),
        until: now + left,
    };
    let issued = authority.sign(&request, NEIGHBOUR, validity, |_| true).unwrap();
    Identity {
        certificate: issued.pem,
        key: key.serialize_pem(),
    }
}
