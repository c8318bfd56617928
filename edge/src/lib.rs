//! placeholder

pub mod bmc;
