//! The comparison of holdings: what an edge says it holds against what it should, and what is sent or asked for then.
//! It is the one place that mends what was lost on the way; it decides nothing about jobs.

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use slipway_protocol::{
    ids::SiteId,
    keys::{OpenError, Stamp},
    limits::latest_revision,
    sync::{Document, Held, Hello, HelloAnswer, Holdings, SyncRequest, answer_hello},
    topic::{Kind, Topic},
};
use tracing::{error, info, warn};

use super::{Gateway, Refusal};
use crate::{domain::edge_runs::RunStanding, error::chain};

/// How long a sync request stays good.
const SYNC_VALIDITY: TimeDelta = TimeDelta::minutes(5);

/// What an edge said when it came, or says now and then.
pub(super) struct Greeting {
    hello: Hello,
    /// When, by its own clock. What answers it is good from then on by that clock, whatever ours says.
    said_at: DateTime<Utc>,
    /// Whether it is fresh by our clock, too: only then does it say anything about the site as it is now.
    in_time: bool,
    /// Whether another run of this edge may still live: it is not told yet that it may go on.
    in_doubt: bool,
}

/// A hello without what nobody can calculate with: an edge that lists commands of revisions that were never given out is not
/// believed, and reports that are numbered by a clock far ahead are not asked for, since they would be refused. Gives back the
/// machines of those reports, too. Pure.
fn usable(hello: &Hello, latest: u64) -> (Hello, BTreeSet<String>) {
    let mut hello = hello.clone();
    let mut unusable = BTreeSet::new();
    let Some(lists) = &mut hello.lists else {
        return (hello, unusable);
    };
    lists.commands.retain(|held| held.revision <= latest);
    lists.leases.retain(|held| held.revision <= latest);
    for held in lists.reports.iter_mut().filter(|held| held.revision > latest) {
        unusable.insert(held.subject.clone());
        held.revision = latest;
    }
    (hello, unusable)
}

impl Gateway {
    /// Verifies a hello. One that is too old by our clock is heard from an edge that has just started: which of the two
    /// clocks is wrong nobody here knows, and an edge whose disk is older than its deeds must be told of them before it
    /// goes on. A replay of such a hello gains nothing: the answers are good by the clock of the one who said it.
    pub(super) async fn open_hello(&self, topic: &Topic, payload: &Bytes) -> Result<Greeting, Refusal> {
        let now = self.records.now();
        let (hello, in_time) = match self.open_at::<Hello>(topic, payload, now).await {
            Ok(hello) => (hello, true),
            Err(Refusal::Open(expired @ OpenError::Expired { .. })) => {
                let hello = self
                    .open_at::<Hello>(topic, payload, DateTime::<Utc>::MIN_UTC)
                    .await?;
                if !hello.body().starting {
                    return Err(expired.into());
                }
                warn!(
                    site = %topic.site(), theirs = %hello.header().issued_at, ours = %now,
                    "the clock of a site is not ours: its edge has started and is told what it had done, orders will not \
                     reach it until the clocks agree"
                );
                (hello, false)
            }
            Err(refusal) => return Err(refusal),
        };
        let said_at = hello.header().issued_at;
        Ok(Greeting {
            hello: hello.into_body(),
            said_at,
            in_time,
            in_doubt: false,
        })
    }

    /// Whether the run that says hello is the one that works at its site; one that is not, or has to prove that it lives, is told
    /// so, and nothing else.
    pub(super) async fn may_work(&self, site: &SiteId, greeting: &mut Greeting) -> bool {
        let Some(run) = greeting.hello.run else {
            return true;
        };
        match self.records.run_heard(site, &greeting.hello).await {
            Ok(RunStanding::Works { in_doubt }) => {
                greeting.in_doubt = in_doubt;
                true
            }
            Ok(RunStanding::Prove { challenge }) => {
                self.ask(site, greeting.said_at, &SyncRequest::Prove { run, challenge });
                false
            }
            Ok(RunStanding::StandsBy) => {
                warn!(%site, %run, "two boxes have the identity of a site; this one is told to stand by");
                self.ask(site, greeting.said_at, &SyncRequest::StandBy { run });
                false
            }
            // A store without room to write to keeps no edge from its work.
            Err(failure) => {
                error!(%site, error = %chain(&failure), "which run of a site's edge works cannot be kept");
                true
            }
        }
    }

    /// Keeps that a site was heard, and what its edge can do.
    pub(super) async fn note_heard(&self, site: &SiteId, greeting: &Greeting) -> Result<(), Refusal> {
        if greeting.in_time {
            self.records.heard(site, true).await?;
            let takes_leases = greeting.hello.leases.is_some();
            self.records.takes_leases(site, takes_leases).await?;
        }
        Ok(())
    }

    /// Compares what an edge holds with what it should, and sends or asks for the difference; only then anything is written.
    pub(super) async fn compare(&mut self, site: &SiteId, greeting: &Greeting) -> Result<(), Refusal> {
        let Greeting {
            hello,
            said_at,
            in_time,
            in_doubt,
        } = greeting;
        let Some(wanted) = self.library.of_site(&*self.records, site).await? else {
            return Ok(());
        };
        let (hello, unusable) = &usable(hello, latest_revision(self.records.now()));
        match answer_hello(&wanted.holdings(), &self.received(site).await?, hello) {
            HelloAnswer::InSync => {
                if hello.starting && !in_doubt {
                    self.ask(site, *said_at, &SyncRequest::Nothing);
                }
                if *in_time {
                    self.records.confirmed(site, wanted.config()).await?;
                    if hello.leases.is_some() {
                        self.records.holds_leases(site, wanted.leases()).await?;
                    }
                }
            }
            HelloAnswer::AskLists => self.ask(site, *said_at, &SyncRequest::Lists),
            HelloAnswer::Exchange {
                send,
                want_reports,
                tell_reports,
                ahead,
            } => {
                let want_reports: Vec<String> = want_reports
                    .into_iter()
                    .filter(|subject| !unusable.contains(subject))
                    .collect();
                info!(
                    %site, send = send.len(), want = want_reports.len(), tell = tell_reports.len(),
                    ahead = ahead.len(), "holdings differ"
                );
                // An order must not find the edge without what was done of it: it goes out at a later hello.
                self.tell_reports(site, *said_at, &tell_reports).await?;
                let waits = |document: &Document| {
                    document.kind == Kind::Order && tell_reports.contains(&document.subject)
                };
                for document in send.into_iter().filter(|document| !waits(document)) {
                    self.send(site, &document).await;
                }
                if !want_reports.is_empty() {
                    let subjects = want_reports;
                    self.ask(site, *said_at, &SyncRequest::Reports { subjects });
                }
                if *in_time {
                    self.raise(site, ahead).await?;
                }
            }
        }
        Ok(())
    }

    /// The reports that were received of a site.
    async fn received(&self, site: &SiteId) -> Result<Holdings, Refusal> {
        let mut received = Holdings::default();
        for (machine, revision) in self.records.received(site).await? {
            received.hold(Kind::Report, machine, revision);
        }
        Ok(received)
    }

    /// Tells an edge how much arrived of the logs it told of.
    pub(super) async fn tell_logs(&self, site: &SiteId, greeting: &Greeting) -> Result<(), Refusal> {
        if greeting.hello.logs.is_empty() {
            return Ok(());
        }
        let held = self.records.held_logs(site, greeting.hello.logs.clone()).await?;
        if !held.is_empty() {
            self.ask(site, greeting.said_at, &SyncRequest::Logs { held });
        }
        Ok(())
    }

    /// Tells an edge its own reports, good by its own clock.
    async fn tell_reports(
        &mut self,
        site: &SiteId,
        issued_at: DateTime<Utc>,
        subjects: &[String],
    ) -> Result<(), Refusal> {
        for machine in subjects.iter().filter_map(|subject| subject.parse().ok()) {
            let Some((revision, report)) = self.records.report(machine).await? else {
                continue;
            };
            let topic = Topic::ReportBack(site.clone(), machine);
            let stamp = Stamp {
                revision,
                issued_at,
                expires_at: issued_at + SYNC_VALIDITY,
            };
            let payload = self.records.signer(site).seal(&topic, stamp, &report);
            // What does not go out now is told at the edge's next hello.
            let _ = self.client.publish(&topic.to_string(), payload);
        }
        Ok(())
    }

    /// After the restore of an old backup an edge holds revisions that this control plane never gave out: what is in
    /// force is issued anew, above them.
    async fn raise(&mut self, site: &SiteId, ahead: Vec<Held>) -> Result<(), Refusal> {
        if ahead.is_empty() {
            return Ok(());
        }
        self.records.raise(site, ahead).await?;
        self.push(site.as_str()).await;
        Ok(())
    }

    /// Asks an edge for something, by its own clock.
    fn ask<T: Serialize>(&self, site: &SiteId, issued_at: DateTime<Utc>, request: &T) {
        let topic = Topic::Sync(site.clone());
        let revision = issued_at.timestamp_millis().cast_unsigned();
        let stamp = Stamp {
            revision,
            issued_at,
            expires_at: issued_at + SYNC_VALIDITY,
        };
        // The edge says hello again at its next tick.
        let _ = self.client.publish(
            &topic.to_string(),
            self.records.signer(site).seal(&topic, stamp, request),
        );
    }
}
