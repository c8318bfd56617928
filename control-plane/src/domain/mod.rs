//! Use-cases: each owns its transaction, writes history, and wakes whoever must act on it afterwards.

pub mod instances;
pub mod jobs;
pub mod machines;
pub mod sites;
