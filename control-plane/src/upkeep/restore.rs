//! `slipway-control-plane restore FILE`: puts a backup where the settings say, with the control plane stopped. What was there
//! is moved aside, not removed. Revisions go on above whatever edges may hold, so what the restored control plane says wins.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};

use super::{
    archive::{self, KEYS, Manifest},
    postgres,
};
use crate::{
    access::{Actor, Via},
    config::Config,
    store::{
        Store, StoreError,
        audit::{self, Change},
        events::{self, NewEvent},
        upkeep,
    },
};

/// What becomes of a control plane that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Former {
    /// It stays, and nothing is restored.
    Keep,
    /// It is moved aside; on PostgreSQL its tables are replaced.
    Replace,
}

/// Restores a backup.
///
/// # Errors
/// When it is none or a newer build's, something is there already, or a control plane runs.
pub async fn run(config: &Config, from: &Path, former: Former) -> anyhow::Result<Manifest> {
    let (config_of_task, from) = (config.clone(), from.to_owned());
    let put = tokio::task::spawn_blocking(move || {
        // Before it is moved aside.
        let given_out = upkeep::highest_given_out(&config_of_task.database_url);
        put(&config_of_task, &from, former).map(|manifest| (manifest, given_out))
    });
    let (manifest, given_out) = put.await.context("the restore was cut")??;
    let store = Store::open(&config.database_url).await?;
    go_on(&store, &manifest, given_out, Utc::now()).await?;
    Ok(manifest)
}

/// Puts files and database in their places. Blocking.
fn put(config: &Config, from: &Path, former: Former) -> anyhow::Result<Manifest> {
    TcpListener::bind(config.http)
        .with_context(|| format!("{} is in use: stop the control plane first", config.http))?;
    let dir = &config.data_dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let temporary = tempfile::Builder::new().prefix(".restore-").tempdir_in(dir)?;
    let manifest = archive::unpack(from, temporary.path())?;
    let is_postgres = config.database_url.starts_with("postgres");
    let ours = if is_postgres { "postgres" } else { "sqlite" };
    ensure!(
        manifest.database == ours,
        "the backup is of {}, SLIPWAY_DATABASE_URL is {ours}: a backup goes back to the kind of database it came from",
        manifest.database
    );
    let newest = upkeep::newest_known();
    ensure!(
        manifest.schema <= newest,
        "the backup's schema is {}, this build knows {newest}: restore it with version {} or a newer one",
        manifest.schema,
        manifest.version
    );
    let there = there_already(config)?;
    if former == Former::Keep && !there.is_empty() {
        bail!(
            "{} is there already; --force moves it aside and restores",
            there.join(", ")
        );
    }
    let aside = dir.join(format!("before-restore-{}", Utc::now().format("%Y%m%dT%H%M%SZ")));
    let unpacked = temporary.path();
    // First, as it fails as a whole: without their keys the tables that stay would be unreadable, and a control plane that
    // finds no keys makes new ones.
    if is_postgres {
        postgres::restore(&config.database_url, &unpacked.join("database"))?;
    }
    move_aside(config, &aside)?;
    if !is_postgres {
        place(&unpacked.join("database"), Path::new(&config.database_url))?;
    }
    for key in KEYS {
        place(&unpacked.join("keys").join(key), &dir.join(key))?;
    }
    for entry in manifest
        .files
        .iter()
        .filter(|entry| entry.name.starts_with("chunks/"))
    {
        place(&unpacked.join(&entry.name), &dir.join(&entry.name))?;
    }
    Ok(manifest)
}

/// The files of an SQLite database.
fn sqlite_files(url: &str) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{url}{end}")))
}

/// What a restore would replace.
fn there_already(config: &Config) -> anyhow::Result<Vec<String>> {
    let keys = KEYS.iter().map(|key| config.data_dir.join(key));
    let mut there: Vec<String> = keys
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    if !config.database_url.starts_with("postgres") {
        let [file, ..] = sqlite_files(&config.database_url);
        there.extend(file.exists().then(|| file.display().to_string()));
    } else if upkeep::schema(&config.database_url)?.version.is_some() {
        there.push("a control plane's tables in the database".to_owned());
    }
    Ok(there)
}

fn move_aside(config: &Config, aside: &Path) -> anyhow::Result<()> {
    let mut files: Vec<PathBuf> = KEYS.iter().map(|key| config.data_dir.join(key)).collect();
    if !config.database_url.starts_with("postgres") {
        files.extend(sqlite_files(&config.database_url));
    }
    for file in files.iter().filter(|file| file.exists()) {
        place(file, &aside.join(file.file_name().unwrap_or_default()))?;
    }
    Ok(())
}

/// Moves a file, to another file system if need be.
fn place(from: &Path, to: &Path) -> anyhow::Result<()> {
    let moved = || {
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::rename(from, to).or_else(|_| {
            std::fs::copy(from, to)?;
            std::fs::remove_file(from)
        })
    };
    moved().with_context(|| format!("cannot move {} to {}", from.display(), to.display()))
}

/// Brings the restored database to where it can go on. Revisions begin above those of the database that it replaces, if that
/// can be read, and above the seconds since 1970: nobody ever gave out one a second. A clock that is behind the backup is
/// wrong, and does not count.
async fn go_on(
    store: &Store,
    manifest: &Manifest,
    given_out: Option<i64>,
    now: DateTime<Utc>,
) -> anyhow::Result<()> {
    let made = manifest.made_at;
    let done = store.transaction(move |db| {
        let seconds = now.max(made).timestamp();
        upkeep::raise_revisions(db, given_out.unwrap_or(0).max(seconds))?;
        let by = Actor {
            name: "restore".to_owned(),
            via: Via::Nothing,
            address: "local".to_owned(),
        };
        let change = Change {
            action: "restore",
            object: "control-plane".to_owned(),
            before: None,
            after: Some(serde_json::json!({ "made_at": made })),
        };
        audit::done(db, &by, now, change)?;
        let text = format!(
            "the control plane was restored from a backup of {}",
            made.to_rfc3339()
        );
        events::append(db, &NewEvent::new("control_plane.restored", now).text(text))
    });
    Ok(done.await.map_err(|e: StoreError| e)?)
}
