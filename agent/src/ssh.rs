//! The LiveOS's SSH server, for rescue: Debian's dropbear, started when an order says so and not before. Keys only; the
//! host key is made in this boot and gone with it.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use rustix::{
    mount::{MountFlags, mount},
    process::{WaitOptions, wait},
};

const HOST_KEY: &str = "/etc/dropbear/host_key";

/// The fingerprint of the server that runs, once it does.
static RUNS: Mutex<Option<String>> = Mutex::new(None);

/// Lets the holders of these keys in as root, and nobody else; answers the host key's fingerprint.
///
/// # Errors
/// When the LiveOS has no server, or it does not start.
pub fn let_in(keys: &[String]) -> io::Result<String> {
    write_private(Path::new("/root/.ssh/authorized_keys"), &(keys.join("\n") + "\n"))?;
    let mut runs = RUNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(fingerprint) = &*runs {
        return Ok(fingerprint.clone());
    }
    let fingerprint = start()?;
    *runs = Some(fingerprint.clone());
    Ok(fingerprint)
}

fn start() -> io::Result<String> {
    fs::write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write("/etc/group", "root:x:0:\ntty:x:5:\n")?;
    for folder in ["/dev/pts", "/run", "/tmp", "/mnt", "/etc/dropbear"] {
        fs::create_dir_all(folder)?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    match mount("devpts", "/dev/pts", "devpts", flags, Some(c"gid=5,mode=620")) {
        Ok(()) | Err(rustix::io::Errno::BUSY) => {}
        Err(error) => return Err(error.into()),
    }
    let _ = fs::remove_file(HOST_KEY);
    let made = Command::new("/usr/bin/dropbearkey")
        .args(["-t", "ed25519", "-f", HOST_KEY])
        .stdin(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&made.stdout).into_owned();
    let fingerprint = text.lines().find_map(|line| line.strip_prefix("Fingerprint: "));
    let fingerprint = fingerprint.ok_or_else(|| io::Error::other("dropbearkey made no host key"))?;
    // -s: no passwords; it goes to the background by itself once it listens.
    let started = Command::new("/usr/sbin/dropbear")
        .args(["-s", "-r", HOST_KEY, "-p", "22"])
        .stdin(Stdio::null())
        .status()?;
    if !started.success() {
        return Err(io::Error::other(format!("dropbear ended with {started}")));
    }
    std::thread::Builder::new()
        .name("reaper".to_owned())
        .spawn(reap)?;
    Ok(fingerprint.to_owned())
}

/// PID 1 takes in the orphans of sessions, and buries them. Started once, after the last process that is waited for.
fn reap() {
    loop {
        if wait(WaitOptions::empty()).is_err() {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

/// A file that only root reads, in a folder of the same kind.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
}
