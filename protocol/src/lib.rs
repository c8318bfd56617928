//! Types that cross the wire between control plane, edge and agent.
//!
//! Invariants: no I/O, no tokio, no clock (`now` is always an argument). Only [`keys`] can make a
//! [`keys::Verified`], so holding one is the proof that signature, topic, site, validity and revision were checked.

pub mod bmc;
pub mod boot;
pub mod guest;
pub mod ids;
pub mod image;
pub mod inventory;
pub mod keys;
pub mod lease;
pub mod limits;
pub mod log;
pub mod order;
pub mod report;
pub mod seal;
pub mod site;
pub mod sync;
pub mod topic;
pub mod version;
