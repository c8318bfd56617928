//! DHCP answers by the packet, and a whole exchange over real sockets.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod over_sockets;

use std::net::{Ipv4Addr, SocketAddrV4};

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use slipway_edge::{
    boot::{BootEntry, BootMode, BootTable},
    dhcp::{
        memory::{self, Memory},
        packet::{MessageType, NotServed, Request, code},
        reply::{Decision, Server, decide},
    },
};
use slipway_protocol::{
    ids::{MacAddr, MachineId},
    site::SubnetConfig,
};
use uuid::Uuid;

const SERVER: Server = Server {
    address: Ipv4Addr::new(192, 0, 2, 1),
    http_port: 8081,
};
const KNOWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const LOCAL: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const UNKNOWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);

fn table() -> BootTable {
    let table = BootTable::default();
    let subnet = SubnetConfig {
        network: "192.0.2.0/24".parse().unwrap(),
        server: SERVER.address,
        gateway: Some(Ipv4Addr::new(192, 0, 2, 254)),
        dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
        pool: Some((Ipv4Addr::new(192, 0, 2, 200), Ipv4Addr::new(192, 0, 2, 201))),
        lease_seconds: 3600,
    };
    table.set_site(&[subnet], true);
    for (mac, last, mode) in [
        (KNOWN, 10, BootMode::LiveOs { boot_key: "k".into() }),
        (LOCAL, 11, BootMode::Local),
    ] {
        let machine = MachineId(Uuid::from_u128(last.into()));
        let address = Ipv4Addr::new(192, 0, 2, last);
        table.bind(BootEntry {
            machine,
            mac,
            address,
            hostname: Some("web-1".into()),
            mode,
        });
    }
    table
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// A client's packet.
#[derive(Clone)]
struct Client {
    mac: MacAddr,
    message: u8,
    ciaddr: Ipv4Addr,
    giaddr: Ipv4Addr,
    options: Vec<(u8, Vec<u8>)>,
}

fn client(mac: MacAddr, message: u8) -> Client {
    Client {
        mac,
        message,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: Ipv4Addr::UNSPECIFIED,
        options: vec![],
    }
}

impl Client {
    fn with(mut self, code: u8, value: impl AsRef<[u8]>) -> Self {
        self.options.push((code, value.as_ref().to_vec()));
        self
    }

    fn pxe(self, architecture: u8) -> Self {
        self.with(code::VENDOR_CLASS, b"PXEClient:Arch:00000")
            .with(code::ARCHITECTURE, [0, architecture])
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 240];
        out[..3].copy_from_slice(&[1, 1, 6]);
        out[4..8].copy_from_slice(b"xid!");
        out[12..16].copy_from_slice(&self.ciaddr.octets());
        out[24..28].copy_from_slice(&self.giaddr.octets());
        out[28..34].copy_from_slice(&self.mac.0);
        out[236..240].copy_from_slice(&[99, 130, 83, 99]);
        out.extend([code::MESSAGE_TYPE, 1, self.message]);
        for (code, value) in &self.options {
            out.extend([*code, u8::try_from(value.len()).unwrap()]);
            out.extend(value);
        }
        out.push(255);
        out
    }

    fn ask(&self, table: &BootTable) -> Option<(Decision, Vec<u8>)> {
        let request = Request::parse(&self.bytes()).unwrap();
        let decision = decide(&request, SERVER, table, now())?;
        let bytes = decision.reply.encode(&request);
        Some((decision, bytes))
    }
}

fn option(bytes: &[u8], wanted: u8) -> Option<Vec<u8>> {
    options(bytes)
        .into_iter()
        .find(|(code, _)| *code == wanted)
        .map(|(_, value)| value)
}

fn options(bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let (mut rest, mut found) = (&bytes[240..], vec![]);
    while rest[0] != 255 {
        if rest[0] == 0 {
            rest = &rest[1..];
            continue;
        }
        let len = usize::from(rest[1]);
        found.push((rest[0], rest[2..2 + len].to_vec()));
        rest = &rest[2 + len..];
    }
    found
}

#[test]
fn each_kind_of_client_gets_its_boot_file() {
    let script = "http://192.0.2.1:8081/boot/02-00-00-00-00-01.ipxe";
    let http = client(KNOWN, 1)
        .with(code::VENDOR_CLASS, b"HTTPClient:Arch:00016")
        .with(code::ARCHITECTURE, [0, 16]);
    for (who, asks, file) in [
        ("BIOS", client(KNOWN, 1).pxe(0), Some("undionly.kpxe")),
        ("EFI, type 7", client(KNOWN, 1).pxe(7), Some("snponly.efi")),
        ("EFI, type 9", client(KNOWN, 1).pxe(9), Some("snponly.efi")),
        ("a 32-bit EFI", client(KNOWN, 1).pxe(6), None),
        ("HTTP boot", http, Some("http://192.0.2.1:8081/ipxe/snponly.efi")),
        (
            "iPXE",
            client(KNOWN, 1).pxe(0).with(code::USER_CLASS, b"iPXE"),
            Some(script),
        ),
        (
            "iPXE by RFC 3004",
            client(KNOWN, 1).pxe(7).with(code::USER_CLASS, b"\x04iPXE"),
            Some(script),
        ),
        ("an operating system", client(KNOWN, 1), None),
        ("a machine that boots its disk", client(LOCAL, 1).pxe(0), None),
        (
            "an unknown machine",
            client(UNKNOWN, 1).pxe(0),
            Some("undionly.kpxe"),
        ),
    ] {
        let (decision, bytes) = asks.ask(&table()).unwrap();
        assert_eq!(decision.reply.message, MessageType::Offer, "{who}");
        assert_eq!(
            option(&bytes, code::BOOT_FILE)
                .map(|f| String::from_utf8(f).unwrap())
                .as_deref(),
            file,
            "{who}"
        );
        assert!(bytes.len() >= 300, "{who}: padded to BOOTP's least length");
        assert_eq!(decision.unknown, asks.mac == UNKNOWN, "{who}");
        let lacks = (who == "a 32-bit EFI").then_some(6);
        assert_eq!(decision.no_program, lacks, "{who}: said, not silent");
    }
    let (_, ipxe) = client(KNOWN, 1)
        .with(code::USER_CLASS, b"iPXE")
        .ask(&table())
        .unwrap();
    assert_eq!(
        option(&ipxe, code::IPXE),
        Some(vec![176, 1, 1]),
        "no wait for ProxyDHCP"
    );
    let (_, pxe) = client(KNOWN, 1).pxe(0).ask(&table()).unwrap();
    assert_eq!(
        option(&pxe, code::VENDOR),
        Some(vec![6, 1, 8, 255]),
        "no boot server discovery"
    );
}

#[test]
fn an_address_comes_with_all_that_belongs_to_it() {
    let asks = client(KNOWN, 1)
        .with(code::CLIENT_ID, b"\x01id")
        .with(code::MACHINE_ID, b"guid");
    let (decision, bytes) = asks.ask(&table()).unwrap();
    assert_eq!(decision.reply.yiaddr, Ipv4Addr::new(192, 0, 2, 10));
    assert_eq!(decision.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
    for (code, value) in [
        (code::SUBNET_MASK, vec![255, 255, 255, 0]),
        (code::ROUTER, vec![192, 0, 2, 254]),
        (code::DNS, vec![192, 0, 2, 53]),
        (code::LEASE_TIME, 3600_u32.to_be_bytes().to_vec()),
        (code::HOST_NAME, b"web-1".to_vec()),
        (code::CLIENT_ID, b"\x01id".to_vec()),
        (code::MACHINE_ID, b"guid".to_vec()),
    ] {
        assert_eq!(option(&bytes, code), Some(value), "option {code}");
    }
}

#[test]
fn a_relay_gets_its_own_words_back_last() {
    let relay = Ipv4Addr::new(192, 0, 2, 253);
    let information = [1, 4, 9, 9, 9, 9, 151, 1, 0xff];
    let asks = Client {
        giaddr: relay,
        ..client(KNOWN, 1).with(code::RELAY, information)
    };
    let (decision, bytes) = asks.ask(&table()).unwrap();
    assert_eq!(decision.to, SocketAddrV4::new(relay, 67));
    assert_eq!(options(&bytes).last(), Some(&(code::RELAY, information.to_vec())));
    let elsewhere = Client {
        giaddr: Ipv4Addr::new(10, 0, 0, 1),
        ..asks
    };
    assert!(elsewhere.ask(&table()).is_none(), "a network nobody configured");
}

#[test]
fn requests_are_granted_refused_or_left_to_others() {
    let address = |last| [192, 0, 2, last];
    let request = |last| client(KNOWN, 3).with(code::REQUESTED_IP, address(last));
    let message = |asks: Client| asks.ask(&table()).map(|(decision, _)| decision.reply.message);
    assert_eq!(
        message(request(10).with(code::SERVER_ID, address(1))),
        Some(MessageType::Ack)
    );
    assert_eq!(message(request(77)), Some(MessageType::Nak), "a wrong address");
    assert_eq!(
        message(request(10).with(code::SERVER_ID, address(9))),
        None,
        "another server was chosen"
    );
    let renew = Client {
        ciaddr: address(10).into(),
        ..client(KNOWN, 3)
    };
    let (decision, _) = renew.ask(&table()).unwrap();
    assert_eq!(decision.reply.message, MessageType::Ack);
    assert_eq!(
        decision.to,
        SocketAddrV4::new(address(10).into(), 68),
        "renewals are unicast"
    );
    let inform = Client { message: 8, ..renew };
    let (decision, bytes) = inform.ask(&table()).unwrap();
    assert!(
        decision.reply.yiaddr.is_unspecified() && option(&bytes, code::LEASE_TIME).is_none(),
        "RFC 2131, 4.3.5"
    );
}

#[test]
fn a_declined_address_is_not_offered_again() {
    let table = table();
    let offered = |table: &BootTable| client(UNKNOWN, 1).ask(table).unwrap().0.reply.yiaddr;
    let first = offered(&table);
    assert!(
        client(UNKNOWN, 4)
            .with(code::REQUESTED_IP, first.octets())
            .ask(&table)
            .is_none()
    );
    assert_ne!(offered(&table), first);
}

#[test]
fn odd_packets_lose_nothing() {
    let mut bytes = client(KNOWN, 1)
        .with(code::HOST_NAME, [0xff, 0xfe])
        .with(code::CLIENT_ID, b"id")
        .bytes();
    let request = Request::parse(&bytes).unwrap();
    assert_eq!(
        request.option(code::CLIENT_ID),
        Some(&b"id"[..]),
        "a bad host name hides nothing"
    );
    bytes.truncate(bytes.len() - 2);
    assert!(Request::parse(&bytes).is_ok(), "a cut last option");
    let split = client(KNOWN, 1)
        .with(code::VENDOR_CLASS, b"PXE")
        .with(code::VENDOR_CLASS, b"Client");
    assert_eq!(
        Request::parse(&split.bytes()).unwrap().option(code::VENDOR_CLASS),
        Some(&b"PXEClient"[..]),
        "RFC 3396"
    );
    let mut overloaded = client(KNOWN, 1).with(code::OVERLOAD, [1]).bytes();
    overloaded[108..115].copy_from_slice(&[code::USER_CLASS, 4, b'i', b'P', b'X', b'E', 255]);
    assert!(
        Request::parse(&overloaded).unwrap().is_ipxe(),
        "options in the file field"
    );
}

/// A second network, reached by relay only.
fn table_with_far_network() -> BootTable {
    let table = table();
    let near = table.subnet_of(SERVER.address).unwrap();
    let far = SubnetConfig {
        network: "198.51.100.0/24".parse().unwrap(),
        gateway: Some(Ipv4Addr::new(198, 51, 100, 254)),
        pool: Some((Ipv4Addr::new(198, 51, 100, 20), Ipv4Addr::new(198, 51, 100, 29))),
        ..near.clone()
    };
    table.set_site(&[near, far], true);
    table
}

#[test]
fn a_relay_selects_the_network_and_the_servers_name() {
    let table = table_with_far_network();
    let far = Ipv4Addr::new(198, 51, 100, 254);
    let by_relay = |giaddr, options: &[u8]| Client {
        giaddr,
        ..client(UNKNOWN, 1).with(code::RELAY, options)
    };
    let first = Ipv4Addr::new(198, 51, 100, 20);
    let (by_giaddr, _) = by_relay(far, &[1, 1, 7]).ask(&table).unwrap();
    assert_eq!(by_giaddr.reply.yiaddr, first);
    // The relay's own address is of another network than the client's (RFC 3527).
    let near = Ipv4Addr::new(192, 0, 2, 253);
    let (selected, _) = by_relay(near, &[1, 1, 7, 5, 4, 198, 51, 100, 0])
        .ask(&table)
        .unwrap();
    assert_eq!((selected.reply.yiaddr, *selected.to.ip()), (first, near));
    let (by_client, _) = client(UNKNOWN, 1)
        .with(code::SUBNET_SELECTION, [198, 51, 100, 0])
        .ask(&table)
        .unwrap();
    assert_eq!(by_client.reply.yiaddr, first, "RFC 3011");
    let overriding = [11, 4, 198, 51, 100, 254];
    let (_, offer) = by_relay(far, &overriding).ask(&table).unwrap();
    assert_eq!(
        option(&offer, code::SERVER_ID),
        Some(far.octets().to_vec()),
        "RFC 5107"
    );
    let request = Client {
        giaddr: far,
        ..client(UNKNOWN, 3)
            .with(code::RELAY, overriding)
            .with(code::SERVER_ID, far.octets())
            .with(code::REQUESTED_IP, first.octets())
    };
    assert_eq!(request.ask(&table).unwrap().0.reply.message, MessageType::Ack);
    let cut = by_relay(far, &[5, 9, 198]).ask(&table).unwrap().0;
    assert_eq!(cut.reply.yiaddr, first, "a cut sub-option is looked over");
}

#[test]
fn a_client_behind_a_relay_renews_past_it() {
    let table = table_with_far_network();
    let far = Ipv4Addr::new(198, 51, 100, 254);
    let relayed = |message: u8| Client {
        giaddr: far,
        ..client(UNKNOWN, message)
    };
    let address = relayed(1).ask(&table).unwrap().0.reply.yiaddr;
    let request = relayed(3)
        .with(code::SERVER_ID, SERVER.address.octets())
        .with(code::REQUESTED_IP, address.octets());
    assert_eq!(request.ask(&table).unwrap().0.reply.message, MessageType::Ack);
    let renewal = Client {
        ciaddr: address,
        ..client(UNKNOWN, 3)
    };
    let (decision, bytes) = renewal.ask(&table).unwrap();
    assert_eq!(decision.reply.message, MessageType::Ack);
    assert_eq!(decision.to, SocketAddrV4::new(address, 68));
    assert_eq!(option(&bytes, code::ROUTER), Some(vec![198, 51, 100, 254]));
    let release = Client {
        message: 7,
        ..renewal
    };
    assert!(release.ask(&table).is_none());
    assert_eq!(table.leases()[0].until, now(), "given back");
}

#[test]
fn a_refusal_says_why_and_reaches_a_client_without_an_address() {
    let wrong = client(KNOWN, 3)
        .with(code::REQUESTED_IP, [192, 0, 2, 77])
        .with(code::CLIENT_ID, b"\x01id");
    let (direct, bytes) = wrong.ask(&table()).unwrap();
    assert_eq!(direct.to, SocketAddrV4::new(Ipv4Addr::BROADCAST, 68));
    assert_eq!(
        option(&bytes, code::CLIENT_ID),
        Some(b"\x01id".to_vec()),
        "RFC 6842"
    );
    assert!(option(&bytes, code::MESSAGE).is_some() && bytes[16..20] == [0; 4]);
    let relay = Ipv4Addr::new(192, 0, 2, 253);
    let (relayed, bytes) = Client {
        giaddr: relay,
        ..wrong
    }
    .ask(&table())
    .unwrap();
    assert_eq!(relayed.to, SocketAddrV4::new(relay, 67));
    assert_eq!(
        bytes[10] & 0x80,
        0x80,
        "the relay must broadcast it (RFC 2131, 4.3.2)"
    );
}

#[test]
fn asking_for_options_only_leases_nothing() {
    let table = table();
    let inform = Client {
        ciaddr: Ipv4Addr::new(192, 0, 2, 99),
        ..client(UNKNOWN, 8)
    };
    let (decision, bytes) = inform.ask(&table).unwrap();
    assert_eq!(decision.to, SocketAddrV4::new(inform.ciaddr, 68));
    assert_eq!(option(&bytes, code::ROUTER), Some(vec![192, 0, 2, 254]));
    assert_eq!(table.leases(), []);
}

#[test]
fn a_client_that_lost_its_lease_with_our_disk_keeps_its_address() {
    let asks = client(UNKNOWN, 3).with(code::REQUESTED_IP, [192, 0, 2, 201]);
    let (decision, _) = asks.ask(&table()).unwrap();
    assert_eq!(decision.reply.message, MessageType::Ack);
    assert_eq!(decision.reply.yiaddr, Ipv4Addr::new(192, 0, 2, 201));
}

#[test]
fn odd_firmware_is_recognised() {
    let offered = |asks: Client| option(&asks.ask(&table()).unwrap().1, code::BOOT_FILE);
    let class_only = client(KNOWN, 1).with(code::VENDOR_CLASS, b"PXEClient:Arch:00007:UNDI:003016");
    assert_eq!(offered(class_only), Some(b"snponly.efi".to_vec()), "no option 93");
    let several = client(KNOWN, 1).pxe(0).with(code::USER_CLASS, b"\x03lab\x04iPXE");
    assert!(
        offered(several).unwrap().starts_with(b"http://"),
        "iPXE among several classes"
    );
    let cut = client(KNOWN, 1).pxe(0).with(code::USER_CLASS, b"\xffiPXE");
    assert_eq!(
        offered(cut),
        Some(b"undionly.kpxe".to_vec()),
        "a class longer than its option"
    );
    let (_, local) = client(LOCAL, 1)
        .with(code::USER_CLASS, b"iPXE")
        .ask(&table())
        .unwrap();
    assert_eq!(
        (option(&local, code::BOOT_FILE), option(&local, code::IPXE)),
        (None, Some(vec![176, 1, 1])),
        "one that boots its disk need not wait for ProxyDHCP either"
    );
}

/// As the server does: with what clients said before.
fn ask_in_turn(table: &BootTable, memory: &mut Memory, asks: &Client) -> Option<(Decision, Vec<u8>)> {
    let request = memory.complete(Request::parse(&asks.bytes()).unwrap(), now());
    let decision = decide(&request, SERVER, table, now())?;
    let bytes = decision.reply.encode(&request);
    Some((decision, bytes))
}

#[test]
fn a_request_that_says_less_than_its_discover_is_answered_by_it() {
    for (who, first, file) in [
        ("BIOS", client(KNOWN, 1).pxe(0), "undionly.kpxe"),
        ("UEFI", client(KNOWN, 1).pxe(7), "snponly.efi"),
        ("unknown", client(UNKNOWN, 1).pxe(0), "undionly.kpxe"),
    ] {
        let (table, mut memory) = (table(), Memory::default());
        let (offer, _) = ask_in_turn(&table, &mut memory, &first).unwrap();
        // Neither vendor class nor architecture, and no address either.
        let bare = client(first.mac, 3).with(code::SERVER_ID, SERVER.address.octets());
        let (ack, bytes) = ask_in_turn(&table, &mut memory, &bare).unwrap();
        assert_eq!(ack.reply.message, MessageType::Ack, "{who}");
        assert_eq!(ack.reply.yiaddr, offer.reply.yiaddr, "{who}: what was offered");
        assert_eq!(option(&bytes, code::BOOT_FILE), Some(file.into()), "{who}");
    }
}

#[test]
fn what_an_operating_system_asks_is_not_completed_from_its_firmware() {
    let (table, mut memory) = (table(), Memory::default());
    ask_in_turn(&table, &mut memory, &client(KNOWN, 1).pxe(0)).unwrap();
    // Its own DISCOVER has no vendor class; the transaction may have the same number.
    ask_in_turn(&table, &mut memory, &client(KNOWN, 1)).unwrap();
    let asks = client(KNOWN, 3).with(code::REQUESTED_IP, [192, 0, 2, 10]);
    let (_, bytes) = ask_in_turn(&table, &mut memory, &asks).unwrap();
    assert_eq!(option(&bytes, code::BOOT_FILE), None);
    // A REQUEST of another transaction, as after a restart of the system.
    ask_in_turn(&table, &mut memory, &client(KNOWN, 1).pxe(0)).unwrap();
    let mut request = Request::parse(&asks.bytes()).unwrap();
    request.xid = *b"othr";
    let request = memory.complete(request, now());
    assert_eq!(request.option(code::VENDOR_CLASS), None);
}

#[test]
fn a_flood_of_clients_is_remembered_in_bounds() {
    let mut memory = Memory::default();
    for n in 0..20_000_u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let asks = client(MacAddr([2, 9, a, b, c, d]), 1).pxe(0);
        let _ = memory.complete(Request::parse(&asks.bytes()).unwrap(), now());
    }
    assert!(memory.len() <= memory::MOST, "{}", memory.len());
}

#[test]
fn a_request_without_address_and_without_offer_is_left_alone() {
    assert!(client(UNKNOWN, 3).ask(&table()).is_none());
    let known = client(KNOWN, 3).ask(&table()).unwrap().0;
    assert_eq!(
        (known.reply.message, known.reply.yiaddr),
        (MessageType::Ack, Ipv4Addr::new(192, 0, 2, 10)),
        "its order names its address"
    );
}

#[test]
fn an_ipxe_without_http_gets_ours() {
    let ipxe = |features: &[u8], architecture| {
        client(KNOWN, 1)
            .pxe(architecture)
            .with(code::USER_CLASS, b"iPXE")
            .with(code::IPXE, features)
    };
    let file =
        |asks: Client| String::from_utf8(option(&asks.ask(&table()).unwrap().1, code::BOOT_FILE).unwrap());
    for (features, architecture, wanted) in [
        // TFTP and DNS alone, as some network cards' ROMs are built.
        (&[0x15, 1, 1, 0x16, 1, 1][..], 0, "undionly.kpxe"),
        (&[0x15, 1, 1, 0x13, 1, 0], 7, "snponly.efi"),
        (&[0xb1, 5, 1, 0x80, 0x86, 0x10, 0x0e], 0, "undionly.kpxe"),
        (
            &[0x13, 1, 1],
            0,
            "http://192.0.2.1:8081/boot/02-00-00-00-00-01.ipxe",
        ),
        (
            &[0xb1, 2, 1, 2, 0x13, 1, 1, 0x15, 1, 1],
            7,
            "http://192.0.2.1:8081/boot/02-00-00-00-00-01.ipxe",
        ),
    ] {
        assert_eq!(
            file(ipxe(features, architecture)).unwrap(),
            wanted,
            "{features:?}"
        );
    }
}

#[test]
fn relays_are_believed_on_the_sites_networks_and_by_its_list_alone() {
    let table = table();
    let asks = |relay| Client {
        giaddr: relay,
        // It says which network it means, so that is no question.
        ..client(UNKNOWN, 1).with(code::RELAY, [5, 4, 192, 0, 2, 0])
    };
    let inside = Ipv4Addr::new(192, 0, 2, 253);
    assert_eq!(*asks(inside).ask(&table).unwrap().0.to.ip(), inside);
    for outside in [
        Ipv4Addr::new(203, 0, 113, 9),
        Ipv4Addr::new(8, 8, 8, 8),
        Ipv4Addr::BROADCAST,
    ] {
        assert!(asks(outside).ask(&table).is_none(), "{outside}");
    }
    let listed = Ipv4Addr::new(203, 0, 113, 9);
    table.set_relays(&[listed]);
    assert_eq!(*asks(listed).ask(&table).unwrap().0.to.ip(), listed);
}

#[test]
fn an_answer_goes_to_no_address_that_somebody_made_up() {
    let victim = Ipv4Addr::new(203, 0, 113, 9);
    let from = |message| Client {
        ciaddr: victim,
        ..client(UNKNOWN, message)
    };
    assert!(from(8).ask(&table()).is_none(), "INFORM");
    let asks = from(3).with(code::REQUESTED_IP, [192, 0, 2, 200]);
    assert_eq!(
        *asks.ask(&table()).unwrap().0.to.ip(),
        Ipv4Addr::BROADCAST,
        "REQUEST"
    );
    assert_eq!(
        *from(1).ask(&table()).unwrap().0.to.ip(),
        Ipv4Addr::BROADCAST,
        "DISCOVER"
    );
}

#[test]
fn a_network_behind_relays_knows_the_edge_by_its_own_address() {
    let table = BootTable::of(vec![SERVER.address]);
    let far = SubnetConfig {
        network: "198.51.100.0/24".parse().unwrap(),
        // As configurations have it that gave the edge an address where it has none.
        server: Ipv4Addr::new(198, 51, 100, 1),
        gateway: None,
        dns: vec![],
        pool: Some((Ipv4Addr::new(198, 51, 100, 20), Ipv4Addr::new(198, 51, 100, 29))),
        lease_seconds: 600,
    };
    table.set_site(&[far], true);
    let at = table.subnet_of(Ipv4Addr::new(198, 51, 100, 20)).unwrap();
    assert_eq!(at.server, SERVER.address);
    let asks = Client {
        giaddr: Ipv4Addr::new(198, 51, 100, 254),
        ..client(UNKNOWN, 1).pxe(0)
    };
    let (decision, bytes) = asks.ask(&table).unwrap();
    assert_eq!(decision.reply.siaddr, SERVER.address);
    assert_eq!(option(&bytes, code::TFTP_SERVER), Some(b"192.0.2.1".to_vec()));
}

#[test]
fn hardware_without_mac_addresses_is_named_and_ethernet_by_other_names_served() {
    let mut bytes = client(KNOWN, 1).bytes();
    for (hardware, length) in [(32, 0), (32, 20), (24, 8), (1, 16)] {
        (bytes[1], bytes[2]) = (hardware, length);
        assert_eq!(
            Request::parse(&bytes),
            Err(NotServed::Hardware(hardware)),
            "{hardware}"
        );
    }
    assert!(NotServed::Hardware(32).to_string().contains("InfiniBand"));
    for hardware in [0, 1, 6] {
        (bytes[1], bytes[2]) = (hardware, 6);
        let request = Request::parse(&bytes).unwrap();
        let reply = decide(&request, SERVER, &table(), now()).unwrap().reply;
        assert_eq!(reply.encode(&request)[1], hardware, "given back as it came");
    }
    bytes[236] = 0;
    assert_eq!(
        Request::parse(&bytes),
        Err(NotServed::NotDhcp),
        "BOOTP without the cookie"
    );
}

#[test]
fn names_end_with_zero_and_so_does_the_packet() {
    for asks in [
        client(KNOWN, 1).pxe(0),
        client(KNOWN, 1).pxe(7).with(code::CLIENT_ID, [7; 180]),
        client(KNOWN, 1).with(code::USER_CLASS, b"iPXE"),
    ] {
        let (decision, bytes) = asks.ask(&table()).unwrap();
        let file = decision.reply.file.unwrap();
        let at = bytes[240..]
            .windows(file.len())
            .position(|window| window == file.as_bytes())
            .unwrap();
        assert_eq!(bytes[240 + at + file.len()], 0, "{file}");
        let end = bytes.iter().rposition(|byte| *byte == 255).unwrap();
        assert!(bytes.len() >= end + 5 && bytes[end + 1..].iter().all(|byte| *byte == 0));
    }
    let (_, bytes) = client(KNOWN, 1).pxe(0).ask(&table()).unwrap();
    let codes: Vec<u8> = options(&bytes).iter().map(|(code, _)| *code).collect();
    assert_eq!(codes[..2], [code::MESSAGE_TYPE, code::SERVER_ID]);
    let at = |wanted| codes.iter().position(|code| *code == wanted).unwrap();
    assert!(at(code::SUBNET_MASK) < at(code::ROUTER), "RFC 2132, 3.3");
    assert!(at(code::BOOT_FILE) < at(code::HOST_NAME));
}

#[test]
fn answers_fit_the_clients_largest_packet() {
    let crowded = Client {
        giaddr: Ipv4Addr::new(192, 0, 2, 253),
        ..client(KNOWN, 1)
            .pxe(0)
            .with(code::CLIENT_ID, [1; 200])
            .with(code::RELAY, [9; 200])
    };
    let (_, bytes) = crowded.ask(&table()).unwrap();
    assert!(bytes.len() <= 548, "{} bytes", bytes.len());
    assert_eq!(option(&bytes, code::BOOT_FILE), Some(b"undionly.kpxe".to_vec()));
    assert_eq!(
        option(&bytes, code::CLIENT_ID),
        None,
        "the least needed is left out"
    );
    assert_eq!(options(&bytes).last(), Some(&(code::RELAY, vec![9; 200])));
    let (_, bytes) = crowded
        .with(code::MAX_SIZE, 1500_u16.to_be_bytes())
        .ask(&table())
        .unwrap();
    assert_eq!(option(&bytes, code::CLIENT_ID), Some(vec![1; 200]));
}

/// Our packets as another implementation reads them.
#[test]
fn dhcproto_reads_what_we_write() {
    use dhcproto::{Decodable as _, v4};
    let asks = Client {
        giaddr: Ipv4Addr::new(192, 0, 2, 253),
        ..client(KNOWN, 1).pxe(7).with(code::RELAY, [1, 2, 7, 7])
    };
    let (_, bytes) = asks.ask(&table()).unwrap();
    let read = v4::Message::from_bytes(&bytes).unwrap();
    assert_eq!(read.opts().msg_type(), Some(v4::MessageType::Offer));
    assert_eq!(
        (read.yiaddr(), read.siaddr()),
        (Ipv4Addr::new(192, 0, 2, 10), SERVER.address)
    );
    assert_eq!(read.fname(), Some(&b"snponly.efi\0"[..]));
    for code in [
        v4::OptionCode::Router,
        v4::OptionCode::AddressLeaseTime,
        v4::OptionCode::TFTPServerName,
        v4::OptionCode::VendorExtensions,
        v4::OptionCode::RelayAgentInformation,
    ] {
        assert!(read.opts().get(code).is_some(), "{code:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(tail in proptest::collection::vec(any::<u8>(), 0..200), flips in proptest::collection::vec((0..240_usize, any::<u8>()), 0..4)) {
        let mut bytes = client(KNOWN, 1).pxe(0).bytes();
        bytes.truncate(243);
        bytes.extend(tail);
        for (at, value) in flips {
            bytes[at] = value;
        }
        if let Ok(request) = Request::parse(&bytes)
            && let Some(decision) = decide(&request, SERVER, &table(), now())
        {
            prop_assert!(decision.reply.encode(&request).len() >= 300);
        }
    }
}
