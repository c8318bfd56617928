//! Processes known by pid file. A pid alone proves nothing: the command line must hold the expected mark
//! (a zombie's is empty, a reused pid's is another).

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::LabError;

/// How long a process gets after SIGTERM before SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(20);

/// The pid in `file`, if that process lives and `mark` is part of its command line.
pub fn running(file: &Path, mark: &str) -> Option<Pid> {
    let number: i32 = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&command).replace('\0', " ");
    text.contains(mark).then(|| Pid::from_raw(number)).flatten()
}

/// Writes a pid file.
///
/// # Errors
/// [`LabError::File`].
pub fn remember(file: &Path, pid: u32) -> Result<(), LabError> {
    fs::write(file, format!("{pid}\n")).map_err(LabError::file("write", file))
}

/// Ends the process in `file` (SIGTERM, then SIGKILL), waits until it is gone and removes the file. Blocks.
///
/// # Errors
/// [`LabError::Process`] when it outlives both.
pub fn stop(file: &Path, mark: &str) -> Result<(), LabError> {
    for (signal, grace) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        let Some(pid) = running(file, mark) else { break };
        kill_process(pid, signal).ok(); // gone already is as good
        let end = Instant::now() + grace;
        while running(file, mark).is_some() && Instant::now() < end {
            std::thread::sleep(STEP);
        }
    }
    if running(file, mark).is_some() {
        return Err(LabError::Process {
            process: format!("stopping {mark}"),
            log: file.to_owned(),
        });
    }
    fs::remove_file(file).ok(); // absent is as good
    Ok(())
}
