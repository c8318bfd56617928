//! A bare machine on a real wire: DHCP by broadcast from no address, router solicitation, TFTP and a renewal, between two
//! network namespaces of this test's own. They are gone when its processes are. Needs the right to make namespaces.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use chrono::Utc;
use slipway_edge::{
    boot::BootTable,
    dhcp::{keeping, ra, reply::Server, server as dhcp},
    store::Store,
    tftp::server::{self as tftp, Files},
};
use slipway_protocol::site::SubnetConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const ROLE: &str = "SLIPWAY_TEST_ROLE";
const NAME: &str = "a_bare_machine_gets_on_over_a_real_wire";
const EDGE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const LIMIT: Duration = Duration::from_secs(20);

/// This test once more, in a network namespace of its own.
fn in_namespace(role: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg("-n").arg(env::current_exe().unwrap());
    command.args(["--exact", NAME, "--nocapture"]).env(ROLE, role);
    command
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn a_bare_machine_gets_on_over_a_real_wire() {
    match env::var(ROLE).as_deref() {
        Ok("edge") => tokio::runtime::Runtime::new().unwrap().block_on(edge()),
        Ok(_) => machine(),
        Err(_) => assert!(in_namespace("edge").status().unwrap().success()),
    }
}

fn serve_dhcp(
    table: &Arc<BootTable>,
    dir: &std::path::Path,
    sightings: mpsc::Sender<dhcp::Sighting>,
    stop: &CancellationToken,
) {
    let (leases, keeping) = keeping::start(Store::open(&dir.join("edge.db")).unwrap(), stop.clone());
    tokio::spawn(keeping);
    let service = dhcp::Service {
        server: Server {
            address: EDGE,
            http_port: 8081,
        },
        table: Arc::clone(table),
        clock: Utc::now,
        leases,
        sightings,
    };
    let socket = dhcp::bind("edge0", 67).unwrap();
    tokio::spawn(dhcp::run(socket, service, stop.clone()));
}

async fn edge() {
    ip("link add edge0 type veth peer name port0");
    ip("address add 192.0.2.1/24 dev edge0");
    ip("link set lo up");
    ip("link set edge0 up");
    let table = Arc::new(BootTable::default());
    let pool = (Ipv4Addr::new(192, 0, 2, 100), Ipv4Addr::new(192, 0, 2, 109));
    let subnet = SubnetConfig {
        network: "192.0.2.0/24".parse().unwrap(),
        server: EDGE,
        gateway: None,
        dns: vec![],
        pool: Some(pool),
        lease_seconds: 600,
    };
    table.set_site(&[subnet], true);
    let stop = CancellationToken::new();
    let (sightings, mut seen) = mpsc::channel(8);
    let dir = tempfile::tempdir().unwrap();
    serve_dhcp(&table, dir.path(), sightings, &stop);
    let files = Files::of([("undionly.kpxe".to_owned(), Bytes::from(vec![7; 70_000]))]);
    let (ended, mut transfers) = mpsc::channel(8);
    let socket = tokio::net::UdpSocket::bind((EDGE, 69)).await.unwrap();
    let service = tftp::Service {
        files: Arc::new(files),
        is_known: Arc::new(|_| false),
        ended,
    };
    tokio::spawn(tftp::run(socket, IpAddr::V4(EDGE), service, stop.clone()));
    let index = index_of("edge0");
    let advertising = tokio::spawn(ra::run("edge0".to_owned(), index, stop.clone()));

    tokio::task::spawn_blocking(run_machine).await.unwrap();
    let mut codes = vec![];
    while let Ok(sighting) = seen.try_recv() {
        assert!(sighting.unknown && sighting.mac.0 == MAC);
        codes.push(sighting.event.code);
    }
    assert_eq!(codes, ["offer", "ack", "ack"]);
    let transfer = transfers.recv().await.unwrap();
    assert_eq!((transfer.bytes, transfer.failure), (70_000, None));
    assert_eq!(
        IpAddr::V4(table.leases()[0].address),
        transfer.peer.ip(),
        "the leased address fetched the boot program"
    );
    stop.cancel();
    advertising.await.unwrap().unwrap();
}

/// The other end of the wire, in a namespace and process of its own.
fn run_machine() {
    let mut child = in_namespace("machine")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("in my namespace")));
    ip(&format!("link set port0 netns {}", child.id()));
    child.stdin.take().unwrap().write_all(b"wired\n").unwrap();
    lines.for_each(|line| println!("machine: {}", line.unwrap()));
    assert!(child.wait().unwrap().success());
}

/// Index of an interface of this namespace.
fn index_of(name: &str) -> u32 {
    let output = Command::new("ip")
        .args(["-o", "link", "show", name])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split(':').next().unwrap().parse().unwrap()
}

fn machine() {
    println!("in my namespace");
    let mut word = String::new();
    std::io::stdin().read_line(&mut word).unwrap();
    ip("link set port0 address 02:00:00:00:00:77");
    ip("link set port0 up");
    let socket = client_socket();
    let broadcast = SocketAddr::from((Ipv4Addr::BROADCAST, 67));
    let offer = exchange(&socket, &packet(1, [0; 4], &[93, 2, 0, 0]), broadcast);
    let address: [u8; 4] = offer[16..20].try_into().unwrap();
    assert_eq!((message(&offer), address), (2, [192, 0, 2, 100]));
    let chosen = [&[50, 4][..], &address, &[54, 4], &EDGE.octets()].concat();
    assert_eq!(
        message(&exchange(&socket, &packet(3, [0; 4], &chosen), broadcast)),
        5
    );

    ip("address add 192.0.2.100/24 dev port0");
    let renewal = exchange(&socket, &packet(3, address, &[]), (EDGE, 67).into());
    assert_eq!(
        (message(&renewal), &renewal[16..20]),
        (5, &address[..]),
        "by unicast"
    );
    let fetched = Command::new("curl")
        .args(["-sS", "tftp://192.0.2.1/undionly.kpxe"])
        .output()
        .unwrap();
    assert_eq!(fetched.stdout, vec![7; 70_000]);
    assert_eq!(
        advertisement()[..8],
        [134, 0, 0, 0, 64, 0, 0, 0],
        "router lifetime 0"
    );
}

fn client_socket() -> UdpSocket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap();
    socket.bind_device(Some(b"port0")).unwrap();
    socket.set_broadcast(true).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    socket
        .bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())
        .unwrap();
    socket.into()
}

fn packet(message: u8, ciaddr: [u8; 4], options: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 240];
    out[..3].copy_from_slice(&[1, 1, 6]);
    out[4..8].copy_from_slice(b"wire");
    out[12..16].copy_from_slice(&ciaddr);
    out[28..34].copy_from_slice(&MAC);
    out[236..240].copy_from_slice(&[99, 130, 83, 99]);
    out.extend([53, 1, message]);
    out.extend(options);
    out.push(255);
    out
}

fn message(reply: &[u8]) -> u8 {
    assert_eq!(reply[240..242], [53, 1], "the message type comes first");
    reply[242]
}

/// Asks until there is an answer: the wire takes a moment to come up.
fn exchange(socket: &UdpSocket, asks: &[u8], to: SocketAddr) -> Vec<u8> {
    let mut buffer = [0; 1500];
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if socket.send_to(asks, to).is_ok()
            && let Ok(len) = socket.recv(&mut buffer)
        {
            return buffer[..len].to_vec();
        }
    }
    panic!("no answer in {LIMIT:?}");
}

/// Solicits a router until one answers. The interface's own IPv6 address takes a moment to be usable.
fn advertisement() -> Vec<u8> {
    let index = index_of("port0");
    let mut socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
    socket.bind_device(Some(b"port0")).unwrap();
    socket.set_multicast_hops_v6(255).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let routers = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2), 0, 0, index).into();
    let mut buffer = [0; 1500];
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        // Fails while the address is being checked for duplicates.
        let _ = socket.send_to(&[133, 0, 0, 0, 0, 0, 0, 0], &routers);
        while let Ok(len) = socket.read(&mut buffer) {
            if buffer[0] == 134 {
                // Bytes 2 and 3 are the checksum, which the kernel has checked.
                buffer[2..4].fill(0);
                return buffer[..len].to_vec();
            }
        }
    }
    panic!("no router advertisement in {LIMIT:?}");
}
