//! Sightings, thinned: whoever is on the provisioning network can make any number of them, in any machine's name. Of each port and
//! kind one passes at once, and then the newest of each interval; the rest is counted. Pure; the time is an argument.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use slipway_protocol::ids::MacAddr;

use crate::dhcp::server::Sighting;

/// How often sightings of one kind pass for one port.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// The most ports and kinds that are told apart; of more nothing passes until there is room.
pub const MOST: usize = 20_000;
/// How many of these are of ports that no order knows, at most: whoever makes ports up hides no machine of the site's.
pub const MOST_UNKNOWN: usize = MOST / 2;

type Key = (MacAddr, String);

#[derive(Debug)]
struct Seen {
    next_at: Instant,
    unknown: bool,
    /// The newest that has not passed, and how many have not.
    waiting: Option<(Sighting, u32)>,
}

/// What was seen lately.
#[derive(Debug, Default)]
pub struct Thinned {
    seen: HashMap<Key, Seen>,
    due: BTreeSet<(Instant, Key)>,
    /// How many of them are of ports that no order knows.
    unknown: usize,
}

impl Thinned {
    /// A sighting; given back if it passes now.
    pub fn take(&mut self, sighting: Sighting, now: Instant) -> Option<Sighting> {
        let key = (sighting.mac, sighting.event.code.clone());
        if let Some(seen) = self.seen.get_mut(&key) {
            let skipped = seen.waiting.take().map_or(0, |(_, skipped)| skipped);
            seen.waiting = Some((sighting, skipped.saturating_add(1)));
            return None;
        }
        if self.seen.len() >= MOST || (sighting.unknown && self.unknown >= MOST_UNKNOWN) {
            return None;
        }
        self.wait(key, sighting.unknown, now);
        Some(sighting)
    }

    fn wait(&mut self, key: Key, unknown: bool, now: Instant) {
        self.unknown += usize::from(unknown);
        let next_at = now + INTERVAL;
        self.due.insert((next_at, key.clone()));
        let waiting = None;
        let seen = Seen {
            next_at,
            waiting,
            unknown,
        };
        self.seen.insert(key, seen);
    }

    /// What passes by now: the newest of each port and kind whose interval is over. It says how many more there were.
    pub fn due(&mut self, now: Instant) -> Vec<Sighting> {
        let mut passing = Vec::new();
        while let Some((at, key)) = self.due.first().cloned().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, key.clone()));
            let Some(seen) = self.seen.remove(&key).filter(|seen| seen.next_at == at) else {
                continue;
            };
            self.unknown -= usize::from(seen.unknown);
            let Some((mut sighting, skipped)) = seen.waiting else {
                continue;
            };
            if skipped > 1 {
                sighting.event.text = format!("{} ({skipped} times)", sighting.event.text);
            }
            let unknown = sighting.unknown;
            passing.push(sighting);
            self.wait(key, unknown, now);
        }
        passing
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use slipway_protocol::report::{EventSource, TimelineEvent};

    use super::*;

    fn sighting(n: u32, code: &str, text: &str) -> Sighting {
        let [a, b, c, d] = n.to_be_bytes();
        Sighting {
            mac: MacAddr([2, 0, a, b, c, d]),
            address: std::net::Ipv4Addr::new(192, 0, 2, 9),
            unknown: false,
            event: TimelineEvent {
                at: DateTime::UNIX_EPOCH,
                source: EventSource::Http,
                code: code.to_owned(),
                text: text.to_owned(),
            },
            system: false,
        }
    }

    #[test]
    fn of_a_flood_the_first_and_the_newest_pass() {
        let mut thinned = Thinned::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert!(thinned.take(sighting(1, "script", "0"), start).is_some());
        for n in 1..=1000_u64 {
            assert!(
                thinned
                    .take(sighting(1, "script", &n.to_string()), at(n))
                    .is_none()
            );
        }
        assert!(
            thinned
                .take(sighting(1, "overlay", "other kind"), at(1000))
                .is_some()
        );
        assert!(
            thinned
                .take(sighting(2, "script", "other port"), at(1000))
                .is_some()
        );
        assert!(thinned.due(at(4999)).is_empty());
        let passed = thinned.due(at(5000));
        let texts: Vec<&str> = passed.iter().map(|s| s.event.text.as_str()).collect();
        assert_eq!(texts, ["1000 (1000 times)"]);
        assert!(thinned.due(at(9999)).is_empty());
        assert!(
            thinned.due(at(20_000)).is_empty(),
            "nothing was held back meanwhile"
        );
        assert!(thinned.take(sighting(1, "script", "later"), at(20_000)).is_some());
    }

    #[test]
    fn ports_made_up_without_end_take_bounded_room() {
        let mut thinned = Thinned::default();
        let start = Instant::now();
        let passed = (0..50_000).filter(|n| thinned.take(sighting(*n, "offer", ""), start).is_some());
        assert_eq!(passed.count(), MOST);
        assert_eq!((thinned.seen.len(), thinned.due.len()), (MOST, MOST));
        let mut thinned = Thinned::default();
        let made_up = |n| Sighting {
            unknown: true,
            ..sighting(n, "offer", "")
        };
        let passed = (0..50_000).filter(|n| thinned.take(made_up(*n), start).is_some());
        assert_eq!(passed.count(), MOST_UNKNOWN);
        assert!(
            thinned.take(sighting(60_000, "offer", ""), start).is_some(),
            "a machine of the site's is seen all the same"
        );
        assert!(thinned.due(start + INTERVAL).is_empty());
        assert!(thinned.seen.is_empty() && thinned.due.is_empty());
        assert!(thinned.take(sighting(7, "offer", ""), start + INTERVAL).is_some());
    }
}
