//! Whether this control plane can do its work: its database takes a write, its broker passes a message on, its folder takes a
//! file. A load balancer asks; whoever asks often is given the last answer.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::{
    app::App,
    error::{ApiError, chain},
    store::{StoreError, settings},
};

/// How long an answer is given again.
const GOOD_FOR: Duration = Duration::from_secs(1);
/// How long a look may take; what hangs is not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// Less room than this, in bytes, is none: an order, a report and a chunk must fit.
const LEAST_ROOM: u64 = 64 * 1024 * 1024;
/// The setting that is written.
const SETTING: &str = "ready";

/// What is not there, by a stable code, and for people.
pub type NotReady = (&'static str, String);

/// Whether the work can be done.
///
/// # Errors
/// [`ApiError::Unavailable`] with the code `database`, `broker` or `no_space`.
pub async fn check(app: &App) -> Result<(), ApiError> {
    let mut held = app.readiness.lock().await;
    let result = match held.take() {
        Some((at, result)) if at.elapsed() < GOOD_FOR => {
            *held = Some((at, result.clone()));
            result
        }
        _ => {
            let looked = tokio::time::timeout(PATIENCE, look(app)).await;
            let result =
                looked.unwrap_or_else(|_| Err(("database", format!("no answer within {PATIENCE:?}"))));
            if let Err((code, why)) = &result {
                warn!(code, why, "this control plane is not ready");
            }
            *held = Some((Instant::now(), result.clone()));
            result
        }
    };
    result.map_err(|(code, detail)| ApiError::Unavailable(code, detail))
}

async fn look(app: &App) -> Result<(), NotReady> {
    let now = (app.now)().to_rfc3339();
    let written = app
        .store
        .transaction(move |db| settings::put(db, SETTING, &now))
        .await;
    if let Err(failure) = written {
        let why = chain(&failure);
        let code = if is_full(&failure) { "no_space" } else { "database" };
        return Err((code, format!("the database takes no write: {why}")));
    }
    if let Some(broker) = app.broker.get()
        && let Err(error) = broker.check().await
    {
        return Err(("broker", error.to_string()));
    }
    if app.link.get().is_some_and(|link| !link.is_connected()) {
        return Err(("broker", "there is no connection to the broker".to_owned()));
    }
    let (dir, chunks) = (app.config.data_dir.clone(), app.chunks.clone());
    let room = tokio::task::spawn_blocking(move || {
        chunks.now().map_err(|e| e.to_string())?;
        room_in(&dir)
    });
    match room.await {
        Ok(Ok(room)) if room >= LEAST_ROOM => Ok(()),
        Ok(Ok(room)) => Err((
            "no_space",
            format!("only {room} bytes are left in the data folder"),
        )),
        Ok(Err(why)) => Err(("no_space", format!("the data folder takes no file: {why}"))),
        Err(lost) => Err(("no_space", lost.to_string())),
    }
}

/// Whether a database says that its disk is full (SQLite's `SQLITE_FULL`; PostgreSQL, error 53100).
fn is_full(failure: &StoreError) -> bool {
    let text = chain(failure);
    ["disk is full", "No space left", "could not extend file"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// The bytes that are left for us where a folder is.
fn room_in(dir: &Path) -> Result<u64, String> {
    let stat = rustix::fs::statvfs(dir).map_err(|e| e.to_string())?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
