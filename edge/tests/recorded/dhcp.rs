//! Every packet of every DHCP client that was recorded, and what this server answers: kept beside as a text, reviewed against the RFCs
//! when it changes. `SLIPWAY_RENEW_SNAPSHOTS=1` writes it anew.

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};
use slipway_edge::{
    boot::{BootTable, Lease},
    dhcp::{
        memory::Memory,
        packet::{MessageType, Request, code},
        reply::{Decision, Server, decide},
    },
};
use slipway_protocol::{ids::MacAddr, site::SubnetConfig};

use super::{
    capture::{self, Datagram},
    fixtures,
};

const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/recorded/dhcp.snapshot.txt");

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// Captures below a folder, by name.
fn captures(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(captures(&path));
        } else if path.extension().is_some_and(|e| e == "pcap" || e == "pcapng") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The address of the server that was recorded: ours in its place. Where none was heard it is the lab's.
fn server_of(datagrams: &[Datagram]) -> Ipv4Addr {
    let from_server = |d: &&Datagram| d.from.port() == 67 && !d.from.ip().is_unspecified();
    let heard = datagrams.iter().find(from_server);
    heard.map_or(Ipv4Addr::new(192, 0, 2, 1), |d| *d.from.ip())
}

/// A site on the recorded server's network of 24 bits, which boots whoever it does not know, and where each client has the address
/// that it was given then.
fn table(server: Ipv4Addr, datagrams: &[Datagram]) -> BootTable {
    let [a, b, c, _] = server.octets();
    let table = BootTable::of(vec![server]);
    let at = |last| Ipv4Addr::new(a, b, c, last);
    let subnet = SubnetConfig {
        network: format!("{}/24", at(0)).parse().unwrap(),
        server,
        gateway: Some(at(254)),
        dns: vec![at(53)],
        pool: Some((at(10), at(199))),
        lease_seconds: 3600,
    };
    table.set_site(&[subnet], true);
    let given = datagrams
        .iter()
        .filter(|d| d.from.port() == 67 && d.payload.len() > 34);
    let leases = given.filter_map(|d| {
        let address = Ipv4Addr::from(<[u8; 4]>::try_from(&d.payload[16..20]).ok()?);
        let mac = MacAddr(d.payload[28..34].try_into().ok()?);
        let until = now();
        (!address.is_unspecified()).then_some(Lease { mac, address, until })
    });
    table.restore(leases.collect());
    table
}

/// What a client says of itself, on one line.
fn asked(request: &Request) -> String {
    let mut line = format!("{:?} {}", request.message, request.mac);
    let text = |code| {
        request
            .option(code)
            .map(|value| String::from_utf8_lossy(value).into_owned())
    };
    for (name, value) in [
        (
            "from",
            (!request.ciaddr.is_unspecified()).then(|| request.ciaddr.to_string()),
        ),
        (
            "relay",
            (!request.giaddr.is_unspecified()).then(|| request.giaddr.to_string()),
        ),
        (
            "wants",
            request.address(code::REQUESTED_IP).map(|a| a.to_string()),
        ),
        ("of", request.address(code::SERVER_ID).map(|a| a.to_string())),
        ("arch", request.architecture().map(|a| a.to_string())),
        ("class", text(code::VENDOR_CLASS)),
        ("user", text(code::USER_CLASS)),
    ] {
        if let Some(value) = value {
            write!(line, " {name}={}", value.escape_default()).unwrap();
        }
    }
    line
}

/// What it is answered, on one line.
fn answered(decision: &Decision, bytes: &[u8]) -> String {
    let reply = &decision.reply;
    let codes: Vec<String> = reply.options.iter().map(|(code, _)| code.to_string()).collect();
    format!(
        "{:?} {} to {} file={} next={} options={} bytes={}",
        reply.message,
        reply.yiaddr,
        decision.to,
        reply.file.as_deref().unwrap_or("-"),
        reply.siaddr,
        codes.join(","),
        bytes.len()
    )
}

/// The same rules hold for every answer, whoever asks (RFC 2131, 4.1 and 4.3; RFC 3046, 2.2).
fn keeps_to_the_standard(request: &Request, decision: &Decision, bytes: &[u8]) {
    assert_eq!(
        (bytes[0], &bytes[4..8]),
        (2, &request.xid[..]),
        "the same transaction"
    );
    assert_eq!(&bytes[28..34], &request.mac.0, "the same client");
    assert_eq!(
        &bytes[24..28],
        &request.giaddr.octets(),
        "the relay finds its client by it"
    );
    assert!(bytes.len() >= 300);
    let options = decision.reply.options.iter();
    let codes: Vec<u8> = options.map(|(code, _)| *code).collect();
    assert!(codes.contains(&code::SERVER_ID), "RFC 2131, table 3");
    let grants = matches!(decision.reply.message, MessageType::Offer | MessageType::Ack);
    let informs = request.message == MessageType::Inform;
    assert_eq!(
        codes.contains(&code::LEASE_TIME),
        grants && !informs,
        "RFC 2131, table 3"
    );
    match request.message {
        MessageType::Discover => assert_eq!(decision.reply.message, MessageType::Offer),
        MessageType::Request => assert_ne!(decision.reply.message, MessageType::Offer),
        MessageType::Inform => assert_eq!(decision.reply.message, MessageType::Ack),
        other => panic!("{other:?} has no answer"),
    }
    if decision.reply.message == MessageType::Nak {
        assert!(decision.reply.yiaddr.is_unspecified() && !codes.contains(&code::SUBNET_MASK));
    }
}

fn answers(name: &str, datagrams: &[Datagram]) -> String {
    let address = server_of(datagrams);
    let (server, table) = (
        Server {
            address,
            http_port: 8081,
        },
        table(address, datagrams),
    );
    let mut memory = Memory::default();
    let mut text = format!("## {name}, as {address}\n");
    for datagram in datagrams.iter().filter(|d| d.to.port() == 67) {
        let request = match Request::parse(&datagram.payload) {
            Ok(request) => memory.complete(request, now()),
            Err(why) => {
                writeln!(text, "{} bytes\n  {why}", datagram.payload.len()).unwrap();
                continue;
            }
        };
        writeln!(text, "{}", asked(&request)).unwrap();
        match decide(&request, server, &table, now()) {
            Some(decision) => {
                let bytes = decision.reply.encode(&request);
                keeps_to_the_standard(&request, &decision, &bytes);
                writeln!(text, "  {}", answered(&decision, &bytes)).unwrap();
            }
            None => writeln!(text, "  -").unwrap(),
        }
    }
    text
}

#[test]
fn recorded_dhcp_clients_are_answered_as_was_reviewed() {
    let folder = fixtures().join("dhcp");
    let mut text = String::new();
    let mut packets = 0;
    for path in captures(&folder) {
        let datagrams = capture::datagrams(&path);
        packets += datagrams.iter().filter(|d| d.to.port() == 67).count();
        let name = path.strip_prefix(&folder).unwrap().display().to_string();
        text.push_str(&answers(&name, &datagrams));
    }
    assert!(packets >= 80, "{packets} packets of clients were recorded");
    if std::env::var_os("SLIPWAY_RENEW_SNAPSHOTS").is_some() {
        std::fs::write(KEPT, &text).unwrap();
    }
    let kept = std::fs::read_to_string(KEPT).unwrap();
    let differing = text.lines().zip(kept.lines()).find(|(now, kept)| now != kept);
    assert!(
        text == kept,
        "the answers are not those kept in {KEPT} (now, kept): {differing:#?}; look at each, then renew with SLIPWAY_RENEW_SNAPSHOTS=1"
    );
}
