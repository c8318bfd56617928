//! Databases of older versions are brought up to date with what was in them, on SQLite and on PostgreSQL.

use diesel::{Connection as _, RunQueryDsl as _, connection::SimpleConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use slipway_control_plane::{
    access::{Permission, authenticate::held_by},
    auth,
    store::{Store, StoreError, credentials, logins, machine_lists, machines, users},
};

use crate::common::Postgres;

const SQLITE: EmbeddedMigrations = embed_migrations!("../migrations/control-plane/sqlite");
const POSTGRES: EmbeddedMigrations = embed_migrations!("../migrations/control-plane/postgres");
const USERS: &str = "SELECT count(*) AS n FROM users";

/// Takes migrations back until nobody has heard of users, and puts in what an administrator of that time had.
fn before_users(url: &str) {
    let token = auth::hash("slipway-api-of-ann");
    let rows = format!(
        "INSERT INTO credentials (hash, kind, name, created_at) VALUES ('{token}', 'api', 'ann', 7), \
         ('other', 'api', 'ann', 8), ('setup', 'setup', 'setup', 9)"
    );
    if url.starts_with("postgres") {
        let mut db = diesel::PgConnection::establish(url).unwrap();
        while diesel::sql_query(USERS).execute(&mut db).is_ok() {
            db.revert_last_migration(POSTGRES).unwrap();
        }
        db.batch_execute(&rows).unwrap();
    } else {
        let mut db = diesel::SqliteConnection::establish(url).unwrap();
        while diesel::sql_query(USERS).execute(&mut db).is_ok() {
            db.revert_last_migration(SQLITE).unwrap();
        }
        db.batch_execute(&rows).unwrap();
    }
}

/// Who held an API token could do everything, and still can, as a user of that name.
#[tokio::test(flavor = "multi_thread")]
async fn holders_of_api_tokens_become_administrators() {
    let dir = tempfile::tempdir().unwrap();
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    for url in [dir.path().join("t.db").display().to_string(), postgres.url()] {
        drop(Store::open(&url).await.unwrap());
        before_users(&url);
        let store = Store::open(&url).await.unwrap();
        let (user, held, left) = store
            .read(|db| {
                let key = logins::key_by_hash(db, &auth::hash("slipway-api-of-ann"))?.unwrap();
                let user = users::get(db, &key.holder)?.unwrap();
                let held = held_by(db, &user.id)?;
                Ok::<_, StoreError>((user, held, credentials::holder(db, "setup", "setup")?))
            })
            .await
            .unwrap();
        assert_eq!((user.name.as_str(), user.disabled), ("ann", false), "{url}");
        assert_eq!(held.len(), 1, "{held:?}");
        assert!(Permission::ALL.iter().all(|p| held[0].permissions.contains(p)));
        assert_eq!(left.as_deref(), Some("setup"), "a set-up token stays one");
        let again = store.read(users::administrators).await;
        assert_eq!(again.unwrap(), 1, "two tokens of one name are one user");
    }
    tokio::task::spawn_blocking(move || drop(postgres)).await.unwrap();
}

/// Machines that were there before they could be looked for are found by everything.
#[tokio::test(flavor = "multi_thread")]
async fn machines_of_before_are_looked_for_too() {
    const WORDS: &str = "SELECT count(*) AS n FROM machine_words";
    let dir = tempfile::tempdir().unwrap();
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    for url in [dir.path().join("t.db").display().to_string(), postgres.url()] {
        let store = Store::open(&url).await.unwrap();
        let filled = store.transaction(|db| {
            crate::scheduler::make_site(db, "bj-1")?;
            crate::scheduler::make_machine(db, "bj-1")?;
            let mut machine = machines::get(db, "m1")?.unwrap();
            machine.details.bmc = Some(machines::BmcDetails {
                driver: slipway_protocol::order::BmcDriver::Ipmi,
                address: ([198, 51, 100, 7], 623).into(),
                username: "u".into(),
            });
            assert!(machines::update(db, &machine, 1)?);
            let inventory = slipway_protocol::inventory::Inventory {
                serial: Some("SN-9".into()),
                ..slipway_protocol::inventory::Inventory::default()
            };
            machines::set_inventory(db, machine.id, &inventory)
        });
        filled.await.unwrap();
        drop(store);
        if url.starts_with("postgres") {
            let mut db = diesel::PgConnection::establish(&url).unwrap();
            while diesel::sql_query(WORDS).execute(&mut db).is_ok() {
                db.revert_last_migration(POSTGRES).unwrap();
            }
        } else {
            let mut db = diesel::SqliteConnection::establish(&url).unwrap();
            while diesel::sql_query(WORDS).execute(&mut db).is_ok() {
                db.revert_last_migration(SQLITE).unwrap();
            }
        }
        let store = Store::open(&url).await.unwrap();
        for q in ["m1", "192.0.2.1", "02:00:00:00:00:01", "198.51.100.7:623", "sn-9"] {
            let filter = machine_lists::Filter {
                q: Some(q.to_owned()),
                ..machine_lists::Filter::default()
            };
            let found = store
                .read(move |db| machine_lists::page(db, &filter, "", 10))
                .await;
            assert_eq!(found.unwrap().len(), 1, "{url} {q}");
        }
    }
    tokio::task::spawn_blocking(move || drop(postgres)).await.unwrap();
}

/// Takes migrations back until jobs are of instances alone, and carries out `rows` there.
fn before_jobs_of_machines(url: &str, rows: &str) {
    const COLUMN: &str = "SELECT bmc_candidates FROM machines";
    if url.starts_with("postgres") {
        let mut db = diesel::PgConnection::establish(url).unwrap();
        while diesel::sql_query(COLUMN).execute(&mut db).is_ok() {
            db.revert_last_migration(POSTGRES).unwrap();
        }
        db.batch_execute(rows).unwrap();
    } else {
        let mut db = diesel::SqliteConnection::establish(url).unwrap();
        db.batch_execute("PRAGMA foreign_keys = ON").unwrap();
        while diesel::sql_query(COLUMN).execute(&mut db).is_ok() {
            db.revert_last_migration(SQLITE).unwrap();
        }
        db.batch_execute(rows).unwrap();
    }
}

#[derive(diesel::QueryableByName)]
struct Kept {
    #[diesel(sql_type = diesel::sql_types::BigInt)]
    n: i64,
}

/// Jobs of instances, traces that have their job, and jobs of machines alone.
fn kept(url: &str) -> [i64; 3] {
    let count = |sql: &str| -> i64 {
        let query = diesel::sql_query(sql);
        let row: Kept = if url.starts_with("postgres") {
            query
                .get_result(&mut diesel::PgConnection::establish(url).unwrap())
                .unwrap()
        } else {
            query
                .get_result(&mut diesel::SqliteConnection::establish(url).unwrap())
                .unwrap()
        };
        row.n
    };
    [
        count("SELECT count(*) AS n FROM jobs WHERE instance = 'i1' AND kind = 'install' AND priority = 3"),
        count("SELECT count(*) AS n FROM traces JOIN jobs ON jobs.id = traces.job"),
        count("SELECT count(*) AS n FROM jobs WHERE instance IS NULL"),
    ]
}

/// What refers to a job stays when its table changes, there and back again.
#[tokio::test(flavor = "multi_thread")]
async fn jobs_lose_nothing_when_they_need_no_instance_any_more() {
    const JOB: &str = "INSERT INTO jobs (id, instance, site, state, deadline, created_at, kind, priority) VALUES \
                       ('j1', 'i1', 'bj-1', 'done', 1, 1, 'install', 3); \
                       INSERT INTO traces (job, parent) VALUES ('j1', 'p')";
    const ALONE: &str = "INSERT INTO jobs (id, site, state, deadline, created_at, kind) VALUES \
                         ('j2', 'bj-1', 'done', 1, 1, 'rotate_bmc_password')";
    let dir = tempfile::tempdir().unwrap();
    let postgres = tokio::task::spawn_blocking(Postgres::start).await.unwrap();
    for url in [dir.path().join("t.db").display().to_string(), postgres.url()] {
        drop(Store::open(&url).await.unwrap());
        before_jobs_of_machines(&url, JOB);
        drop(Store::open(&url).await.unwrap());
        assert_eq!(kept(&url), [1, 1, 0], "{url}");
        if url.starts_with("postgres") {
            let mut db = diesel::PgConnection::establish(&url).unwrap();
            db.batch_execute(ALONE).unwrap();
        } else {
            let mut db = diesel::SqliteConnection::establish(&url).unwrap();
            db.batch_execute(ALONE).unwrap();
        }
        assert_eq!(kept(&url), [1, 1, 1], "{url}");
        before_jobs_of_machines(&url, "SELECT 1");
        assert_eq!(
            kept(&url),
            [1, 1, 0],
            "{url}: there is no place for it in the former table"
        );
    }
    tokio::task::spawn_blocking(move || drop(postgres)).await.unwrap();
}
