//! Pools of connections, how each connection is set up, and how busy they are.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use diesel::{
    RunQueryDsl as _,
    r2d2::{self, ConnectionManager, CustomizeConnection, Pool},
};
use tokio::sync::Semaphore;

use super::{Database, StoreError, StoreResult};

/// How long a transaction may wait for its turn.
pub(super) const QUEUE_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection may take to be made, or to be found to live.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long PostgreSQL may take over one statement, wait for one lock, or be left waiting within a transaction.
const POSTGRES_LIMITS: &[&str] = &[
    "statement_timeout = '30s'",
    "lock_timeout = '10s'",
    "idle_in_transaction_session_timeout = '60s'",
];
/// Parameters of libpq by which a server that is gone is noticed: seconds to connect, milliseconds without an acknowledgement.
const LIBPQ_LIMITS: [(&str, &str); 2] = [("connect_timeout", "5"), ("tcp_user_timeout", "15000")];

/// A pool, and the queue before it. Who comes first is served first; a wait costs no thread, and ends after [`QUEUE_LIMIT`].
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

/// Sets up every connection there ever is: a pool replaces its connections from time to time, and a new one has
/// foreign keys off.
#[derive(Debug)]
struct Pragmas(&'static [&'static str]);

impl CustomizeConnection<Database, r2d2::Error> for Pragmas {
    fn on_acquire(&self, connection: &mut Database) -> Result<(), r2d2::Error> {
        match connection {
            Database::Sqlite(connection) => self.0.iter().try_for_each(|pragma| {
                let pragma = diesel::sql_query(format!("PRAGMA {pragma}"));
                pragma.execute(connection).map(drop)
            }),
            Database::Postgres(connection) => POSTGRES_LIMITS.iter().try_for_each(|limit| {
                let limit = diesel::sql_query(format!("SET {limit}"));
                limit.execute(connection).map(drop)
            }),
        }
        .map_err(r2d2::Error::QueryError)
    }
}

/// A database's URL with limits for what is not limited in it.
fn with_limits(url: &str) -> String {
    if !url.starts_with("postgres") {
        return url.to_owned();
    }
    let missing = LIBPQ_LIMITS
        .iter()
        .filter(|(name, _)| !url.contains(&format!("{name}=")));
    missing.fold(url.to_owned(), |url, (name, value)| {
        let sign = if url.contains('?') { '&' } else { '?' };
        format!("{url}{sign}{name}={value}")
    })
}

pub(super) fn connections(
    url: &str,
    size: u32,
    pragmas: &'static [&'static str],
) -> StoreResult<Connections> {
    let pool = Pool::builder()
        .max_size(size)
        .connection_timeout(CONNECT_LIMIT)
        .connection_customizer(Box::new(Pragmas(pragmas)))
        .build(ConnectionManager::new(with_limits(url)))
        .map_err(|e| StoreError::Open(e.to_string()))?;
    let places = usize::try_from(size).unwrap_or(1);
    Ok(Connections {
        pool,
        queue: Arc::new(Semaphore::new(places)),
        waiting: Arc::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_added_where_none_are_given() {
        for (url, expected) in [
            ("/var/lib/slipway/slipway.db", "/var/lib/slipway/slipway.db"),
            (
                "postgres://u@h/d",
                "postgres://u@h/d?connect_timeout=5&tcp_user_timeout=15000",
            ),
            (
                "postgresql://h/d?sslmode=require&connect_timeout=2",
                "postgresql://h/d?sslmode=require&connect_timeout=2&tcp_user_timeout=15000",
            ),
        ] {
            assert_eq!(with_limits(url), expected);
        }
    }
}
