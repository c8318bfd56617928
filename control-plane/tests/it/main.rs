//! The control plane's own tests over real sockets and both databases; one program, so that they share their parts.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod access;
mod addresses;
mod alerted;
mod alerts;
mod api;
mod attacks;
mod batches;
mod bmc_password_story;
mod bmc_passwords;
mod clocks;
mod common;
mod cut_off;
mod edges;
mod events;
mod faults;
mod fuzz;
mod hardware_faults;
mod images;
mod import;
mod inventory;
mod lists;
mod live;
mod machine_life;
mod machine_lists;
mod machine_power;
mod machine_power_story;
mod measured;
mod migrations;
mod model;
mod offline;
mod openapi;
mod ordering;
mod overview;
mod plans;
mod scheduler;
mod search;
mod signing_keys;
mod small;
mod sso;
mod sso_lies;
mod store;
mod traces;
mod upkeep;
mod webhooks;
