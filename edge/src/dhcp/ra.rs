//! Router advertisements (RFC 4861) that say "no router here". iPXE solicits routers before it uses IPv4 and waits 13 s
//! for an answer; any answer will do.

use std::{
    io::{self, Read as _},
    net::{Ipv6Addr, SocketAddrV6},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// Pause after a failed receive, so that an interface that is gone does not cost a whole core.
const AFTER_ERROR: Duration = Duration::from_secs(1);

/// The advertisement: type, code, checksum (filled in by the kernel), hop limit 64, no flags, router lifetime 0,
/// reachable and retransmission times unspecified (RFC 4861, 4.2).
#[must_use]
pub fn advertisement() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = ROUTER_ADVERTISEMENT;
    bytes[4] = 64;
    bytes
}

/// Whether an ICMPv6 message is a router solicitation.
#[must_use]
pub fn is_solicitation(bytes: &[u8]) -> bool {
    bytes.len() >= 8 && bytes[0] == ROUTER_SOLICITATION && bytes[1] == 0
}

/// Answers solicitations on one interface until `stop`, in a thread of its own: tokio has no raw sockets. Where IPv6 is
/// off there is nothing to answer.
pub async fn run(interface: String, index: u32, stop: CancellationToken) -> anyhow::Result<()> {
    let until = stop.clone();
    let thread = tokio::task::spawn_blocking(move || match open(&interface, index) {
        Ok(socket) => serve(&socket, &interface, index, &stop),
        Err(error) => {
            info!(interface, %error, "no IPv6 router advertisements here; iPXE may wait some seconds longer");
        }
    });
    thread.await?;
    // Where none can be sent the site works on without them.
    until.cancelled().await;
    Ok(())
}

fn serve(mut socket: &Socket, interface: &str, index: u32, stop: &CancellationToken) {
    let all_nodes = SocketAddrV6::new(ALL_NODES, 0, 0, index).into();
    let mut buffer = [0; 1500];
    // Machines that wait already, from before a restart of ours, need not solicit again.
    let sent = socket.send_to(&advertisement(), &all_nodes);
    debug!(interface, ?sent, "first router advertisement");
    while !stop.is_cancelled() {
        // The read ends after a second at the latest, so that `stop` is seen.
        let len = match socket.read(&mut buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                debug!(interface, %error, "router solicitations cannot be received");
                std::thread::sleep(AFTER_ERROR);
                continue;
            }
        };
        if is_solicitation(&buffer[..len]) {
            let sent = socket.send_to(&advertisement(), &all_nodes);
            debug!(interface, ?sent, "router solicitation answered");
        }
    }
}

fn open(interface: &str, index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.join_multicast_v6(&ALL_ROUTERS, index)?;
    socket.set_multicast_if_v6(index)?;
    // RFC 4861, 4.2: a hop limit of 255, or the message is ignored.
    socket.set_multicast_hops_v6(255)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_that_there_is_no_router() {
        let bytes = advertisement();
        assert_eq!((bytes[0], bytes[1]), (134, 0));
        assert_eq!(bytes[6..8], [0, 0], "router lifetime 0");
        assert!(is_solicitation(&[133, 0, 0, 0, 0, 0, 0, 0]));
        assert!(!is_solicitation(&[133, 0, 0]) && !is_solicitation(&bytes));
    }
}
