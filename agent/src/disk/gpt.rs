//! The GUID partition table (UEFI specification 2.10, section 5.3), read from the disk's own bytes so that nothing waits
//! for the kernel to see new partitions. Read-only.

use std::io;

/// A partition in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

/// A table that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GptError {
    /// The disk cannot be read.
    #[error("cannot read the disk's partition table")]
    Read(#[source] io::Error),
    /// There is none.
    #[error("the disk has no GUID partition table")]
    Missing,
    /// Its numbers or checksums do not fit.
    #[error("the disk's GUID partition table is damaged: {0}")]
    Damaged(&'static str),
}

const MAX_ENTRIES: u32 = 1024;

/// Every partition of the primary table. `read_at` fills a buffer from an offset.
///
/// # Errors
/// When there is no table or it is damaged.
pub fn partitions(read_at: impl Fn(u64, &mut [u8]) -> io::Result<()>) -> Result<Vec<Partition>, GptError> {
    for sector in [512, 4096] {
        let mut header = [0; 512];
        read_at(sector, &mut header).map_err(GptError::Read)?;
        if header.starts_with(b"EFI PART") {
            return read_entries(&header, sector, read_at);
        }
    }
    Err(GptError::Missing)
}

fn read_entries(
    header: &[u8; 512],
    sector: u64,
    read_at: impl Fn(u64, &mut [u8]) -> io::Result<()>,
) -> Result<Vec<Partition>, GptError> {
    let header_len = u32_at(header, 12) as usize;
    if !(92..=512).contains(&header_len) {
        return Err(GptError::Damaged("header size"));
    }
    let mut summed = header[..header_len].to_vec();
    summed[16..20].fill(0);
    if crc32(&summed) != u32_at(header, 16) {
        return Err(GptError::Damaged("header checksum"));
    }
    let (count, entry_len) = (u32_at(header, 80), u32_at(header, 84));
    if count > MAX_ENTRIES || !(128..=4096).contains(&entry_len) {
        return Err(GptError::Damaged("entry count or size"));
    }
    let mut entries = vec![0; count as usize * entry_len as usize];
    let offset = u64_at(header, 72)
        .checked_mul(sector)
        .ok_or(GptError::Damaged("entry position"))?;
    read_at(offset, &mut entries).map_err(GptError::Read)?;
    if crc32(&entries) != u32_at(header, 88) {
        return Err(GptError::Damaged("entry checksum"));
    }
    let used = entries
        .chunks_exact(entry_len as usize)
        .filter(|entry| entry[..16] != [0; 16]);
    used.map(|entry| partition(entry, sector)).collect()
}

fn partition(entry: &[u8], sector: u64) -> Result<Partition, GptError> {
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    let bytes = |sectors: Option<u64>| sectors.and_then(|n| n.checked_mul(sector));
    let sectors = last.checked_sub(first).and_then(|n| n.checked_add(1));
    let (Some(offset), Some(len)) = (bytes(Some(first)), bytes(sectors)) else {
        return Err(GptError::Damaged("a partition's extent"));
    };
    let units: Vec<u16> = entry[56..128]
        .chunks_exact(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .take_while(|unit| *unit != 0)
        .collect();
    Ok(Partition {
        name: String::from_utf16_lossy(&units),
        offset,
        len,
    })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

/// CRC-32 as in ISO 3309, which GPT uses. Bit by bit: a table is 16 kB.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::fs::FileExt as _, process::Command};

    fn image() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(16 << 20).unwrap();
        let made = Command::new("sgdisk")
            .args(["-n1:2048:+4M", "-c1:ESP", "-n2:0:+1M", "-c2:cidata"])
            .arg(file.path())
            .output()
            .expect("sgdisk is installed (Debian package gdisk)");
        assert!(made.status.success(), "{made:?}");
        file
    }

    #[test]
    fn reads_what_sgdisk_wrote() {
        let file = image();
        let found = partitions(|at, buffer| file.as_file().read_exact_at(buffer, at)).unwrap();
        let shown: Vec<_> = found.iter().map(|p| (p.name.as_str(), p.offset, p.len)).collect();
        assert_eq!(shown, [("ESP", 1 << 20, 4 << 20), ("cidata", 5 << 20, 1 << 20)]);
    }

    #[test]
    fn damage_is_seen_and_never_panics() {
        let file = image();
        let mut bytes = vec![0; 40 * 1024];
        file.as_file().read_exact_at(&mut bytes, 0).unwrap();
        let read = |bytes: &[u8]| {
            partitions(|at, buffer| {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                let end = at.checked_add(buffer.len()).filter(|end| *end <= bytes.len());
                let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
                buffer.copy_from_slice(&bytes[at..end]);
                Ok(())
            })
        };
        assert!(read(&bytes).is_ok());
        for position in (512..604).chain(1024..1152) {
            let mut bad = bytes.clone();
            bad[position] ^= 0x41;
            assert!(read(&bad).is_err(), "byte {position}");
        }
        assert!(matches!(read(&[0; 8192]), Err(GptError::Missing)));
    }
}
