//! The agent: PID 1 of the LiveOS, and a plain process in tests. It does what the signed order says and the edge releases,
//! one step at a time, and reports how each stands.
//!
//! Invariants: it acts on verified bytes only; it writes to one disk, found again by its identity, or to none,
//! unless the order says to wipe the others; it keeps
//! nothing over a reboot, since order, release and report say all there is to know.

pub mod disk;
pub mod env;
pub mod fetch;
pub mod file_system;
pub mod init;
pub mod inventory;
pub mod link;
pub mod lldp;
pub mod log;
pub mod modules;
pub mod net;
pub mod run;
pub mod ssh;
pub mod steps;
pub mod work;

/// The agent's version, as it says in its hello.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
