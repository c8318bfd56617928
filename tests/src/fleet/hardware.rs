//! The hardware that a simulated machine shows the real agent: one disk, which is a file, and one port. The steps that run
//! on it are the agent's own.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, Utc};
use slipway_agent::{
    env::Env,
    file_system::{Edit, EditError},
    inventory::FoundDisk,
};
use slipway_protocol::inventory::{Disk, DiskKind, FirmwareKind, Inventory, Nic};

use super::{pace::Pace, place::MachinePlace};

/// Size of a simulated disk in bytes.
pub(super) const DISK_BYTES: u64 = 1024 * 1024;

/// One boot of a simulated machine, as the agent sees it.
pub(super) struct Hardware {
    /// Which machine.
    pub(super) place: MachinePlace,
    /// The disk's bytes.
    pub(super) disk: PathBuf,
    /// How long things take.
    pub(super) pace: Pace,
    /// Set when the agent restarts the machine.
    pub(super) restarted: Arc<AtomicBool>,
}

impl Hardware {
    fn described(&self) -> Disk {
        Disk {
            serial: Some(self.place.name()),
            wwn: None,
            model: Some("simulated".to_owned()),
            size_bytes: DISK_BYTES,
            kind: DiskKind::Ssd,
        }
    }
}

impl Env for Hardware {
    fn inventory(&self) -> Inventory {
        Inventory {
            firmware: Some(FirmwareKind::Bios),
            manufacturer: Some("Slipway".to_owned()),
            product: Some("simulated machine".to_owned()),
            serial: Some(self.place.name()),
            uuid: None,
            cpu: Some("none".to_owned()),
            threads: 64,
            memory_bytes: 256 << 30,
            nics: vec![Nic {
                name: "eth0".to_owned(),
                mac: self.place.mac(),
                speed_mbit: Some(25_000),
                link: true,
                neighbour: None,
            }],
            disks: vec![self.described()],
        }
    }

    fn disks(&self) -> Vec<FoundDisk> {
        // The controller takes its time; the agent calls this from a thread that may block.
        std::thread::sleep(self.pace.disk());
        vec![FoundDisk {
            disk: self.described(),
            path: self.disk.clone(),
            refused: None,
        }]
    }

    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn set_clock(&self, _to: DateTime<Utc>) -> io::Result<()> {
        Ok(())
    }

    fn reboot(&self) -> io::Result<()> {
        self.restarted.store(true, Ordering::Release);
        Ok(())
    }

    fn edit_file(&self, _disk: &FoundDisk, _path: &str, _edit: Edit<'_>) -> Result<(), EditError> {
        // Its disk holds no file system.
        Err(EditError::NotFound)
    }

    fn let_in(&self, _keys: &[String]) -> io::Result<String> {
        Err(io::Error::other("a simulated machine has no SSH server"))
    }
}
