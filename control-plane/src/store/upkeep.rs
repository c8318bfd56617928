//! What backup, restore and doctor need of a database: its schema's version, a consistent copy, and revisions that never go
//! back. Works on a URL, not on a [`super::Store`]: none of it may bring a schema up to date by the way.

use std::path::Path;

use chrono::{DateTime, Utc};
use diesel::{
    Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, SqliteConnection, prelude::*,
    sql_types::Text,
};

use super::{
    Database, POSTGRES, SQLITE, Store, StoreError, StoreResult,
    schema::{deliveries, machines, mails, orders, sites, webhooks},
    settings,
};

/// Name of the setting that new revisions begin above.
const FLOOR: &str = "revision_floor";

/// What a database is at, compared with what this build knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    /// Version of the last migration that was carried out; none on an empty database.
    pub version: Option<String>,
    /// How many migrations this build would carry out.
    pub pending: usize,
    /// Whether it was made by a newer build.
    pub newer: bool,
}

fn connect(url: &str) -> StoreResult<Database> {
    let open = |e: diesel::ConnectionError| StoreError::Open(e.to_string());
    if url.starts_with("postgres") {
        return Ok(Database::Postgres(PgConnection::establish(url).map_err(open)?));
    }
    // SQLite would make a file that is not there.
    if !Path::new(url).is_file() {
        return Err(StoreError::Open(format!("there is no file {url}")));
    }
    let mut connection = SqliteConnection::establish(url).map_err(open)?;
    diesel::sql_query("PRAGMA busy_timeout=10000").execute(&mut connection)?;
    Ok(Database::Sqlite(connection))
}

/// The version of the last migration this build knows.
#[must_use]
pub fn newest_known() -> String {
    let known = diesel::migration::MigrationSource::<diesel::sqlite::Sqlite>::migrations(&SQLITE);
    let versions = known.unwrap_or_default();
    versions
        .iter()
        .map(|migration| migration.name().version().to_string())
        .max()
        .unwrap_or_default()
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

/// What a database is at. Changes nothing. Blocking.
///
/// # Errors
/// When it cannot be reached.
pub fn schema(url: &str) -> StoreResult<Schema> {
    let mut db = connect(url)?;
    let read = "SELECT version FROM __diesel_schema_migrations";
    // On an empty database the table is not there.
    let rows: Vec<Version> = diesel::sql_query(read).load(&mut db).unwrap_or_default();
    let applied: Vec<String> = rows.into_iter().map(|row| row.version).collect();
    let version = applied.iter().max().cloned();
    let known = POSTGRES;
    let known = diesel::migration::MigrationSource::<diesel::pg::Pg>::migrations(&known).unwrap_or_default();
    let pending = known.iter().filter(|migration| {
        let version = migration.name().version().to_string();
        !applied.contains(&version)
    });
    Ok(Schema {
        pending: pending.count(),
        newer: version.as_deref() > Some(newest_known().as_str()),
        version,
    })
}

/// Writes a consistent copy of an SQLite database that may be in use. Blocking.
///
/// # Errors
/// When it is no SQLite database, or `to` is there already.
pub fn copy_sqlite(url: &str, to: &Path) -> StoreResult<()> {
    let mut db = connect(url)?;
    let copy = diesel::sql_query("VACUUM INTO ?").bind::<Text, _>(to.display().to_string());
    match &mut db {
        Database::Sqlite(connection) => copy.execute(connection)?,
        Database::Postgres(_) => return Err(StoreError::Open(format!("{url} is no SQLite database"))),
    };
    Ok(())
}

/// The time by the database's own clock; none on SQLite, which has none. Blocking.
///
/// # Errors
/// When it cannot be reached.
pub fn clock(url: &str) -> StoreResult<Option<DateTime<Utc>>> {
    #[derive(QueryableByName)]
    struct Now {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        now: i64,
    }
    let Database::Postgres(mut connection) = connect(url)? else {
        return Ok(None);
    };
    let ask = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now";
    let row: Now = diesel::sql_query(ask).get_result(&mut connection)?;
    Ok(Some(super::time(row.now)))
}

/// What new revisions begin above.
pub(super) fn revision_floor(db: &mut Database) -> StoreResult<i64> {
    let floor = settings::get(db, FLOOR)?;
    Ok(floor.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// The highest revision that a database has given out or set aside; none where there is no database, or none of a control
/// plane that can be read. Changes nothing. Blocking.
#[must_use]
pub fn highest_given_out(url: &str) -> Option<i64> {
    let mut db = connect(url).ok()?;
    highest_revision(&mut db).ok()
}

fn highest_revision(db: &mut Database) -> StoreResult<i64> {
    use diesel::dsl::max;
    let of_orders: (Option<i64>, Option<i64>) = orders::table
        .select((max(orders::revision), max(orders::reserved)))
        .first(db)?;
    let of_sites: Option<i64> = sites::table.select(max(sites::revision)).first(db)?;
    let given_out = [of_orders.0, of_orders.1, of_sites].into_iter().flatten().max();
    Ok(revision_floor(db)?.max(given_out.unwrap_or(0)))
}

/// Raises all revisions above `given_out` and above all that the database has, and those to come above that: edges may hold
/// what a backup does not know, under numbers that would be given out again.
///
/// # Errors
/// When the database fails.
pub fn raise_revisions(db: &mut Database, given_out: i64) -> StoreResult<()> {
    let floor = given_out.max(highest_revision(db)?) + 1;
    settings::put(db, FLOOR, &floor.to_string())?;
    diesel::update(orders::table.filter(orders::revision.lt(floor)))
        .set(orders::revision.eq(floor))
        .execute(db)?;
    diesel::update(sites::table.filter(sites::revision.lt(floor)))
        .set(sites::revision.eq(floor))
        .execute(db)?;
    Ok(())
}

/// Something that the vault's key must open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KnownSecret {
    /// A machine's BMC password: id, encrypted.
    Bmc(String, String),
    /// A webhook's secret: id, encrypted.
    Webhook(String, String),
}

/// A secret that is kept, if there is any.
///
/// # Errors
/// When the database fails.
pub fn known_secret(db: &mut Database) -> StoreResult<Option<KnownSecret>> {
    let kept = machines::table
        .filter(machines::bmc_password.is_not_null())
        .order(machines::created_at.desc())
        .select((machines::id, machines::bmc_password.assume_not_null()));
    let kept: Option<(String, String)> = kept.first(db).optional()?;
    if let Some((id, text)) = kept {
        return Ok(Some(KnownSecret::Bmc(id, text)));
    }
    let kept = webhooks::table
        .order(webhooks::created_at.desc())
        .select((webhooks::id, webhooks::secret));
    let kept: Option<(String, String)> = kept.first(db).optional()?;
    Ok(kept.map(|(id, text)| KnownSecret::Webhook(id, text)))
}

/// How many deliveries and mails were given up and are still kept.
///
/// # Errors
/// When the database fails.
pub fn undeliverable(db: &mut Database) -> StoreResult<(i64, i64)> {
    let dead = deliveries::table.filter(deliveries::state.eq("dead"));
    let deliveries = dead.count().get_result(db)?;
    let mails = mails::table
        .filter(mails::state.eq("dead"))
        .count()
        .get_result(db)?;
    Ok((deliveries, mails))
}

impl Store {
    /// Opens a database whose schema is this build's own. Migrates nothing.
    ///
    /// # Errors
    /// When it cannot be opened, or its schema is another.
    pub async fn open_as_it_is(url: &str) -> StoreResult<Self> {
        let asked = url.to_owned();
        let schema = tokio::task::spawn_blocking(move || schema(&asked));
        let schema = schema.await.map_err(|_| StoreError::Task)??;
        if schema.pending > 0 || schema.newer {
            let version = schema.version.unwrap_or_else(|| "none".to_owned());
            return Err(StoreError::Open(format!(
                "its schema is {version}, not this build's"
            )));
        }
        Self::open(url).await
    }
}
