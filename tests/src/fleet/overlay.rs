//! What a booting machine makes of what it fetched: the iPXE script's files, and the boot configuration out of the overlay
//! archive, as firmware and kernel would. Pure. Understands what our edges say and nothing else.

use slipway_protocol::boot::{BOOT_CONFIG_PATH, BootConfig};

/// What an edge handed out cannot be booted.
#[derive(Debug, thiserror::Error)]
pub(super) enum OverlayError {
    /// The archive ends early or is no newc archive.
    #[error("the overlay is no cpio archive in newc form (at byte {0})")]
    Archive(usize),
    /// There is no boot configuration in it.
    #[error("the overlay holds no {BOOT_CONFIG_PATH}")]
    Missing,
    /// The boot configuration cannot be read.
    #[error("the overlay's boot configuration cannot be read")]
    Config(#[from] serde_json::Error),
}

/// The URLs a boot script has the machine fetch, in their order; none for a script that boots the disk.
#[must_use]
pub(super) fn files(script: &str) -> Vec<String> {
    let mut base = "";
    let mut urls = Vec::new();
    for line in script.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("set") if words.next() == Some("base") => base = words.next().unwrap_or_default(),
            Some("kernel" | "initrd") => {
                let url = words.find(|word| word.starts_with("${base}"));
                urls.extend(url.map(|word| word.replacen("${base}", base, 1)));
            }
            _ => {}
        }
    }
    urls
}

/// The boot configuration in an overlay.
///
/// # Errors
/// When it is damaged or not there.
pub(super) fn boot_config(archive: &[u8]) -> Result<BootConfig, OverlayError> {
    let wanted = BOOT_CONFIG_PATH.trim_start_matches('/').as_bytes();
    let mut at = 0;
    loop {
        let (name, body, next) = entry(archive, at).ok_or(OverlayError::Archive(at))?;
        match name {
            b"TRAILER!!!" => return Err(OverlayError::Missing),
            name if name == wanted => return Ok(serde_json::from_slice(body)?),
            _ => at = next,
        }
    }
}

/// Length of a newc header, which is all hexadecimal text.
const HEADER: usize = 110;

/// Name and content of the entry at `at`, and where the next one begins.
fn entry(archive: &[u8], at: usize) -> Option<(&[u8], &[u8], usize)> {
    let header = std::str::from_utf8(archive.get(at..at + HEADER)?).ok()?;
    let number = |field: usize| usize::from_str_radix(header.get(6 + field * 8..14 + field * 8)?, 16).ok();
    if !header.starts_with("070701") {
        return None;
    }
    let (body_len, name_len) = (number(6)?, number(11)?);
    let name = archive.get(at + HEADER..at + HEADER + name_len.checked_sub(1)?)?;
    let body_at = (at + HEADER + name_len).next_multiple_of(4);
    let body = archive.get(body_at..body_at.checked_add(body_len)?)?;
    Some((name, body, (body_at + body_len).next_multiple_of(4)))
}

#[cfg(test)]
mod tests {
    use slipway_edge::{ipxe, overlay};
    use slipway_protocol::ids::MacAddr;

    use super::*;

    #[test]
    fn the_edges_own_script_is_understood() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let script = ipxe::liveos("127.1.1.1:8081".parse().unwrap(), mac, "k3y");
        let base = "http://127.1.1.1:8081";
        let expected = [
            format!("{base}/liveos/vmlinuz"),
            format!("{base}/liveos/initramfs.img"),
            format!("{base}/boot/02-00-00-00-00-01/k3y/overlay.img"),
        ];
        assert_eq!(files(&script), expected);
        assert!(files(&ipxe::local()).is_empty());
    }

    #[test]
    fn an_archive_without_a_configuration_or_without_an_end_is_refused() {
        let file = |path, bytes| overlay::File {
            path,
            mode: 0o600,
            bytes,
        };
        let other = overlay::archive(&[file("slipway/other", b"x")]);
        assert!(matches!(boot_config(&other), Err(OverlayError::Missing)));
        let broken = overlay::archive(&[file("slipway/boot.json", b"{}")]);
        assert!(matches!(boot_config(&broken), Err(OverlayError::Config(_))));
        assert!(matches!(
            boot_config(&broken[..100]),
            Err(OverlayError::Archive(0))
        ));
    }
}
