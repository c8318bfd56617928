//! `disk-hash`: SHA-256 of a machine's whole disk, to prove what was written to it and what was not.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use ring::digest::{Context, SHA256};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::LabError;
use crate::state::{Lab, LabId};

const CHUNK: usize = 1 << 20;

/// SHA-256 in hex of disk number `disk` (1 and up) of a machine. Meaningful while the machine is off.
///
/// # Errors
/// [`LabError::NoMachine`], [`LabError::Refused`] when there is no such disk.
pub fn disk_hash(id: &LabId, machine: &str, disk: usize) -> Result<String, LabError> {
    let lab = Lab::load(id)?;
    let disks = &lab.machine(machine)?.disks;
    let found = disk.checked_sub(1).and_then(|at| disks.get(at));
    let path = match found {
        Some(disk) => &disk.path,
        None => {
            return Err(LabError::Refused(format!(
                "{machine} has disks 1 to {}",
                disks.len()
            )));
        }
    };
    let file = File::open(path).map_err(LabError::file("open", path))?;
    hash(&file).map_err(LabError::file("read", path))
}

/// Holes of the sparse file are hashed as the zeros they are, without reading them.
fn hash(file: &File) -> io::Result<String> {
    let size = file.metadata()?.len();
    let mut context = Context::new(&SHA256);
    let mut at = 0;
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => size, // nothing but a hole up to the end
            Err(error) => return Err(error.into()),
        };
        feed(&mut context, data - at, |_| Ok(()))?;
        at = if data < size {
            seek(file, SeekFrom::Hole(data))?
        } else {
            size
        };
        let mut position = data;
        feed(&mut context, at - data, |chunk| {
            file.read_exact_at(chunk, position)?;
            position += chunk.len() as u64;
            Ok(())
        })?;
    }
    Ok(hex::encode(context.finish()))
}

/// Hashes `length` bytes in chunks that `fill` fills; they start as zeros.
fn feed(
    context: &mut Context,
    mut length: u64,
    mut fill: impl FnMut(&mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while length > 0 {
        let part = usize::try_from(length).unwrap_or(CHUNK).min(CHUNK);
        fill(&mut buffer[..part])?;
        context.update(&buffer[..part]);
        length -= part as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_hash_as_zeros() {
        let file = tempfile::tempfile().expect("temporary file");
        file.write_all_at(b"slipway", 5 << 20).expect("write");
        file.set_len(9 << 20).expect("size");
        let mut whole = vec![0; 9 << 20];
        whole[5 << 20..][..7].copy_from_slice(b"slipway");
        let plain = hex::encode(ring::digest::digest(&SHA256, &whole));
        assert_eq!(hash(&file).expect("hash"), plain);
    }
}
