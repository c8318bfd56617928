//! `exec`: runs a command in one of the lab's namespaces, in place of this program.

use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::ValueEnum;

use crate::error::LabError;
use crate::state::{Lab, LabId};

/// A namespace of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// Bridge, machines, BMCs, edge.
    Site,
    /// Control plane.
    Centre,
}

impl Place {
    /// Name of the network namespace.
    pub fn namespace(self, id: &LabId) -> String {
        match self {
            Self::Site => id.site(),
            Self::Centre => id.centre(),
        }
    }
}

/// A command that will run in `place`; to be changed and spawned by the caller.
///
/// # Errors
/// [`LabError::NotUp`].
pub fn command(id: &LabId, place: Place, program: &str) -> Result<Command, LabError> {
    Lab::load(id)?;
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &place.namespace(id), program]);
    Ok(command)
}

/// Becomes `program` in `place`. Returns only when that fails.
pub fn exec(id: &LabId, place: Place, program: &str, arguments: &[String]) -> LabError {
    match command(id, place, program) {
        Ok(mut command) => LabError::Missing {
            command: "ip".into(),
            source: command.args(arguments).exec(),
        },
        Err(error) => error,
    }
}
