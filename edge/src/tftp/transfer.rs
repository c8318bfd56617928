//! One transfer as a state machine: bytes and time-outs in, packets out. Pure.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use super::packet;

/// The largest block, in bytes: what fits an Ethernet frame.
const MAX_BLOCK: usize = 1468;
/// The largest window, in blocks.
const MAX_WINDOW: u16 = 64;
/// How often a window is sent again without progress.
const MAX_TRIES: u32 = 6;
/// The longest timeout a client may ask for, in seconds: a dead client must not hold a transfer for minutes.
const MAX_TIMEOUT: u64 = 10;

/// How a transfer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send these and wait.
    Send(Vec<Vec<u8>>),
    /// Nothing to send; wait on.
    Wait,
    /// The whole file has come.
    Done,
    /// It ended otherwise.
    Ended(&'static str),
}

/// A transfer of one file to one client.
#[derive(Debug)]
pub struct Transfer {
    file: Bytes,
    block_bytes: usize,
    window: u64,
    timeout: Duration,
    options: Vec<(&'static str, String)>,
    /// The first block that is not acknowledged, counted from 1 without wrapping; 0 while the options are not.
    unacknowledged: u64,
    tries: u32,
    /// Whether the current window was sent again because its first block was missing.
    rewound: bool,
}

impl Transfer {
    /// A transfer as the client's options want it, within our limits.
    #[must_use]
    pub fn new(file: Bytes, asked: &BTreeMap<String, String>) -> Self {
        let number = |name: &str| asked.get(name).and_then(|value| value.parse::<u64>().ok());
        let mut options = Vec::new();
        let mut block_bytes = 512;
        if let Some(wanted) = number("blksize").filter(|n| *n >= 8) {
            block_bytes = usize::try_from(wanted).unwrap_or(MAX_BLOCK).min(MAX_BLOCK);
            options.push(("blksize", block_bytes.to_string()));
        }
        let mut window = 1;
        if let Some(wanted) = number("windowsize").filter(|n| *n >= 1) {
            window = wanted.min(MAX_WINDOW.into());
            options.push(("windowsize", window.to_string()));
        }
        let mut timeout = Duration::from_secs(1);
        if let Some(wanted) = number("timeout").filter(|n| (1..=MAX_TIMEOUT).contains(n)) {
            timeout = Duration::from_secs(wanted);
            options.push(("timeout", wanted.to_string()));
        }
        if asked.contains_key("tsize") {
            options.push(("tsize", file.len().to_string()));
        }
        let unacknowledged = u64::from(options.is_empty());
        Self {
            file,
            block_bytes,
            window,
            timeout,
            options,
            unacknowledged,
            tries: 0,
            rewound: false,
        }
    }

    /// How long to wait for an answer.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The first packets.
    #[must_use]
    pub fn begin(&self) -> Vec<Vec<u8>> {
        if self.unacknowledged == 0 {
            vec![packet::option_ack(&self.options)]
        } else {
            self.current_window()
        }
    }

    /// Whether the client has taken nothing of the file yet. Boot ROMs ask for the size first and then give up.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.unacknowledged <= 1
    }

    /// Nothing came in time.
    pub fn timed_out(&mut self) -> Step {
        self.tries += 1;
        self.rewound = false;
        if self.tries >= MAX_TRIES {
            Step::Ended("no answer")
        } else {
            Step::Send(self.begin())
        }
    }

    /// The client acknowledged everything up to a block, counted modulo 65536.
    pub fn acknowledged(&mut self, block: u16) -> Step {
        if self.unacknowledged == 0 {
            if block != 0 {
                return Step::Wait;
            }
            self.unacknowledged = 1;
            return self.next_window();
        }
        // How far this goes beyond the last acknowledged block; a repeat or an old one gives a huge number.
        let last = self.unacknowledged - 1;
        let ahead = u64::from(block.wrapping_sub(last as u16));
        if ahead > self.window || last + ahead > self.blocks() {
            return Step::Wait;
        }
        if ahead == 0 {
            return self.rewind();
        }
        self.unacknowledged += ahead;
        if self.unacknowledged > self.blocks() {
            Step::Done
        } else {
            self.next_window()
        }
    }

    /// The last acknowledgement again. RFC 1123, 4.2.3.1: without a window it is not answered, or every later packet is
    /// sent twice. RFC 7440, 4: with one it says that the window's first block was lost, so the window is sent again;
    /// but once only, since a client says so for each packet that came after the lost one.
    fn rewind(&mut self) -> Step {
        if self.window == 1 || self.rewound {
            return Step::Wait;
        }
        self.rewound = true;
        Step::Send(self.current_window())
    }

    fn next_window(&mut self) -> Step {
        self.tries = 0;
        self.rewound = false;
        Step::Send(self.current_window())
    }

    fn current_window(&self) -> Vec<Vec<u8>> {
        let end = self.blocks().min(self.unacknowledged + self.window - 1);
        (self.unacknowledged..=end)
            .map(|block| packet::data(block as u16, self.block(block)))
            .collect()
    }

    /// Blocks in all: the last one is shorter than the others, so a file of whole blocks ends with an empty one.
    fn blocks(&self) -> u64 {
        (self.file.len() / self.block_bytes) as u64 + 1
    }

    fn block(&self, block: u64) -> &[u8] {
        let start = usize::try_from(block - 1)
            .unwrap_or(usize::MAX)
            .saturating_mul(self.block_bytes);
        let start = start.min(self.file.len());
        &self.file[start..(start + self.block_bytes).min(self.file.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// A client over a perfect wire, which loses every `lose`-th packet; gives back the file and the packets sent.
    fn fetch(file: &Bytes, asked: &BTreeMap<String, String>, lose: Option<usize>) -> (Vec<u8>, usize) {
        let mut transfer = Transfer::new(file.clone(), asked);
        let (mut got, mut next, mut sent) = (Vec::new(), 1_u16, 0);
        let mut step = Step::Send(transfer.begin());
        loop {
            let mut ack = None;
            match step {
                Step::Send(packets) => {
                    for packet in packets {
                        sent += 1;
                        if lose.is_some_and(|n| sent % n == 0) {
                            continue;
                        }
                        if packet[1] == 6 {
                            ack = Some(0);
                        } else if packet[2..4] == next.to_be_bytes() {
                            got.extend_from_slice(&packet[4..]);
                            ack = Some(next);
                            next = next.wrapping_add(1);
                        }
                    }
                }
                Step::Wait => {}
                Step::Done => return (got, sent),
                Step::Ended(why) => panic!("{why} after {sent} packets"),
            }
            step = match ack {
                Some(block) => transfer.acknowledged(block),
                None => transfer.timed_out(),
            };
        }
    }

    #[test]
    fn every_size_and_window_arrives_whole() {
        for len in [0, 1, 511, 512, 513, 100_000] {
            let file = Bytes::from((0..len).map(|i| i as u8).collect::<Vec<_>>());
            for asked in [
                options(&[]),
                options(&[("blksize", "1468"), ("tsize", "0")]),
                options(&[("blksize", "99999"), ("windowsize", "16")]),
            ] {
                for lose in [None, Some(3), Some(7)] {
                    assert!(fetch(&file, &asked, lose).0 == file, "{len} {asked:?} {lose:?}");
                }
            }
        }
    }

    #[test]
    fn block_numbers_wrap() {
        let file = Bytes::from(vec![7; 8 * 70_000]);
        assert_eq!(
            fetch(&file, &options(&[("blksize", "8"), ("windowsize", "64")]), None)
                .0
                .len(),
            file.len()
        );
    }

    #[test]
    fn silence_ends_a_transfer_and_a_repeated_ack_is_not_answered() {
        let mut transfer = Transfer::new(Bytes::from_static(&[0; 5000]), &options(&[]));
        assert!(matches!(transfer.acknowledged(1), Step::Send(_)));
        assert_eq!(transfer.acknowledged(1), Step::Wait, "no Sorcerer's Apprentice");
        assert_eq!(
            transfer.acknowledged(9),
            Step::Wait,
            "an ACK of what was never sent"
        );
        let ends = (0..MAX_TRIES).map(|_| transfer.timed_out()).last();
        assert_eq!(ends, Some(Step::Ended("no answer")));
    }

    #[test]
    fn a_window_whose_first_block_was_lost_is_sent_again_once() {
        let asked = options(&[("windowsize", "4")]);
        let mut transfer = Transfer::new(Bytes::from_static(&[0; 5000]), &asked);
        let first = transfer.acknowledged(0);
        assert_eq!(transfer.acknowledged(0), first, "block 1 was lost");
        assert_eq!(
            transfer.acknowledged(0),
            Step::Wait,
            "said again for blocks 3 and 4"
        );
        let ends = (0..MAX_TRIES)
            .map(|_| (transfer.acknowledged(0), transfer.timed_out()).1)
            .last();
        assert_eq!(
            ends,
            Some(Step::Ended("no answer")),
            "an ACK that brings nothing on is no progress"
        );
        assert!(transfer.is_untouched());
    }

    #[test]
    fn what_a_client_asks_for_is_kept_within_limits() {
        for (asked, granted) in [
            (("blksize", "7"), None),
            (("blksize", "8"), Some("8")),
            (("blksize", "65464"), Some("1468")),
            (("windowsize", "0"), None),
            (("windowsize", "65535"), Some("64")),
            (("timeout", "2"), Some("2")),
            (("timeout", "255"), None),
            (("tsize", "0"), Some("5000")),
            (("blksize", "many"), None),
            (("colour", "red"), None),
        ] {
            let transfer = Transfer::new(Bytes::from_static(&[0; 5000]), &options(&[asked]));
            let expected = match granted {
                Some(value) => packet::option_ack(&[(asked.0, value.to_owned())]),
                None => packet::data(1, &[0; 512]),
            };
            assert_eq!(transfer.begin(), [expected], "{asked:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_schedule_of_acks_makes_it_panic_or_run_for_ever(
            acks in proptest::collection::vec(proptest::option::of(0..80_u16), 0..400),
            window in 1..70_u16,
        ) {
            let asked = options(&[("windowsize", &window.to_string()), ("blksize", "100")]);
            let mut transfer = Transfer::new(Bytes::from_static(&[0; 5000]), &asked);
            let mut in_vain = 0;
            for ack in acks {
                let step = match ack {
                    Some(block) => transfer.acknowledged(block),
                    None => transfer.timed_out(),
                };
                match step {
                    Step::Send(packets) => proptest::prop_assert!(packets.len() <= 64 && packets.iter().all(|p| p.len() <= 104)),
                    Step::Wait => {}
                    Step::Done | Step::Ended(_) => break,
                }
                in_vain = if ack.is_some() { 0 } else { in_vain + 1 };
                proptest::prop_assert!(in_vain <= MAX_TRIES);
            }
        }
    }
}
