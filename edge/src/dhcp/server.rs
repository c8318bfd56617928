//! The socket half of the DHCP server: one socket an interface.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::MacAddr,
    report::{EventSource, TimelineEvent},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    keeping::Keeper,
    memory::Memory,
    packet::{MessageType, NotServed, Request, code},
    reply::{Decision, Server, decide},
};
use crate::boot::BootTable;

/// Pause after a failed receive, so that an interface that is gone does not cost a whole core.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// A boot service saw a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The port.
    pub mac: MacAddr,
    /// The address it has or was given.
    pub address: Ipv4Addr,
    /// Whether no order knows it.
    pub unknown: bool,
    /// What was seen.
    pub event: TimelineEvent,
    /// Whether it shows that an operating system runs on the machine. The LiveOS never asks for an address.
    pub system: bool,
}

/// Binds port 67 on one interface. Broadcasts go out by that interface alone.
///
/// # Errors
/// When the port is taken, the interface is not there, or the process may not.
pub fn bind(interface: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_broadcast(true)?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    UdpSocket::from_std(socket.into())
}

/// How many clients wait at once for their lease to be written; others are not answered, and ask again.
const MOST_WAITING: usize = 1024;
/// How often it is said that something is not served.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What one socket's server needs.
#[derive(Clone)]
pub struct Service {
    /// Who answers.
    pub server: Server,
    /// What is answered.
    pub table: Arc<BootTable>,
    /// The clock.
    pub clock: fn() -> DateTime<Utc>,
    /// Writes leases.
    pub leases: Keeper,
    /// Where sightings go; what nobody takes in time is dropped, for DHCP never waits.
    pub sightings: mpsc::Sender<Sighting>,
}

/// Serves one socket until `stop`.
pub async fn run(socket: UdpSocket, service: Service, stop: CancellationToken) {
    let socket = Arc::new(socket);
    let mut desk = Desk {
        service,
        memory: Memory::default(),
        said: HashMap::new(),
        waiting: JoinSet::new(),
    };
    let mut buffer = vec![0; 2048];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = desk.waiting.join_next() => continue,
            received = socket.recv_from(&mut buffer) => received,
        };
        match received {
            Ok((len, _)) => desk.take(&socket, &buffer[..len]).await,
            Err(error) => {
                warn!(server = %desk.service.server.address, %error, "DHCP: cannot receive");
                tokio::time::sleep(AFTER_ERROR).await;
            }
        }
    }
}

struct Desk {
    service: Service,
    memory: Memory,
    /// What was said not to be served, and when.
    said: HashMap<NotServed, Instant>,
    /// Answers that go out once their lease is on disk.
    waiting: JoinSet<()>,
}

impl Desk {
    async fn take(&mut self, socket: &Arc<UdpSocket>, bytes: &[u8]) {
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(why) => return self.say(why),
        };
        let (service, now) = (&self.service, (self.service.clock)());
        let request = self.memory.complete(request, now);
        let Some(decision) = decide(&request, service.server, &service.table, now) else {
            debug!(mac = %request.mac, relay = %request.giaddr, message = ?request.message, "DHCP: no answer");
            if let Some(seen) = declined(&request, &service.table, now) {
                // A full queue means that nobody keeps up with watching; the machine tries again all the same.
                let _ = service.sightings.try_send(seen);
            }
            return;
        };
        let Some(lease) = decision.lease.clone() else {
            return answer(socket, service, &request, &decision).await;
        };
        if self.waiting.len() >= MOST_WAITING {
            return;
        }
        let (kept, service, socket) = (service.leases.keep(lease), service.clone(), Arc::clone(socket));
        self.waiting.spawn(async move {
            if kept.await.is_ok() {
                answer(&socket, &service, &request, &decision).await;
            }
        });
    }

    /// What is not served is said now and then, not for each packet.
    fn say(&mut self, why: NotServed) {
        let now = Instant::now();
        if let NotServed::Hardware(_) = why
            && self
                .said
                .get(&why)
                .is_none_or(|last| now.duration_since(*last) >= SAY_EVERY)
        {
            self.said.insert(why, now);
            crate::metrics::dhcp_not_served("hardware");
            warn!(server = %self.service.server.address, "DHCP: {why}");
        }
    }
}

async fn answer(socket: &UdpSocket, service: &Service, request: &Request, decision: &Decision) {
    let to = destination(decision, service.server);
    if let Err(error) = socket.send_to(&decision.reply.encode(request), to).await {
        warn!(mac = %request.mac, %to, %error, "DHCP: the answer cannot be sent");
        return;
    }
    // A full queue means that nobody keeps up with watching; the machine boots all the same.
    let _ = service
        .sightings
        .try_send(sighting(request, decision, (service.clock)()));
}

/// On loopback, where tests live, there is no broadcast.
fn destination(decision: &Decision, server: Server) -> SocketAddrV4 {
    if server.address.is_loopback() && decision.to.ip().is_broadcast() {
        return SocketAddrV4::new(server.address, decision.to.port());
    }
    decision.to
}

/// Another machine uses the address this one was given: an operator must see that.
fn declined(request: &Request, table: &BootTable, now: DateTime<Utc>) -> Option<Sighting> {
    let address = request
        .address(code::REQUESTED_IP)
        .filter(|_| request.message == MessageType::Decline)?;
    warn!(mac = %request.mac, %address, "DHCP: the address is in use by another machine");
    Some(Sighting {
        mac: request.mac,
        address,
        unknown: table.entry(request.mac).is_none(),
        event: TimelineEvent {
            at: now,
            source: EventSource::Dhcp,
            code: "declined".to_owned(),
            text: format!("{address} is in use by another machine"),
        },
        system: false,
    })
}

fn sighting(request: &Request, decision: &Decision, now: DateTime<Utc>) -> Sighting {
    let word = match decision.reply.message {
        MessageType::Offer => "offer",
        MessageType::Nak => "nak",
        _ => "ack",
    };
    let firmware = request
        .architecture()
        .filter(|_| request.option(code::VENDOR_CLASS).is_some());
    let who = match firmware {
        _ if request.is_ipxe() => "iPXE".to_owned(),
        Some(architecture) => format!("firmware, architecture {architecture}"),
        None => "an operating system".to_owned(),
    };
    let file = decision
        .reply
        .file
        .as_ref()
        .map(|file| format!(", boot file {file}"))
        .unwrap_or_default();
    let mut text = format!("{} to {who}{file}", decision.reply.yiaddr);
    if decision.no_program.is_some() {
        text.push_str(
            "; there is no boot program for that architecture: x86-64 by BIOS or UEFI alone is booted",
        );
    }
    Sighting {
        mac: request.mac,
        address: decision.reply.yiaddr,
        unknown: decision.unknown,
        event: TimelineEvent {
            at: now,
            source: EventSource::Dhcp,
            code: decision.no_program.map_or(word, |_| "no_boot_program").to_owned(),
            text,
        },
        system: !request.is_ipxe() && firmware.is_none(),
    }
}
