//! `down`: takes a lab away, whatever state it is in. Only processes of this lab are ended, each by its pid file
//! and its command line.

use std::fs;
use std::process::Command;

use crate::error::LabError;
use crate::state::{Lab, LabId};
use crate::{netns, process, qemu};

/// What becomes of the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disks {
    /// They are deleted with everything else.
    Remove,
    /// They stay, for the next `up` with the same sizes.
    Keep,
}

/// Takes the lab away. A lab that is not there is no error. Gives the pids of processes that others started in
/// its namespaces (`exec`): they are left alone, and keep a namespace without a name alive.
///
/// # Errors
/// When a process outlives SIGKILL or the system refuses.
pub fn down(id: &LabId, disks: Disks) -> Result<Vec<u32>, LabError> {
    process::stop(&id.bmc_pid(), &bmc_mark(id))?;
    let lab = Lab::load(id).ok();
    for machine in lab.iter().flat_map(|lab| &lab.machines) {
        process::stop(&machine.pid(), &qemu::mark(machine))?;
    }
    let strangers = [id.site(), id.centre()]
        .iter()
        .flat_map(|name| inside(name))
        .collect();
    netns::remove(id)?;
    match (disks, lab) {
        (Disks::Keep, Some(lab)) => keep_disks(id, &lab)?,
        _ if id.folder().exists() => {
            fs::remove_dir_all(id.folder()).map_err(LabError::file("remove", id.folder()))?;
        }
        _ => {}
    }
    Ok(strangers)
}

/// What is in the command line of this lab's BMC process and in no other.
pub(crate) fn bmc_mark(id: &LabId) -> String {
    format!("--dir {} --name {} bmc-serve", id.dir.display(), id.name)
}

fn inside(namespace: &str) -> Vec<u32> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

fn keep_disks(id: &LabId, lab: &Lab) -> Result<(), LabError> {
    for machine in &lab.machines {
        let entries = fs::read_dir(&machine.folder)
            .map_err(LabError::file("list", &machine.folder))?
            .flatten();
        for entry in entries.filter(|entry| machine.disks.iter().all(|disk| disk.path != entry.path())) {
            fs::remove_file(entry.path()).map_err(LabError::file("remove", entry.path()))?;
        }
    }
    for file in [id.file(), id.bmc_log(), id.control()] {
        fs::remove_file(&file).ok(); // absent is as good
    }
    Ok(())
}
