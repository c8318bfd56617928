//! The logs of jobs on disk: each as pieces in the order they were written, and how far it was heard and confirmed.

use diesel::prelude::*;
use slipway_protocol::{
    ids::JobId,
    log::{MAX_JOB_BYTES, Piece, Tail},
};

use super::{Store, StoreError, bad_row, schema};
use crate::job_log::{Heard, JobLog, Unkept};

type Row = (String, String, i64, Option<String>, i64, i64);

fn put(connection: &mut SqliteConnection, job: &str, log: &JobLog) -> QueryResult<()> {
    use schema::{job_log_pieces, job_logs};
    let heard = log.heard.map_or(0, |heard| heard.end);
    diesel::replace_into(job_logs::table)
        .values((
            job_logs::job.eq(job),
            job_logs::machine.eq(log.machine.to_string()),
            job_logs::rank.eq(log.rank.cast_signed()),
            job_logs::boot.eq(log.heard.map(|heard| heard.boot.to_string())),
            job_logs::heard.eq(heard.cast_signed()),
            job_logs::confirmed.eq(log.confirmed.cast_signed()),
        ))
        .execute(connection)?;
    let of_job = job_log_pieces::table.filter(job_log_pieces::job.eq(job));
    diesel::delete(of_job.filter(job_log_pieces::ends.le(log.tail.start().cast_signed())))
        .execute(connection)?;
    if let Some(piece) = log.tail.after(log.kept, usize::MAX) {
        diesel::replace_into(job_log_pieces::table)
            .values((
                job_log_pieces::job.eq(job),
                job_log_pieces::begins.eq(piece.offset.cast_signed()),
                job_log_pieces::ends.eq(piece.end().cast_signed()),
                job_log_pieces::text.eq(&piece.text),
            ))
            .execute(connection)?;
    }
    Ok(())
}

/// The last pieces of a log that follow each other without a gap.
fn joined(pieces: Vec<(i64, String)>) -> Piece {
    let mut all = Piece {
        offset: 0,
        text: String::new(),
    };
    for (begins, text) in pieces {
        let begins = begins.cast_unsigned();
        if all.end() != begins {
            all = Piece {
                offset: begins,
                text: String::new(),
            };
        }
        all.text.push_str(&text);
    }
    all
}

impl Store {
    /// Keeps what logs of jobs grew by, and forgets those that are gone.
    ///
    /// # Errors
    /// When the database fails; nothing of it is kept then.
    pub fn put_logs(&self, unkept: &Unkept) -> Result<(), StoreError> {
        use schema::{job_log_pieces, job_logs};
        self.write("keep the logs of jobs", |connection| {
            connection.immediate_transaction(|connection| {
                for job in &unkept.gone {
                    let job = job.to_string();
                    diesel::delete(job_logs::table.find(&job)).execute(connection)?;
                    let pieces = job_log_pieces::table.filter(job_log_pieces::job.eq(&job));
                    diesel::delete(pieces).execute(connection)?;
                }
                unkept
                    .logs
                    .iter()
                    .try_for_each(|(job, log)| put(connection, &job.to_string(), log))
            })
        })
    }

    /// All logs of jobs that are held.
    ///
    /// # Errors
    /// When the database fails or holds a row this build cannot read.
    pub fn logs(&self) -> Result<Vec<(JobId, JobLog)>, StoreError> {
        use schema::{job_log_pieces as pieces, job_logs};
        let rows: Vec<Row> = self.with("read the logs of jobs", |connection| {
            job_logs::table.load(connection)
        })?;
        let mut logs = Vec::with_capacity(rows.len());
        for (job, machine, rank, boot, heard, confirmed) in rows {
            let bad = |e: &dyn std::fmt::Display| bad_row("log of a job")(e.to_string());
            let of_job = pieces::table
                .filter(pieces::job.eq(&job))
                .order(pieces::begins)
                .select((pieces::begins, pieces::text));
            let held = joined(self.with("read the log of a job", |c| of_job.load(c))?);
            let boot = boot.map(|boot| boot.parse()).transpose().map_err(|e| bad(&e))?;
            let end = held.end();
            let confirmed = confirmed.cast_unsigned().min(end);
            let log = JobLog {
                machine: machine.parse().map_err(|e| bad(&e))?,
                rank: rank.cast_unsigned(),
                tail: Tail::going_on(held, MAX_JOB_BYTES),
                heard: boot.map(|boot| Heard {
                    boot,
                    end: heard.cast_unsigned(),
                }),
                kept: end,
                sent: confirmed,
                confirmed,
                unkept: false,
            };
            logs.push((job.parse().map_err(|e| bad(&e))?, log));
        }
        Ok(logs)
    }
}
