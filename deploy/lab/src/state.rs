//! What a lab consists of: the definition written by `up` (`lab.json`), read by everything else.
//! It holds the BMC password, so the file is for root only.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::LabError;

/// The site's address on its provisioning network, `br0`.
pub const SITE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The centre's end of the WAN.
pub const CENTRE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The site's end of the WAN.
pub const SITE_WAN_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// User of every BMC.
pub const BMC_USER: &str = "admin";

/// Which lab: folder and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabId {
    /// Folder of all labs (`--dir`).
    pub dir: PathBuf,
    /// Name of this one (`--name`).
    pub name: String,
}

impl LabId {
    /// Checks that the name can be part of a namespace's name.
    ///
    /// # Errors
    /// [`LabError::Refused`] when it cannot.
    pub fn new(dir: impl Into<PathBuf>, name: &str) -> Result<Self, LabError> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(fits) {
            return Err(LabError::Refused(format!(
                "lab name '{name}': use 1 to 32 of a-z, 0-9 and '-'"
            )));
        }
        Ok(Self {
            dir: dir.into(),
            name: name.to_owned(),
        })
    }

    /// Folder of this lab.
    pub fn folder(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// The lab's definition.
    pub fn file(&self) -> PathBuf {
        self.folder().join("lab.json")
    }

    /// Namespace of the site: bridge, machines, BMCs, edge.
    pub fn site(&self) -> String {
        format!("slipway-{}-site", self.name)
    }

    /// Namespace of the control plane.
    pub fn centre(&self) -> String {
        format!("slipway-{}-centre", self.name)
    }

    /// Namespace between the two, while the WAN is impaired.
    pub fn wan(&self) -> String {
        format!("slipway-{}-wan", self.name)
    }

    /// Pid file of the BMC process.
    pub fn bmc_pid(&self) -> PathBuf {
        self.folder().join("bmc.pid")
    }

    /// Log of the BMC process.
    pub fn bmc_log(&self) -> PathBuf {
        self.folder().join("bmc.log")
    }

    /// Control socket of the BMC process (faults).
    pub fn control(&self) -> PathBuf {
        self.folder().join("control.sock")
    }
}

/// Firmware of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum MachineFirmware {
    /// SeaBIOS with iPXE in the network card's ROM.
    Bios,
    /// OVMF.
    Uefi,
}

/// Network card of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Nic {
    /// virtio-net.
    Virtio,
    /// Intel 82574L.
    E1000e,
}

/// How disks are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// NVMe.
    Nvme,
    /// AHCI.
    Sata,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Serial number as the machine sees it.
    pub serial: String,
    /// Sparse raw file.
    pub path: PathBuf,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// `m1`, `m2`, ...
    pub name: String,
    /// SMBIOS system serial number.
    pub serial: String,
    /// SMBIOS UUID.
    pub uuid: String,
    /// Firmware.
    pub firmware: MachineFirmware,
    /// Network card.
    pub nic: Nic,
    /// MAC address of the network card.
    pub mac: String,
    /// Tap device in the site's namespace.
    pub tap: String,
    /// Address of its BMC, port 623.
    pub bmc_address: Ipv4Addr,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// How disks are attached.
    pub bus: Bus,
    /// Disks, the first is the one booted from.
    pub disks: Vec<Disk>,
    /// Folder of its files.
    pub folder: PathBuf,
    /// Everything it wrote to its serial console.
    pub console_log: PathBuf,
    /// Socket of its serial console while it is on.
    pub console_socket: PathBuf,
}

impl Machine {
    /// Pid file of its QEMU process.
    pub fn pid(&self) -> PathBuf {
        self.folder.join("qemu.pid")
    }

    /// QEMU's monitor.
    pub fn monitor(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    /// What QEMU itself said.
    pub fn qemu_log(&self) -> PathBuf {
        self.folder.join("qemu.log")
    }

    /// Its copy of the UEFI variables.
    pub fn variables(&self) -> PathBuf {
        self.folder.join("OVMF_VARS.fd")
    }

    /// Its boot flags, as its BMC keeps them.
    pub fn boot_flags(&self) -> PathBuf {
        self.folder.join("boot.json")
    }
}

/// A whole lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lab {
    /// Its name.
    pub name: String,
    /// Namespace of the site.
    pub site_namespace: String,
    /// Namespace of the centre.
    pub centre_namespace: String,
    /// Address of the site's box on the provisioning network.
    pub site_address: Ipv4Addr,
    /// Address of the site's box on the WAN.
    pub site_wan_address: Ipv4Addr,
    /// Address of the centre on the WAN.
    pub centre_address: Ipv4Addr,
    /// User of every BMC.
    pub bmc_user: String,
    /// Password of every BMC, at most 16 characters.
    pub bmc_password: String,
    /// The machines.
    pub machines: Vec<Machine>,
}

impl Lab {
    /// Reads the definition of a lab that is up.
    ///
    /// # Errors
    /// [`LabError::NotUp`] when there is none.
    pub fn load(id: &LabId) -> Result<Self, LabError> {
        if !id.file().exists() {
            return Err(LabError::NotUp(id.name.clone()));
        }
        read_json(&id.file())
    }

    /// The machine of this name.
    ///
    /// # Errors
    /// [`LabError::NoMachine`].
    pub fn machine(&self, name: &str) -> Result<&Machine, LabError> {
        self.machines
            .iter()
            .find(|machine| machine.name == name)
            .ok_or_else(|| LabError::NoMachine {
                lab: self.name.clone(),
                machine: name.to_owned(),
            })
    }
}

/// Reads a JSON file.
///
/// # Errors
/// [`LabError::File`], [`LabError::Damaged`].
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LabError> {
    let text = fs::read(path).map_err(LabError::file("read", path))?;
    serde_json::from_slice(&text).map_err(|source| LabError::Damaged {
        path: path.to_owned(),
        source,
    })
}

/// Writes a JSON file for root only; a reader sees the old one or the new one.
///
/// # Errors
/// [`LabError::File`].
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), LabError> {
    let text = serde_json::to_vec_pretty(value).map_err(|source| LabError::Damaged {
        path: path.to_owned(),
        source,
    })?;
    let new = path.with_extension("new");
    fs::write(&new, text).map_err(LabError::file("write", &new))?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).map_err(LabError::file("protect", &new))?;
    fs::rename(&new, path).map_err(LabError::file("replace", path))
}
