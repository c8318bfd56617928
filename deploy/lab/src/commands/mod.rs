//! What the program can do, one file a command; callable from tests without the program.

pub mod bmc_serve;
pub mod console;
pub mod disk_hash;
pub mod down;
pub mod exec;
pub mod expose;
pub mod fault;
pub mod power;
pub mod status;
pub mod up;

use std::io;

use tokio::runtime::{Builder, Runtime};

use crate::error::LabError;

/// A small runtime. It is made where it is needed, so that its threads are in the namespace of the caller.
fn runtime() -> Result<Runtime, LabError> {
    let failed = |source: io::Error| LabError::File {
        operation: "start",
        path: "the tokio runtime".into(),
        source,
    };
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed)
}
