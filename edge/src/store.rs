//! What the edge must not forget, in SQLite: signed commands, reports, boot tokens. The only place here that names
//! Diesel. A call returns when the change is on disk (`synchronous=FULL`): only then a message counts as received.

mod dhcp_leases;
mod job_logs;
mod local;

pub use local::Entry;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, Utc};
use diesel::{
    prelude::*,
    result::{DatabaseErrorKind, Error},
    sqlite::SqliteConnection,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use slipway_protocol::{
    boot::BootToken,
    ids::{JobId, MachineId},
    report::Report,
    topic::Kind,
};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations/edge/sqlite");

mod schema {
    diesel::table! {
        documents (kind, subject) { kind -> Text, subject -> Text, revision -> BigInt, payload -> Binary, }
    }
    diesel::table! {
        reports (machine) { machine -> Text, revision -> BigInt, body -> Text, }
    }
    diesel::table! {
        boots (machine) { machine -> Text, job -> Text, boot_key -> Text, token -> Text, }
    }
    diesel::table! {
        former_reports (job) { job -> Text, kept_at -> BigInt, body -> Text, }
    }
    diesel::table! {
        machine_leases (machine) { machine -> Text, revision -> BigInt, payload -> Binary, }
    }
    diesel::table! {
        local_operations (id) {
            id -> BigInt,
            at -> BigInt,
            uid -> BigInt,
            operation -> Text,
            machine -> Text,
            job -> Nullable<Text>,
            revision -> Nullable<BigInt>,
            refused -> Nullable<Text>,
        }
    }
    diesel::table! {
        job_logs (job) {
            job -> Text,
            machine -> Text,
            rank -> BigInt,
            boot -> Nullable<Text>,
            heard -> BigInt,
            confirmed -> BigInt,
        }
    }
    diesel::table! {
        job_log_pieces (job, begins) { job -> Text, begins -> BigInt, ends -> BigInt, text -> Text, }
    }
    diesel::table! {
        dhcp_leases (address) { address -> Text, mac -> Text, until -> BigInt, }
    }
    diesel::table! {
        settings (name) { name -> Text, value -> Text, }
    }
}

/// The store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open the edge's database {path}")]
    Open {
        /// Its path.
        path: String,
        /// Why.
        #[source]
        source: diesel::ConnectionError,
    },
    /// The schema cannot be brought up to date.
    #[error("cannot bring the edge's database up to date: {0}")]
    Migrate(String),
    /// A statement failed.
    #[error("cannot {operation} in the edge's database")]
    Query {
        /// What was tried.
        operation: &'static str,
        /// Why.
        #[source]
        source: diesel::result::Error,
    },
    /// A row does not hold what this build wrote.
    #[error("the edge's database holds an unreadable {what}: {reason}")]
    Row {
        /// Which kind of row.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// A signed command as held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is about.
    pub kind: Kind,
    /// Which one of that kind.
    pub subject: String,
    /// Its revision.
    pub revision: u64,
    /// The envelope as it came.
    pub payload: Vec<u8>,
}

/// A machine's report as held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldReport {
    /// Its revision.
    pub revision: u64,
    /// The report.
    pub report: Report,
}

/// How a machine's job proves itself when it boots.
#[derive(Debug, Clone)]
pub struct Boot {
    /// The machine.
    pub machine: MachineId,
    /// The job.
    pub job: JobId,
    /// Names the overlay in its URL.
    pub boot_key: String,
    /// The agent's token.
    pub token: BootToken,
}

/// Asked about each write. A test can have any write fail as on a full disk, and can end the process's life on either
/// side of it.
pub trait Watch: Send + Sync {
    /// A write is to begin; an error stands for the database's own.
    ///
    /// # Errors
    /// What the write fails with.
    fn before(&self, operation: &'static str) -> Result<(), String>;
    /// The write is on disk; nobody was told yet.
    fn after(&self, operation: &'static str);
}

/// The database; clones share one connection.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Mutex<SqliteConnection>>,
    watch: Option<Arc<dyn Watch>>,
}

fn failed(operation: &'static str) -> impl FnOnce(diesel::result::Error) -> StoreError {
    move |source| StoreError::Query { operation, source }
}

fn bad_row(what: &'static str) -> impl FnOnce(String) -> StoreError {
    move |reason| StoreError::Row { what, reason }
}

fn held_report((revision, body): (i64, String)) -> Result<HeldReport, StoreError> {
    let report = serde_json::from_str(&body).map_err(|e| bad_row("report")(e.to_string()))?;
    Ok(HeldReport {
        revision: revision.cast_unsigned(),
        report,
    })
}

/// Puts a command in the place of the one that is held, if their revisions allow it; `false` otherwise.
fn replace_document(
    connection: &mut SqliteConnection,
    document: &Document,
    may_replace: impl FnOnce(i64, i64) -> bool,
) -> QueryResult<bool> {
    use schema::documents::dsl;
    let (kind, revision) = (word(document.kind), document.revision.cast_signed());
    let row = dsl::documents.find((&kind, &document.subject));
    let held: Option<i64> = row.select(dsl::revision).first(connection).optional()?;
    if held.is_some_and(|held| !may_replace(held, revision)) {
        return Ok(false);
    }
    diesel::replace_into(dsl::documents)
        .values((
            dsl::kind.eq(&kind),
            dsl::subject.eq(&document.subject),
            dsl::revision.eq(revision),
            dsl::payload.eq(&document.payload),
        ))
        .execute(connection)?;
    Ok(true)
}

/// A word as it stands in the database.
fn word(kind: Kind) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|v| v.as_str().map(str::to_owned))
        .unwrap_or_default()
}

impl Store {
    /// Opens the database, making or updating it.
    ///
    /// # Errors
    /// When it cannot be opened or updated.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let path = path.display().to_string();
        let mut connection =
            SqliteConnection::establish(&path).map_err(|source| StoreError::Open { path, source })?;
        diesel::sql_query("PRAGMA journal_mode=WAL")
            .execute(&mut connection)
            .map_err(failed("set up"))?;
        diesel::sql_query("PRAGMA synchronous=FULL")
            .execute(&mut connection)
            .map_err(failed("set up"))?;
        connection
            .run_pending_migrations(MIGRATIONS)
            .map_err(|e| StoreError::Migrate(e.to_string()))?;
        Ok(Self {
            connection: Arc::new(Mutex::new(connection)),
            watch: None,
        })
    }

    /// The same database, its writes watched from now on.
    #[must_use]
    pub fn watched(&self, watch: Arc<dyn Watch>) -> Self {
        Self {
            connection: Arc::clone(&self.connection),
            watch: Some(watch),
        }
    }

    fn with<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
    ) -> Result<T, StoreError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        query(&mut connection).map_err(failed(operation))
    }

    /// The same for what writes.
    fn write<T>(
        &self,
        operation: &'static str,
        query: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
    ) -> Result<T, StoreError> {
        let Some(watch) = &self.watch else {
            return self.with(operation, query);
        };
        watch.before(operation).map_err(|reason| {
            let source = Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(reason));
            StoreError::Query { operation, source }
        })?;
        let done = self.with(operation, query)?;
        watch.after(operation);
        Ok(done)
    }

    /// Keeps a command unless a higher revision is held; `false` then.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_document(&self, document: &Document) -> Result<bool, StoreError> {
        self.write("keep a command", |connection| {
            connection.immediate_transaction(|connection| {
                replace_document(connection, document, |held, new| held <= new)
            })
        })
    }

    /// All commands held.
    ///
    /// # Errors
    /// When the database fails or holds a kind this build does not know.
    pub fn documents(&self) -> Result<Vec<Document>, StoreError> {
        use schema::documents::dsl;
        let rows: Vec<(String, String, i64, Vec<u8>)> =
            self.with("read the commands", |connection| dsl::documents.load(connection))?;
        rows.into_iter()
            .map(|(kind, subject, revision, payload)| {
                let kind =
                    serde_json::from_value(kind.into()).map_err(|e| bad_row("command")(e.to_string()))?;
                Ok(Document {
                    kind,
                    subject,
                    revision: revision.cast_unsigned(),
                    payload,
                })
            })
            .collect()
    }

    /// One command.
    ///
    /// # Errors
    /// When the database fails.
    pub fn document(&self, kind: Kind, subject: &str) -> Result<Option<Document>, StoreError> {
        use schema::documents::dsl;
        let row: Option<(i64, Vec<u8>)> = self.with("read a command", |connection| {
            let row = dsl::documents.find((word(kind), subject));
            row.select((dsl::revision, dsl::payload))
                .first(connection)
                .optional()
        })?;
        let document = |(revision, payload): (i64, Vec<u8>)| Document {
            kind,
            subject: subject.to_owned(),
            revision: revision.cast_unsigned(),
            payload,
        };
        Ok(row.map(document))
    }

    /// Keeps a report.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_report(&self, held: &HeldReport) -> Result<(), StoreError> {
        use schema::reports::dsl;
        let body = serde_json::to_string(&held.report).map_err(|e| bad_row("report")(e.to_string()))?;
        self.write("keep a report", |connection| {
            diesel::replace_into(dsl::reports)
                .values((
                    dsl::machine.eq(held.report.machine.to_string()),
                    dsl::revision.eq(held.revision.cast_signed()),
                    dsl::body.eq(body),
                ))
                .execute(connection)
        })?;
        Ok(())
    }

    /// One machine's report.
    ///
    /// # Errors
    /// When the database fails or holds a report this build cannot read.
    pub fn report(&self, machine: MachineId) -> Result<Option<HeldReport>, StoreError> {
        use schema::reports::dsl;
        let row: Option<(i64, String)> = self.with("read a report", |connection| {
            let row = dsl::reports.find(machine.to_string());
            row.select((dsl::revision, dsl::body))
                .first(connection)
                .optional()
        })?;
        row.map(held_report).transpose()
    }

    /// All reports held.
    ///
    /// # Errors
    /// When the database fails or holds a report this build cannot read.
    pub fn reports(&self) -> Result<Vec<HeldReport>, StoreError> {
        use schema::reports::dsl;
        let rows: Vec<(i64, String)> = self.with("read the reports", |connection| {
            dsl::reports.select((dsl::revision, dsl::body)).load(connection)
        })?;
        rows.into_iter()
            .map(|(revision, body)| {
                let report = serde_json::from_str(&body).map_err(|e| bad_row("report")(e.to_string()))?;
                Ok(HeldReport {
                    revision: revision.cast_unsigned(),
                    report,
                })
            })
            .collect()
    }

    /// Keeps how far a job came whose order is no longer in force, and forgets those kept before `forget`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_former(
        &self,
        report: &Report,
        now: DateTime<Utc>,
        forget: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        use schema::former_reports::dsl;
        let body = serde_json::to_string(report).map_err(|e| bad_row("report")(e.to_string()))?;
        self.write("keep a former report", |connection| {
            let old = dsl::former_reports.filter(dsl::kept_at.lt(forget.timestamp_micros()));
            diesel::delete(old).execute(connection)?;
            diesel::replace_into(dsl::former_reports)
                .values((
                    dsl::job.eq(report.job.to_string()),
                    dsl::kept_at.eq(now.timestamp_micros()),
                    dsl::body.eq(body),
                ))
                .execute(connection)
        })?;
        Ok(())
    }

    /// How far a job came whose order is no longer in force.
    ///
    /// # Errors
    /// When the database fails or holds a report this build cannot read.
    pub fn former(&self, job: JobId) -> Result<Option<Report>, StoreError> {
        use schema::former_reports::dsl;
        let row: Option<String> = self.with("read a former report", |connection| {
            let row = dsl::former_reports.find(job.to_string());
            row.select(dsl::body).first(connection).optional()
        })?;
        row.map(|body| serde_json::from_str(&body).map_err(|e| bad_row("report")(e.to_string())))
            .transpose()
    }

    /// Keeps a machine's boot token.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_boot(&self, boot: &Boot) -> Result<(), StoreError> {
        use schema::boots::dsl;
        let token = serde_json::to_string(&boot.token).map_err(|e| bad_row("boot token")(e.to_string()))?;
        self.write("keep a boot token", |connection| {
            diesel::replace_into(dsl::boots)
                .values((
                    dsl::machine.eq(boot.machine.to_string()),
                    dsl::job.eq(boot.job.to_string()),
                    dsl::boot_key.eq(&boot.boot_key),
                    dsl::token.eq(token),
                ))
                .execute(connection)
        })?;
        Ok(())
    }

    /// All boot tokens.
    ///
    /// # Errors
    /// When the database fails or holds a row this build cannot read.
    pub fn boots(&self) -> Result<Vec<Boot>, StoreError> {
        use schema::boots::dsl;
        let rows: Vec<(String, String, String, String)> =
            self.with("read the boot tokens", |connection| dsl::boots.load(connection))?;
        rows.into_iter()
            .map(|(machine, job, boot_key, token)| {
                let bad = |e: &dyn std::fmt::Display| bad_row("boot token")(e.to_string());
                Ok(Boot {
                    machine: machine.parse().map_err(|e| bad(&e))?,
                    job: job.parse().map_err(|e| bad(&e))?,
                    boot_key,
                    token: serde_json::from_str(&token).map_err(|e| bad(&e))?,
                })
            })
            .collect()
    }

    /// Forgets a machine's boot token: its job is over.
    ///
    /// # Errors
    /// When the database fails.
    pub fn drop_boot(&self, machine: MachineId) -> Result<(), StoreError> {
        use schema::boots::dsl;
        self.write("drop a boot token", |connection| {
            diesel::delete(dsl::boots.find(machine.to_string())).execute(connection)
        })?;
        Ok(())
    }

    /// Keeps a setting.
    ///
    /// # Errors
    /// When the database fails.
    pub fn put_setting(&self, name: &str, value: &str) -> Result<(), StoreError> {
        use schema::settings::dsl;
        self.write("keep a setting", |connection| {
            diesel::replace_into(dsl::settings)
                .values((dsl::name.eq(name), dsl::value.eq(value)))
                .execute(connection)
        })?;
        Ok(())
    }

    /// A setting.
    ///
    /// # Errors
    /// When the database fails.
    pub fn setting(&self, name: &str) -> Result<Option<String>, StoreError> {
        use schema::settings::dsl;
        self.with("read a setting", |connection| {
            dsl::settings
                .find(name)
                .select(dsl::value)
                .first(connection)
                .optional()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_revision_never_replaces_a_higher_one_and_all_survives_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.db");
        let document = |revision| Document {
            kind: Kind::Order,
            subject: "m".into(),
            revision,
            payload: vec![u8::try_from(revision).unwrap()],
        };
        let store = Store::open(&path).unwrap();
        assert!(store.put_document(&document(2)).unwrap());
        assert!(!store.put_document(&document(1)).unwrap());
        assert!(store.put_document(&document(2)).unwrap(), "a repeat is harmless");
        store.put_setting("a", "1").unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(store.documents().unwrap(), [document(2)]);
        assert_eq!(store.setting("a").unwrap().as_deref(), Some("1"));
        assert_eq!(store.setting("b").unwrap(), None);
    }
}
