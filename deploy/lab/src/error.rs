//! Why the lab could not do something; every message names the object and what to do.

use std::io;
use std::path::PathBuf;

/// A failure of the lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command of the system failed.
    #[error("'{command}' failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it printed.
        output: String,
    },
    /// A command of the system could not be started.
    #[error("'{command}' cannot be started: install it (deploy/install-deps.sh)")]
    Missing {
        /// The command.
        command: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A file could not be read or written.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A state file is not what the lab writes.
    #[error("{path} is damaged: run 'slipway-lab down' and 'up' again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it is damaged.
        #[source]
        source: serde_json::Error,
    },
    /// There is no lab of this name.
    #[error("there is no lab '{0}': run 'slipway-lab up' first (or give --dir and --name)")]
    NotUp(String),
    /// There is one already.
    #[error("lab '{0}' is up already: run 'slipway-lab down' first")]
    AlreadyUp(String),
    /// No such machine.
    #[error("lab '{lab}' has no machine '{machine}': see 'slipway-lab status'")]
    NoMachine {
        /// The lab.
        lab: String,
        /// What was asked for.
        machine: String,
    },
    /// A name or number that cannot work.
    #[error("{0}")]
    Refused(String),
    /// The network namespace cannot be entered.
    #[error("namespace {namespace} cannot be entered: is the lab up, and are you root?")]
    Namespace {
        /// The namespace.
        namespace: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// QEMU or the BMC process ended or stayed silent.
    #[error("{process} does not run: see {log}")]
    Process {
        /// Which process.
        process: String,
        /// Where it has written why.
        log: PathBuf,
    },
    /// QEMU's monitor answered something else than asked for.
    #[error("the monitor of {machine} failed: {detail}")]
    Monitor {
        /// The machine.
        machine: String,
        /// What it said.
        detail: String,
    },
    /// The BMC refused.
    #[error(transparent)]
    Bmc(#[from] slipway_edge::bmc::BmcError),
}

impl LabError {
    /// For `map_err` of file operations.
    pub fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File {
            operation,
            path,
            source,
        }
    }
}
