//! A BMC that answers real IPMI 2.0 over LAN (cipher suites 3 and 17) for one machine.
//!
//! [`serve`] is the socket half; [`Server`](server::Server) turns a datagram into an answer. What happens to the
//! machine is behind [`Chassis`]. It must never accept an unauthenticated command that changes anything.

pub mod chassis;
mod commands;
pub mod event_log;
pub mod faults;
mod login;
pub mod oddities;
mod password;
pub mod server;
pub mod users;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::UdpSocket;

pub use chassis::{BootFlags, Chassis, ChassisError, MemoryChassis};
pub use event_log::EventLog;
pub use faults::{Faults, Passwords};
pub use oddities::Oddities;
pub use users::{User, Users};

/// Serves one BMC on `socket` for ever. Bind port 0 on loopback for a test, port 623 in the lab. Use
/// [`serve_with_faults`] to make it misbehave.
///
/// # Errors
/// Only when the socket itself breaks.
pub async fn serve(socket: UdpSocket, users: Users, chassis: Arc<dyn Chassis>) -> io::Result<()> {
    serve_with_faults(socket, users, chassis, Arc::default()).await
}

/// As [`serve`]; `faults` can be changed while it runs.
///
/// # Errors
/// Only when the socket itself breaks.
pub async fn serve_with_faults(
    socket: UdpSocket,
    users: Users,
    chassis: Arc<dyn Chassis>,
    faults: Arc<Faults>,
) -> io::Result<()> {
    let mut server = server::Server::new(users, chassis, Arc::clone(&faults));
    let mut buffer = [0; 1024];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // an ICMP error about an earlier answer: the console has gone
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        if faults.take_drop() {
            continue;
        }
        if let Some(answer) = server.handle(&buffer[..length], Instant::now()).await
            && let Err(error) = socket.send_to(&answer, peer).await
        {
            tracing::debug!(%peer, %error, "the answer could not be sent");
        }
    }
}
