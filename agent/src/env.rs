//! What steps need of the machine they run on: its disks, its clock and its reset. The real one, and one of files for
//! tests, which runs the very same steps. Must never decide anything.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use rustix::{
    fs::{Advice, FallocateFlags},
    system::RebootCommand,
    time::{ClockId, Timespec},
};
use slipway_protocol::inventory::{Disk, DiskKind, Inventory};

use crate::{
    file_system::{self, Edit, EditError},
    inventory::{self, FoundDisk},
    ssh,
};

/// The machine as steps see it.
pub trait Env: Send + Sync {
    /// The hardware, disks included.
    fn inventory(&self) -> Inventory;

    /// The disks, with how to reach them.
    fn disks(&self) -> Vec<FoundDisk>;

    /// The clock.
    fn now(&self) -> DateTime<Utc>;

    /// Sets the clock.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn set_clock(&self, to: DateTime<Utc>) -> io::Result<()>;

    /// Restarts the machine. The real one does not come back.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn reboot(&self) -> io::Result<()>;

    /// Changes one file of the system that is installed on a disk.
    ///
    /// # Errors
    /// When no file system of the disk has it, or it does not fit.
    fn edit_file(&self, disk: &FoundDisk, path: &str, edit: Edit<'_>) -> Result<(), EditError>;

    /// Lets the holders of these SSH keys in as root; answers the host key's fingerprint.
    ///
    /// # Errors
    /// When there is no SSH server.
    fn let_in(&self, keys: &[String]) -> io::Result<String>;
}

/// How long disks may take to appear after their drivers were loaded: in all, while there are none, and for the list to
/// count as complete when it did not change.
const DISKS_LIMIT: Duration = Duration::from_secs(30);
const NO_DISKS_LIMIT: Duration = Duration::from_secs(10);
const DISKS_QUIET: Duration = Duration::from_millis(500);

/// This machine.
#[derive(Debug, Default)]
pub struct Hardware {
    settled: OnceLock<()>,
}

impl Hardware {
    /// Waits, once in a boot, until no more disks appear: a rule that fits one disk of two, because the other was slow,
    /// would choose the wrong one.
    fn settle(&self) {
        self.settled.get_or_init(|| {
            let begun = Instant::now();
            let (mut seen, mut since) = (Vec::new(), begun);
            while begun.elapsed() < DISKS_LIMIT {
                let now = inventory::disks(Path::new("/"));
                if now != seen {
                    (seen, since) = (now, Instant::now());
                }
                let quiet = if seen.is_empty() {
                    NO_DISKS_LIMIT
                } else {
                    DISKS_QUIET
                };
                if since.elapsed() >= quiet {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }
}

impl Env for Hardware {
    fn inventory(&self) -> Inventory {
        with_disks(inventory::read(Path::new("/")), &self.disks())
    }

    fn disks(&self) -> Vec<FoundDisk> {
        self.settle();
        inventory::disks(Path::new("/"))
    }

    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn set_clock(&self, to: DateTime<Utc>) -> io::Result<()> {
        let to = Timespec {
            tv_sec: to.timestamp(),
            tv_nsec: to.timestamp_subsec_nanos().into(),
        };
        Ok(rustix::time::clock_settime(ClockId::Realtime, to)?)
    }

    fn reboot(&self) -> io::Result<()> {
        rustix::fs::sync();
        Ok(rustix::system::reboot(RebootCommand::Restart)?)
    }

    fn edit_file(&self, disk: &FoundDisk, path: &str, edit: Edit<'_>) -> Result<(), EditError> {
        file_system::edit_on_disk(disk, path, edit)
    }

    fn let_in(&self, keys: &[String]) -> io::Result<String> {
        ssh::let_in(keys)
    }
}

/// Files in a folder: `NAME.disk` is a disk with the serial `NAME`; `NAME.disk` without write permission is read-only;
/// what its file system holds lies in the folder `NAME.root`; a reboot makes the file `rebooted`, and who is let in stands
/// in `authorized_keys`. The clock is the host's and is never set.
#[derive(Debug)]
pub struct Files {
    /// The folder.
    pub root: PathBuf,
}

impl Env for Files {
    fn inventory(&self) -> Inventory {
        with_disks(inventory::read(&self.root), &self.disks())
    }

    fn disks(&self) -> Vec<FoundDisk> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|e| e.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "disk"));
        paths.sort();
        let found = paths.into_iter().filter_map(|path| {
            let metadata = fs::metadata(&path).ok()?;
            let read_only = metadata.permissions().readonly();
            Some(FoundDisk {
                disk: Disk {
                    serial: Some(path.file_stem()?.to_str()?.to_owned()),
                    wwn: None,
                    model: Some("file".to_owned()),
                    size_bytes: metadata.len(),
                    kind: DiskKind::Ssd,
                },
                path,
                refused: read_only.then(|| "it is read-only".to_owned()),
            })
        });
        found.collect()
    }

    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn set_clock(&self, _to: DateTime<Utc>) -> io::Result<()> {
        Ok(())
    }

    fn reboot(&self) -> io::Result<()> {
        fs::write(self.root.join("rebooted"), "")
    }

    fn edit_file(&self, disk: &FoundDisk, path: &str, edit: Edit<'_>) -> Result<(), EditError> {
        let root = disk.path.with_extension("root");
        if !root.is_dir() {
            return Err(EditError::NotFound);
        }
        file_system::edit_below(&root, path, edit)
    }

    fn let_in(&self, keys: &[String]) -> io::Result<String> {
        fs::write(self.root.join("authorized_keys"), keys.join("\n") + "\n")?;
        Ok("none".to_owned())
    }
}

fn with_disks(inventory: Inventory, disks: &[FoundDisk]) -> Inventory {
    Inventory {
        disks: disks.iter().map(|found| found.disk.clone()).collect(),
        ..inventory
    }
}

/// An open disk. One writer at a time.
#[derive(Debug)]
pub struct OpenDisk {
    file: File,
    size_bytes: u64,
}

impl OpenDisk {
    /// Opens for reading and writing; the kernel refuses a block device that anybody else holds.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(found: &FoundDisk) -> io::Result<Self> {
        let is_device = fs::metadata(&found.path)?.file_type().is_block_device();
        // O_EXCL on a block device without O_CREAT: busy if mounted or held (open(2))
        let flags = if is_device {
            rustix::fs::OFlags::EXCL
        } else {
            rustix::fs::OFlags::empty()
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed())
            .open(&found.path)?;
        Ok(Self {
            file,
            size_bytes: found.disk.size_bytes,
        })
    }

    /// Its size in bytes, as it was found.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    /// Makes a range read as zeros: by discarding where the device promises zeros after it, else by writing them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        for flags in [punch, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE] {
            if rustix::fs::fallocate(&self.file, flags, offset, len).is_ok() {
                return Ok(());
            }
        }
        let zeros = vec![0; 1 << 20];
        let mut at = offset;
        while at < offset + len {
            let piece = (offset + len - at).min(zeros.len() as u64);
            self.write_at(at, &zeros[..usize::try_from(piece).unwrap_or(zeros.len())])?;
            at += piece;
        }
        Ok(())
    }

    /// Has everything written reach the device.
    ///
    /// # Errors
    /// A write that failed late.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Forgets what is cached, so that reads come from the device. Call after [`sync`](Self::sync).
    pub fn drop_cache(&self) {
        // Refused on odd file systems only; reads are then from memory, which a test does not mind.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}
