//! The edge's disk: a database file in memory, opened anew by each life, copied for a backup. Every write of the real
//! store comes by here: it can find no room, and the process can die on either side of it. What is on disk is looked at
//! after each write, for that is what counts.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use slipway_edge::store::{Store, Watch};

use super::{gate::Gate, judge::Judge};

/// The disk of one site.
pub struct Disk {
    dir: tempfile::TempDir,
    full: Arc<AtomicBool>,
    copies: u32,
}

impl Disk {
    /// An empty one.
    ///
    /// # Errors
    /// When no folder can be made in memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            dir: tempfile::Builder::new()
                .prefix("slipway-sim-")
                .tempdir_in("/dev/shm")?,
            full: Arc::default(),
            copies: 0,
        })
    }

    /// The database's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("edge.db")
    }

    /// Where an image cache may be.
    #[must_use]
    pub fn chunks(&self) -> PathBuf {
        self.dir.path().join("chunks")
    }

    /// Whether there is no room.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// A store whose writes come by here.
    #[must_use]
    pub fn watched(&self, plain: &Store, gate: &Gate, judge: &Judge) -> Store {
        plain.watched(Arc::new(Writes {
            gate: gate.clone(),
            full: Arc::clone(&self.full),
            judge: judge.clone(),
            plain: plain.clone(),
        }))
    }

    /// Copies it between two writes, as a snapshot of the box does; answers the copy's number.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn copy(&mut self) -> std::io::Result<u32> {
        self.copies += 1;
        move_all(&self.path(), &self.copy_path(self.copies))?;
        Ok(self.copies)
    }

    /// Puts a copy in its place. No process may have it open.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn restore(&self, copy: u32) -> std::io::Result<()> {
        move_all(&self.copy_path(copy), &self.path())
    }

    fn copy_path(&self, copy: u32) -> PathBuf {
        self.dir.path().join(format!("copy-{copy}.db"))
    }
}

/// A database with its write-ahead log.
fn move_all(from: &Path, to: &Path) -> std::io::Result<()> {
    for end in ["", "-wal"] {
        let with_end = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
        let (from, to) = (with_end(from), with_end(to));
        if from.exists() {
            std::fs::copy(&from, &to)?;
        } else if to.exists() {
            std::fs::remove_file(&to)?;
        }
    }
    let shared = PathBuf::from(format!("{}-shm", to.display()));
    if shared.exists() {
        std::fs::remove_file(shared)?;
    }
    Ok(())
}

struct Writes {
    gate: Gate,
    full: Arc<AtomicBool>,
    judge: Judge,
    plain: Store,
}

impl Watch for Writes {
    fn before(&self, _operation: &'static str) -> Result<(), String> {
        self.gate.point();
        if self.full.load(Ordering::Relaxed) {
            self.judge.count(|figures| figures.disk_full += 1);
            return Err("database or disk is full".to_owned());
        }
        Ok(())
    }

    fn after(&self, operation: &'static str) {
        self.judge.edge_wrote(operation, &self.plain);
        self.gate.point();
    }
}
