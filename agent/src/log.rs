//! What the agent says on its console, kept in a ring for the job's log: from the first line of this boot on, so that drivers
//! and network stand before the first step. Bounded; nothing ever waits for it, and what falls out is a gap that the edge
//! tells of. Secrets never stand in lines: none is ever logged.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slipway_protocol::{
    ids::{BootId, JobId},
    log::{MAX_CHUNK_BYTES, Tail, beginning},
    report::LogChunk,
};
use tracing::Subscriber;
use tracing_subscriber::{Layer, fmt::MakeWriter, registry::LookupSpan};

/// How much is held, in bytes.
const RING_BYTES: usize = 64 * 1024;
/// How much of one line is held, in bytes.
const LINE_BYTES: usize = 2 * 1024;

/// The ring; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Log {
    inner: Arc<Mutex<Ring>>,
}

#[derive(Debug)]
struct Ring {
    tail: Tail,
    /// The job whose log it is, and where that began in the ring, in bytes.
    job: Option<(JobId, u64)>,
    /// Up to where it was sent, in bytes of the ring.
    sent: u64,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            tail: Tail::new(RING_BYTES),
            job: None,
            sent: 0,
        }
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer that writes all that is logged to the ring.
    pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(&self) -> impl Layer<S> + use<S> {
        tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_target(false)
            .with_writer(self.clone())
    }

    fn push(&self, line: &str) {
        let line = beginning(line.trim_end(), LINE_BYTES)
            .trim_end()
            .replace('\n', " ");
        self.lock().tail.push(&format!("agent {line}\n"));
    }

    /// The next chunk that was not sent yet. What was said before the first job is the first job's; another job's log begins
    /// where the one before it ended.
    #[must_use]
    pub fn next(&self, job: JobId, boot: BootId) -> Option<LogChunk> {
        let mut ring = self.lock();
        let base = match ring.job {
            Some((known, base)) if known == job => base,
            Some(_) => ring.sent,
            None => 0,
        };
        ring.job = Some((job, base));
        let piece = ring.tail.after(ring.sent, MAX_CHUNK_BYTES)?;
        Some(LogChunk {
            job,
            boot: Some(boot),
            offset: piece.offset - base,
            text: piece.text,
        })
    }

    /// A chunk went out.
    pub fn sent(&self, chunk: &LogChunk) {
        let mut ring = self.lock();
        if let Some((job, base)) = ring.job
            && job == chunk.job
        {
            ring.sent = ring.sent.max(base + chunk.offset + chunk.text.len() as u64);
        }
    }

    /// A connection was lost and is there again: what went out last may not have arrived, and goes out once more.
    pub fn say_again(&self) {
        let mut ring = self.lock();
        let base = ring.job.map_or(0, |(_, base)| base);
        ring.sent = ring.sent.saturating_sub(MAX_CHUNK_BYTES as u64).max(base);
    }
}

/// Takes lines: what is logged comes in one piece a line.
pub struct Line(Log);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.push(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const BOOT: BootId = BootId(Uuid::from_u128(9));

    fn job(n: u128) -> JobId {
        JobId(Uuid::from_u128(n))
    }

    fn take(log: &Log, n: u128) -> Option<(u64, String)> {
        let chunk = log.next(job(n), BOOT)?;
        log.sent(&chunk);
        Some((chunk.offset, chunk.text))
    }

    #[test]
    fn what_was_said_before_the_job_comes_first_and_a_next_job_begins_anew() {
        let log = Log::default();
        log.push("booted\n");
        assert_eq!(take(&log, 1), Some((0, "agent booted\n".to_owned())));
        assert_eq!(take(&log, 1), None);
        log.push("two\nlines\n");
        assert_eq!(take(&log, 1), Some((13, "agent two lines\n".to_owned())));
        log.say_again();
        let again = "agent booted\nagent two lines\n".to_owned();
        assert_eq!(take(&log, 1), Some((0, again)), "after a cut");
        log.push("of the next job");
        assert_eq!(take(&log, 2), Some((0, "agent of the next job\n".to_owned())));
    }

    #[test]
    fn what_falls_out_shows_as_a_gap() {
        let log = Log::default();
        let line = "x".repeat(3 * LINE_BYTES);
        for _ in 0..40 {
            log.push(&line);
        }
        let chunk = log.next(job(1), BOOT).unwrap();
        let bytes = (LINE_BYTES + "agent \n".len()) as u64;
        assert_eq!(chunk.offset % bytes, 0, "whole lines");
        assert!(chunk.offset >= 40 * bytes - RING_BYTES as u64);
        assert!(chunk.text.len() <= MAX_CHUNK_BYTES && chunk.text.ends_with('\n'));
    }

    #[test]
    fn a_line_says_when_who_and_how_bad() {
        use tracing_subscriber::layer::SubscriberExt as _;
        let log = Log::default();
        let subscriber = tracing_subscriber::registry().with(log.layer());
        tracing::subscriber::with_default(subscriber, || tracing::info!(step = "wipe", "step done"));
        let (_, line) = take(&log, 1).unwrap();
        let (who, rest) = line.split_once(' ').unwrap();
        let (at, rest) = rest.split_once(' ').unwrap();
        assert_eq!((who, rest), ("agent", " INFO step done step=\"wipe\"\n"));
        assert!(at.parse::<chrono::DateTime<chrono::Utc>>().is_ok(), "{at}");
    }
}
