//! TFTP over real sockets, by a small client that loses packets, asks for windows and behaves like boot ROMs do.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use slipway_edge::tftp::server::{self, Ended, Files, Service};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const LOCALHOST: [u8; 4] = [127, 0, 0, 1];

struct Served {
    at: SocketAddr,
    content: Bytes,
    ended: mpsc::Receiver<Ended>,
    stop: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve() -> Served {
    let socket = tokio::net::UdpSocket::bind(SocketAddr::from((LOCALHOST, 0)))
        .await
        .unwrap();
    let at = socket.local_addr().unwrap();
    let content: Bytes = (0..50_000_u32).map(|i| (i % 253) as u8).collect();
    let files = Files::of([("snponly.efi".to_owned(), content.clone())]);
    let (sender, ended) = mpsc::channel(8);
    let stop = CancellationToken::new();
    let service = Service {
        files: Arc::new(files),
        is_known: Arc::new(|_| true),
        ended: sender,
    };
    tokio::spawn(server::run(
        socket,
        IpAddr::from(LOCALHOST),
        service,
        stop.clone(),
    ));
    Served {
        at,
        content,
        ended,
        stop,
    }
}

fn read_request(name: &[u8], options: &[(&str, &str)]) -> Vec<u8> {
    let mut out = [&[0, 1], name, b"\0octet\0"].concat();
    for (option, value) in options {
        out.extend([option.as_bytes(), &[0], value.as_bytes(), &[0]].concat());
    }
    out
}

/// A client on a port of its own.
struct Client(UdpSocket);

impl Client {
    fn new() -> Self {
        let socket = UdpSocket::bind(SocketAddr::from((LOCALHOST, 0))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Self(socket)
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2000];
        let (len, from) = self.0.recv_from(&mut buffer).unwrap();
        (buffer[..len].to_vec(), from)
    }

    /// Reads a file in blocks of `block` bytes, acknowledging each `window`; loses what `lost` says of the packets it
    /// receives, counted from 1. Gives back the file and all ports that answered.
    fn read(&self, (block, window): (usize, u16), lost: impl Fn(u32) -> bool) -> (Vec<u8>, Vec<u16>) {
        let (mut file, mut ports) = (vec![], vec![]);
        let (mut count, mut next, mut in_window, mut rewound) = (0_u32, 1_u16, 0, false);
        loop {
            let (packet, from) = self.receive();
            count += 1;
            if !ports.contains(&from.port()) {
                ports.push(from.port());
            }
            if lost(count) {
                continue;
            }
            let acknowledge = |block: u16| {
                self.0
                    .send_to(&[&[0, 4], &block.to_be_bytes()[..]].concat(), from)
                    .unwrap()
            };
            match (packet[1], u16::from_be_bytes([packet[2], packet[3]])) {
                (6, _) => drop(acknowledge(0)),
                (3, number) if number == next => {
                    file.extend_from_slice(&packet[4..]);
                    (in_window, rewound) = (in_window + 1, false);
                    let last = packet.len() - 4 < block;
                    if last || in_window == window {
                        acknowledge(next);
                        in_window = 0;
                    }
                    if last {
                        return (file, ports);
                    }
                    next = next.wrapping_add(1);
                }
                // RFC 7440, 4: a gap is answered with the last block in order, once.
                (3, _) if !rewound => {
                    acknowledge(next.wrapping_sub(1));
                    (in_window, rewound) = (0, true);
                }
                (3, _) => {}
                (kind, _) => panic!("packet of kind {kind}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn windows_and_losses_change_nothing_of_the_file() {
    let mut served = serve().await;
    for (block, window, lose_every) in [
        (512, 1, 0),
        (1468, 8, 0),
        (1468, 64, 0),
        (1024, 8, 11),
        (512, 16, 17),
    ] {
        let (at, size, blocks) = (served.at, block.to_string(), window.to_string());
        let got = tokio::task::spawn_blocking(move || {
            let client = Client::new();
            let asked = [("blksize", &*size), ("windowsize", &blocks), ("tsize", "0")];
            client
                .0
                .send_to(&read_request(b"/snponly.efi", &asked), at)
                .unwrap();
            client
                .read((block, window), |n| lose_every != 0 && n % lose_every == 0)
                .0
        });
        assert!(
            got.await.unwrap() == served.content,
            "{block} {window} {lose_every}"
        );
        let ended = served.ended.recv().await.unwrap();
        assert_eq!(
            (ended.bytes, ended.failure, &*ended.file),
            (50_000, None, "/snponly.efi")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rom_asks_for_the_size_gives_up_and_uses_its_port_again() {
    let mut served = serve().await;
    let at = served.at;
    let (file, transfers) = tokio::task::spawn_blocking(move || {
        let client = Client::new();
        // As some ROMs do: bytes of 0xff after the name.
        client
            .0
            .send_to(&read_request(b"snponly.efi\xff\xff", &[("tsize", "0")]), at)
            .unwrap();
        let (size, from) = client.receive();
        assert_eq!(size, b"\0\x06tsize\x0050000\0");
        client.0.send_to(b"\0\x05\0\x08size known\0", from).unwrap();
        let request = read_request(b"snponly.efi", &[("blksize", "1000")]);
        client.0.send_to(&request, at).unwrap();
        client.0.send_to(&request, at).unwrap();
        client.read((1000, 1), |_| false)
    })
    .await
    .unwrap();
    assert!(file == served.content);
    assert_eq!(transfers.len(), 1, "a repeated request starts no second transfer");
    let ended = served.ended.recv().await.unwrap();
    assert_eq!(ended.failure, None, "asking for the size is no failed transfer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_refused_at_once() {
    let served = serve().await;
    let at = served.at;
    let answers = tokio::task::spawn_blocking(move || {
        let client = Client::new();
        [
            read_request(b"../../etc/passwd", &[]),
            read_request(b"/etc/passwd", &[]),
            b"\0\x02snponly.efi\0octet\0".to_vec(),
            b"\0\x04\0\x01".to_vec(),
            b"\0".to_vec(),
        ]
        .map(|request| {
            client.0.send_to(&request, at).unwrap();
            client.receive().0[..4].to_vec()
        })
    });
    let error = |code| vec![0, 5, 0, code];
    assert_eq!(
        answers.await.unwrap(),
        [error(1), error(1), error(2), error(4), error(4)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_acknowledge_for_a_client() {
    let mut served = serve().await;
    let at = served.at;
    let file = tokio::task::spawn_blocking(move || {
        let (client, stranger) = (Client::new(), Client::new());
        client
            .0
            .send_to(&read_request(b"snponly.efi", &[("blksize", "1468")]), at)
            .unwrap();
        let (_, from) = client.receive();
        stranger.0.send_to(b"\0\x05\0\0stop\0", from).unwrap();
        client.0.send_to(b"\0\x04\0\0", from).unwrap();
        client.read((1468, 1), |_| false).0
    });
    assert!(file.await.unwrap() == served.content);
    assert_eq!(served.ended.recv().await.unwrap().failure, None);
}
