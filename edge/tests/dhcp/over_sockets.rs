//! The server behind a real socket, with a relay on loopback before it: a whole exchange, and a kill in the middle of many.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use slipway_edge::{
    boot::BootTable,
    dhcp::{keeping, packet::code, reply::Server, server},
    store::Store,
};
use slipway_protocol::{ids::MacAddr, site::SubnetConfig};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::UdpSocket,
    process::{Child, Command},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{Client, UNKNOWN, client, now, option};

const LIMIT: Duration = Duration::from_secs(20);
const OFFER: u8 = 2;
const ACK: u8 = 5;

/// `127.0.N.0/24`, with a pool from 10 on.
fn subnet(n: u8) -> SubnetConfig {
    SubnetConfig {
        network: format!("127.0.{n}.0/24").parse().unwrap(),
        server: Ipv4Addr::LOCALHOST,
        gateway: None,
        dns: vec![],
        pool: Some((Ipv4Addr::new(127, 0, n, 10), Ipv4Addr::new(127, 0, n, 250))),
        lease_seconds: 3600,
    }
}

/// A server on a socket of its own, with leases in this store; and what it sees.
async fn serve(n: u8, store: &Store) -> (SocketAddr, mpsc::Receiver<server::Sighting>, CancellationToken) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = socket.local_addr().unwrap();
    let table = Arc::new(BootTable::default());
    table.set_site(&[subnet(n)], false);
    table.restore(store.dhcp_leases().unwrap());
    let stop = CancellationToken::new();
    let (leases, keeping) = keeping::start(store.clone(), stop.clone());
    tokio::spawn(keeping);
    let (sightings, seen) = mpsc::channel(8);
    let service = server::Service {
        server: Server {
            address: Ipv4Addr::LOCALHOST,
            http_port: 8081,
        },
        table,
        clock: now,
        leases,
        sightings,
    };
    tokio::spawn(server::run(socket, service, stop.clone()));
    (at, seen, stop)
}

/// The relay, on `127.0.N.1`, and the server it knows.
struct Relay {
    socket: UdpSocket,
    address: Ipv4Addr,
    server: SocketAddr,
}

impl Relay {
    async fn bind(n: u8, server: SocketAddr) -> Self {
        let address = Ipv4Addr::new(127, 0, n, 1);
        let socket = UdpSocket::bind((address, 67)).await.unwrap();
        Self {
            socket,
            address,
            server,
        }
    }

    async fn send(&self, asks: Client) {
        let asks = Client {
            giaddr: self.address,
            ..asks
        };
        self.socket.send_to(&asks.bytes(), self.server).await.unwrap();
    }

    async fn hear(&self) -> Vec<u8> {
        let mut buffer = [0; 1500];
        let received = tokio::time::timeout(LIMIT, self.socket.recv(&mut buffer)).await;
        buffer[..received.unwrap().unwrap()].to_vec()
    }
}

fn request(mac: MacAddr, offer: &[u8]) -> Client {
    client(mac, 3)
        .with(code::REQUESTED_IP, &offer[16..20])
        .with(code::SERVER_ID, [127, 0, 0, 1])
}

fn message(answer: &[u8]) -> u8 {
    option(answer, code::MESSAGE_TYPE).unwrap()[0]
}

#[tokio::test]
async fn a_whole_exchange_over_real_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("edge.db")).unwrap();
    let (at, mut seen, stop) = serve(67, &store).await;
    let relay = Relay::bind(67, at).await;
    relay.send(client(UNKNOWN, 1)).await;
    let offer = relay.hear().await;
    assert_eq!(message(&offer), OFFER);
    relay.send(request(UNKNOWN, &offer)).await;
    let ack = relay.hear().await;
    assert_eq!((message(&ack), &ack[16..20]), (ACK, &[127, 0, 67, 10][..]));
    let kept = store.dhcp_leases().unwrap();
    assert_eq!(
        (kept[0].mac, kept[0].address, kept.len()),
        (UNKNOWN, Ipv4Addr::new(127, 0, 67, 10), 1),
        "on disk before the client heard of it"
    );
    assert_eq!(seen.recv().await.unwrap().event.code, "offer");
    assert!(seen.recv().await.unwrap().unknown);
    stop.cancel();
}

const DATABASE: &str = "SLIPWAY_TEST_DATABASE";
const KILLED: &str = "over_sockets::a_lease_that_a_client_heard_of_survives_a_kill";

/// The same test in a process of its own, as a server, and where it listens.
async fn start_server(database: &Path) -> (Child, SocketAddr) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", KILLED, "--nocapture"])
        .env(DATABASE, database)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().unwrap();
        if let Some((_, port)) = line.split_once("port ") {
            let port = port.parse().unwrap();
            return (server, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port).into());
        }
    }
}

/// Who was told of which lease.
type Told = BTreeMap<Ipv4Addr, MacAddr>;

fn note(told: &mut Told, ack: &[u8]) {
    let address: [u8; 4] = ack[16..20].try_into().unwrap();
    told.insert(address.into(), MacAddr(ack[28..34].try_into().unwrap()));
}

/// Answers offers until so many clients were told of a lease.
async fn until_told(relay: &Relay, enough: usize, told: &mut Told) {
    let before = told.len();
    while told.len() < before + enough {
        let answer = relay.hear().await;
        match message(&answer) {
            OFFER => {
                let mac = MacAddr(answer[28..34].try_into().unwrap());
                relay.send(request(mac, &answer)).await;
            }
            ACK => note(told, &answer),
            other => panic!("message {other}"),
        }
    }
}

/// Many clients at once, and a SIGKILL in the middle: whoever was told of a lease has it in the database.
#[tokio::test]
async fn a_lease_that_a_client_heard_of_survives_a_kill() {
    if let Some(database) = std::env::var_os(DATABASE) {
        let store = Store::open(database.as_ref()).unwrap();
        let (at, _seen, stop) = serve(68, &store).await;
        println!("port {}", at.port());
        return stop.cancelled().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let database = dir.path().join("edge.db");
    let mut relay = Relay::bind(68, (Ipv4Addr::LOCALHOST, 1).into()).await;
    let mut told = Told::new();
    for round in 0..5_u8 {
        let (mut server, at) = start_server(&database).await;
        relay.server = at;
        for n in 0..40 {
            relay.send(client(MacAddr([2, 7, 7, 7, round, n]), 1)).await;
        }
        until_told(&relay, usize::from(round) * 7 + 3, &mut told).await;
        server.kill().await.unwrap();
        // What it had sent before it was killed was heard, too.
        let mut buffer = [0; 1500];
        while let Ok(length) = relay.socket.try_recv(&mut buffer) {
            if message(&buffer[..length]) == ACK {
                note(&mut told, &buffer[..length]);
            }
        }
        let kept = Store::open(&database).unwrap().dhcp_leases().unwrap();
        let kept: Told = kept.into_iter().map(|lease| (lease.address, lease.mac)).collect();
        for (address, mac) in &told {
            assert_eq!(kept.get(address), Some(mac), "round {round}: {address}");
        }
    }
    assert!(told.len() >= 80, "{} leases were told of", told.len());
}
