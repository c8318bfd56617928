//! What the body of a message may hold: sizes, counts, numbers and times that its types alone do not bound. The one
//! verification ([`crate::keys::KeyRing::open`]) checks it, so no receiver meets a number that it cannot calculate with, a time
//! that no clock shows, or a list that fills its memory. The limits lie far above what honest senders need, and far below
//! what a packet may hold.

use chrono::{DateTime, TimeDelta, Utc};
use serde::de::DeserializeOwned;

use crate::{
    image::ImageNotice,
    inventory::{Disk, Inventory},
    lease::{Lease, LocalUse},
    log::{LogHeld, LogTold, MAX_CHUNK_BYTES, MAX_TOLD},
    order::Order,
    report::{
        AgentHello, AgentReport, Failure, HardwareFault, LogChunk, MAX_EVENTS, MAX_HARDWARE_FAULTS,
        MAX_LOCAL_USES, MachineSeen, Outcome, Presence, Release, Report, StepReport, TimelineEvent,
    },
    site::{EdgeStanding, JoinAnswer, RenewAnswer, RenewRequest, SiteConfig},
    sync::{Held, Hello, SyncRequest},
};

/// The largest inventory, in bytes of its JSON: some 150 disks and as many ports.
pub const MAX_INVENTORY_BYTES: usize = 64 * 1024;
/// The longest text for people, in bytes: a failure that lists a hundred disks fits.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;
/// The longest text of one timeline event or hardware fault, in bytes.
pub const MAX_EVENT_TEXT_BYTES: usize = 2 * 1024;
/// The longest code, version, id or name, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// The most steps of an order, and so of a report.
pub const MAX_STEPS: usize = 256;
/// The most documents that a hello lists or a request names.
pub const MAX_LISTED: usize = 65_536;
/// No count of bytes and no revision is higher: programs in JavaScript count exactly up to here.
pub const MAX_COUNT: u64 = 1 << 53;

/// How far the clock of a site may be ahead of the control plane's. Reports that are numbered by a clock further ahead would
/// keep out what the site says once its clock is right.
pub const MAX_CLOCK_AHEAD: TimeDelta = TimeDelta::days(7);

/// The highest revision by the clock (milliseconds since 1970) that is taken at `now`.
#[must_use]
pub fn latest_revision(now: DateTime<Utc>) -> u64 {
    let latest = now
        .timestamp_millis()
        .saturating_add(MAX_CLOCK_AHEAD.num_milliseconds());
    latest.max(0).cast_unsigned()
}

/// The revision of a report that follows one of revision `held`: the time in milliseconds, made to grow. If the clock was so
/// far ahead when `held` was given out that nobody can have taken it, it is left behind: what follows is as high as can be
/// taken now, less an hour for the difference of two clocks.
#[must_use]
pub fn next_report_revision(held: u64, now: DateTime<Utc>) -> u64 {
    let by_clock = now.timestamp_millis().max(0).cast_unsigned();
    if held >= latest_revision(now) {
        return latest_revision(now - TimeDelta::hours(1));
    }
    by_clock.max(held + 1)
}

/// A body holds more than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is longer, larger or later than it may be")]
pub struct Excess(pub &'static str);

/// A body that [`KeyRing::open`](crate::keys::KeyRing::open) can give back.
pub trait Body: DeserializeOwned {
    /// The largest body, in bytes of its JSON; it is not even parsed if it is larger.
    const MAX_BYTES: usize;

    /// Checks what the type alone does not bound.
    ///
    /// # Errors
    /// The first field that holds too much.
    fn check(&self) -> Result<(), Excess>;
}

/// Whether a clock of this product may show this time: in the years 1970 to 9999, where every sum of a time and a period of
/// ours, and its text (RFC 3339), is defined.
#[must_use]
pub fn is_plausible(at: DateTime<Utc>) -> bool {
    (0..253_402_300_800).contains(&at.timestamp())
}

/// A text of at most `max` bytes, cut between two characters.
#[must_use]
pub fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

fn time(field: &'static str, at: impl IntoIterator<Item = DateTime<Utc>>) -> Result<(), Excess> {
    let all = at.into_iter().all(is_plausible);
    all.then_some(()).ok_or(Excess(field))
}

fn at_most(field: &'static str, len: usize, max: usize) -> Result<(), Excess> {
    (len <= max).then_some(()).ok_or(Excess(field))
}

fn count(field: &'static str, number: u64) -> Result<(), Excess> {
    (number < MAX_COUNT).then_some(()).ok_or(Excess(field))
}

fn name(field: &'static str, text: &str) -> Result<(), Excess> {
    at_most(field, text.len(), MAX_NAME_BYTES)
}

fn failure(failure: &Failure) -> Result<(), Excess> {
    name("failure.code", &failure.code)?;
    at_most("failure.message", failure.message.len(), MAX_TEXT_BYTES)
}

fn outcome(of: &Outcome) -> Result<(), Excess> {
    match of {
        Outcome::Running => Ok(()),
        Outcome::Done { at } => time("outcome.at", [*at]),
        Outcome::Failed { at, failure: why, .. } => {
            time("outcome.at", [*at])?;
            failure(why)
        }
    }
}

fn steps(steps: &[StepReport]) -> Result<(), Excess> {
    at_most("steps", steps.len(), MAX_STEPS)?;
    for step in steps {
        let times = [step.started_at, step.progressed_at, step.finished_at];
        time("steps.times", times.into_iter().flatten())?;
        if let Some(progress) = step.progress {
            count("steps.progress.done_bytes", progress.done_bytes)?;
            count("steps.progress.total_bytes", progress.total_bytes)?;
        }
        step.failure.as_ref().map_or(Ok(()), failure)?;
    }
    Ok(())
}

fn event(event: &TimelineEvent) -> Result<(), Excess> {
    time("events.at", [event.at])?;
    name("events.code", &event.code)?;
    at_most("events.text", event.text.len(), MAX_EVENT_TEXT_BYTES)
}

fn hardware_fault(fault: &HardwareFault) -> Result<(), Excess> {
    time("hardware_faults.seen_at", [fault.seen_at])?;
    name("hardware_faults.kind", &fault.kind)?;
    name("hardware_faults.raw", &fault.raw)?;
    at_most("hardware_faults.text", fault.text.len(), MAX_EVENT_TEXT_BYTES)
}

fn local_use(used: &LocalUse) -> Result<(), Excess> {
    time("local.at", [used.at])?;
    count("local.revision", used.revision)?;
    used.outcome.as_ref().map_or(Ok(()), outcome)
}

fn disk(disk: &Disk) -> Result<(), Excess> {
    count("disk.size_bytes", disk.size_bytes)
}

/// Checks an inventory: its size, and that its numbers can be calculated with.
///
/// # Errors
/// The first field that holds too much.
pub fn inventory(inventory: &Inventory) -> Result<(), Excess> {
    count("inventory.memory_bytes", inventory.memory_bytes)?;
    inventory.disks.iter().try_for_each(disk)?;
    let bytes = serde_json::to_vec(inventory).map_or(usize::MAX, |json| json.len());
    at_most("inventory", bytes, MAX_INVENTORY_BYTES)
}

fn listed(field: &'static str, list: &[Held]) -> Result<(), Excess> {
    at_most(field, list.len(), MAX_LISTED)?;
    list.iter().try_for_each(|held| {
        name("lists.subject", &held.subject)?;
        count("lists.revision", held.revision)
    })
}

impl Body for Report {
    const MAX_BYTES: usize = 2 * 1024 * 1024;

    fn check(&self) -> Result<(), Excess> {
        count("order_revision", self.order_revision)?;
        outcome(&self.outcome)?;
        steps(&self.steps)?;
        self.disk.as_ref().map_or(Ok(()), disk)?;
        self.inventory.as_ref().map_or(Ok(()), inventory)?;
        at_most("events", self.events.len(), MAX_EVENTS)?;
        self.events.iter().try_for_each(event)?;
        at_most("hardware_faults", self.hardware_faults.len(), MAX_HARDWARE_FAULTS)?;
        self.hardware_faults.iter().try_for_each(hardware_fault)?;
        at_most("local", self.local.len(), MAX_LOCAL_USES)?;
        self.local.iter().try_for_each(local_use)?;
        let Some(bmc) = &self.bmc else { return Ok(()) };
        time("bmc.seen_at", [bmc.seen_at])?;
        let texts = [&bmc.firmware, &bmc.security].into_iter().flatten();
        texts.into_iter().try_for_each(|text| name("bmc", text))
    }
}

impl Body for AgentReport {
    const MAX_BYTES: usize = 1024 * 1024;

    fn check(&self) -> Result<(), Excess> {
        count("order_revision", self.order_revision)?;
        steps(&self.steps)?;
        self.disk.as_ref().map_or(Ok(()), disk)
    }
}

impl Body for AgentHello {
    const MAX_BYTES: usize = 128 * 1024;

    fn check(&self) -> Result<(), Excess> {
        name("version", &self.version)?;
        inventory(&self.inventory)
    }
}

impl Body for MachineSeen {
    const MAX_BYTES: usize = 128 * 1024;

    fn check(&self) -> Result<(), Excess> {
        time("at", [self.at])?;
        self.inventory.as_ref().map_or(Ok(()), inventory)
    }
}

impl Body for LogChunk {
    /// A control character takes six bytes of JSON.
    const MAX_BYTES: usize = 8 * MAX_CHUNK_BYTES;

    fn check(&self) -> Result<(), Excess> {
        count("offset", self.offset)?;
        at_most("text", self.text.len(), MAX_CHUNK_BYTES)
    }
}

impl Body for Presence {
    const MAX_BYTES: usize = 1024;

    fn check(&self) -> Result<(), Excess> {
        Ok(())
    }
}

impl Body for Hello {
    const MAX_BYTES: usize = 4 * 1024 * 1024;

    fn check(&self) -> Result<(), Excess> {
        name("version", &self.version)?;
        at_most("actions", self.actions.len(), MAX_STEPS)?;
        self.actions
            .iter()
            .try_for_each(|action| name("actions", action))?;
        if let Some(lists) = &self.lists {
            listed("lists.commands", &lists.commands)?;
            listed("lists.reports", &lists.reports)?;
            listed("lists.leases", &lists.leases)?;
        }
        self.proof.as_ref().map_or(Ok(()), |proof| name("proof", proof))?;
        at_most("logs", self.logs.len(), MAX_TOLD)?;
        self.logs.iter().try_for_each(|LogTold { start, sent, .. }| {
            count("logs.start", *start)?;
            count("logs.sent", *sent)
        })
    }
}

impl Body for RenewRequest {
    const MAX_BYTES: usize = 64 * 1024;

    fn check(&self) -> Result<(), Excess> {
        Ok(())
    }
}

impl Body for SyncRequest {
    const MAX_BYTES: usize = 4 * 1024 * 1024;

    fn check(&self) -> Result<(), Excess> {
        match self {
            Self::Lists | Self::Nothing | Self::StandBy { .. } => Ok(()),
            Self::Prove { challenge, .. } => name("challenge", challenge),
            Self::Reports { subjects } => {
                at_most("subjects", subjects.len(), MAX_LISTED)?;
                subjects.iter().try_for_each(|subject| name("subjects", subject))
            }
            Self::Logs { held } => {
                at_most("held", held.len(), MAX_TOLD)?;
                held.iter()
                    .try_for_each(|LogHeld { end, .. }| count("held.end", *end))
            }
        }
    }
}

impl Body for Release {
    const MAX_BYTES: usize = 4 * 1024 * 1024;

    fn check(&self) -> Result<(), Excess> {
        at_most("run", self.run.len(), MAX_STEPS)?;
        self.disk.as_ref().map_or(Ok(()), disk)
    }
}

impl Body for Order {
    const MAX_BYTES: usize = 4 * 1024 * 1024;

    fn check(&self) -> Result<(), Excess> {
        at_most("steps", self.steps.len(), MAX_STEPS)?;
        time("deadline", [self.deadline])
    }
}

impl Body for Lease {
    const MAX_BYTES: usize = 4 * 1024 * 1024;

    fn check(&self) -> Result<(), Excess> {
        time("until", [self.until])
    }
}

/// Bodies that the control plane signs and whose numbers nobody calculates with before they are checked elsewhere.
macro_rules! bounded_by_size_alone {
    ($($body:ty: $bytes:expr),+ $(,)?) => {$(
        impl Body for $body {
            const MAX_BYTES: usize = $bytes;

            fn check(&self) -> Result<(), Excess> {
                Ok(())
            }
        }
    )+};
}

bounded_by_size_alone! {
    SiteConfig: 4 * 1024 * 1024,
    ImageNotice: 4 * 1024 * 1024,
    JoinAnswer: 256 * 1024,
    RenewAnswer: 256 * 1024,
    EdgeStanding: 4 * 1024,
    // For people who read along; nothing acts on it.
    serde_json::Value: 4 * 1024 * 1024,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn a_report_s_revision_grows_and_comes_back_from_a_clock_that_was_years_ahead() {
        let now = at(0).timestamp_millis().cast_unsigned();
        assert_eq!(next_report_revision(0, at(0)), now);
        assert_eq!(
            next_report_revision(now, at(0)),
            now + 1,
            "two within a millisecond"
        );
        assert_eq!(
            next_report_revision(now + 5_000, at(0)),
            now + 5_001,
            "a clock set back"
        );
        for held in [latest_revision(at(0)), now * 2, u64::MAX] {
            let next = next_report_revision(held, at(0));
            assert!(next > now && next < latest_revision(at(0)), "{held}: {next}");
            assert_eq!(
                next_report_revision(next, at(0)),
                next + 1,
                "and grows from there"
            );
        }
    }

    #[test]
    fn times_that_no_clock_shows_are_told_from_others() {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        for good in [
            "1970-01-01T00:00:00Z",
            "2026-12-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
        ] {
            assert!(is_plausible(time(good)), "{good}");
        }
        for bad in [
            "1969-12-31T23:59:59Z",
            "+10000-01-01T00:00:00Z",
            "+262142-12-31T23:59:59Z",
        ] {
            assert!(!is_plausible(time(bad)), "{bad}");
        }
        assert!(!is_plausible(DateTime::<Utc>::MAX_UTC) && !is_plausible(DateTime::<Utc>::MIN_UTC));
    }

    #[test]
    fn texts_are_cut_between_characters() {
        for (max, expected) in [
            (0, ""),
            (1, "a"),
            (2, "a"),
            (3, "aé"),
            (9, "aé中"),
            (6, "aé中"),
            (5, "aé"),
        ] {
            assert_eq!(cut("aé中", max), expected, "{max}");
        }
    }
}
