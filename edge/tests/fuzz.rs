//! What firmware, BMCs and whoever is on the network may send to an edge, changed: none of it ends the edge.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::net::Ipv4Addr;

use chrono::{DateTime, Utc};
use slipway_edge::{
    bmc::ipmi::{
        chassis,
        crypto::{SessionKeys, Suite},
        rakp::{OpenRequest, OpenResponse, Rakp1, RakpReply},
        sel, users,
        wire::{Frame, PayloadType, Request, Response, parse, sessionless, setup},
    },
    boot::BootTable,
    dhcp::{
        memory::Memory,
        packet,
        reply::{Server, decide},
    },
    tftp::packet::Incoming,
};
use slipway_protocol::site::SubnetConfig;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

/// A client's packet with these options.
fn dhcp(message: u8, options: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 240];
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, message]);
    bytes[236..240].copy_from_slice(&[99, 130, 83, 99]);
    bytes.extend([53, 1, message]);
    for (code, value) in options {
        bytes.extend([*code, value.len() as u8]);
        bytes.extend_from_slice(value);
    }
    bytes.push(255);
    bytes
}

#[test]
fn fuzzed_dhcp_ends_nothing() {
    let table = BootTable::of(vec![Ipv4Addr::new(192, 0, 2, 1)]);
    let subnet = SubnetConfig {
        network: "192.0.2.0/24".parse().unwrap(),
        server: Ipv4Addr::new(192, 0, 2, 1),
        gateway: None,
        dns: vec![Ipv4Addr::new(192, 0, 2, 53)],
        pool: Some((Ipv4Addr::new(192, 0, 2, 100), Ipv4Addr::new(192, 0, 2, 199))),
        lease_seconds: 600,
    };
    table.set_site(&[subnet], true);
    let server = Server {
        address: Ipv4Addr::new(192, 0, 2, 1),
        http_port: 8081,
    };
    let seeds = [
        dhcp(
            1,
            &[
                (60, b"PXEClient:Arch:00000:UNDI:002001"),
                (93, &[0, 0]),
                (97, &[0; 17]),
            ],
        ),
        dhcp(
            1,
            &[
                (77, b"\x04iPXE"),
                (175, &[0x13, 1, 1, 0xb1, 2, 1, 2]),
                (57, &[2, 64]),
            ],
        ),
        dhcp(
            3,
            &[(50, &[192, 0, 2, 100]), (54, &[192, 0, 2, 1]), (61, &[1; 7])],
        ),
        dhcp(
            3,
            &[(82, &[1, 4, 9, 9, 9, 9, 5, 4, 192, 0, 2, 0, 11, 4, 192, 0, 2, 1])],
        ),
        dhcp(4, &[(50, &[192, 0, 2, 100])]),
        dhcp(7, &[(54, &[192, 0, 2, 1])]),
        dhcp(8, &[(52, &[3]), (118, &[192, 0, 2, 0])]),
    ];
    let (mut memory, mut answered) = (Memory::default(), 0_u64);
    slipway_fuzz::fuzz(
        "dhcp",
        &seeds,
        &[&[255], &[82, 255], b"PXEClient", &[52, 1, 3]],
        |bytes| {
            let Ok(request) = packet::Request::parse(bytes) else {
                return;
            };
            let request = memory.complete(request, now());
            if let Some(decision) = decide(&request, server, &table, now()) {
                answered += 1;
                assert!(decision.reply.encode(&request).len() >= 300);
            }
        },
    );
    assert!(answered > 0);
}

#[test]
fn fuzzed_tftp_ends_nothing() {
    let seeds = [
        b"\0\x01undionly.kpxe\0octet\0blksize\x001468\0tsize\x000\0".to_vec(),
        b"\0\x01\\boot\\\\snponly.efi\xff\0octet\0windowsize\x0064\0".to_vec(),
        b"\0\x02x\0octet\0".to_vec(),
        b"\0\x04\xff\xff".to_vec(),
        b"\0\x05\0\x08aborted\0".to_vec(),
    ];
    let mut reads = 0_u64;
    slipway_fuzz::fuzz(
        "tftp",
        &seeds,
        &[b"\0", b"/", b"..", b"timeout\x00255\0"],
        |bytes| {
            reads += u64::from(matches!(Incoming::parse(bytes), Some(Incoming::Read { .. })));
        },
    );
    assert!(reads > 0);
}

/// What a BMC may answer: the set-up of a session, and what stands in its answers.
#[test]
fn fuzzed_rmcp_plus_ends_nothing() {
    let keys = SessionKeys::derive(Suite::Seventeen, &[7; 32]);
    let response = Response {
        netfn: 1,
        command: 9,
        sequence: 3,
        completion: 0,
        data: vec![1, 5, 0x80, 0x14, 0, 0, 0],
    };
    let open = OpenResponse {
        tag: 0,
        status: 0,
        console_id: 7,
        system_id: 8,
        algorithms: [3, 4, 1],
    };
    let reply = RakpReply {
        tag: 1,
        status: 0,
        session_id: 7,
        body: vec![9; 64],
    };
    let seeds = [
        setup(PayloadType::OpenResponse, &open.encode(4)),
        setup(PayloadType::Rakp(2), &reply.encode()),
        setup(PayloadType::Rakp(4), &reply.encode()),
        keys.seal(7, 5, &response.encode(), [3; 16]),
        sessionless(&response.encode()),
        response.encode(),
    ];
    let mut opened = 0_u64;
    slipway_fuzz::fuzz("rmcp+", &seeds, &[&[6, 0, 255, 7], &[255, 255]], |bytes| {
        for message in messages(bytes, &keys) {
            opened += 1;
            let _ = (OpenRequest::parse(&message), OpenResponse::parse(&message));
            let _ = (Rakp1::parse(&message), RakpReply::parse(&message));
            let _ = (Request::parse(&message), Response::parse(&message));
            let data = Response::authentic(&message).map_or(message, |response| response.data);
            let _ = (
                chassis::power_state(&data),
                chassis::next_boot(&data),
                chassis::device(&data),
            );
            let _ = (sel::info(&data), sel::time(&data));
            let _ = (users::highest_id(&data), users::is_name(&data, "admin"));
        }
    });
    assert!(opened > 0);
}

/// The datagram's payload, what it decrypts to, and itself.
fn messages(bytes: &[u8], keys: &SessionKeys) -> Vec<Vec<u8>> {
    let mut messages = vec![bytes.to_vec()];
    match parse(bytes) {
        Ok(Frame::Plus(frame)) => {
            messages.push(frame.payload.to_vec());
            messages.extend(keys.open(&frame).ok());
        }
        Ok(Frame::Sessionless(message)) => messages.push(message.to_vec()),
        Err(_) => {}
    }
    messages
}
