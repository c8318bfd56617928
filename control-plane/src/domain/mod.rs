//! Use-cases: each owns its transaction, writes events, and wakes whoever must act on it afterwards.

pub mod alerts;
pub mod events;
pub mod instances;
pub mod jobs;
pub mod machines;
pub mod sites;
pub mod timeline;
mod told;
pub mod webhooks;
