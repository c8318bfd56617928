//! The DHCPv4 server: [`packet`] reads and writes bytes, [`reply`] decides, both purely; [`memory`] keeps what a client said in its DISCOVER and
//! leaves out later; [`server`] owns the socket, and [`keeping`] writes leases to disk before they are told.
//! [`ra`] answers IPv6 router solicitations, without which iPXE waits 13 s for IPv6 at every boot.

pub mod keeping;
pub mod memory;
pub mod packet;
pub mod ra;
pub mod reply;
pub mod server;
