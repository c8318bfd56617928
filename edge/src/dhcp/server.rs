//! The socket half of the DHCP server: one socket an interface.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::MacAddr,
    report::{EventSource, TimelineEvent},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    packet::{MessageType, Request, code},
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

/// Serves one socket until `stop`. Sightings that nobody takes in time are dropped: DHCP never waits.
pub async fn run(
    socket: UdpSocket,
    server: Server,
    table: Arc<BootTable>,
    clock: fn() -> DateTime<Utc>,
    (sightings, stop): (mpsc::Sender<Sighting>, CancellationToken),
) {
    let mut buffer = vec![0; 2048];
    loop {
        let received = tokio::select! {
            () = stop.cancelled() => return,
            received = socket.recv_from(&mut buffer) => received,
        };
        let len = match received {
            Ok((len, _)) => len,
            Err(error) => {
                warn!(server = %server.address, %error, "DHCP: cannot receive");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let Some(request) = Request::parse(&buffer[..len]) else {
            continue;
        };
        let now = clock();
        let Some(decision) = decide(&request, server, &table, now) else {
            debug!(mac = %request.mac, message = ?request.message, "DHCP: no answer");
            if let Some(seen) = declined(&request, &table, now) {
                // A full queue means that nobody keeps up with watching; the machine tries again all the same.
                let _ = sightings.try_send(seen);
            }
            continue;
        };
        let to = destination(&decision, server);
        if let Err(error) = socket.send_to(&decision.reply.encode(&request), to).await {
            warn!(mac = %request.mac, %to, %error, "DHCP: the answer cannot be sent");
            continue;
        }
        // A full queue means that nobody keeps up with watching; the machine boots all the same.
        let _ = sightings.try_send(sighting(&request, &decision, now));
    }
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
    let text = format!("{} to {who}{file}", decision.reply.yiaddr);
    Sighting {
        mac: request.mac,
        address: decision.reply.yiaddr,
        unknown: decision.unknown,
        event: TimelineEvent {
            at: now,
            source: EventSource::Dhcp,
            code: word.to_owned(),
            text,
        },
        system: !request.is_ipxe() && firmware.is_none(),
    }
}
