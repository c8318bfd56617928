//! Somebody who uses up what they can reach: connections that say nothing, others that say half of something, a flood of TFTP and one of
//! MQTT. From loopback addresses of its own, bounded in number and rate, and it ends with the run.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::world::Fleet;
use crate::world::wait_for;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    task::JoinSet,
};

/// Connections that say nothing.
const IDLE: u32 = 10_000;
/// Connections that say half of something.
const HALF_SENT: u32 = 2_000;
/// Senders of TFTP requests, and how long each rests after one: 2,000 a second in all.
const TFTP_SENDERS: u32 = 200;
const TFTP_REST: Duration = Duration::from_millis(100);
/// Connections of the MQTT flood at once, and how long each rests: 200 a second in all.
const MQTT_SENDERS: u32 = 40;
const MQTT_REST: Duration = Duration::from_millis(200);
/// How long whoever was put out rests before the next try.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is attacked.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// An HTTP server.
    pub http: SocketAddr,
    /// A broker.
    pub mqtt: SocketAddr,
    /// A TFTP server, if there is one.
    pub tftp: Option<SocketAddr>,
}

impl Target {
    /// The first site's edge.
    #[must_use]
    pub fn edge(fleet: &Fleet) -> Self {
        let edge = fleet.block.site(0).edge_http();
        Self {
            http: edge.into(),
            mqtt: (*edge.ip(), 8883).into(),
            tftp: Some((*edge.ip(), 69).into()),
        }
    }

    /// The control plane.
    #[must_use]
    pub fn control_plane(fleet: &Fleet) -> Self {
        Self {
            http: fleet.block.api(),
            mqtt: fleet.block.mqtt(),
            tftp: None,
        }
    }
}

/// What was done so far.
#[derive(Debug, Default)]
pub struct Done {
    /// Connections that were made.
    pub connected: AtomicU64,
    /// Connections that are open now.
    pub open: AtomicU64,
    /// The most that were open at once.
    pub most_open: AtomicU64,
    /// TFTP requests sent.
    pub tftp: AtomicU64,
    /// Bytes of garbage sent to the broker.
    pub garbage: AtomicU64,
}

impl Done {
    /// Waits until the attack stands: as many connections were open as hold, or half of them where more are put out.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn stands(&self) -> anyhow::Result<()> {
        let half = u64::from((IDLE + HALF_SENT) / 2);
        let stands = || (self.most_open.load(Ordering::Relaxed) >= half).then_some(());
        wait_for("the attack stands", Duration::from_secs(60), stands).await
    }

    fn opened(&self) {
        self.connected.fetch_add(1, Ordering::Relaxed);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_open.fetch_max(open, Ordering::Relaxed);
    }

    fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "attack: {} connections made, {} open at once at most, {} TFTP requests, {} bytes of garbage to the broker",
            read(&self.connected),
            read(&self.most_open),
            read(&self.tftp),
            read(&self.garbage)
        )
    }
}

/// An address of the attackers' own: 127.200.0.0/13, 16 connections each.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 200, 0, 1)) + n / 16)
}

async fn connect(n: u32, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((IpAddr::V4(address(n)), 0).into())?;
    socket.connect(to).await
}

/// The attack; it goes on until the tasks are dropped.
pub fn start(target: Target) -> (JoinSet<()>, Arc<Done>) {
    let (mut tasks, done) = (JoinSet::new(), Arc::new(Done::default()));
    for n in 0..IDLE {
        let to = if n % 2 == 0 { target.http } else { target.mqtt };
        tasks.spawn(hold(n, to, b"", Arc::clone(&done)));
    }
    for n in 0..HALF_SENT {
        // A head without its end, and the begin of a TLS record of 512 bytes.
        let (to, begin) = if n % 2 == 0 {
            (
                target.http,
                &b"GET /boot/52-54-00-00-00-01.ipxe HTTP/1.1\r\nHost: a\r\nX: "[..],
            )
        } else {
            (target.mqtt, &b"\x16\x03\x01\x02\x00\x01"[..])
        };
        tasks.spawn(hold(IDLE + n, to, begin, Arc::clone(&done)));
    }
    for n in 0..MQTT_SENDERS {
        tasks.spawn(garbage(IDLE + HALF_SENT + n, target.mqtt, Arc::clone(&done)));
    }
    if let Some(tftp) = target.tftp {
        for n in 0..TFTP_SENDERS {
            tasks.spawn(ask_for_files(
                IDLE + HALF_SENT + MQTT_SENDERS + n * 16,
                tftp,
                Arc::clone(&done),
            ));
        }
    }
    (tasks, done)
}

/// Keeps one connection, and makes another when it is put out.
async fn hold(n: u32, to: SocketAddr, begin: &'static [u8], done: Arc<Done>) {
    // Not all in one moment, which no attacker could do either.
    tokio::time::sleep(Duration::from_millis(u64::from(n) / 4)).await;
    loop {
        if let Ok(mut stream) = connect(n, to).await {
            done.opened();
            let mut nothing = [0; 64];
            if stream.write_all(begin).await.is_ok() {
                while stream.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
            }
            done.closed();
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn garbage(n: u32, to: SocketAddr, done: Arc<Done>) {
    let packet = [0xa5; 1024];
    loop {
        if let Ok(mut stream) = connect(n, to).await {
            done.opened();
            if stream.write_all(&packet).await.is_ok() {
                done.garbage.fetch_add(packet.len() as u64, Ordering::Relaxed);
            }
            done.closed();
        }
        tokio::time::sleep(MQTT_REST).await;
    }
}

async fn ask_for_files(n: u32, to: SocketAddr, done: Arc<Done>) {
    loop {
        // A new port each time: each is another transfer, and none is ever acknowledged.
        if let Ok(socket) = UdpSocket::bind((address(n), 0)).await {
            let asks = b"\x00\x01undionly.kpxe\x00octet\x00blksize\x001468\x00";
            if socket.send_to(asks, to).await.is_ok() {
                done.tftp.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::time::sleep(TFTP_REST).await;
    }
}
