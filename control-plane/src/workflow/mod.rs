//! From an intent to an order, and from an outcome to the next state. Pure: no SQL, no MQTT, no clock.

pub mod bmc_password;
pub mod classify;
pub mod install;
pub mod machine_job;
pub mod machine_power;
pub mod offline;
pub mod overdue;
pub mod power;
pub mod release;
pub mod rescue;
pub mod state;
