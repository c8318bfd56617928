//! Uploads of images, and the sweep of chunks that no image refers to. Nothing of an upload that failed stays, and nothing that an
//! image or an upload under way relies on goes, also where replicas share the folder of chunks.

use std::{
    collections::HashSet,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    ids::Digest,
    image::{Chunk, Manifest},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use uuid::Uuid;

use crate::{
    app::App,
    chunks::ChunkError,
    error::{ApiError, chain},
    store::{Database, StoreError, StoreResult, images, uploads},
};

/// How often an upload says that it still goes on.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// How long an upload may say nothing before its replica is taken for dead.
const SILENT_AFTER: TimeDelta = TimeDelta::minutes(10);
/// How often is swept without another reason.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Longer than a step of the clock by which files are stamped: 10 ms at most on Linux.
const STEP: Duration = Duration::from_millis(50);
/// How much before the oldest upload's beginning a chunk must have been touched to go: two clocks may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(60);

/// An upload under way. Dropped before an image came of it, also because who sent it has gone away, it is given up: what it stored
/// is swept.
pub struct Upload {
    app: Arc<App>,
    id: String,
    has_image: bool,
}

impl Upload {
    /// Its id, to be ended by [`uploads::end`] in the transaction that adds its image.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// An image came of it.
    pub fn done(mut self) {
        self.has_image = true;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.has_image {
            self.app.sweep.give_up(std::mem::take(&mut self.id));
        }
    }
}

/// Wakes the sweep, and tells it of uploads that were given up.
#[derive(Debug, Default)]
pub struct SweepQueue {
    given_up: Mutex<Vec<String>>,
    wake: Notify,
}

impl SweepQueue {
    /// Something is referred to no more.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    fn give_up(&self, upload: String) {
        let mut given_up = self.given_up.lock().unwrap_or_else(PoisonError::into_inner);
        given_up.push(upload);
        drop(given_up);
        self.wake();
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.given_up.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Stores what `raw` gives. If that fails, what was stored is swept.
///
/// # Errors
/// When it is no disk, breaks off, or cannot be stored.
pub async fn store(app: &Arc<App>, raw: impl Read + Send + 'static) -> Result<(Upload, Manifest), ApiError> {
    let upload = Upload {
        app: Arc::clone(app),
        id: Uuid::now_v7().to_string(),
        has_image: false,
    };
    let (id, now) = (upload.id.clone(), (app.now)());
    app.store
        .transaction(move |db| uploads::begin(db, &id, now))
        .await?;
    let chunks = app.chunks.clone();
    let id = upload.id.clone();
    // It takes the upload along, so that it is not given up before the last byte was written.
    let mut stored =
        tokio::task::spawn_blocking(move || chunks.store(raw).map(|manifest| (upload, manifest)));
    let mut touch = tokio::time::interval(TOUCH_EVERY);
    touch.tick().await;
    let stored = loop {
        tokio::select! {
            stored = &mut stored => break stored.map_err(|e| ApiError::Internal(e.into()))?,
            _ = touch.tick() => {
                let (id, now) = (id.clone(), (app.now)());
                let touched = app.store.transaction(move |db| uploads::touch(db, &id, now));
                if let Err(failure) = touched.await {
                    error!(error = %chain(&failure), "an upload could not be noted to go on");
                }
            }
        }
    };
    stored.map_err(told)
}

fn told(refused: ChunkError) -> ApiError {
    let full = |source: &io::Error| source.kind() == io::ErrorKind::StorageFull;
    match refused {
        ChunkError::Empty => ApiError::Bad("image_empty", refused.to_string()),
        ChunkError::NotADisk(what) => ApiError::Bad("image_format", what.to_string()),
        ChunkError::Read(_) => ApiError::Bad("image_broken_off", refused.to_string()),
        ChunkError::Write(source) if full(&source) => {
            let detail = "there is no room left for the image; delete images that are not used, or give the control plane more room";
            ApiError::Unavailable("no_space", detail.to_owned())
        }
        ChunkError::Write(source) => ApiError::Internal(source.into()),
    }
}

/// Sweeps when told to, and each hour, until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut hourly = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // What was written last must be older than the sweep by the folder's own clock, which goes in steps.
            () = app.sweep.wake.notified() => tokio::time::sleep(STEP).await,
            _ = hourly.tick() => {}
        }
        match sweep(&app).await {
            Ok(0) => {}
            Ok(bytes) => info!(bytes, "chunks that no image refers to were removed"),
            Err(failure) => {
                error!(error = %chain(&failure), "chunks could not be swept; trying again in an hour")
            }
        }
    }
}

/// Removes chunks that no image refers to and no upload relies on; gives back how many bytes that were.
///
/// # Errors
/// When the store or the folder fails.
pub async fn sweep(app: &App) -> Result<u64, ApiError> {
    let chunks = app.chunks.clone();
    let internal = |e: io::Error| ApiError::Internal(e.into());
    let lost = |e: tokio::task::JoinError| ApiError::Internal(e.into());
    // What is stored after this is younger than the sweep, whatever it is for.
    let begun = tokio::task::spawn_blocking({
        let chunks = chunks.clone();
        move || chunks.now()
    });
    let begun = begun.await.map_err(lost)?.map_err(internal)?;
    let (now, given_up) = ((app.now)(), app.sweep.take());
    // Together: an upload that ends meanwhile is seen as one or the other.
    let read = app.store.transaction(move |db| {
        given_up.iter().try_for_each(|upload| uploads::end(db, upload))?;
        relied_on(db, now)
    });
    let (used, oldest) = read.await.map_err(|e: StoreError| ApiError::from(e))?;
    let before = oldest.map_or(begun, |at| begun.min(SystemTime::from(at) - CLOCKS_DIFFER));
    let swept = tokio::task::spawn_blocking(move || chunks.sweep(&used, before));
    swept.await.map_err(lost)?.map_err(internal)
}

/// The chunks of all images, and when the oldest upload under way began.
fn relied_on(db: &mut Database, now: DateTime<Utc>) -> StoreResult<(HashSet<Digest>, Option<DateTime<Utc>>)> {
    let oldest = uploads::oldest(db, now - SILENT_AFTER)?;
    let mut used = HashSet::new();
    let mut after = String::new();
    while let Some(image) = images::list(db, None, &after, 1)?.pop() {
        used.extend(image.manifest.chunks.iter().filter_map(|chunk| match chunk {
            Chunk::Data { sha256, .. } => Some(*sha256),
            _ => None,
        }));
        after = image.name;
    }
    Ok((used, oldest))
}
