//! The hardware, read from `/sys` and `/proc` below a root that a test can lay out. Reads only; what cannot be read is
//! left out, since a machine with an odd part is to be seen and not refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use slipway_protocol::{
    ids::MacAddr,
    inventory::{Disk, DiskKind, FirmwareKind, Inventory, Nic},
};

/// A disk and how this boot of the kernel reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDisk {
    /// What it says of itself.
    pub disk: Disk,
    /// Its device node (or file) now.
    pub path: PathBuf,
    /// Why it must not be written, if so.
    pub refused: Option<String>,
}

/// Names of block devices that are not disks of the machine.
const NOT_DISKS: [&str; 10] = [
    "loop", "ram", "zram", "sr", "dm-", "md", "nbd", "fd", "mtdblock", "zd",
];

/// Everything but the disks.
#[must_use]
pub fn read(root: &Path) -> Inventory {
    let dmi = |name: &str| text(&root.join("sys/class/dmi/id").join(name)).filter(|t| t != "Not Specified");
    let cpuinfo = fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
    let field = |line: &str, name: &str| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    };
    let threads = cpuinfo
        .lines()
        .filter(|l| field(l, "processor").is_some())
        .count();
    Inventory {
        firmware: root.join("sys").exists().then(|| {
            if root.join("sys/firmware/efi").exists() {
                FirmwareKind::Uefi
            } else {
                FirmwareKind::Bios
            }
        }),
        manufacturer: dmi("sys_vendor"),
        product: dmi("product_name"),
        serial: dmi("product_serial"),
        uuid: dmi("product_uuid").map(|uuid| uuid.to_lowercase()),
        cpu: cpuinfo.lines().find_map(|l| field(l, "model name")),
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes(root),
        nics: nics(root),
        disks: Vec::new(),
    }
}

fn memory_bytes(root: &Path) -> u64 {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Network ports with hardware behind them, by name.
#[must_use]
pub fn nics(root: &Path) -> Vec<Nic> {
    let class = root.join("sys/class/net");
    let mut nics = Vec::new();
    for name in names(&class) {
        let dir = class.join(&name);
        if !dir.join("device").exists() {
            continue;
        }
        let Some(mac) = text(&dir.join("address")).and_then(|t| t.parse::<MacAddr>().ok()) else {
            continue;
        };
        nics.push(Nic {
            name,
            mac,
            // -1 and "unknown" stand for no link
            speed_mbit: text(&dir.join("speed")).and_then(|t| t.parse().ok()),
            link: text(&dir.join("carrier")).as_deref() == Some("1"),
            neighbour: None,
        });
    }
    nics
}

/// The machine's disks in the kernel's order: no removable, virtual or empty ones.
#[must_use]
pub fn disks(root: &Path) -> Vec<FoundDisk> {
    let block = root.join("sys/block");
    let mounts = fs::read_to_string(root.join("proc/mounts")).unwrap_or_default();
    let mut found = Vec::new();
    for name in names(&block) {
        let dir = block.join(&name);
        let number = |file: &str| text(&dir.join(file)).and_then(|t| t.parse::<u64>().ok());
        let size_bytes = number("size").unwrap_or(0) * 512;
        let virtual_disk = NOT_DISKS.iter().any(|prefix| name.starts_with(prefix));
        if virtual_disk || size_bytes == 0 || number("removable") == Some(1) || number("hidden") == Some(1) {
            continue;
        }
        let kind = match number("queue/rotational") {
            _ if name.starts_with("nvme") => DiskKind::Nvme,
            // virtio disks call themselves rotating unless told otherwise
            Some(1) if !name.starts_with("vd") => DiskKind::Hdd,
            _ => DiskKind::Ssd,
        };
        let disk = Disk {
            serial: serial(&dir),
            wwn: wwn(&dir),
            model: text(&dir.join("device/model")),
            size_bytes,
            kind,
        };
        found.push(FoundDisk {
            disk,
            path: root.join("dev").join(&name),
            refused: refusal(&dir, &name, &mounts),
        });
    }
    found
}

/// The world-wide name. What begins with `t10.` is only vendor, model and serial again, padded.
fn wwn(dir: &Path) -> Option<String> {
    let mut names = ["wwid", "device/wwid"]
        .iter()
        .filter_map(|file| text(&dir.join(file)));
    names.find(|name| !name.starts_with("t10."))
}

fn serial(dir: &Path) -> Option<String> {
    let plain = ["serial", "device/serial"]
        .iter()
        .find_map(|file| text(&dir.join(file)));
    plain.or_else(|| {
        // SCSI vital product data, unit serial number page (SPC-4 section 7.8.15): 4 bytes of head, then text
        let page = fs::read(dir.join("device/vpd_pg80")).ok()?;
        clean(&String::from_utf8_lossy(page.get(4..)?))
    })
}

fn refusal(dir: &Path, name: &str, mounts: &str) -> Option<String> {
    if text(&dir.join("ro")).as_deref() == Some("1") {
        return Some("it is read-only".to_owned());
    }
    let part_of = |device: &str| {
        let Some(rest) = device.strip_prefix("/dev/").and_then(|d| d.strip_prefix(name)) else {
            return false;
        };
        rest.strip_prefix('p')
            .unwrap_or(rest)
            .bytes()
            .all(|b| b.is_ascii_digit())
    };
    if mounts.lines().filter_map(|l| l.split(' ').next()).any(part_of) {
        return Some("it is mounted".to_owned());
    }
    let mut holders = vec![dir.join("holders")];
    for entry in names(dir).into_iter().filter(|entry| entry.starts_with(name)) {
        holders.push(dir.join(entry).join("holders"));
    }
    let held = holders.iter().find_map(|dir| names(dir).into_iter().next());
    held.map(|by| format!("it is held by {by}"))
}

/// The content of a file of one line, without blanks around; none if empty.
fn text(path: &Path) -> Option<String> {
    clean(&fs::read_to_string(path).ok()?)
}

fn clean(text: &str) -> Option<String> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// Entries of a folder, `sda` before `sdaa` and `nvme2n1` before `nvme10n1`.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lay(root: &Path, files: &[(&str, &str)]) {
        for (path, content) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    #[test]
    fn a_server_is_read_from_its_files() {
        let dir = tempfile::tempdir().unwrap();
        lay(
            dir.path(),
            &[
                ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n"),
                ("sys/class/dmi/id/product_serial", "Not Specified\n"),
                ("sys/class/dmi/id/product_uuid", "4C4C4544-0001\n"),
                ("sys/firmware/efi/runtime", ""),
                (
                    "proc/cpuinfo",
                    "processor\t: 0\nmodel name\t: Xeon\n\nprocessor\t: 1\nmodel name\t: Xeon\n",
                ),
                ("proc/meminfo", "MemTotal:        2048 kB\nMemFree: 1 kB\n"),
                ("sys/class/net/lo/address", "00:00:00:00:00:00\n"),
                ("sys/class/net/eth0/address", "52:54:00:00:00:01\n"),
                ("sys/class/net/eth0/device/vendor", "x"),
                ("sys/class/net/eth0/speed", "-1\n"),
                ("sys/class/net/eth0/carrier", "1\n"),
            ],
        );
        let inventory = read(dir.path());
        assert_eq!(inventory.firmware, Some(FirmwareKind::Uefi));
        assert_eq!(inventory.manufacturer.as_deref(), Some("Dell Inc."));
        assert_eq!((inventory.serial, inventory.product), (None, None));
        assert_eq!(inventory.uuid.as_deref(), Some("4c4c4544-0001"));
        assert_eq!((inventory.threads, inventory.cpu.as_deref()), (2, Some("Xeon")));
        assert_eq!(inventory.memory_bytes, 2 * 1024 * 1024);
        let nic = &inventory.nics[..];
        assert!(matches!(nic, [one] if one.link && one.speed_mbit.is_none() && one.name == "eth0"));
    }

    #[test]
    fn disks_of_every_kind_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        lay(
            dir.path(),
            &[
                ("sys/block/loop0/size", "100\n"),
                ("sys/block/sr0/size", "100\n"),
                ("sys/block/sdc/size", "100\n"),
                ("sys/block/sdc/removable", "1\n"),
                ("sys/block/sdd/size", "0\n"),
                ("sys/block/vda/size", "2048\n"),
                ("sys/block/vda/serial", "V1"),
                (
                    "sys/block/vda/device/wwid",
                    "t10.ATA     QEMU HARDDISK         V1",
                ),
                ("sys/block/vda/queue/rotational", "1\n"),
                ("sys/block/sda/size", "4096\n"),
                ("sys/block/sda/device/model", "ST4000NM  \n"),
                ("sys/block/sda/device/vpd_pg80", "\0\u{1}\0\u{4}ZC1 "),
                ("sys/block/sda/device/wwid", "naa.5000c500a1b2c3d4\n"),
                ("sys/block/sda/queue/rotational", "1\n"),
                ("sys/block/nvme10n1/size", "10\n"),
                ("sys/block/nvme10n1/ro", "1\n"),
                ("sys/block/nvme2n1/size", "10\n"),
                ("sys/block/nvme2n1/wwid", "eui.1\n"),
                ("sys/block/nvme2n1/nvme2n1p1/holders/dm-0/x", ""),
                (
                    "proc/mounts",
                    "/dev/sda1 / ext4 rw 0 0\n/dev/vdab /x ext4 rw 0 0\n",
                ),
            ],
        );
        let disks = disks(dir.path());
        let shown: Vec<_> = disks
            .iter()
            .map(|d| {
                (
                    d.path.file_name().unwrap().to_str().unwrap(),
                    d.disk.kind,
                    d.refused.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                ("sda", DiskKind::Hdd, Some("it is mounted")),
                ("vda", DiskKind::Ssd, None),
                ("nvme2n1", DiskKind::Nvme, Some("it is held by dm-0")),
                ("nvme10n1", DiskKind::Nvme, Some("it is read-only")),
            ]
        );
        assert_eq!(disks[1].disk.wwn, None, "no world-wide name");
        assert_eq!(disks[0].disk.serial.as_deref(), Some("ZC1"));
        assert_eq!(disks[0].disk.identity(), Some("naa.5000c500a1b2c3d4"));
        assert_eq!(disks[0].disk.model.as_deref(), Some("ST4000NM"));
        assert_eq!(
            (disks[1].disk.serial.as_deref(), disks[1].disk.size_bytes),
            (Some("V1"), 1 << 20)
        );
    }
}
