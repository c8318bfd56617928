//! The DHCPv4 server: [`packet`] reads and writes bytes, [`reply`] decides, both purely; [`server`] owns the socket.
//! [`ra`] answers IPv6 router solicitations, without which iPXE waits 13 s for IPv6 at every boot.

pub mod packet;
pub mod ra;
pub mod reply;
pub mod server;
