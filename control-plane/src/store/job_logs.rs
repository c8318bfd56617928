//! The logs of jobs, as pieces that do not overlap. What is too much falls out at a log's start.

use std::ops::Range;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{
    ids::JobId,
    log::{self, MAX_CHUNK_BYTES, MAX_JOB_BYTES, Piece},
};

use super::{
    Database, StoreResult, micros,
    schema::{job_logs, jobs},
};

/// How many pieces a log has at most: one of many gaps loses its oldest ones sooner.
const MAX_PIECES: usize = 128;
/// The most that is read at once, in bytes.
pub const MAX_READ_BYTES: usize = 64 * 1024;
/// How many pieces that much is in at most, when each is as short as such that were not joined.
const READ_PIECES: i64 = 32;

/// Which parts of a log are held, in order; in bytes.
///
/// # Errors
/// When the database fails.
pub fn held(db: &mut Database, job: JobId) -> StoreResult<Vec<Range<u64>>> {
    use job_logs::dsl;
    let rows: Vec<(i64, i64)> = dsl::job_logs
        .filter(dsl::job.eq(job.to_string()))
        .order(dsl::begins)
        .select((dsl::begins, dsl::ends))
        .load(db)?;
    let range = |(begins, ends): (i64, i64)| begins.cast_unsigned()..ends.cast_unsigned();
    Ok(rows.into_iter().map(range).collect())
}

/// Keeps what of a piece is not held yet; `false` if it adds nothing.
///
/// # Errors
/// When the database fails.
pub fn put(db: &mut Database, job: JobId, piece: &Piece, now: DateTime<Utc>) -> StoreResult<bool> {
    let mut held = held(db, job)?;
    let mut added = false;
    for part in log::uncovered(&held, piece.offset..piece.end()) {
        let at = |offset: u64| usize::try_from(offset - piece.offset).unwrap_or(usize::MAX);
        // Cut within a character: of one who does not send the same text twice.
        let Some(text) = piece.text.get(at(part.start)..at(part.end)) else {
            continue;
        };
        add(db, job, (held.last(), &part), text, now)?;
        added = true;
        if held.last().is_none_or(|last| last.end <= part.start) {
            held.push(part);
        }
    }
    if added {
        drop_old(db, job)?;
    }
    Ok(added)
}

/// Adds a part: to the last piece, if it follows it and both are short.
fn add(
    db: &mut Database,
    job: JobId,
    (last, part): (Option<&Range<u64>>, &Range<u64>),
    text: &str,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    use job_logs::dsl;
    let id = job.to_string();
    let joins =
        |last: &&Range<u64>| last.end == part.start && part.end - last.start <= MAX_CHUNK_BYTES as u64;
    let ends = dsl::ends.eq(part.end.cast_signed());
    if let Some(last) = last.filter(joins) {
        let row = dsl::job_logs.find((&id, last.start.cast_signed()));
        let before: Option<String> = row.select(dsl::text).first(db).optional()?;
        if let Some(before) = before {
            let change = (ends, dsl::text.eq(before + text));
            diesel::update(row).set(change).execute(db)?;
            return Ok(());
        }
    }
    let row = (
        dsl::job.eq(&id),
        dsl::begins.eq(part.start.cast_signed()),
        ends,
        dsl::text.eq(text),
        dsl::at.eq(micros(now)),
    );
    diesel::insert_into(dsl::job_logs).values(row).execute(db)?;
    Ok(())
}

fn drop_old(db: &mut Database, job: JobId) -> StoreResult<()> {
    use job_logs::dsl;
    let held = held(db, job)?;
    let end = held.last().map_or(0, |last| last.end);
    let too_old = end.saturating_sub(MAX_JOB_BYTES as u64);
    let too_many = held.len().checked_sub(MAX_PIECES).and_then(|many| held.get(many));
    let begins = too_many.map_or(0, |first| first.start);
    if held
        .first()
        .is_some_and(|first| first.end <= too_old || first.start < begins)
    {
        let of_job = dsl::job_logs.filter(dsl::job.eq(job.to_string()));
        let old = dsl::ends
            .le(too_old.cast_signed())
            .or(dsl::begins.lt(begins.cast_signed()));
        diesel::delete(of_job.filter(old)).execute(db)?;
    }
    Ok(())
}

/// What follows `after` without a gap, from where it is held, at most [`MAX_READ_BYTES`]; none if nothing does.
///
/// # Errors
/// When the database fails.
pub fn read(db: &mut Database, job: JobId, after: u64) -> StoreResult<Option<Piece>> {
    use job_logs::dsl;
    let rows: Vec<(i64, String)> = dsl::job_logs
        .filter(dsl::job.eq(job.to_string()))
        .filter(dsl::ends.gt(i64::try_from(after).unwrap_or(i64::MAX)))
        .order(dsl::begins)
        .limit(READ_PIECES)
        .select((dsl::begins, dsl::text))
        .load(db)?;
    let mut found: Option<Piece> = None;
    for (begins, text) in rows {
        let piece = Piece {
            offset: begins.cast_unsigned(),
            text,
        };
        let end = found.as_ref().map_or(after, Piece::end);
        let Some((missing, news)) = log::news(end, &piece) else {
            continue;
        };
        match &mut found {
            None => {
                found = Some(Piece {
                    offset: end + missing,
                    text: news.to_owned(),
                });
            }
            Some(found) if missing == 0 && found.text.len() + news.len() <= MAX_READ_BYTES => {
                found.text.push_str(news);
            }
            Some(_) => break,
        }
    }
    Ok(found)
}

/// Removes the logs of at most `limit` jobs that ended before a time; gives back of how many.
///
/// # Errors
/// When the database fails.
pub fn prune(db: &mut Database, before: DateTime<Utc>, limit: i64) -> StoreResult<usize> {
    use job_logs::dsl;
    let ended: Vec<String> = dsl::job_logs
        .inner_join(jobs::table)
        .filter(dsl::at.lt(micros(before)))
        .filter(jobs::finished_at.lt(micros(before)))
        .select(dsl::job)
        .distinct()
        .limit(limit)
        .load(db)?;
    if !ended.is_empty() {
        diesel::delete(dsl::job_logs.filter(dsl::job.eq_any(&ended))).execute(db)?;
    }
    Ok(ended.len())
}
