//! Pools of connections, how each connection is set up, and how busy they are.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use diesel::{
    RunQueryDsl as _,
    r2d2::{self, ConnectionManager, CustomizeConnection, Pool},
};
use tokio::sync::Semaphore;

use super::{Database, StoreError, StoreResult};

/// A pool, and the queue before it. Who comes first is served first; a wait costs no thread and has no time limit, which
/// the pool's own would.
#[derive(Clone)]
pub(super) struct Connections {
    pub(super) pool: Pool<ConnectionManager<Database>>,
    pub(super) queue: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// How busy a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// `writers` or `readers`.
    pub pool: &'static str,
    /// How many transactions it can run at once.
    pub size: usize,
    /// How many it runs.
    pub busy: usize,
    /// How many wait.
    pub waiting: usize,
}

impl Connections {
    /// Stands in the queue; no more once this is dropped.
    pub(super) fn wait(&self) -> Waiting {
        Waiting::new(&self.waiting)
    }

    pub(super) fn load(&self, pool: &'static str) -> Load {
        let size = usize::try_from(self.pool.max_size()).unwrap_or(1);
        Load {
            pool,
            size,
            busy: size.saturating_sub(self.queue.available_permits()),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }
}

/// Somebody who waits in a pool's queue; no more when dropped, also if they went away.
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// SQLite has one writer; one connection means that nobody ever waits for a lock held elsewhere in here.
pub(super) const SQLITE_WRITERS: u32 = 1;
/// In WAL mode SQLite's readers wait for nobody, and nobody for them.
pub(super) const SQLITE_READERS: u32 = 4;
pub(super) const POSTGRES_CONNECTIONS: u32 = 8;

pub(super) const WRITER_PRAGMAS: &[&str] = &[
    "journal_mode=WAL",
    "synchronous=FULL",
    "busy_timeout=10000",
    "foreign_keys=ON",
];
pub(super) const READER_PRAGMAS: &[&str] = &["busy_timeout=10000", "query_only=ON"];

/// Sets up every SQLite connection there ever is: a pool replaces its connections from time to time, and a new one has
/// foreign keys off.
#[derive(Debug)]
struct Pragmas(&'static [&'static str]);

impl CustomizeConnection<Database, r2d2::Error> for Pragmas {
    fn on_acquire(&self, connection: &mut Database) -> Result<(), r2d2::Error> {
        if let Database::Sqlite(connection) = connection {
            for pragma in self.0 {
                diesel::sql_query(format!("PRAGMA {pragma}"))
                    .execute(connection)
                    .map_err(r2d2::Error::QueryError)?;
            }
        }
        Ok(())
    }
}

pub(super) fn connections(
    url: &str,
    size: u32,
    pragmas: &'static [&'static str],
) -> StoreResult<Connections> {
    let pool = Pool::builder()
        .max_size(size)
        .connection_customizer(Box::new(Pragmas(pragmas)))
        .build(ConnectionManager::new(url))
        .map_err(|e| StoreError::Open(e.to_string()))?;
    let places = usize::try_from(size).unwrap_or(1);
    Ok(Connections {
        pool,
        queue: Arc::new(Semaphore::new(places)),
        waiting: Arc::default(),
    })
}
