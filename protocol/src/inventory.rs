//! What hardware a machine has, and the choice of a disk by rules. The choice is one pure function used by the agent
//! before it writes and by the control plane when it plans: the right disk, or none.

use serde::{Deserialize, Serialize};

use crate::{ids::MacAddr, limits};

/// What an agent found on a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// How it was booted.
    pub firmware: Option<FirmwareKind>,
    /// SMBIOS system manufacturer.
    #[serde(default)]
    pub manufacturer: Option<String>,
    /// SMBIOS product name.
    #[serde(default)]
    pub product: Option<String>,
    /// SMBIOS system serial number.
    #[serde(default)]
    pub serial: Option<String>,
    /// SMBIOS system UUID.
    #[serde(default)]
    pub uuid: Option<String>,
    /// CPU model name.
    #[serde(default)]
    pub cpu: Option<String>,
    /// Logical processors.
    #[serde(default)]
    pub threads: u32,
    /// Memory in bytes, as the kernel sees it.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Network ports.
    #[serde(default)]
    pub nics: Vec<Nic>,
    /// Disks, in the kernel's order.
    #[serde(default)]
    pub disks: Vec<Disk>,
}

/// How a machine was booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FirmwareKind {
    /// Legacy BIOS.
    Bios,
    /// UEFI.
    Uefi,
}

/// A network port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// The kernel's name in the LiveOS; for reading only, never for addressing.
    pub name: String,
    /// Its address.
    pub mac: MacAddr,
    /// Link speed in Mbit/s, where known.
    #[serde(default)]
    pub speed_mbit: Option<u32>,
    /// Whether the link is up.
    #[serde(default)]
    pub link: bool,
    /// What is at the other end of the cable, by its own word (LLDP); none was heard of most ports that are new to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub neighbour: Option<Neighbour>,
}

/// The other end of a cable, as its LLDP frames tell (IEEE 802.1AB-2016 section 8). Anybody on the cable can say anything:
/// for reading only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Chassis ID: a MAC address, an address or a name.
    pub chassis: String,
    /// Port ID: an interface's name, number or MAC address.
    pub port: String,
    /// Port description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// System name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
    /// VLAN of untagged frames (IEEE 802.1Q-2018 D.2.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
}

impl Inventory {
    /// Takes over neighbours that a former look at the same ports has heard of and this one has not yet: they speak each 30 s,
    /// and not every boot lasts so long.
    pub fn keep_neighbours(&mut self, former: &Self) {
        for nic in self.nics.iter_mut().filter(|nic| nic.neighbour.is_none()) {
            let same = former.nics.iter().find(|other| other.mac == nic.mac);
            nic.neighbour = same.and_then(|other| other.neighbour.clone());
        }
    }
}

impl Inventory {
    /// What fits into a message, of a machine with more hardware than that: first what neighbours say falls out, then ports
    /// without a link, then ports. Disks stay.
    #[must_use]
    pub fn fitted(mut self) -> Self {
        let fits = |inventory: &Self| limits::inventory(inventory).is_ok();
        if !fits(&self) {
            self.nics.iter_mut().for_each(|nic| nic.neighbour = None);
        }
        if !fits(&self) {
            self.nics.sort_by_key(|nic| !nic.link);
        }
        while !fits(&self) && !self.nics.is_empty() {
            self.nics.truncate(self.nics.len() / 2);
        }
        self
    }
}

/// What kind of device a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskKind {
    /// Non-volatile memory over PCIe.
    Nvme,
    /// Flash behind another bus, or a virtual disk.
    Ssd,
    /// Rotating.
    Hdd,
}

/// A disk as found. Its kernel name is not part of it: names change from boot to boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Serial number as the device says it.
    #[serde(default)]
    pub serial: Option<String>,
    /// World-wide name, where it has one.
    #[serde(default)]
    pub wwn: Option<String>,
    /// Model name.
    #[serde(default)]
    pub model: Option<String>,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Kind of device.
    pub kind: DiskKind,
}

impl Disk {
    /// The identity by which plans, reports and messages name it: WWN, else serial.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.wwn.as_deref().or(self.serial.as_deref())
    }
}

/// Which disk to write. All given conditions must hold; exactly one disk must be left.
/// There is no field for a kernel name, on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRule {
    /// This serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// This world-wide name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwn: Option<String>,
    /// A model that contains this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// This kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<DiskKind>,
    /// At least this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// At most this many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// Why no disk was chosen. Nothing is written then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskChoiceError {
    /// Several disks fit.
    #[error("the disk rule fits {} disks: {}; name one by its serial or wwn", .candidates.len(), .candidates.join(", "))]
    Ambiguous {
        /// The disks that fit, described.
        candidates: Vec<String>,
    },
    /// No disk fits.
    #[error("the disk rule fits none of {} disks: {}", .present.len(), .present.join(", "))]
    NoneFits {
        /// The disks that are there, described.
        present: Vec<String>,
    },
    /// The one that fits says neither serial nor WWN, so it cannot be bound to.
    #[error("the disk that fits has neither serial nor wwn ({0}); it cannot be told from another")]
    Nameless(String),
}

impl DiskChoiceError {
    /// A stable word for the API.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Ambiguous { .. } => "disk_ambiguous",
            Self::NoneFits { .. } => "disk_not_found",
            Self::Nameless(_) => "disk_nameless",
        }
    }
}

impl DiskRule {
    fn fits(&self, disk: &Disk) -> bool {
        let same = |want: &Option<String>, have: &Option<String>| want.is_none() || want == have;
        same(&self.serial, &disk.serial)
            && same(&self.wwn, &disk.wwn)
            && self
                .model
                .as_ref()
                .is_none_or(|want| disk.model.as_ref().is_some_and(|m| m.contains(want)))
            && self.kind.is_none_or(|want| want == disk.kind)
            && self.min_bytes.is_none_or(|min| disk.size_bytes >= min)
            && self.max_bytes.is_none_or(|max| disk.size_bytes <= max)
    }

    /// The index of the one disk the rule fits.
    ///
    /// # Errors
    /// When none or several fit, or the one that does cannot be identified; the message lists them.
    pub fn choose(&self, disks: &[Disk]) -> Result<usize, DiskChoiceError> {
        let fitting: Vec<usize> = (0..disks.len()).filter(|&i| self.fits(&disks[i])).collect();
        match fitting[..] {
            [] => Err(DiskChoiceError::NoneFits {
                present: disks.iter().map(describe).collect(),
            }),
            [one] if disks[one].identity().is_none() => Err(DiskChoiceError::Nameless(describe(&disks[one]))),
            [one] => Ok(one),
            _ => {
                let candidates = fitting.iter().map(|&i| describe(&disks[i])).collect();
                Err(DiskChoiceError::Ambiguous { candidates })
            }
        }
    }
}

fn describe(disk: &Disk) -> String {
    let model = disk.model.as_deref().unwrap_or("no model");
    let serial = disk.serial.as_deref().unwrap_or("none");
    let wwn = disk
        .wwn
        .as_deref()
        .map(|w| format!(" wwn {w}"))
        .unwrap_or_default();
    format!("[{model} serial {serial}{wwn}, {} bytes]", disk.size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(serial: &str, size_bytes: u64, kind: DiskKind) -> Disk {
        Disk {
            serial: Some(serial.into()),
            wwn: None,
            model: Some("QEMU".into()),
            size_bytes,
            kind,
        }
    }

    #[test]
    fn the_right_disk_or_none() {
        let disks = [
            disk("A", 10, DiskKind::Ssd),
            disk("B", 20, DiskKind::Ssd),
            disk("C", 20, DiskKind::Hdd),
        ];
        let choose = |rule: DiskRule| rule.choose(&disks);
        assert_eq!(
            choose(DiskRule {
                serial: Some("B".into()),
                ..Default::default()
            }),
            Ok(1)
        );
        assert_eq!(
            choose(DiskRule {
                kind: Some(DiskKind::Hdd),
                ..Default::default()
            }),
            Ok(2)
        );
        assert_eq!(
            choose(DiskRule {
                max_bytes: Some(15),
                ..Default::default()
            }),
            Ok(0)
        );
        let ambiguous = choose(DiskRule::default()).unwrap_err();
        assert_eq!(ambiguous.code(), "disk_ambiguous");
        assert!(ambiguous.to_string().contains("serial A") && ambiguous.to_string().contains("serial C"));
        let none = choose(DiskRule {
            serial: Some("Z".into()),
            ..Default::default()
        })
        .unwrap_err();
        assert_eq!(none.code(), "disk_not_found");
    }

    #[test]
    fn a_disk_that_cannot_be_named_is_not_written() {
        let disks = [Disk {
            serial: None,
            wwn: None,
            model: None,
            size_bytes: 1,
            kind: DiskKind::Ssd,
        }];
        assert_eq!(
            DiskRule::default().choose(&disks).unwrap_err().code(),
            "disk_nameless"
        );
    }

    #[test]
    fn a_kernel_name_cannot_be_written() {
        assert!(serde_json::from_str::<DiskRule>(r#"{"path":"/dev/sda"}"#).is_err());
    }
}
