//! Use-cases: each owns its transaction, writes history, and wakes whoever must act on it afterwards.

pub mod accounts;
pub mod instances;
pub mod jobs;
pub mod machines;
pub mod projects;
pub mod sites;
pub mod users;
