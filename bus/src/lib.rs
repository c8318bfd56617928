//! The MQTT side of Slipway: a client with back-off, and the embedded broker behind its TLS and topic guard.
//!
//! MQTT is a wake-up transport here. Invariants: nothing in this crate is relied on for correctness, no retained
//! message, persistent session or acknowledgement; whoever uses it compares holdings at every connect. Nothing here
//! signs or verifies: payloads are opaque bytes.

pub mod acl;
pub mod backoff;
#[cfg(feature = "broker")]
pub mod broker;
pub mod client;
mod contained;
#[cfg(feature = "broker")]
pub mod guard;
#[cfg(feature = "broker")]
pub mod log;
#[cfg(feature = "broker")]
pub mod router;
pub mod tls;

pub use client::{Client, Event, Options, Publish, PublishError};
pub use contained::{FAULT, contained};

/// The largest MQTT packet anybody here sends or takes, in bytes. An image manifest of 100 GB fits.
pub const MAX_PACKET_BYTES: usize = 4 * 1024 * 1024;
