//! The store: SQLite or PostgreSQL behind one face. The only place that names Diesel. A function of a table's file works
//! on a [`Database`] inside a transaction of [`Store::transaction`] or [`Store::read`]; it does no I/O but SQL and takes
//! the time as an argument. Nothing slow may happen inside a transaction.

pub mod alerts;
pub mod audit;
pub mod bmc_passwords;
pub mod bmc_states;
mod connection;
pub mod credentials;
pub mod discovered;
pub mod edge_certificates;
pub mod edge_runs;
pub mod events;
pub mod free;
pub mod hardware_faults;
pub mod holds;
pub mod idempotency;
pub mod images;
pub mod instance_lists;
pub mod instances;
pub mod job_lists;
pub mod job_logs;
pub mod jobs;
pub mod last_installs;
pub mod leases;
pub mod logins;
pub mod machine_lists;
pub mod machine_types;
pub mod machines;
pub mod mails;
pub mod measures;
mod new_event;
pub mod offers;
pub mod ordering;
pub mod orders;
pub mod overview;
mod pool;
pub mod projects;
pub mod reports;
pub mod reservations;
mod schema;
pub mod search;
pub mod settings;
pub mod signing_keys;
pub mod sites;
pub mod states;
pub mod stock;
pub mod traces;
pub mod upkeep;
pub mod uploads;
pub mod users;
pub mod views;
mod visible;
pub mod webhooks;

pub use connection::Database;
pub use pool::Load;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::{Connection as _, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Notify;

use self::pool::{
    Connections, POSTGRES_CONNECTIONS, QUEUE_LIMIT, READER_PRAGMAS, SQLITE_READERS, SQLITE_WRITERS,
    WRITER_PRAGMAS, connections,
};
use crate::telemetry::{self, Tracer};

const SQLITE: EmbeddedMigrations = embed_migrations!("../migrations/control-plane/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../migrations/control-plane/postgres");

/// The store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open the database: {0}")]
    Open(String),
    /// A row of that key is there already.
    #[error("there is one of that name or address already")]
    Taken,
    /// A statement failed.
    #[error("the database refused a statement")]
    Query(#[source] diesel::result::Error),
    /// A row does not hold what this build wrote.
    #[error("the database holds an unreadable row: {0}")]
    Row(String),
    /// It did not get its turn, a connection or an answer in time.
    #[error("the database is busy or cannot be reached: {0}")]
    Busy(String),
    /// The task that ran the transaction was lost.
    #[error("a database task ended early")]
    Task,
}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind::UniqueViolation, Error::DatabaseError};
        match error {
            DatabaseError(UniqueViolation, _) => Self::Taken,
            DatabaseError(_, info) if is_limit(info.message()) => Self::Busy(info.message().to_owned()),
            other => Self::Query(other),
        }
    }
}

/// Whether a database says that a limit of time was reached (PostgreSQL, errors 57014 and 55P03; SQLite's `SQLITE_BUSY`).
fn is_limit(message: &str) -> bool {
    [
        "statement timeout",
        "lock timeout",
        "database is locked",
        "server closed the connection",
    ]
    .iter()
    .any(|limit| message.contains(limit))
}

/// Answer of every table function.
pub type StoreResult<T> = Result<T, StoreError>;

/// Pools of connections; clones share them.
#[derive(Clone)]
pub struct Store {
    writers: Connections,
    /// The same as `writers` on PostgreSQL.
    readers: Connections,
    appended: Arc<Notify>,
    tracer: Tracer,
}

impl Store {
    /// Opens `url` (`postgres://..` or a path of an SQLite file) and brings its schema up to date.
    ///
    /// # Errors
    /// When it cannot be opened or brought up to date.
    pub async fn open(url: &str) -> StoreResult<Self> {
        let url = url.to_owned();
        let open = tokio::task::spawn_blocking(move || Self::open_blocking(&url));
        open.await.map_err(|_| StoreError::Task)?
    }

    fn open_blocking(url: &str) -> StoreResult<Self> {
        let open = |e: &dyn std::fmt::Display| StoreError::Open(e.to_string());
        let is_postgres = url.starts_with("postgres");
        let size = if is_postgres {
            POSTGRES_CONNECTIONS
        } else {
            SQLITE_WRITERS
        };
        let writers = connections(url, size, WRITER_PRAGMAS)?;
        let mut connection = writers.pool.get().map_err(|e| open(&e))?;
        match &mut *connection {
            Database::Postgres(connection) => {
                // A migration of a large table takes as long as it takes.
                let unlimited = diesel::sql_query("SET statement_timeout = 0");
                unlimited.execute(connection).map_err(|e| open(&e))?;
                let done = connection.run_pending_migrations(POSTGRES).map(drop);
                let limited = diesel::sql_query("SET statement_timeout = '30s'");
                limited.execute(connection).map_err(|e| open(&e))?;
                done
            }
            Database::Sqlite(connection) => connection.run_pending_migrations(SQLITE).map(drop),
        }
        .map_err(|e| open(&e))?;
        drop(connection);
        let readers = if is_postgres {
            writers.clone()
        } else {
            connections(url, SQLITE_READERS, READER_PRAGMAS)?
        };
        Ok(Self {
            writers,
            readers,
            appended: Arc::default(),
            tracer: Tracer::default(),
        })
    }

    /// Tells the spans that transactions note.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = tracer;
        self
    }

    /// Who is told of spans.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// Waits until a transaction of this process has committed an event.
    pub async fn appended(&self) {
        self.appended.notified().await;
    }

    /// How busy the pools are; one on PostgreSQL, where readers and writers share it.
    #[must_use]
    pub fn loads(&self) -> Vec<Load> {
        let mut loads = vec![self.writers.load("writers")];
        if !Arc::ptr_eq(&self.writers.queue, &self.readers.queue) {
            loads.push(self.readers.load("readers"));
        }
        loads
    }

    /// How many transactions that write can run at once.
    #[must_use]
    pub fn writers(&self) -> usize {
        usize::try_from(self.writers.pool.max_size()).unwrap_or(1)
    }

    /// Runs `work`, which only reads, in one transaction. It sees what was committed before it began, and on SQLite it
    /// does not wait for who writes; a write in it fails there.
    ///
    /// # Errors
    /// What `work` gives, or that the database cannot be reached.
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        run(&self.readers, work, |_| {}).await
    }

    /// Runs `work` in one transaction; an error rolls it back.
    ///
    /// # Errors
    /// What `work` gives, or that the database cannot be reached.
    pub async fn transaction<T, E>(
        &self,
        work: impl FnOnce(&mut Database) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let appended = Arc::clone(&self.appended);
        let tracer = self.tracer.clone();
        let commits = move |told: bool| {
            if told {
                appended.notify_one();
            }
            tracer.tell(telemetry::take_noted());
        };
        run(&self.writers, work, commits).await
    }
}

/// Runs one transaction; `committed` hears after it whether it appended an event.
async fn run<T, E>(
    connections: &Connections,
    work: impl FnOnce(&mut Database) -> Result<T, E> + Send + 'static,
    committed: impl FnOnce(bool) + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<StoreError> + Send + 'static,
{
    let waits = connections.wait();
    let place = Arc::clone(&connections.queue).acquire_owned();
    let place = tokio::time::timeout(QUEUE_LIMIT, place).await;
    drop(waits);
    let waited = || StoreError::Busy(format!("no turn within {} s", QUEUE_LIMIT.as_secs()));
    let place = place.map_err(|_| waited())?.map_err(|_| StoreError::Task)?;
    let pool = connections.pool.clone();
    let trace = telemetry::current();
    let task = tokio::task::spawn_blocking(move || {
        let _place = place;
        let mut connection = pool.get().map_err(|e| StoreError::Busy(e.to_string()))?;
        events::clear_appended();
        drop(telemetry::take_noted());
        let done = connection
            .transaction(|connection| telemetry::blocking(trace, || work(connection)).map_err(Rollback::Work))
            .map_err(|rollback| match rollback {
                Rollback::Work(error) => error,
                Rollback::Database(error) => StoreError::from(error).into(),
            });
        if done.is_ok() {
            committed(events::clear_appended());
        }
        done
    });
    task.await.map_err(|_| StoreError::Task)?
}

/// Why a transaction was rolled back.
enum Rollback<E> {
    Work(E),
    Database(diesel::result::Error),
}

impl<E> From<diesel::result::Error> for Rollback<E> {
    fn from(error: diesel::result::Error) -> Self {
        Self::Database(error)
    }
}

/// Time as stored: microseconds since 1970.
#[must_use]
pub fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// Time as read.
#[must_use]
pub fn time(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

fn to_json<T: Serialize>(value: &T) -> StoreResult<String> {
    serde_json::to_string(value).map_err(|e| StoreError::Row(e.to_string()))
}

fn from_json<T: DeserializeOwned>(text: &str) -> StoreResult<T> {
    serde_json::from_str(text).map_err(|e| StoreError::Row(e.to_string()))
}

/// A word of an enum as it stands in a column.
fn to_word<T: Serialize>(value: &T) -> StoreResult<String> {
    let value = serde_json::to_value(value).map_err(|e| StoreError::Row(e.to_string()))?;
    value
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| StoreError::Row("a state is not a word".to_owned()))
}

fn from_word<T: DeserializeOwned>(word: &str) -> StoreResult<T> {
    serde_json::from_value(word.into()).map_err(|e| StoreError::Row(e.to_string()))
}

fn parse<T: std::str::FromStr>(text: &str) -> StoreResult<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| StoreError::Row(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(diesel::QueryableByName)]
    struct Setting {
        #[diesel(sql_type = diesel::sql_types::Integer)]
        foreign_keys: i32,
    }

    #[tokio::test]
    async fn every_connection_of_a_pool_is_set_up_and_readers_do_not_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db").display().to_string();
        let store = Store::open(&path).await.unwrap();
        let pool = connections(&path, 2, WRITER_PRAGMAS).unwrap();
        let mut held = [pool.pool.get().unwrap(), pool.pool.get().unwrap()];
        for connection in &mut held {
            let Database::Sqlite(connection) = &mut **connection else {
                panic!("the path is of an SQLite file");
            };
            let setting: Setting = diesel::sql_query("PRAGMA foreign_keys")
                .get_result(connection)
                .unwrap();
            assert_eq!(setting.foreign_keys, 1);
        }
        let write = |db: &mut Database| settings::put(db, "a", "b");
        assert!(store.read(write).await.is_err());
        store.transaction(write).await.unwrap();
        let found = store.read(|db| settings::get(db, "a")).await.unwrap();
        assert_eq!(found.as_deref(), Some("b"), "what was committed is seen at once");
    }
}
