//! A body that is counted while it is sent, so that a boot's timeline says how much of a file a machine got, and how fast. What
//! is sent is not changed.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::Stream;

/// How far a file came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Bytes that were handed to the connection.
    pub(super) bytes: u64,
    /// Bytes of the whole file.
    pub(super) of: u64,
    /// Since it was asked for.
    pub(super) took: Duration,
}

impl Sent {
    /// As the timeline has it: a stable word, and a text for people.
    pub(super) fn told(self, file: &str) -> (&'static str, String) {
        let Self { bytes, of, took } = self;
        let ms = took.as_millis();
        if bytes == of {
            ("file", format!("{file}: {bytes} bytes in {ms} ms"))
        } else {
            let how = format!("broken off after {bytes} of {of} bytes and {ms} ms");
            ("file_failed", format!("{file}: {how}"))
        }
    }
}

/// Counts what `inner` gives, and tells when it is dropped: at its end, or when the connection is gone.
pub(super) struct Counted<S, F: FnMut(Sent)> {
    inner: S,
    sent: Sent,
    begun: Instant,
    tell: F,
}

impl<S, F: FnMut(Sent)> Counted<S, F> {
    /// A body of `of` bytes.
    pub(super) fn new(inner: S, of: u64, tell: F) -> Self {
        let sent = Sent {
            bytes: 0,
            of,
            took: Duration::ZERO,
        };
        Self {
            inner,
            sent,
            begun: Instant::now(),
            tell,
        }
    }
}

impl<S, F> Stream for Counted<S, F>
where
    S: Stream<Item = std::io::Result<Bytes>> + Unpin,
    F: FnMut(Sent) + Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let piece = ready!(Pin::new(&mut self.inner).poll_next(context));
        if let Some(Ok(bytes)) = &piece {
            self.sent.bytes += bytes.len() as u64;
        }
        Poll::Ready(piece)
    }
}

impl<S, F: FnMut(Sent)> Drop for Counted<S, F> {
    fn drop(&mut self) {
        self.sent.took = self.begun.elapsed();
        (self.tell)(self.sent);
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::*;

    fn pieces() -> impl Stream<Item = std::io::Result<Bytes>> + Unpin {
        futures::stream::iter([Ok(Bytes::from_static(b"1234")), Ok(Bytes::from_static(b"56"))])
    }

    #[tokio::test]
    async fn a_whole_file_and_one_that_is_broken_off_are_told_apart() {
        let mut told = Vec::new();
        let mut whole = Counted::new(pieces(), 6, |sent: Sent| told.push(sent));
        while whole.next().await.is_some() {}
        drop(whole);
        let mut part = Counted::new(pieces(), 6, |sent: Sent| told.push(sent));
        assert!(part.next().await.is_some());
        drop(part);
        let words: Vec<_> = told.iter().map(|sent| sent.told("vmlinuz")).collect();
        assert_eq!((words[0].0, told[0].bytes), ("file", 6));
        assert!(words[0].1.starts_with("vmlinuz: 6 bytes in "), "{words:?}");
        assert_eq!((words[1].0, told[1].bytes), ("file_failed", 4));
        assert!(words[1].1.contains("broken off after 4 of 6 bytes"), "{words:?}");
    }
}
