//! The bound disk, found again: every step that writes goes through here.

use slipway_protocol::{inventory::Disk, report::Failure};

use super::{Attempt, Machine, lasting, passing};
use crate::{env::OpenDisk, inventory::FoundDisk};

/// Opens the disk the order's steps are bound to, if it is there unchanged.
pub(super) fn open(machine: &Machine, attempt: &Attempt) -> Result<OpenDisk, Failure> {
    let found = found(machine, attempt)?;
    let name = found.disk.identity().unwrap_or_default();
    OpenDisk::open(&found).map_err(|e| passing("disk_open", format!("cannot open disk {name}: {e}")))
}

/// The disk the order's steps are bound to, if it is there unchanged and may be written.
pub(super) fn found(machine: &Machine, attempt: &Attempt) -> Result<FoundDisk, Failure> {
    let Some(bound) = &attempt.disk else {
        let text = "no disk was chosen before this step; the order needs an agent_choose_disk step first";
        return Err(lasting("disk_not_chosen", text));
    };
    let found = find(&machine.env.disks(), bound)?;
    if let Some(reason) = &found.refused {
        let name = bound.identity().unwrap_or_default();
        return Err(lasting(
            "disk_in_use",
            format!("disk {name} must not be written: {reason}"),
        ));
    }
    Ok(found)
}

/// The disk of that identity and size, if there is exactly one.
fn find(present: &[FoundDisk], bound: &Disk) -> Result<FoundDisk, Failure> {
    let same = |found: &&FoundDisk| {
        found.disk.identity().is_some()
            && found.disk.identity() == bound.identity()
            && found.disk.serial == bound.serial
            && found.disk.size_bytes == bound.size_bytes
    };
    let mut fitting = present.iter().filter(same);
    match (fitting.next(), fitting.next()) {
        (Some(one), None) => Ok(one.clone()),
        _ => {
            let name = bound.identity().unwrap_or("without a name");
            let seen: Vec<String> = present
                .iter()
                .map(|f| {
                    format!(
                        "{} of {} bytes",
                        f.disk.identity().unwrap_or("nameless"),
                        f.disk.size_bytes
                    )
                })
                .collect();
            let text = format!(
                "the chosen disk {name} of {} bytes is not there unchanged; there are: {}. Nothing was written; \
                 look at the machine's disks, then order the install anew",
                bound.size_bytes,
                seen.join(", ")
            );
            Err(lasting("disk_changed", text))
        }
    }
}
