//! Use-cases: each owns its transaction, writes events, and wakes whoever must act on it afterwards.

pub mod accounts;
pub mod addresses;
pub mod alerts;
pub mod bmc_passwords;
pub mod edges;
pub mod events;
pub mod faults;
pub mod images;
pub mod instances;
pub mod jobs;
pub mod limits;
pub mod machine_types;
pub mod machines;
pub mod measures;
pub mod offline;
pub mod overview;
pub mod projects;
pub mod search;
pub mod signing_keys;
pub mod sites;
pub mod sso;
pub mod timeline;
pub mod users;
pub mod views;
pub mod webhook_secrets;
pub mod webhooks;
