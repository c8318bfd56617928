//! The control plane's database: an SQLite file, or a private PostgreSQL cluster on a unix socket.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Database {
    /// A file in the control plane's data folder.
    Sqlite,
    /// A private cluster.
    Postgres,
}

impl std::str::FromStr for Database {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "sqlite" => Ok(Self::Sqlite),
            "postgres" => Ok(Self::Postgres),
            other => Err(format!("`{other}` is no database: use sqlite or postgres")),
        }
    }
}

/// A running private cluster; stopped and removed when dropped.
pub struct Postgres {
    dir: tempfile::TempDir,
    binaries: PathBuf,
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(program);
    command
        .current_dir("/")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn succeed(mut command: Command, what: &str) -> anyhow::Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{what} cannot be run"))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

impl Postgres {
    /// Starts a cluster as durable as PostgreSQL is by itself.
    ///
    /// # Errors
    /// When PostgreSQL is not installed (Debian package postgresql) or does not start.
    pub fn start() -> anyhow::Result<Self> {
        let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .context("PostgreSQL is not there; install the package postgresql")?
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .collect();
        versions.sort();
        let Some(binaries) = versions.pop() else {
            bail!("PostgreSQL is not there; install the package postgresql")
        };
        let dir = tempfile::tempdir()?;
        let mut chown = Command::new("chown");
        chown.arg("postgres").arg(dir.path());
        succeed(chown, "chown")?;
        let cluster = Self { dir, binaries };
        let data = cluster.dir.path().join("data");
        let mut initdb = as_postgres(&cluster.binaries.join("initdb"));
        initdb.arg("-D").arg(&data).args(["-A", "trust", "-N"]);
        succeed(initdb, "initdb")?;
        let options = format!("-c listen_addresses= -k {}", cluster.dir.path().display());
        let mut start = as_postgres(&cluster.binaries.join("pg_ctl"));
        start.arg("-D").arg(&data).args(["-w", "-o", &options, "start"]);
        succeed(start, "pg_ctl start")?;
        Ok(cluster)
    }

    /// The URL for the control plane.
    #[must_use]
    pub fn url(&self) -> String {
        let socket = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = as_postgres(&self.binaries.join("pg_ctl"));
        stop.arg("-D")
            .arg(self.dir.path().join("data"))
            .args(["-m", "immediate", "stop"]);
        if let Err(error) = succeed(stop, "pg_ctl stop") {
            eprintln!("the fleet's PostgreSQL may still run: {error:#}");
        }
    }
}
