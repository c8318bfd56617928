//! `agent_choose_disk`: the one disk a rule fits, or none. Writes nothing.

use slipway_protocol::{inventory::DiskRule, report::Failure};
use tracing::info;

use super::{Machine, Outcome, lasting};

pub(super) fn run(machine: &Machine, rule: &DiskRule) -> Result<Outcome, Failure> {
    let found = machine.env.disks();
    let disks: Vec<_> = found.iter().map(|f| f.disk.clone()).collect();
    let index = rule.choose(&disks).map_err(|e| lasting(e.code(), e))?;
    let name = disks[index].identity().unwrap_or_default();
    if let Some(reason) = &found[index].refused {
        let text = format!(
            "the disk that fits, {name}, must not be written: {reason}; choose another by its serial"
        );
        return Err(lasting("disk_in_use", text));
    }
    // Two disks of one identity could not be told apart when the disk is looked for again.
    if disks
        .iter()
        .filter(|d| d.identity() == disks[index].identity())
        .count()
        > 1
    {
        let text = format!("several disks say that they are {name}; choose one by its wwn");
        return Err(lasting("disk_ambiguous", text));
    }
    info!(disk = name, bytes = disks[index].size_bytes, "disk chosen");
    Ok(Outcome::Chosen(disks[index].clone()))
}
