//! The logs of jobs: taken from the job's own site, read by those who may see the job, forgotten some time after its end.
//! Nothing is decided by what stands in one.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    ids::{JobId, MachineId, SiteId},
    log::{self, LogHeld, LogTold, MAX_CHUNK_BYTES, MAX_TOLD, Piece},
    report::LogChunk,
};
use tracing::error;

use super::jobs::{seen_by, wait_for_word};
use crate::{
    access::{Caller, Permission},
    app::App,
    error::{ApiError, chain},
    store::{
        Database, StoreResult, job_logs,
        jobs::{self, Job},
    },
};

/// How long a log is kept after its job's end.
const KEPT_FOR: TimeDelta = TimeDelta::days(30);
/// How long after a job's end the last lines of its log may take to come.
const LATE: TimeDelta = TimeDelta::seconds(10);
/// How many jobs' logs are removed in one transaction.
const PRUNE_PIECE: i64 = 100;
/// No log is longer than this, in bytes: programs in JavaScript count no further.
const MAX_OFFSET: u64 = 1 << 53;

/// A chunk of a job's log, verified.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The site it came from.
    pub site: SiteId,
    /// The machine its topic names.
    pub machine: MachineId,
    /// The chunk.
    pub chunk: LogChunk,
}

/// A part of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The text; empty if there is none yet.
    pub piece: Piece,
    /// How many bytes before it are not held.
    pub missing: u64,
    /// Nothing more is to come.
    pub ended: bool,
}

/// The job a site may speak of: its own, on the machine it names.
fn own(db: &mut Database, site: &SiteId, job: JobId) -> StoreResult<Option<Job>> {
    Ok(jobs::get(db, &job.to_string())?.filter(|job| job.site == *site))
}

fn is_forgotten(job: &Job, now: DateTime<Utc>) -> bool {
    job.finished_at.is_some_and(|at| at + KEPT_FOR < now)
}

/// Keeps a chunk; `None` when it is not its site's and machine's to send, or is no chunk; else whether it was news.
///
/// # Errors
/// When the store fails.
pub fn take(db: &mut Database, arrived: &Arrived, now: DateTime<Utc>) -> StoreResult<Option<bool>> {
    let Arrived { site, machine, chunk } = arrived;
    let fits = chunk.text.len() <= MAX_CHUNK_BYTES && chunk.offset < MAX_OFFSET;
    let job = own(db, site, chunk.job)?.filter(|job| job.machine == Some(*machine));
    let Some(job) = job.filter(|_| fits) else {
        return Ok(None);
    };
    if is_forgotten(&job, now) {
        return Ok(Some(false));
    }
    let piece = Piece {
        offset: chunk.offset,
        text: log::clean(&chunk.text),
    };
    job_logs::put(db, job.id, &piece, now).map(Some)
}

/// How much is held of the logs a site told of.
///
/// # Errors
/// When the store fails.
pub fn held(
    db: &mut Database,
    site: &SiteId,
    told: &[LogTold],
    now: DateTime<Utc>,
) -> StoreResult<Vec<LogHeld>> {
    let mut held = Vec::new();
    for told in told.iter().take(MAX_TOLD) {
        // Of a job that is on no machine nothing can be taken: it is not asked for.
        let job = own(db, site, told.job)?.filter(|job| job.machine.is_some());
        let Some(job) = job else {
            continue;
        };
        let end = if is_forgotten(&job, now) {
            told.sent
        } else {
            log::covered_to(&job_logs::held(db, job.id)?, told.start)
        };
        held.push(LogHeld { job: told.job, end });
    }
    Ok(held)
}

/// What stands in a job's log after `after`, in bytes.
///
/// # Errors
/// When there is no such job, or the caller may not see it.
pub async fn read(app: &App, caller: &Caller, id: String, after: u64) -> Result<Part, ApiError> {
    let (visible, now) = (caller.visible(Permission::JobsRead), (app.now)());
    app.store
        .read(move |db| {
            let (job, _) = seen_by(db, &visible, &id)?;
            let found = job_logs::read(db, job.id, after)?;
            let ended = job.finished_at.is_some_and(|at| at + LATE <= now) && found.is_none();
            let piece = found.unwrap_or(Piece {
                offset: after,
                text: String::new(),
            });
            Ok(Part {
                missing: piece.offset - after,
                piece,
                ended,
            })
        })
        .await
}

/// The same, as soon as there is any or nothing more is to come, at the latest after `wait`.
///
/// # Errors
/// When there is no such job, or the caller may not see it.
pub async fn follow(
    app: &App,
    caller: &Caller,
    id: String,
    after: u64,
    wait: Duration,
) -> Result<Part, ApiError> {
    let mut news = app.reports.subscribe();
    let limit = tokio::time::Instant::now() + wait;
    loop {
        let part = read(app, caller, id.clone(), after).await?;
        if !part.piece.text.is_empty() || part.ended || tokio::time::Instant::now() >= limit {
            return Ok(part);
        }
        wait_for_word(&mut news, &id, limit).await;
    }
}

/// Removes the logs of jobs that ended long ago, in pieces.
pub async fn prune(app: &App) {
    let before = (app.now)() - KEPT_FOR;
    loop {
        let pruned = app
            .store
            .transaction(move |db| job_logs::prune(db, before, PRUNE_PIECE));
        match pruned.await {
            Ok(0) => return,
            Ok(_) => {}
            Err(failure) => {
                error!(error = %chain(&failure), "old logs of jobs cannot be removed; trying again in an hour");
                return;
            }
        }
    }
}
