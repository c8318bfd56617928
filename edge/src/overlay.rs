//! The overlay initramfs: a small cpio archive in the kernel's "newc" form (Documentation/driver-api/early-userspace/
//! buffer-format), laid over the LiveOS by the kernel at boot. Pure.

/// One file of an archive.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// Path without a leading slash. Its folders are made.
    pub path: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub bytes: &'a [u8],
}

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

/// Archive of these files, uncompressed, padded so that another may follow.
#[must_use]
pub fn archive(files: &[File]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut inode = 1;
    let mut made = Vec::new();
    for file in files {
        for (end, _) in file.path.match_indices('/') {
            let folder = &file.path[..end];
            if !made.contains(&folder) {
                made.push(folder);
                entry(&mut out, inode, folder, DIRECTORY, &[]);
                inode += 1;
            }
        }
        entry(&mut out, inode, file.path, REGULAR | file.mode, file.bytes);
        inode += 1;
    }
    entry(&mut out, 0, "TRAILER!!!", 0, &[]);
    pad(&mut out, 512);
    out
}

fn entry(out: &mut Vec<u8>, inode: u32, path: &str, mode: u32, bytes: &[u8]) {
    use std::io::Write as _;
    let name_len = path.len() + 1;
    let fields = [
        inode as usize,
        mode as usize,
        0,
        0,
        1,
        0,
        bytes.len(),
        0,
        0,
        0,
        0,
        name_len,
        0,
    ];
    out.extend_from_slice(b"070701");
    for field in fields {
        write!(out, "{field:08x}").expect("writing to memory does not fail");
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(bytes);
    pad(out, 4);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    #[test]
    fn cpio_reads_it() {
        let bytes = archive(&[
            File {
                path: "slipway/boot.json",
                mode: 0o600,
                bytes: b"{\"a\":1}",
            },
            File {
                path: "slipway/more/x",
                mode: 0o644,
                bytes: b"12345",
            },
        ]);
        let dir = tempfile::tempdir().unwrap();
        let mut cpio = Command::new("cpio")
            .args(["-idmu", "--quiet"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("cpio is installed (Debian package cpio)");
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(cpio.wait().unwrap().success());
        assert_eq!(
            std::fs::read(dir.path().join("slipway/boot.json")).unwrap(),
            b"{\"a\":1}"
        );
        assert_eq!(
            std::fs::read(dir.path().join("slipway/more/x")).unwrap(),
            b"12345"
        );
        let mode = std::os::unix::fs::MetadataExt::mode(
            &std::fs::metadata(dir.path().join("slipway/boot.json")).unwrap(),
        );
        assert_eq!(mode & 0o777, 0o600, "it holds a token");
        assert_eq!(bytes.len() % 512, 0);
    }
}
