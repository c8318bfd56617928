//! Logs of jobs: what edge, agent and control plane do alike with a text that only grows. Pure. A log is for people: it may
//! have gaps, each is told, and nothing is ever decided by what stands in one.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::ids::JobId;

/// The most text of one [`LogChunk`](crate::report::LogChunk), in bytes.
pub const MAX_CHUNK_BYTES: usize = 16 * 1024;
/// How much is kept of the log of one job, in bytes: the newest.
pub const MAX_JOB_BYTES: usize = 256 * 1024;
/// The most logs that a hello tells of.
pub const MAX_TOLD: usize = 64;

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// The text.
    pub text: String,
}

impl Piece {
    /// Where it ends, in bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.text.len() as u64)
    }
}

/// The newest part of a log: what is too much falls out at its start, in whole lines where there are lines.
#[derive(Debug, Clone)]
pub struct Tail {
    start: u64,
    text: String,
    limit: usize,
}

impl Tail {
    /// Nothing yet; at most `limit` bytes are held.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let piece = Piece {
            offset: 0,
            text: String::new(),
        };
        Self::going_on(piece, limit)
    }

    /// A log of which this part is held.
    #[must_use]
    pub fn going_on(held: Piece, limit: usize) -> Self {
        let mut tail = Self {
            start: held.offset,
            text: held.text,
            limit,
        };
        tail.drop_old();
        tail
    }

    /// Where what is held begins, in bytes.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Where the log ends, in bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.text.len() as u64
    }

    /// How much is held, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Adds text at the end.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.drop_old();
    }

    fn drop_old(&mut self) {
        let Some(too_much) = self.text.len().checked_sub(self.limit).filter(|bytes| *bytes > 0) else {
            return;
        };
        let at = boundary(&self.text, too_much);
        let mut from = self.text.as_bytes()[at - 1..].iter();
        let line = from.position(|byte| *byte == b'\n').map(|end| at + end);
        // A line that is as long as all that is held is not dropped as a whole.
        let at = line.filter(|end| *end < self.text.len()).unwrap_or(at);
        self.text.drain(..at);
        self.start += at as u64;
    }

    /// What follows `offset`, from where it is held, at most `max` bytes and whole lines if there are any; none if nothing
    /// does.
    #[must_use]
    pub fn after(&self, offset: u64, max: usize) -> Option<Piece> {
        if offset >= self.end() {
            return None;
        }
        let skip = usize::try_from(offset.saturating_sub(self.start)).unwrap_or(usize::MAX);
        let rest = &self.text[boundary(&self.text, skip)..];
        let text = beginning(rest, max);
        (!text.is_empty()).then(|| Piece {
            offset: self.end() - rest.len() as u64,
            text: text.to_owned(),
        })
    }
}

/// The first place from `at` on where a text can be cut.
fn boundary(text: &str, at: usize) -> usize {
    (at..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len())
}

/// At most `max` bytes of a text: whole lines if at least one fits, whole characters otherwise.
#[must_use]
pub fn beginning(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let fits = (0..=max).rev().find(|at| text.is_char_boundary(*at));
    let text = &text[..fits.unwrap_or(0)];
    text.rfind('\n').map_or(text, |end| &text[..=end])
}

/// A text without the characters that would command a terminal, as long in bytes as it was: offsets stay true.
#[must_use]
pub fn clean(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' => c,
        c if c.is_control() && c.len_utf8() == 1 => '?',
        c if c.is_control() => '\u{b7}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// What a piece adds to a log that is held up to `end`: how many bytes are missing between them, and the new part of its
/// text. None when it adds nothing, or cannot be cut where what is held ends.
#[must_use]
pub fn news(end: u64, piece: &Piece) -> Option<(u64, &str)> {
    let missing = piece.offset.saturating_sub(end);
    let known = usize::try_from(end.saturating_sub(piece.offset)).ok()?;
    let text = piece.text.get(known..).filter(|text| !text.is_empty())?;
    Some((missing, text))
}

/// The parts of `new` that are not covered by what is `held`: in order of their beginnings, the held ones too. In bytes.
#[must_use]
pub fn uncovered(held: &[Range<u64>], new: Range<u64>) -> Vec<Range<u64>> {
    let (mut parts, mut at) = (Vec::new(), new.start);
    for range in held {
        if at >= new.end || range.start >= new.end {
            break;
        }
        if range.start > at {
            parts.push(at..range.start);
        }
        at = at.max(range.end);
    }
    if at < new.end {
        parts.push(at..new.end);
    }
    parts
}

/// Up to where a log is held without a gap from `start` on; `start` itself if nothing is held there.
#[must_use]
pub fn covered_to(held: &[Range<u64>], start: u64) -> u64 {
    held.iter().fold(
        start,
        |at, range| {
            if range.start <= at { at.max(range.end) } else { at }
        },
    )
}

/// What an edge has of a job's log and has sent of it, as its hello tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTold {
    /// The job.
    pub job: JobId,
    /// Where what the edge holds begins, in bytes.
    pub start: u64,
    /// Up to where it has sent it, in bytes.
    pub sent: u64,
}

/// Up to where the control plane holds a job's log without a gap that its edge could fill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHeld {
    /// The job.
    pub job: JobId,
    /// The end, in bytes.
    pub end: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(offset: u64, text: &str) -> Piece {
        Piece {
            offset,
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_newest_lines_stay_and_offsets_stay_true() {
        let mut tail = Tail::new(10);
        tail.push("one\ntwo\n");
        assert_eq!(tail.after(0, 100), Some(piece(0, "one\ntwo\n")));
        tail.push("three\n");
        assert_eq!((tail.start(), tail.end()), (4, 14), "a whole line fell out");
        assert_eq!(tail.after(0, 100), Some(piece(4, "two\nthree\n")));
        assert_eq!(tail.after(0, 6), Some(piece(4, "two\n")), "in whole lines");
        assert_eq!(tail.after(8, 3), Some(piece(8, "thr")), "a line that is too long");
        assert_eq!(tail.after(14, 100), None);
        tail.push("a line of more than all\n");
        assert_eq!(
            tail.after(0, 100),
            Some(piece(28, " than all\n")),
            "of a long line its end"
        );
    }

    #[test]
    fn what_a_piece_adds_by_table() {
        let cases = [
            (0, piece(0, "ab"), Some((0, "ab")), "the first"),
            (2, piece(2, "cd"), Some((0, "cd")), "the next"),
            (2, piece(0, "ab"), None, "a repeat"),
            (2, piece(1, "bcd"), Some((0, "cd")), "an overlap"),
            (2, piece(5, "fg"), Some((3, "fg")), "a gap"),
            (1, piece(0, "é!"), None, "cut within a character"),
            (9, piece(0, ""), None, "nothing"),
        ];
        for (end, piece, expected, why) in cases {
            assert_eq!(news(end, &piece), expected, "{why}");
        }
    }

    #[test]
    fn a_terminal_is_not_commanded_and_no_byte_is_lost() {
        let text = "ok\t\u{1b}[31mred\u{9b}2J\0\r\n中";
        let clean = clean(text);
        assert_eq!(clean, "ok\t?[31mred\u{b7}2J??\n中");
        assert_eq!(clean.len(), text.len());
    }

    proptest! {
        #[test]
        fn what_is_held_and_what_is_not_cover_all(
            mut held in prop::collection::vec((0_u64..60, 0_u64..9), 0..9), start in 0_u64..60, len in 0_u64..30,
        ) {
            held.sort_unstable();
            let held: Vec<Range<u64>> = held.into_iter().map(|(at, len)| at..at + len).collect();
            let parts = uncovered(&held, start..start + len);
            for byte in 0..100 {
                let is_held = held.iter().any(|range| range.contains(&byte));
                let is_new = (start..start + len).contains(&byte);
                let is_part = parts.iter().filter(|range| range.contains(&byte)).count();
                prop_assert_eq!(is_part, usize::from(is_new && !is_held));
            }
            let end = covered_to(&held, start);
            prop_assert!((start..end).all(|byte| held.iter().any(|range| range.contains(&byte))));
            prop_assert!(!held.iter().any(|range| range.contains(&end)));
        }

        #[test]
        fn pieces_put_together_are_the_log(
            lines in prop::collection::vec("[a-z中é]{0,9}\n?", 0..40), limit in 32_usize..64, max in 4_usize..32,
        ) {
            let mut tail = Tail::new(limit);
            let (mut all, mut got, mut at) = (String::new(), String::new(), 0);
            for line in &lines {
                all.push_str(line);
                tail.push(line);
                prop_assert!(tail.len() <= limit && tail.end() == all.len() as u64);
                while let Some(piece) = tail.after(at, max) {
                    prop_assert!(piece.text.len() <= max);
                    prop_assert_eq!(piece.offset, at, "nothing is lost to one who keeps up");
                    got.push_str(&piece.text);
                    at = piece.end();
                }
            }
            prop_assert_eq!(got, all);
        }
    }
}
