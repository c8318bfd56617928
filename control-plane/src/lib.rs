//! The control plane: REST API, scheduler, store, and the gateway to the sites.
//!
//! Flow is one way: `api` -> `domain` -> `store`; `scheduler` -> `domain` -> `store`; `gateway` sends what the store holds.
//! Invariants: only `store` names Diesel; no MQTT or HTTP call stands inside a transaction; every hop may be repeated.

pub mod access;
pub mod api;
pub mod app;
pub mod auth;
pub mod chunks;
pub mod config;
pub mod domain;
pub mod error;
pub mod gateway;
pub mod image_content;
pub mod metrics;
pub mod notify;
pub mod pki;
pub mod router;
pub mod scheduler;
pub mod serve;
pub mod signing;
pub mod store;
pub mod telemetry;
pub mod upkeep;
pub mod vault;
pub mod web;
pub mod workflow;
