//! A private PostgreSQL cluster on a unix socket, and a store on each database.

pub(crate) mod browser;
pub(crate) mod program;
pub(crate) mod server;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use slipway_control_plane::store::Store;
use tempfile::TempDir;

/// A running private cluster; stopped when dropped.
pub(crate) struct Postgres {
    dir: TempDir,
    binaries: PathBuf,
}

fn binaries() -> PathBuf {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is installed (Debian package postgresql)")
        .map(|entry| entry.unwrap().path().join("bin"))
        .collect();
    versions.sort();
    versions
        .pop()
        .expect("PostgreSQL is installed (Debian package postgresql)")
}

/// PostgreSQL refuses to run as root; tests of namespaces need root.
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

impl Postgres {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            Command::new("chown")
                .arg("postgres")
                .arg(dir.path())
                .status()
                .unwrap()
                .success()
        );
        let cluster = Self {
            dir,
            binaries: binaries(),
        };
        let data = cluster.dir.path().join("data");
        let initdb = as_postgres(&cluster.binaries.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-A", "trust", "-N"])
            .status();
        assert!(initdb.unwrap().success(), "initdb");
        let options = format!(
            "-c listen_addresses= -c fsync=off -k {}",
            cluster.dir.path().display()
        );
        let start = as_postgres(&cluster.binaries.join("pg_ctl"))
            .arg("-D")
            .arg(&data)
            .args(["-w", "-o", &options, "start"])
            .status();
        assert!(start.unwrap().success(), "pg_ctl start");
        cluster
    }

    pub(crate) fn url(&self) -> String {
        let socket = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{socket}/postgres")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.dir.path().join("data");
        let stopped = as_postgres(&self.binaries.join("pg_ctl"))
            .arg("-D")
            .arg(data)
            .args(["-m", "immediate", "stop"])
            .status();
        assert!(stopped.is_ok_and(|status| status.success()), "pg_ctl stop");
    }
}

/// Runs one check on both databases.
pub(crate) async fn on_each_database<F: Future<Output = ()>>(check: impl Fn(Store) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = dir.path().join("test.db").display().to_string();
    check(Store::open(&sqlite).await.unwrap()).await;
    let postgres = Postgres::start();
    check(Store::open(&postgres.url()).await.unwrap()).await;
}
