//! UDP datagrams of a capture, pcap or pcapng, by Ethernet and IPv4.

use std::{net::SocketAddrV4, path::Path};

/// A datagram.
pub(super) struct Datagram {
    pub(super) from: SocketAddrV4,
    pub(super) to: SocketAddrV4,
    pub(super) payload: Vec<u8>,
}

/// All of a file, in its order. A frame that was cut while recording is left out.
pub(super) fn datagrams(path: &Path) -> Vec<Datagram> {
    let bytes = std::fs::read(path).unwrap();
    let frames = match bytes[..4] {
        [0x0a, 0x0d, 0x0d, 0x0a] => pcapng(&bytes),
        _ => pcap(&bytes),
    };
    frames.iter().filter_map(|frame| datagram(frame)).collect()
}

fn number(bytes: &[u8], at: usize, big: bool) -> usize {
    let four: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
    (if big {
        u32::from_be_bytes(four)
    } else {
        u32::from_le_bytes(four)
    }) as usize
}

/// The classic format: a head of 24 bytes, then records of 16 bytes and a frame.
fn pcap(bytes: &[u8]) -> Vec<Vec<u8>> {
    let big = bytes[0] == 0xa1;
    assert_eq!(number(bytes, 20, big), 1, "Ethernet");
    let (mut at, mut frames) = (24, vec![]);
    while at + 16 <= bytes.len() {
        let length = number(bytes, at + 8, big);
        frames.push(bytes[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    frames
}

/// Blocks of a type, a length and a body; 6 is a packet.
fn pcapng(bytes: &[u8]) -> Vec<Vec<u8>> {
    let big = bytes[8] == 0x1a;
    let (mut at, mut frames) = (0, vec![]);
    while at + 12 <= bytes.len() {
        let (kind, length) = (number(bytes, at, big), number(bytes, at + 4, big));
        if kind == 6 {
            let captured = number(bytes, at + 20, big);
            frames.push(bytes[at + 28..at + 28 + captured].to_vec());
        }
        at += length;
    }
    frames
}

fn datagram(frame: &[u8]) -> Option<Datagram> {
    let (mut kind, mut at) = (frame.get(12..14)?, 14);
    while kind == [0x81, 0x00] {
        kind = frame.get(at + 2..at + 4)?;
        at += 4;
    }
    let packet = frame.get(at..)?;
    if kind != [0x08, 0x00] || packet.get(9) != Some(&17) {
        return None;
    }
    let udp = usize::from(packet[0] & 0x0f) * 4;
    let port = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let address = |at: usize| <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok();
    let length = usize::from(port(udp + 4)?);
    Some(Datagram {
        from: SocketAddrV4::new(address(12)?.into(), port(udp)?),
        to: SocketAddrV4::new(address(16)?.into(), port(udp + 2)?),
        payload: packet.get(udp + 8..udp + length)?.to_vec(),
    })
}
