//! The end-to-end world: a lab with real PXE, IPMI and virtual machines, and the real binaries in it. The demo and the
//! stories in `tests/` are made of it. It must never reach outside the namespaces it made.

pub mod api;
pub mod appliance;
pub mod browser;
pub mod fleet;
pub mod handbook;
pub mod newcomer;
pub mod sim;
pub mod source;
pub mod terminal;
pub mod timeline;
pub mod world;
