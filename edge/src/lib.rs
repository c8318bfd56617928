//! The site's box: DHCP, TFTP, HTTP boot, image cache, BMC drivers, agent relay and the order runner.
//!
//! Invariant: nothing here asks the control plane for permission. What an edge holds is enough to finish its orders.

pub mod agents;
pub mod bmc;
pub mod boot;
pub mod boots;
pub mod config;
pub mod context;
pub mod dhcp;
pub mod http;
pub mod identity;
pub mod image_room;
pub mod images;
mod intake;
pub mod interfaces;
pub mod ipxe;
pub mod job_log;
pub mod join;
pub mod ledger;
pub mod link;
pub mod local;
pub mod metrics;
pub mod neighbours;
pub mod overlay;
pub mod preflight;
pub mod renew;
pub mod retirement;
pub mod runner;
pub mod setup;
pub mod sightings;
pub mod site;
pub mod status;
pub mod store;
pub mod tftp;
pub mod uplink;
pub mod watch;
