//! The virtual lab: a site in a network namespace, QEMU machines, and BMCs that really switch them.
//!
//! [`bmc`] is usable alone: [`bmc::serve`] on a loopback socket with a [`bmc::MemoryChassis`] is a BMC for tests.
//! [`commands`] is what the program `slipway-lab` does, callable without it. Nothing here touches the host's own
//! network: all of it lives in two namespaces without an uplink.

pub mod bmc;
pub mod commands;
pub mod error;
pub mod impaired_wan;
pub mod machine;
pub mod netns;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod state;
pub mod switch;
pub mod wan;

pub use error::LabError;
pub use state::{Lab, LabId, Machine};
