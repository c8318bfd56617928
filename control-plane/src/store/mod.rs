//! The store: SQLite or PostgreSQL behind one face. The only place that names Diesel. A function of a table's file works
//! on a [`Database`] inside a transaction of [`Store::transaction`]; it does no I/O but SQL and takes the time as an
//! argument. Nothing slow may happen inside a transaction.

pub mod alerts;
pub mod audit;
mod connection;
pub mod credentials;
pub mod discovered;
pub mod events;
pub mod idempotency;
pub mod images;
pub mod instances;
pub mod jobs;
pub mod leases;
pub mod logins;
pub mod machines;
pub mod mails;
mod new_event;
pub mod orders;
pub mod projects;
pub mod reports;
mod schema;
pub mod settings;
pub mod sites;
pub mod states;
pub mod users;
pub mod webhooks;

pub use connection::Database;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::{
    Connection as _, RunQueryDsl as _,
    r2d2::{ConnectionManager, Pool},
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Notify;

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
    /// The task that ran the transaction was lost.
    #[error("a database task ended early")]
    Task,
}

impl From<diesel::result::Error> for StoreError {
    fn from(error: diesel::result::Error) -> Self {
        use diesel::result::{DatabaseErrorKind::UniqueViolation, Error::DatabaseError};
        match error {
            DatabaseError(UniqueViolation, _) => Self::Taken,
            other => Self::Query(other),
        }
    }
}

/// Answer of every table function.
pub type StoreResult<T> = Result<T, StoreError>;

/// A pool of connections; clones share it.
#[derive(Clone)]
pub struct Store {
    pool: Pool<ConnectionManager<Database>>,
    appended: Arc<Notify>,
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
        // SQLite has one writer; one connection means that nobody ever waits for a lock held elsewhere in here.
        let size = if is_postgres { 8 } else { 1 };
        let manager = ConnectionManager::<Database>::new(url);
        let pool = Pool::builder()
            .max_size(size)
            .build(manager)
            .map_err(|e| open(&e))?;
        let mut connection = pool.get().map_err(|e| open(&e))?;
        match &mut *connection {
            Database::Postgres(connection) => {
                connection
                    .run_pending_migrations(POSTGRES)
                    .map_err(|e| open(&e))?;
            }
            Database::Sqlite(connection) => {
                for pragma in [
                    "journal_mode=WAL",
                    "synchronous=FULL",
                    "busy_timeout=10000",
                    "foreign_keys=ON",
                ] {
                    diesel::sql_query(format!("PRAGMA {pragma}")).execute(connection)?;
                }
                connection.run_pending_migrations(SQLITE).map_err(|e| open(&e))?;
            }
        }
        drop(connection);
        Ok(Self {
            pool,
            appended: Arc::default(),
        })
    }

    /// Waits until a transaction of this process has committed an event.
    pub async fn appended(&self) {
        self.appended.notified().await;
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
        let (pool, appended) = (self.pool.clone(), Arc::clone(&self.appended));
        let task = tokio::task::spawn_blocking(move || {
            let mut connection = pool.get().map_err(|e| StoreError::Open(e.to_string()))?;
            events::clear_appended();
            let done = connection
                .transaction(|connection| work(connection).map_err(Rollback::Work))
                .map_err(|rollback| match rollback {
                    Rollback::Work(error) => error,
                    Rollback::Database(error) => StoreError::from(error).into(),
                });
            if done.is_ok() && events::clear_appended() {
                appended.notify_one();
            }
            done
        });
        task.await.map_err(|_| StoreError::Task)?
    }
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
