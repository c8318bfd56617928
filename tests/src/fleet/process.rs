//! A process of the fleet that can be killed and started again, and what it costs: CPU time and peak memory from `/proc`,
//! over all its lives.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::Context as _;

/// What processes cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// CPU time, user and system, in seconds.
    pub cpu_s: f64,
    /// The largest resident set there was, in bytes.
    pub peak_bytes: u64,
}

impl Usage {
    /// What a process has used so far; nothing once it is gone.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        Self {
            cpu_s: cpu_s(&read("stat")).unwrap_or_default(),
            peak_bytes: peak_bytes(&read("status")).unwrap_or_default(),
        }
    }
}

/// Clock ticks a second in `/proc` (`USER_HZ`), which is the same on all Linux architectures we run on.
const TICKS_PER_S: f64 = 100.0;

/// CPU time from `/proc/PID/stat` (proc(5): fields 14 and 15; the second field may hold blanks).
fn cpu_s(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_S)
}

fn peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// A process and how to start it.
pub struct Process {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Output and log are appended to `LOG.out` and `LOG.log`.
    log: PathBuf,
    child: Option<Child>,
    former: Usage,
    kills: u32,
}

impl Process {
    /// A process that is not started yet.
    #[must_use]
    pub fn new(
        program: PathBuf,
        arguments: &[&str],
        environment: Vec<(String, String)>,
        log: PathBuf,
    ) -> Self {
        Self {
            program,
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            environment,
            log,
            child: None,
            former: Usage::default(),
            kills: 0,
        }
    }

    /// The program with its environment, for a run of its own.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it, also after a kill.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let open = |kind: &str| {
            let path = self.log.with_extension(kind);
            let file = File::options().create(true).append(true).open(&path);
            file.with_context(|| format!("cannot write {}", path.display()))
        };
        let mut command = self.command();
        command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(open("out")?)
            .stderr(open("log")?);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        let used = self.usage();
        if let Some(mut child) = self.child.take() {
            // It may be gone already; either way it is waited for.
            let _ = child.kill();
            let _ = child.wait();
            self.kills += 1;
        }
        self.former = used;
    }

    /// How it ended, if it did so by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(format!(
            "{} ended by itself ({status}): {}",
            self.log.display(),
            self.log_tail()
        ))
    }

    /// How often it was killed.
    #[must_use]
    pub fn kills(&self) -> u32 {
        self.kills
    }

    /// What it wrote to its standard output so far.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(self.log.with_extension("log")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// What it has used in all its lives.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let now = self
            .child
            .as_ref()
            .map(|child| Usage::of(child.id()))
            .unwrap_or_default();
        Usage {
            cpu_s: self.former.cpu_s + now.cpu_s,
            peak_bytes: self.former.peak_bytes.max(now.peak_bytes),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_is_read_from_proc() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 5 1 2";
        assert_eq!(cpu_s(stat), Some(3.0));
        assert_eq!(peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\n"), Some(2 << 20));
        let own = Usage::of(std::process::id());
        assert!(own.peak_bytes > 1 << 20, "{own:?}");
        assert_eq!(Usage::of(u32::MAX), Usage::default());
    }
}
