//! The work of PID 1: file systems, console, drivers. It spawns no processes; who does ([`crate::ssh`]) also
//! reaps.

use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
    time::Duration,
};

use rustix::mount::{MountFlags, mount};
use tracing::{error, info};

use crate::modules::{self, Catalogue};

/// A LiveOS that cannot be brought up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file system cannot be mounted.
    #[error("cannot mount {0}")]
    Mount(&'static str, #[source] io::Error),
    /// There is no console.
    #[error("cannot open /dev/console")]
    Console(#[source] io::Error),
    /// No modules for the running kernel.
    #[error("cannot read the modules of kernel {0}; the LiveOS was packed for another one")]
    Modules(String, #[source] io::Error),
}

/// Mounts what the kernel offers, and makes the console the three standard files.
///
/// # Errors
/// When a mount or the console fails.
pub fn prepare() -> Result<(), InitError> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount_on(kind, target).map_err(|e| InitError::Mount(target, e))?;
    }
    console().map_err(InitError::Console)
}

fn mount_on(kind: &str, target: &str) -> io::Result<()> {
    fs::create_dir_all(target)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    match mount(kind, target, kind, flags, None) {
        // the kernel may have mounted devtmpfs itself
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn console() -> io::Result<()> {
    let console = OpenOptions::new().read(true).write(true).open("/dev/console")?;
    rustix::stdio::dup2_stdin(&console)?;
    rustix::stdio::dup2_stdout(&console)?;
    rustix::stdio::dup2_stderr(&console)?;
    Ok(())
}

/// Loads the drivers of all devices.
///
/// # Errors
/// When the running kernel's modules are not in the LiveOS.
pub fn load_drivers() -> Result<(), InitError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let base = Path::new("/lib/modules").join(&release);
    let catalogue = Catalogue::read(&base).map_err(|e| InitError::Modules(release, e))?;
    let loaded = modules::load_all(&catalogue, Path::new("/sys"));
    info!(modules = loaded, "drivers loaded");
    Ok(())
}

/// The end of PID 1: says why, and restarts the machine after 10 s, so that a person can read it and the machine gets
/// another chance. Never returns.
pub fn give_up(reason: &dyn std::fmt::Display) -> ! {
    error!("the agent cannot go on: {reason}; restarting in 10 s");
    std::thread::sleep(Duration::from_secs(10));
    rustix::fs::sync();
    loop {
        let refused = rustix::system::reboot(rustix::system::RebootCommand::Restart);
        error!("cannot restart the machine: {refused:?}");
        std::thread::sleep(Duration::from_secs(10));
    }
}
