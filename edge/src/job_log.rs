//! The logs of jobs at this site, in memory: what the edge says of their steps and what agents say while they work, one text
//! a job. Bounded and lossy: nothing waits for a log, and no job ever fails because of one. Nothing here is decided by
//! what stands in a log; writing and sending is done in [`ship`].

pub mod ship;
mod words;

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use slipway_protocol::{
    ids::{BootId, JobId, MachineId},
    log::{self, LogHeld, LogTold, MAX_CHUNK_BYTES, MAX_JOB_BYTES, MAX_TOLD, Piece, Tail},
    report::LogChunk,
};

pub use words::{Told, line};

/// How many jobs' logs are kept of a machine: the newest.
const JOBS_A_MACHINE: usize = 2;
/// How much is kept of all logs together, in bytes.
const MAX_ALL_BYTES: usize = 64 * 1024 * 1024;

/// How far an agent's own log was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Which boot of the agent.
    pub boot: BootId,
    /// Up to where, in bytes of that boot's log.
    pub end: u64,
}

/// One job's log.
#[derive(Debug, Clone)]
pub struct JobLog {
    /// The machine.
    pub machine: MachineId,
    /// Its rank among all logs by when it was begun: higher is newer.
    pub rank: u64,
    /// The text.
    pub tail: Tail,
    /// The agent that was heard last.
    pub heard: Option<Heard>,
    /// Up to where it is on disk, in bytes.
    pub kept: u64,
    /// Up to where it was sent, in bytes.
    pub sent: u64,
    /// Up to where the control plane has said that it holds it, in bytes.
    pub confirmed: u64,
    /// How far it was confirmed is not on disk yet.
    pub unkept: bool,
}

/// The logs of a site's jobs.
#[derive(Debug, Default)]
pub struct JobLogs {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: BTreeMap<JobId, JobLog>,
    next_rank: u64,
    /// What the last hello told of.
    told: Vec<LogTold>,
    /// Those that made room and are still on disk.
    gone: Vec<JobId>,
}

/// What is to be written to disk.
#[derive(Debug, Default)]
pub struct Unkept {
    /// Copies of the logs that grew.
    pub logs: Vec<(JobId, JobLog)>,
    /// Those to be forgotten.
    pub gone: Vec<JobId>,
}

impl JobLogs {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up what is on disk.
    pub fn take_up(&self, logs: Vec<(JobId, JobLog)>) {
        let mut inner = self.lock();
        for (job, log) in logs {
            inner.next_rank = inner.next_rank.max(log.rank + 1);
            inner.jobs.insert(job, log);
        }
    }

    /// Adds lines of this edge's own.
    pub fn say(&self, machine: MachineId, job: JobId, lines: &[String]) {
        if lines.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let log = inner.of(machine, job);
        for line in lines {
            log.tail.push(line);
        }
    }

    /// Adds what an agent said. Repeats are dropped, and what was lost on the way is told of in a line.
    pub fn hear(&self, machine: MachineId, chunk: LogChunk) {
        let Some(boot) = chunk.boot.filter(|_| chunk.text.len() <= MAX_CHUNK_BYTES) else {
            return;
        };
        let mut inner = self.lock();
        let log = inner.of(machine, chunk.job);
        let end = log
            .heard
            .filter(|heard| heard.boot == boot)
            .map_or(0, |heard| heard.end);
        let piece = Piece {
            offset: chunk.offset,
            text: chunk.text,
        };
        let Some((missing, text)) = log::news(end, &piece) else {
            return;
        };
        if missing > 0 {
            log.tail
                .push(&format!("[{missing} bytes of the agent's log are missing]\n"));
        }
        log.tail.push(&log::clean(text));
        log.heard = Some(Heard {
            boot,
            end: piece.end(),
        });
    }

    /// The next chunk of each machine's log that was not sent yet, at most one a machine: the older job first.
    #[must_use]
    pub fn due(&self) -> Vec<(MachineId, LogChunk)> {
        let inner = self.lock();
        let mut due: BTreeMap<MachineId, (u64, LogChunk)> = BTreeMap::new();
        for (job, log) in &inner.jobs {
            let Some(piece) = log.tail.after(log.sent, MAX_CHUNK_BYTES) else {
                continue;
            };
            if due.get(&log.machine).is_some_and(|(rank, _)| *rank < log.rank) {
                continue;
            }
            let chunk = LogChunk {
                job: *job,
                boot: None,
                offset: piece.offset,
                text: piece.text,
            };
            due.insert(log.machine, (log.rank, chunk));
        }
        due.into_iter()
            .map(|(machine, (_, chunk))| (machine, chunk))
            .collect()
    }

    /// A chunk went out.
    pub fn sent(&self, chunk: &LogChunk) {
        if let Some(log) = self.lock().jobs.get_mut(&chunk.job) {
            log.sent = log.sent.max(chunk.offset + chunk.text.len() as u64);
        }
    }

    /// What a hello tells of: the logs of which the control plane has not said yet that it holds what was sent, the newest.
    #[must_use]
    pub fn told(&self) -> Vec<LogTold> {
        let mut inner = self.lock();
        let mut logs: Vec<(&JobId, &JobLog)> = inner
            .jobs
            .iter()
            .filter(|(_, log)| log.confirmed < log.sent)
            .collect();
        logs.sort_unstable_by_key(|(_, log)| std::cmp::Reverse(log.rank));
        logs.truncate(MAX_TOLD);
        let told = |(job, log): (&JobId, &JobLog)| LogTold {
            job: *job,
            start: log.tail.start(),
            sent: log.sent,
        };
        let told: Vec<LogTold> = logs.into_iter().map(told).collect();
        inner.told.clone_from(&told);
        told
    }

    /// The control plane said what it holds, of what the last hello told of. What it lacks of that is sent again.
    pub fn confirm(&self, held: &[LogHeld]) {
        let mut inner = self.lock();
        let Inner { jobs, told, .. } = &mut *inner;
        for LogHeld { job, end } in held {
            let Some(log) = jobs.get_mut(job) else {
                continue;
            };
            let told = told.iter().find(|told| told.job == *job);
            let end = (*end).min(log.tail.end());
            if end > log.confirmed {
                log.confirmed = end;
                log.unkept = true;
            }
            // Chunks that went out after the hello are not counted as lost.
            if told.is_some_and(|told| end < told.sent) {
                log.sent = end;
            }
            log.sent = log.sent.max(log.confirmed);
        }
    }

    /// What is not on disk yet.
    #[must_use]
    pub fn unkept(&self) -> Unkept {
        let inner = self.lock();
        let unkept = |log: &JobLog| log.unkept || log.kept < log.tail.end();
        let logs = inner.jobs.iter().filter(|(_, log)| unkept(log));
        Unkept {
            logs: logs.map(|(job, log)| (*job, log.clone())).collect(),
            gone: inner.gone.clone(),
        }
    }

    /// This is on disk.
    pub fn kept(&self, unkept: &Unkept) {
        let mut inner = self.lock();
        for (job, copy) in &unkept.logs {
            if let Some(log) = inner.jobs.get_mut(job) {
                log.kept = copy.tail.end();
                log.unkept = log.confirmed > copy.confirmed;
            }
        }
        inner.gone.retain(|job| !unkept.gone.contains(job));
    }

    /// The jobs whose logs are here.
    #[must_use]
    pub fn jobs(&self) -> Vec<JobId> {
        self.lock().jobs.keys().copied().collect()
    }

    /// All that is held of one job's log.
    #[must_use]
    pub fn text(&self, job: JobId) -> String {
        let inner = self.lock();
        let piece = inner.jobs.get(&job).and_then(|log| log.tail.after(0, usize::MAX));
        piece.map(|piece| piece.text).unwrap_or_default()
    }
}

impl Inner {
    /// The log of a job, begun if there is none; older ones make room for it.
    fn of(&mut self, machine: MachineId, job: JobId) -> &mut JobLog {
        if !self.jobs.contains_key(&job) {
            self.make_room(machine);
        }
        let next_rank = &mut self.next_rank;
        self.jobs.entry(job).or_insert_with(|| {
            *next_rank += 1;
            JobLog {
                machine,
                rank: *next_rank,
                tail: Tail::new(MAX_JOB_BYTES),
                heard: None,
                kept: 0,
                sent: 0,
                confirmed: 0,
                unkept: true,
            }
        })
    }

    fn make_room(&mut self, machine: MachineId) {
        let mut of_machine: Vec<(u64, JobId)> = self
            .jobs
            .iter()
            .filter(|(_, log)| log.machine == machine)
            .map(|(job, log)| (log.rank, *job))
            .collect();
        of_machine.sort_unstable();
        let too_many = (of_machine.len() + 1).saturating_sub(JOBS_A_MACHINE);
        for (_, job) in of_machine.into_iter().take(too_many) {
            self.forget(job);
        }
        let mut bytes: usize = self.jobs.values().map(|log| log.tail.len()).sum();
        while bytes > MAX_ALL_BYTES
            && let Some(oldest) = self.jobs.iter().min_by_key(|(_, log)| log.rank)
        {
            let job = *oldest.0;
            bytes -= oldest.1.tail.len();
            self.forget(job);
        }
    }

    fn forget(&mut self, job: JobId) {
        self.jobs.remove(&job);
        self.gone.push(job);
    }
}

#[cfg(test)]
mod tests;
