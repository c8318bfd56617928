//! `fault`: makes a machine's BMC misbehave, by the BMC process's control socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use super::bmc_serve::FaultOrder;
use crate::error::LabError;
use crate::state::{Lab, LabId};

/// Arms faults; returns when they are armed.
///
/// # Errors
/// [`LabError::NoMachine`], or when the BMC process does not run.
pub fn fault(id: &LabId, order: &FaultOrder) -> Result<(), LabError> {
    Lab::load(id)?.machine(&order.machine)?;
    let failed = || LabError::file("talk to", id.control());
    let mut stream = UnixStream::connect(id.control()).map_err(failed())?;
    let line = serde_json::to_string(order).map_err(|source| LabError::Damaged {
        path: id.control(),
        source,
    })?;
    stream
        .write_all(format!("{line}\n").as_bytes())
        .map_err(failed())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(failed())?;
    match answer.trim() {
        "ok" => Ok(()),
        other => Err(LabError::Refused(other.to_owned())),
    }
}
