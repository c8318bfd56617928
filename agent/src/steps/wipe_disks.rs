//! `agent_wipe_disks`: every disk but the bound one is made to read as zeros, and sampled to show that it does. This is
//! for the same owner's next install; it is no certified erase: what a drive keeps out of reach, it keeps.

use slipway_protocol::report::{Failure, Progress};
use tracing::info;

use super::{Attempt, Machine, Outcome, bound_disk, lasting, passing};
use crate::{env::OpenDisk, inventory::FoundDisk};

/// Zeroed and told at once.
const PIECE: u64 = 64 << 20;
/// Read back at both ends of each piece.
const SAMPLE: u64 = 64 << 10;

pub(super) fn run(machine: &Machine, attempt: &Attempt) -> Result<Outcome, Failure> {
    // Opened and held: the disk that is to be kept is there, and is not among those that are wiped.
    let kept = bound_disk::open(machine, attempt)?;
    let bound = attempt.disk.as_ref().and_then(|disk| disk.identity());
    let others: Vec<FoundDisk> = machine
        .env
        .disks()
        .into_iter()
        .filter(|found| found.disk.identity() != bound)
        .collect();
    // All or none: a refusal must not come after half the work.
    if let Some((found, reason)) = others.iter().find_map(|f| Some((f, f.refused.as_ref()?))) {
        let name = found.disk.identity().unwrap_or("without a name");
        let text = format!("disk {name} must not be written: {reason}; nothing was wiped");
        return Err(lasting("disk_in_use", text));
    }
    let total_bytes = others.iter().map(|found| found.disk.size_bytes).sum();
    let mut done_bytes = 0;
    for found in &others {
        let name = found.disk.identity().unwrap_or("without a name");
        let disk = OpenDisk::open(found)
            .map_err(|e| passing("disk_open", format!("cannot open disk {name}: {e}")))?;
        wipe(&disk, name, attempt, |bytes| {
            done_bytes += bytes;
            (attempt.progress)(Progress {
                done_bytes,
                total_bytes,
            });
        })?;
        info!(disk = name, bytes = disk.size_bytes(), "disk wiped");
    }
    drop(kept);
    Ok(Outcome::Done)
}

fn wipe(disk: &OpenDisk, name: &str, attempt: &Attempt, mut tell: impl FnMut(u64)) -> Result<(), Failure> {
    let failed = |what: &str, at: u64, e: std::io::Error| {
        passing(
            "disk_write",
            format!("cannot {what} disk {name} at byte {at}: {e}"),
        )
    };
    for (at, len) in pieces(disk.size_bytes()) {
        if attempt.cancel.is_set() {
            return Err(passing("cancelled", "the step was taken back before it was done"));
        }
        disk.zero(at, len).map_err(|e| failed("wipe", at, e))?;
        tell(len);
    }
    disk.sync().map_err(|e| failed("finish wiping", 0, e))?;
    disk.drop_cache();
    for (at, len) in pieces(disk.size_bytes()) {
        let sample = SAMPLE.min(len);
        for at in [at, at + len - sample] {
            let mut bytes = vec![0xff; usize::try_from(sample).unwrap_or(0)];
            disk.read_at(at, &mut bytes)
                .map_err(|e| failed("read back", at, e))?;
            if bytes.iter().any(|byte| *byte != 0) {
                let text = format!(
                    "disk {name} does not read as zeros at byte {at} after it was wiped; it is likely broken"
                );
                return Err(passing("disk_verify", text));
            }
        }
    }
    Ok(())
}

fn pieces(size: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size.div_ceil(PIECE)).map(move |index| (index * PIECE, PIECE.min(size - index * PIECE)))
}
