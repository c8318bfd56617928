//! Recordings of real devices and clients, from the folder that SLIPWAY_FIXTURES names. `make test` says so and leaves this out where
//! there is no such folder.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod capture;
mod dhcp;
mod ipmi;

use std::path::PathBuf;

/// The folder of recordings.
fn fixtures() -> PathBuf {
    let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/fixtures");
    std::env::var_os("SLIPWAY_FIXTURES").map_or_else(|| usual.into(), PathBuf::from)
}
