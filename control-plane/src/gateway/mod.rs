//! The gateway: documents down, reports up, over MQTT. It sends what the store holds and stores what sites say, each
//! verified; it decides nothing about jobs. All of it may be lost and repeated.

mod admitted;
mod broker;
mod comparison;
mod intake;
mod logs;
pub mod records;
mod wanted;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use slipway_bus::{Event, FAULT, Publish, contained};
use slipway_protocol::{
    ids::{JobId, MachineId, SiteId},
    keys::{Expect, Header, KeyRing, OpenError, Verified},
    limits::{Body, MAX_CLOCK_AHEAD, latest_revision},
    report::{MachineSeen, Presence},
    sync::Document,
    topic::Topic,
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
/// The order that is in force for a machine at a site, sealed as it would go out now: what its edge verifies, for people to
/// look at and for `slipway mqtt verify`.
///
/// # Errors
/// When it cannot be read.
pub async fn sealed_order(
    records: &dyn Records,
    site: &SiteId,
    machine: MachineId,
) -> Result<Option<SealedOrder>, ApiError> {
    let sealed = wanted::order(records, site, machine).await?;
    // Envelopes are JSON.
    Ok(sealed.map(|sealed| SealedOrder {
        topic: sealed.topic.to_string(),
        payload: String::from_utf8_lossy(&sealed.payload).into_owned(),
    }))
}

/// A signed order.
pub struct SealedOrder {
    /// Where it is published.
    pub topic: String,
    /// The envelope: JSON, whose signature is over exactly these bytes.
    pub payload: String,
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
    /// It is the log of a job that is not the site's or not on that machine, or that nobody knows here.
    #[error("job {0} is not one of this site's on this machine, or the chunk is too long")]
    NotItsJob(JobId),
    /// It is about a machine of another site, or of none.
    #[error("{subject} is not one of site {site}'s")]
    NotItsMachine {
        /// Who said it.
        site: SiteId,
        /// The machine or port, as its topic names it.
        subject: String,
    },
    /// It was signed, or is numbered, by a clock that is far ahead of ours: what the site says once its clock is right would be
    /// taken for older.
    #[error(
        "it is numbered {revision} and signed at {issued_at}, more than {} days ahead of the control plane's clock; set the \
         clock of the site's edge",
        MAX_CLOCK_AHEAD.num_days()
    )]
    ClockAhead {
        /// Its revision.
        revision: u64,
        /// When it was signed.
        issued_at: DateTime<Utc>,
    },
    /// No site says anything there.
    #[error("no site says anything on this topic")]
    UnknownTopic,
    /// The store failed; the next comparison of holdings brings it again.
    #[error(transparent)]
    Failed(#[from] ApiError),
}

/// Refuses what a clock has signed or numbered that is far ahead of ours.
fn check_clock(header: &Header, now: DateTime<Utc>) -> Result<(), Refusal> {
    let ahead = header.issued_at > now + MAX_CLOCK_AHEAD || header.revision > latest_revision(now);
    if ahead {
        return Err(Refusal::ClockAhead {
            revision: header.revision,
            issued_at: header.issued_at,
        });
    }
    Ok(())
}

impl Refusal {
    /// What `topic` is about is not its site's.
    fn not_its_machine(topic: &Topic) -> Self {
        Self::NotItsMachine {
            site: topic.site().clone(),
            subject: topic.subject(),
        }
    }

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
            Self::NotItsJob(_) => {
                metrics::message_refused("not_its_job");
                warn!(%topic, reason = %self, "a piece of a log is refused");
            }
            Self::NotItsMachine { .. } => {
                metrics::message_refused("not_its_machine");
                warn!(%topic, reason = %self, "a message about a machine of others is refused");
            }
            Self::ClockAhead { .. } => {
                metrics::message_refused("clock_ahead");
                warn!(%topic, reason = %self, "a message of a site whose clock is far ahead is refused");
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
        let (mut reports, mut logs) = (Vec::new(), Vec::new());
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
                    Ok(Topic::Log(site, machine)) => logs.push(Arrived {
                        site,
                        machine,
                        payload,
                    }),
                    Ok(topic) => {
                        self.take_reports(&mut reports).await;
                        self.take_logs(&mut logs).await;
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
        self.take_logs(&mut logs).await;
    }

    async fn take_logs(&self, logs: &mut Vec<Arrived>) {
        let arrived = std::mem::take(logs);
        Batch::Logs.take_contained(&*self.records, arrived).await;
    }

    async fn take_reports(&self, reports: &mut Vec<Arrived>) {
        let arrived = std::mem::take(reports);
        Batch::Reports.take_contained(&*self.records, arrived).await;
    }

    async fn hear(&mut self, topic: &Topic, payload: &Bytes) {
        match contained(self.take(topic, payload)).await {
            Ok(Ok(kind)) => metrics::message_accepted(kind),
            Ok(Err(refusal)) => refusal.tell(topic),
            Err(fault) => tell_fault(topic.site(), &fault),
        }
    }

    async fn take(&mut self, topic: &Topic, payload: &Bytes) -> Result<&'static str, Refusal> {
        match topic {
            Topic::Hello(site) => {
                let mut hello = self.open_hello(topic, payload).await?;
                if !self.may_work(site, &mut hello).await {
                    return Ok("hello");
                }
                // A store without room to write to keeps no edge from being told what it had done and what it is to do.
                let heard = self.note_heard(site, &hello).await;
                self.compare(site, &hello).await?;
                self.tell_logs(site, &hello).await?;
                heard?;
                Ok("hello")
            }
            Topic::Machine(site, mac) => {
                let seen = self.open::<MachineSeen>(topic, payload).await?;
                check_clock(seen.header(), self.records.now())?;
                if !self.records.seen(site, *mac, seen.into_body()).await? {
                    return Err(Refusal::not_its_machine(topic));
                }
                Ok("machine")
            }
            Topic::Presence(site) => {
                let presence = self.open::<Presence>(topic, payload).await?;
                check_clock(presence.header(), self.records.now())?;
                info!(%site, online = presence.body().online, "presence");
                self.records.heard(site, presence.body().online).await?;
                Ok("presence")
            }
            _ => Err(Refusal::UnknownTopic),
        }
    }

    /// Verifies a message by the key its site joined with.
    async fn open<T: Body>(&self, topic: &Topic, payload: &Bytes) -> Result<Verified<T>, Refusal> {
        self.open_at(topic, payload, self.records.now()).await
    }

    /// The same by another time than ours.
    async fn open_at<T: Body>(
        &self,
        topic: &Topic,
        payload: &Bytes,
        now: DateTime<Utc>,
    ) -> Result<Verified<T>, Refusal> {
        let site = topic.site();
        let keys = self.records.keys(BTreeSet::from([site.clone()])).await?;
        let key = keys.get(site).ok_or_else(|| Refusal::NotJoined(site.clone()))?;
        let expect = Expect { now, held: None };
        Ok(KeyRing::new([*key]).open::<T>(topic, payload, expect)?)
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
}

/// A message whose handling panicked is dropped, counted and told.
fn tell_fault(site: &SiteId, fault: &str) {
    metrics::message_refused(FAULT);
    error!(%site, fault, "a message is dropped: its handling failed by a fault of this program; please report it");
}

/// What messages that arrived together are.
#[derive(Debug, Clone, Copy)]
enum Batch {
    Reports,
    Logs,
}

impl Batch {
    async fn take(self, records: &dyn Records, arrived: Vec<Arrived>) {
        match self {
            Self::Reports => intake::take(records, arrived).await,
            Self::Logs => logs::take(records, arrived).await,
        }
    }

    /// Takes them together. If that panics they are taken one by one, so that only the one to blame is dropped.
    async fn take_contained(self, records: &dyn Records, arrived: Vec<Arrived>) {
        if arrived.is_empty() || contained(self.take(records, arrived.clone())).await.is_ok() {
            return;
        }
        for one in arrived {
            let site = one.site.clone();
            if let Err(fault) = contained(self.take(records, vec![one])).await {
                tell_fault(&site, &fault);
            }
        }
    }
}
