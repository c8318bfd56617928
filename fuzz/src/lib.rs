//! Hostile bytes for tests: what somebody sent, changed here and there, over and over. A short run is part of every test run; one of
//! `SLIPWAY_FUZZ_SECONDS` is a long one (`make fuzz`). The same bytes come every time.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// Executions of a short run.
const SHORT: u64 = 20_000;
/// After so many executions memory is what it is; from then on it must stay so.
const SETTLED: u64 = 2_000;
/// By how much memory may grow after that, in KiB: allocators keep some.
const GROWTH_KIB: u64 = 64 * 1024;
/// The longest input that is made, in bytes.
const LONGEST: usize = 16 * 1024;
/// Numbers at whose edges parsers err.
const EDGES: [u64; 10] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    u64::MAX,
];

/// Feeds what becomes of `seeds` to `take`, with `words` of its language strewn in; panics with the input that made `take` panic, or
/// when memory grows. Returns how often it was fed.
///
/// # Panics
/// When `take` does, and when there is no seed.
pub fn fuzz(name: &str, seeds: &[Vec<u8>], words: &[&[u8]], mut take: impl FnMut(&[u8])) -> u64 {
    assert!(!seeds.is_empty(), "{name}: nothing to begin with");
    let seconds: Option<u64> = std::env::var("SLIPWAY_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let (began, mut dice) = (Instant::now(), StdRng::seed_from_u64(14));
    let is_over = |done: u64| match seconds {
        Some(seconds) => done.is_multiple_of(64) && began.elapsed() >= Duration::from_secs(seconds),
        None => done >= SHORT,
    };
    let (mut done, mut settled) = (0, 0);
    // The seeds themselves come first, so that a run of any length has them.
    for seed in seeds {
        feed(name, seed, &mut take);
    }
    while !is_over(done) {
        let input = changed(seeds, words, &mut dice);
        feed(name, &input, &mut take);
        done += 1;
        if done == SETTLED {
            settled = rss_kib();
        }
    }
    let now = rss_kib();
    println!(
        "fuzz {name}: {done} executions in {:.1} s, 0 panics, {settled} KiB then {now} KiB",
        began.elapsed().as_secs_f64()
    );
    assert!(
        settled == 0 || now <= settled + GROWTH_KIB,
        "{name}: memory grew from {settled} KiB to {now} KiB in {done} executions"
    );
    done
}

fn feed(name: &str, input: &[u8], take: &mut impl FnMut(&[u8])) {
    let fed = catch_unwind(AssertUnwindSafe(|| take(input)));
    assert!(
        fed.is_ok(),
        "{name}: this input makes it panic: {}",
        hex::encode(input)
    );
}

/// A seed with up to eight changes.
fn changed(seeds: &[Vec<u8>], words: &[&[u8]], dice: &mut StdRng) -> Vec<u8> {
    let mut bytes = seeds[dice.random_range(0..seeds.len())].clone();
    for _ in 0..dice.random_range(1..=8) {
        change(&mut bytes, (seeds, words), dice);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(bytes: &mut Vec<u8>, (seeds, words): (&[Vec<u8>], &[&[u8]]), dice: &mut StdRng) {
    let at = dice.random_range(0..=bytes.len());
    let end = dice.random_range(at..=bytes.len().min(at + 64));
    match dice.random_range(0..10) {
        0 | 1 if at < bytes.len() => bytes[at] = dice.random(),
        2 if at < bytes.len() => bytes[at] ^= 1 << dice.random_range(0..8),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            // The same again, up to many times: depth and length.
            let piece = bytes[at..end].to_vec();
            let times = 1 << dice.random_range(0..8);
            let room = LONGEST.saturating_sub(bytes.len()) / piece.len().max(1);
            let more = piece.repeat(room.min(times));
            bytes.splice(at..at, more);
        }
        6 => {
            let edge = EDGES[dice.random_range(0..EDGES.len())].to_be_bytes();
            let width = 1 << dice.random_range(0..4);
            let end = bytes.len().min(at + width);
            bytes.splice(at..end, edge[8 - width..].iter().copied());
        }
        7 => {
            let other = &seeds[dice.random_range(0..seeds.len())];
            let from = dice.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        8 if !words.is_empty() => {
            let word = words[dice.random_range(0..words.len())];
            bytes.splice(at..at, word.iter().copied());
        }
        _ => bytes.insert(at, dice.random()),
    }
}

/// Memory of this process, in KiB; 0 where the system does not tell.
fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_it_panic_is_told() {
        let seeds = [b"begin".to_vec()];
        let found = catch_unwind(|| {
            fuzz("test", &seeds, &[b"boom"], |bytes| {
                assert!(!bytes.windows(4).any(|four| four == b"boom"));
            })
        });
        assert!(found.is_err(), "a word is strewn in soon");
    }

    #[test]
    fn a_parser_that_holds_is_fed_as_often_as_was_said() {
        let mut fed = 0_u64;
        let done = fuzz("test", &[vec![1, 2, 3]], &[], |_| fed += 1);
        assert_eq!((done, fed), (SHORT, SHORT + 1));
    }
}
