//! The gateway: documents down, reports up, over MQTT. It sends what the store holds and stores what sites say, each
//! verified; it decides nothing about jobs. All of it may be lost and repeated.

mod admitted;
mod broker;
mod intake;
pub mod records;
mod wanted;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, de::DeserializeOwned};
use slipway_bus::{Event, Publish};
use slipway_protocol::{
    ids::SiteId,
    keys::{Expect, KeyRing, OpenError, Stamp, Verified},
    report::{MachineSeen, Presence},
    sync::{Document, Held, Hello, HelloAnswer, SyncRequest, answer_hello},
    topic::{Kind, Topic},
};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{intake::Arrived, records::Records, wanted::Library};
use crate::{
    error::{ApiError, chain},
    metrics,
};

pub use admitted::Admitted;
pub use broker::connect;
pub use intake::Opened;

/// The most messages that are looked at together: enough that a hundred sites' reports share a transaction, few enough
/// that whoever else writes does not wait for long.
const BATCH: usize = 64;
/// Code of a message on a topic that no site says anything on.
const UNKNOWN_TOPIC: &str = "unknown_topic";
/// How long a sync request stays good.
const SYNC_VALIDITY: TimeDelta = TimeDelta::minutes(5);

/// What an edge said when it came, or says now and then.
struct Greeting {
    hello: Hello,
    /// When, by its own clock. What answers it is good from then on by that clock, whatever ours says.
    said_at: DateTime<Utc>,
    /// Whether it is fresh by our clock, too: only then does it say anything about the site as it is now.
    in_time: bool,
}

/// Why a message was not acted upon.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// It failed its verification.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It is of a site that has not joined.
    #[error("site {0} has no edge that joined")]
    NotJoined(SiteId),
    /// No site says anything there.
    #[error("no site says anything on this topic")]
    UnknownTopic,
    /// The store failed; the next comparison of holdings brings it again.
    #[error(transparent)]
    Failed(#[from] ApiError),
}

impl Refusal {
    /// Counts it and says why.
    fn tell(&self, topic: &Topic) {
        match self {
            Self::Open(reason) => {
                metrics::message_refused(reason.code());
                warn!(%topic, %reason, "a message is refused");
            }
            Self::NotJoined(site) => {
                metrics::message_refused("not_joined");
                warn!(%topic, %site, "a message of a site that has not joined is refused");
            }
            Self::UnknownTopic => {
                metrics::message_refused(UNKNOWN_TOPIC);
                warn!(%topic, "a message on a topic that no site should use is refused");
            }
            Self::Failed(failure) => {
                error!(%topic, error = %chain(failure), "a message could not be stored")
            }
        }
    }
}

/// The gateway's task.
pub struct Gateway {
    records: Arc<dyn Records>,
    client: Arc<dyn Publish>,
    pokes: broadcast::Receiver<String>,
    library: Library,
    /// What was sent to each site in which revision, so that a word about one machine does not send all others again.
    sent: HashMap<(SiteId, Document), u64>,
}

impl Gateway {
    /// A gateway on a connection; `pokes` names sites of which something that they should hold was committed.
    #[must_use]
    pub fn new(
        records: Arc<dyn Records>,
        client: Arc<dyn Publish>,
        pokes: broadcast::Receiver<String>,
    ) -> Self {
        Self {
            records,
            client,
            pokes,
            library: Library::default(),
            sent: HashMap::new(),
        }
    }

    /// Serves until `stop`.
    pub async fn run(mut self, mut events: mpsc::Receiver<Event>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(event) = events.recv() => self.take_batch(event, &mut events).await,
                poke = self.pokes.recv() => match poke {
                    Ok(site) => {
                        let mut sites = BTreeSet::from([site]);
                        sites.extend(std::iter::from_fn(|| self.pokes.try_recv().ok()));
                        self.push_all(sites).await;
                    }
                    // Which words were lost is not known.
                    Err(RecvError::Lagged(_)) => {
                        let sites = self.sent.keys().map(|(site, _)| site.to_string()).collect();
                        self.push_all(sites).await;
                    }
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    /// Takes an event and those that wait behind it, in their order. Reports that follow each other are stored together.
    pub async fn take_batch(&mut self, first: Event, events: &mut mpsc::Receiver<Event>) {
        let mut reports = Vec::new();
        let mut next = Some(first);
        let mut room = BATCH;
        while let Some(event) = next {
            match event {
                Event::Message { topic, payload } => match topic.parse::<Topic>() {
                    Ok(Topic::Report(site, machine)) => reports.push(Arrived {
                        site,
                        machine,
                        payload,
                    }),
                    Ok(topic) => {
                        self.take_reports(&mut reports).await;
                        self.hear(&topic, &payload).await;
                    }
                    Err(_) => {
                        metrics::message_refused(UNKNOWN_TOPIC);
                        warn!(topic, "a message on a topic nobody here knows is refused");
                    }
                },
                Event::Connected => self.sent.clear(),
                Event::Disconnected { reason } => warn!(reason, "no connection to the broker; trying on"),
            }
            room -= 1;
            next = if room > 0 { events.try_recv().ok() } else { None };
        }
        self.take_reports(&mut reports).await;
    }

    async fn take_reports(&self, reports: &mut Vec<Arrived>) {
        if !reports.is_empty() {
            intake::take(&*self.records, std::mem::take(reports)).await;
        }
    }

    async fn hear(&mut self, topic: &Topic, payload: &Bytes) {
        match self.take(topic, payload).await {
            Ok(kind) => metrics::message_accepted(kind),
            Err(refusal) => refusal.tell(topic),
        }
    }

    async fn take(&mut self, topic: &Topic, payload: &Bytes) -> Result<&'static str, Refusal> {
        match topic {
            Topic::Hello(site) => {
                let hello = self.open_hello(topic, payload).await?;
                if hello.in_time {
                    self.records.heard(site, true).await?;
                }
                self.compare(site, &hello).await?;
                Ok("hello")
            }
            Topic::Machine(site, mac) => {
                let seen = self.open::<MachineSeen>(topic, payload).await?.into_body();
                self.records.seen(site, *mac, seen).await?;
                Ok("machine")
            }
            Topic::Presence(site) => {
                let presence = self.open::<Presence>(topic, payload).await?;
                info!(%site, online = presence.body().online, "presence");
                self.records.heard(site, presence.body().online).await?;
                Ok("presence")
            }
            _ => Err(Refusal::UnknownTopic),
        }
    }

    /// Verifies a message by the key its site joined with.
    async fn open<T: DeserializeOwned>(
        &self,
        topic: &Topic,
        payload: &Bytes,
    ) -> Result<Verified<T>, Refusal> {
        self.open_at(topic, payload, self.records.now()).await
    }

    /// The same by another time than ours.
    async fn open_at<T: DeserializeOwned>(
        &self,
        topic: &Topic,
        payload: &Bytes,
        now: DateTime<Utc>,
    ) -> Result<Verified<T>, Refusal> {
        let site = topic.site();
        let keys = self.records.keys(BTreeSet::from([site.clone()])).await?;
        let key = keys.get(site).ok_or_else(|| Refusal::NotJoined(site.clone()))?;
        let expect = Expect {
            now,
            held: None,
        };
        Ok(KeyRing::new([*key]).open::<T>(topic, payload, expect)?)
    }

    /// Verifies a hello. One that is too old by our clock is heard from an edge that has just started: which of the two
    /// clocks is wrong nobody here knows, and an edge whose disk is older than its deeds must be told of them before it
    /// goes on. A replay of such a hello gains nothing: the answers are good by the clock of the one who said it.
    async fn open_hello(&self, topic: &Topic, payload: &Bytes) -> Result<Greeting, Refusal> {
        let now = self.records.now();
        let (hello, in_time) = match self.open_at::<Hello>(topic, payload, now).await {
            Ok(hello) => (hello, true),
            Err(Refusal::Open(expired @ OpenError::Expired { .. })) => {
                let hello = self.open_at::<Hello>(topic, payload, DateTime::<Utc>::MIN_UTC).await?;
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
        })
    }

    /// Compares what an edge holds with what it should, and sends or asks for the difference.
    async fn compare(&mut self, site: &SiteId, greeting: &Greeting) -> Result<(), Refusal> {
        let Greeting { hello, said_at, in_time } = greeting;
        if *in_time {
            self.records.takes_leases(site, hello.leases.is_some()).await?;
        }
        let Some(wanted) = self.library.of_site(&*self.records, site).await? else {
            return Ok(());
        };
        let held = self.records.received(site).await?;
        let mut received = slipway_protocol::sync::Holdings::default();
        for (machine, revision) in held {
            received.hold(Kind::Report, machine, revision);
        }
        match answer_hello(&wanted.holdings(), &received, hello) {
            HelloAnswer::InSync => {
                if *in_time {
                    self.records.confirmed(site, wanted.config()).await?;
                    if hello.leases.is_some() {
                        self.records.holds_leases(site, wanted.leases()).await?;
                    }
                }
                if hello.starting {
                    self.ask(site, *said_at, &SyncRequest::Nothing);
                }
            }
            HelloAnswer::AskLists => self.ask(site, *said_at, &SyncRequest::Lists),
            HelloAnswer::Exchange {
                send,
                want_reports,
                tell_reports,
                ahead,
            } => {
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
                    self.ask(
                        site,
                        *said_at,
                        &SyncRequest::Reports {
                            subjects: want_reports,
                        },
                    );
                }
                if *in_time {
                    self.raise(site, ahead).await?;
                }
            }
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

    /// Sends these sites what they should hold and were not sent yet over this connection.
    pub async fn push_all(&mut self, sites: BTreeSet<String>) {
        for site in sites {
            self.push(&site).await;
        }
    }

    /// Sends a site what it should hold and was not sent yet over this connection.
    async fn push(&mut self, site: &str) {
        let Ok(site) = SiteId::new(site) else { return };
        match self.library.of_site(&*self.records, &site).await {
            Ok(Some(wanted)) => {
                for (document, revision) in wanted.documents() {
                    if self.sent.get(&(site.clone(), document.clone())) < Some(&revision) {
                        self.send(&site, &document).await;
                    }
                }
            }
            Ok(None) => {}
            Err(failure) => error!(%site, error = %chain(&failure), "a site's documents cannot be read"),
        }
    }

    async fn send(&mut self, site: &SiteId, document: &Document) {
        let sealed = match wanted::sealed(&*self.records, site, document).await {
            Ok(Some(sealed)) => sealed,
            Ok(None) => return,
            Err(failure) => {
                let subject = &document.subject;
                error!(%site, subject, error = %chain(&failure), "a document cannot be read");
                return;
            }
        };
        // What does not go out now is found by the edge's next hello.
        if self
            .client
            .publish(&sealed.topic.to_string(), sealed.payload)
            .is_ok()
        {
            self.sent
                .insert((site.clone(), document.clone()), sealed.revision);
        }
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
