//! What an upload is, by its first bytes. A raw disk has no mark of its own, so whatever has another one is refused by name:
//! written as it is, it would not start on any machine. Pure.

/// How many of an upload's first bytes are looked at: an ISO 9660 image has its mark at 32,769.
pub const HEAD_BYTES: usize = 36 * 1024;

/// An upload that is no raw disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is {what}, not a raw disk image; {advice}")]
pub struct NotADisk {
    /// What it is.
    pub what: &'static str,
    /// What to do.
    pub advice: &'static str,
}

const CONVERT: &str = "convert it first: qemu-img convert -O raw FILE disk.raw";
const UNPACK: &str = "unpack it first; raw disks and raw disks compressed by zstd are taken";
const NO_DISK: &str = "upload the disk image itself: raw, or compressed by zstd";

/// Marks at fixed places: offset, bytes, what it is, what to do.
const MARKS: &[(usize, &[u8], &str, &str)] = &[
    (0, b"QFI\xfb", "a qcow2 image", CONVERT),
    (0, b"KDMV", "a VMDK image", CONVERT),
    (0, b"COWD", "a VMDK image", CONVERT),
    (
        0,
        b"# Disk DescriptorFile",
        "the descriptor of a VMDK image",
        CONVERT,
    ),
    (0, b"vhdxfile", "a VHDX image", CONVERT),
    (0, b"conectix", "a VHD image", CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", CONVERT),
    (0, b"\x1f\x8b", "a gzip file", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", UNPACK),
    (0, b"BZh", "a bzip2 file", UNPACK),
    (0, b"\x04\x22\x4d\x18", "an LZ4 file", UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file within a zstd file", UNPACK),
    (0, b"hsqs", "a squashfs file system", NO_DISK),
    (0, b"\x7fELF", "a program", NO_DISK),
    (0, b"%PDF-", "a PDF document", NO_DISK),
    (0, b"!<arch>\n", "a Debian package or another ar archive", NO_DISK),
    (0, b"\xed\xab\xee\xdb", "an RPM package", NO_DISK),
];

/// Text that is shorter is not judged: it could be the boot code of a very odd disk.
const LEAST_TEXT: usize = 64;

/// Refuses what begins as no raw disk does.
///
/// # Errors
/// What it is instead.
pub fn check(head: &[u8]) -> Result<(), NotADisk> {
    for (offset, mark, what, advice) in MARKS {
        if head.get(*offset..).is_some_and(|rest| rest.starts_with(mark)) {
            return Err(NotADisk { what, advice });
        }
    }
    // A hybrid ISO image has a partition table, too, and starts from a disk.
    let has_table = head.get(510..512) == Some(b"\x55\xaa") || head.get(512..520) == Some(b"EFI PART");
    if !has_table && head.get(32_769..32_774) == Some(b"CD001") {
        return Err(NotADisk {
            what: "an ISO 9660 image, as of a CD",
            advice: "an installer's CD installs nothing by being written; use the cloud image of the same system",
        });
    }
    if has_table {
        return Ok(());
    }
    text(head)
}

fn text(head: &[u8]) -> Result<(), NotADisk> {
    let start = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let begins = |mark: &[u8]| {
        start
            .get(..mark.len())
            .is_some_and(|s| s.eq_ignore_ascii_case(mark))
    };
    if [&b"<!doctype"[..], b"<html", b"<?xml", b"<head"]
        .into_iter()
        .any(begins)
    {
        return Err(NotADisk {
            what: "a web page",
            advice: "what was downloaded is probably an error page or a listing; look into the file, and upload the image itself",
        });
    }
    let readable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    if head.len() >= LEAST_TEXT && head.iter().all(readable) && std::str::from_utf8(without_cut(head)).is_ok()
    {
        return Err(NotADisk {
            what: "text",
            advice: NO_DISK,
        });
    }
    Ok(())
}

/// A text without the character that was cut at its end, if one was.
fn without_cut(head: &[u8]) -> &[u8] {
    match std::str::from_utf8(head) {
        Err(error) if error.error_len().is_none() => &head[..error.valid_up_to()],
        _ => head,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Zeros with marks at their places.
    fn disk(marks: &[(usize, &[u8])]) -> Vec<u8> {
        let mut head = vec![0; HEAD_BYTES];
        for (offset, mark) in marks {
            head[*offset..offset + mark.len()].copy_from_slice(mark);
        }
        head
    }

    #[test]
    fn disks_are_taken() {
        for (head, why) in [
            (disk(&[(510, b"\x55\xaa")]), "a partition table"),
            (disk(&[(510, b"\x55\xaa"), (512, b"EFI PART")]), "a GPT"),
            (
                disk(&[(4096, b"EFI PART")]),
                "a GPT of 4 KiB sectors, without a protective one",
            ),
            (
                disk(&[(510, b"\x55\xaa"), (32_769, b"CD001")]),
                "a hybrid ISO image",
            ),
            (
                disk(&[(1080, b"\x53\xef")]),
                "an ext4 file system on the whole disk",
            ),
            (disk(&[]), "an empty disk"),
            (b"tiny".to_vec(), "too short to say"),
        ] {
            assert_eq!(check(&head), Ok(()), "{why}");
        }
    }

    #[test]
    fn what_is_no_disk_is_refused_by_name() {
        let text = |text: &str| text.as_bytes().to_vec();
        for (head, what) in [
            (disk(&[(0, b"QFI\xfb\0\0\0\x03")]), "qcow2"),
            (disk(&[(0, b"KDMV\x01")]), "VMDK"),
            (text("# Disk DescriptorFile\nversion=1\n"), "VMDK"),
            (disk(&[(0, b"vhdxfile")]), "VHDX"),
            (disk(&[(0, b"conectix")]), "VHD"),
            (disk(&[(64, b"\x7f\x10\xda\xbe")]), "VDI"),
            (disk(&[(0, b"\x1f\x8b\x08")]), "gzip"),
            (disk(&[(0, b"\xfd7zXZ\0")]), "xz"),
            (disk(&[(0, b"BZh9")]), "bzip2"),
            (disk(&[(0, b"PK\x03\x04")]), "ZIP"),
            (disk(&[(257, b"ustar\x0000")]), "tar"),
            (disk(&[(32_769, b"CD001")]), "ISO 9660"),
            (text("  <!DOCTYPE html><title>404</title>"), "web page"),
            (text("\u{feff}\n<HTML>"), "web page"),
            (
                text("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
                "web page",
            ),
            (
                text(&"d41d8cd98f00b204e9800998ecf8427e  disk.img\n".repeat(3)),
                "text",
            ),
            (text(&"装机镜像的校验和\n".repeat(20)), "text"),
        ] {
            let refused = check(&head).unwrap_err();
            assert!(refused.what.contains(what), "{what}: {refused}");
        }
        let mut cut = "装".repeat(30).into_bytes();
        cut.pop();
        assert!(check(&cut).is_err(), "text that is cut within a character");
    }
}
