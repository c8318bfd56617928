//! The files a fleet serves: a guest image just large enough for the agent's real steps, and a LiveOS that is only fetched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

/// Size of the image in bytes.
const IMAGE_BYTES: u64 = 512 * 1024;
/// Size of each of the LiveOS's files in bytes: the real ones would measure the loopback interface.
const LIVEOS_BYTES: usize = 64 * 1024;

/// Makes an image with a partition table and a `cidata` partition, and some bytes of an operating system.
///
/// # Errors
/// When it cannot be written, or sgdisk (Debian package gdisk) is not there.
pub fn guest(folder: &Path) -> anyhow::Result<PathBuf> {
    let path = folder.join("guest.raw");
    let file = fs::File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.set_len(IMAGE_BYTES)?;
    let made = Command::new("sgdisk")
        .args(["-a", "1", "-n1:64:+128K", "-c1:cidata", "-n2:0:0", "-c2:root"])
        .arg(&path)
        .output()
        .context("sgdisk is not there; install the package gdisk")?;
    ensure!(made.status.success(), "sgdisk failed: {made:?}");
    let system: Vec<u8> = (0..64 * 1024_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
        .collect();
    std::os::unix::fs::FileExt::write_all_at(&file, &system, 256 * 1024)?;
    Ok(path)
}

/// Lays out the LiveOS's files; the folder stands for the boot programs too, which nobody here loads.
///
/// # Errors
/// When they cannot be written.
pub(super) fn liveos(folder: &Path) -> anyhow::Result<PathBuf> {
    let folder = folder.join("liveos");
    fs::create_dir_all(&folder)?;
    for name in [
        "vmlinuz",
        "initramfs.img",
        "undionly.kpxe",
        "snponly.efi",
        "ipxe.efi",
    ] {
        let path = folder.join(name);
        fs::write(&path, vec![0x90; LIVEOS_BYTES])
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(folder)
}
