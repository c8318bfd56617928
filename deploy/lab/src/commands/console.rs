//! `console`: what a machine has written to its serial port, and what it writes.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

use crate::error::LabError;
use crate::state::{Lab, LabId};

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// At the end of what is there.
    No,
    /// Never.
    Yes,
}

/// Copies the console's log to `output`.
///
/// # Errors
/// [`LabError::NoMachine`], or when reading or writing fails.
pub fn console(id: &LabId, machine: &str, follow: Follow, output: &mut impl Write) -> Result<(), LabError> {
    let lab = Lab::load(id)?;
    let log = &lab.machine(machine)?.console_log;
    let mut file = File::open(log).map_err(LabError::file("open", log))?;
    loop {
        io::copy(&mut file, output).map_err(LabError::file("copy", log))?;
        output.flush().map_err(LabError::file("print", log))?;
        if follow == Follow::No {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
