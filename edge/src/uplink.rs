//! The link to the control plane: commands down, reports up, and the comparison of what both hold. A command is verified,
//! then on disk, then acted upon. Everything here may be lost and repeated; the next hello finds it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use chrono::TimeDelta;
use serde::Serialize;
use slipway_bus::{Event, FAULT, Publish, contained};
use slipway_protocol::{
    ids::{EdgeRunId, MachineId},
    image::ImageNotice,
    keys::{Expect, OpenError, Stamp},
    report::{MachineSeen, Report},
    site::SiteConfig,
    sync::SyncRequest,
    topic::{Kind, Topic},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    context::Context,
    intake::{self, Heard},
    link::Link,
    metrics,
    retirement::{Reason, Retirement},
    runner::{
        actor::{Input, Runner},
        taking_up::PATIENCE,
    },
    store::StoreError,
};

/// How often holdings are compared without another reason.
const TICK: Duration = Duration::from_secs(30);
/// How often an edge that has just started says hello until it has heard that it holds what it should.
const ASK: Duration = Duration::from_secs(1);
/// Code of a message on a topic that nobody should send an edge anything on.
const UNKNOWN_TOPIC: &str = "unknown_topic";
/// Setting that holds the verifying keys of the last configuration, so that it can be verified again after a restart.
pub const KEYS_SETTING: &str = "verifying_keys";
/// How long a report stays good: a site may be cut off for long.
const REPORT_VALIDITY: TimeDelta = TimeDelta::days(365);
/// How long a hello stays good.
const HELLO_VALIDITY: TimeDelta = TimeDelta::minutes(10);

/// Something to be said to the control plane.
#[derive(Debug)]
pub enum Word {
    /// This machine's report is new.
    Report(MachineId),
    /// An unknown machine was seen.
    Seen(slipway_protocol::ids::MacAddr, Box<MachineSeen>),
}

/// Told of a new configuration.
pub type OnConfig = Box<dyn Fn(&SiteConfig) + Send + Sync>;

/// The link.
pub struct Uplink {
    /// Shared handles.
    pub context: Arc<Context>,
    /// The runner.
    pub runner: Runner,
    /// The connection to the central broker.
    pub central: Arc<dyn Publish>,
    /// This edge's own broker, to which all words are mirrored for people with MQTT tools.
    pub mirror: Arc<dyn Publish>,
    /// Whether the control plane can be reached.
    pub link: Arc<Link>,
    /// Called with each new configuration.
    pub on_config: OnConfig,
    /// Not heard yet since the start whether what is held here is what should be.
    pub starting: AtomicBool,
    /// This run of the process.
    pub run: EdgeRunId,
    /// The last challenge of the control plane for this run.
    pub proof: Mutex<Option<String>>,
    /// Told when another box with this identity works.
    pub retirement: Retirement,
}

impl Uplink {
    /// Serves until `stop` or until the store cannot be written.
    ///
    /// # Errors
    /// When the store fails: the process must end then.
    pub async fn run(
        self,
        mut events: mpsc::Receiver<Event>,
        mut words: mpsc::Receiver<Word>,
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let mut tick = tokio::time::interval(TICK);
        let begun = tokio::time::Instant::now();
        let mut asking = tokio::time::interval(ASK);
        loop {
            tokio::select! {
                // In a fixed order, so that what happened once can be made to happen again. Nobody starves: what is said
                // takes all words that wait, and commands come rarely.
                biased;
                () = stop.cancelled() => return Ok(()),
                _ = tick.tick() => self.say_hello(false),
                _ = asking.tick(), if self.starting.load(Relaxed) => self.ask(begun),
                Some(event) = events.recv() => match event {
                    Event::Connected => {
                        self.link.up();
                        self.say_hello(false);
                    }
                    Event::Disconnected { reason } => {
                        self.link.down((self.context.now)());
                        info!(reason, "no link to the control plane; working on");
                    }
                    Event::Message { topic, payload } => match contained(self.hear(&topic, &payload)).await {
                        Ok(heard) => heard?,
                        Err(fault) => {
                            metrics::message_refused(FAULT);
                            error!(topic, fault, "a command is dropped: its handling failed by a fault of this program; please report it");
                        }
                    },
                },
                Some(word) = words.recv() => self.speak(word, &mut words)?,
            }
        }
    }

    /// Says a word, and all others that wait: of many about one machine only the last state counts.
    fn speak(&self, first: Word, words: &mut mpsc::Receiver<Word>) -> Result<(), StoreError> {
        let mut reports = BTreeSet::new();
        let mut next = Some(first);
        while let Some(word) = next {
            match word {
                Word::Report(machine) => drop(reports.insert(machine)),
                Word::Seen(mac, seen) => {
                    let topic = Topic::Machine(self.context.site.clone(), mac);
                    let revision = seen.at.timestamp_millis().cast_unsigned();
                    self.publish(&topic, revision, HELLO_VALIDITY, &*seen);
                }
            }
            next = words.try_recv().ok();
        }
        reports
            .into_iter()
            .try_for_each(|machine| self.send_report(machine))
    }

    fn send_report(&self, machine: MachineId) -> Result<(), StoreError> {
        if let Some(held) = self.context.store.report(machine)? {
            let topic = Topic::Report(self.context.site.clone(), machine);
            self.publish(&topic, held.revision, REPORT_VALIDITY, &held.report);
        }
        Ok(())
    }

    /// While the runner waits for the comparison, hellos follow each other quickly.
    fn ask(&self, begun: tokio::time::Instant) {
        if begun.elapsed() > PATIENCE {
            self.starting.store(false, Relaxed);
        } else {
            self.say_hello(false);
        }
    }

    fn say_hello(&self, with_lists: bool) {
        let topic = Topic::Hello(self.context.site.clone());
        let revision = (self.context.now)().timestamp_millis().cast_unsigned();
        let mut hello = self.context.ledger.hello(with_lists, self.starting.load(Relaxed));
        hello.logs = self.context.logs.told();
        hello.run = Some(self.run);
        hello
            .proof
            .clone_from(&self.proof.lock().unwrap_or_else(PoisonError::into_inner));
        self.publish(&topic, revision, HELLO_VALIDITY, &hello);
    }

    fn publish<T: Serialize>(&self, topic: &Topic, revision: u64, validity: TimeDelta, body: &T) {
        let issued_at = (self.context.now)();
        let stamp = Stamp {
            revision,
            issued_at,
            expires_at: issued_at + validity,
        };
        let payload = self.context.signer.seal(topic, stamp, body);
        // Whatever does not go out now is found by the comparison after the next connect.
        let _ = self.central.publish(&topic.to_string(), payload.clone());
        let _ = self.mirror.publish(&topic.to_string(), payload);
    }

    async fn hear(&self, topic: &str, payload: &Bytes) -> Result<(), StoreError> {
        let Ok(topic) = topic.parse::<Topic>() else {
            metrics::message_refused(UNKNOWN_TOPIC);
            warn!(topic, "a message on a topic this edge does not know is refused");
            return Ok(());
        };
        // The mirror is for people only.
        let _ = self.mirror.publish(&topic.to_string(), payload.to_vec());
        let heard = match &topic {
            // Every site trusts the same key: what was signed for another one must not be acted upon here.
            other if other.site() != &self.context.site => Err(OpenError::Misaddressed {
                topic: topic.to_string(),
                made_for: format!("site {}", other.site()),
            }),
            Topic::Config(_) => self.hear_config(&topic, payload)?,
            Topic::Image(..) => self.hear_image(&topic, payload)?,
            Topic::Order(..) => intake::order(&self.context, &self.runner, &topic, payload).await?,
            Topic::Lease(..) => intake::lease(&self.context, &topic, payload)?,
            Topic::ReportBack(_, machine) => self.hear_report_back(&topic, *machine, payload).await?,
            Topic::Sync(_) => self.hear_sync(&topic, payload).await?,
            _ => {
                metrics::message_refused(UNKNOWN_TOPIC);
                warn!(%topic, "a message on a topic that is no command's is refused");
                return Ok(());
            }
        };
        match heard {
            Ok(kind) => metrics::message_accepted(kind),
            Err(reason) => {
                metrics::message_refused(reason.code());
                warn!(%topic, %reason, "a command is refused");
            }
        }
        Ok(())
    }

    fn hear_config(&self, topic: &Topic, payload: &Bytes) -> Result<Heard, StoreError> {
        let config = match self.context.key_ring().open::<SiteConfig>(
            topic,
            payload,
            intake::expect(&self.context, topic),
        ) {
            Ok(config) => config,
            Err(reason) => return Ok(Err(reason)),
        };
        if intake::keep(&self.context, topic, config.header().revision, payload)? {
            let mut keys = self.context.keys.write().unwrap_or_else(PoisonError::into_inner);
            keys.clone_from(&config.body().verifying_keys);
            drop(keys);
            let text = serde_json::to_string(&config.body().verifying_keys).unwrap_or_default();
            self.context.store.put_setting(KEYS_SETTING, &text)?;
            (self.on_config)(config.body());
        }
        Ok(Ok("config"))
    }

    fn hear_image(&self, topic: &Topic, payload: &Bytes) -> Result<Heard, StoreError> {
        let Topic::Image(_, image) = topic else {
            return Ok(Ok("other"));
        };
        match self.context.key_ring().open::<ImageNotice>(
            topic,
            payload,
            intake::expect(&self.context, topic),
        ) {
            Ok(notice) if notice.body().manifest.id() != *image => Ok(Err(OpenError::Misaddressed {
                topic: topic.to_string(),
                made_for: format!("image {}", notice.body().manifest.id()),
            })),
            Ok(notice) => {
                let revision = notice.header().revision;
                intake::keep(&self.context, topic, revision, payload).map(|_| Ok("image"))
            }
            Err(reason) => Ok(Err(reason)),
        }
    }

    async fn hear_report_back(
        &self,
        topic: &Topic,
        machine: MachineId,
        payload: &Bytes,
    ) -> Result<Heard, StoreError> {
        let expect = Expect {
            now: (self.context.now)(),
            held: self.context.ledger.report_revision(&machine.to_string()),
        };
        match self.context.key_ring().open::<Report>(topic, payload, expect) {
            Ok(report) if report.body().machine != machine => Ok(Err(OpenError::Misaddressed {
                topic: topic.to_string(),
                made_for: format!("machine {}", report.body().machine),
            })),
            Ok(report) => {
                let revision = report.header().revision;
                let report = Box::new(report.into_body());
                self.runner.tell(Input::ReportBack { report, revision }).await;
                Ok(Ok("report"))
            }
            Err(reason) => Ok(Err(reason)),
        }
    }

    async fn hear_sync(&self, topic: &Topic, payload: &Bytes) -> Result<Heard, StoreError> {
        let expect = Expect {
            held: None,
            ..intake::expect(&self.context, topic)
        };
        let request = match self
            .context
            .key_ring()
            .open::<SyncRequest>(topic, payload, expect)
        {
            Ok(request) => request.into_body(),
            Err(reason) => return Ok(Err(reason)),
        };
        match request {
            SyncRequest::Lists => self.say_hello(true),
            SyncRequest::Logs { held } => self.context.logs.confirm(&held),
            SyncRequest::Prove { run, challenge } if run == self.run => {
                *self.proof.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
                self.say_hello(false);
            }
            SyncRequest::StandBy { run } if run == self.run => self.retirement.retire(Reason::Copied),
            // They are for another box with this identity.
            SyncRequest::Prove { .. } | SyncRequest::StandBy { .. } => {}
            SyncRequest::Nothing => {
                self.starting.store(false, Relaxed);
                self.runner.tell(Input::Compared).await;
            }
            SyncRequest::Reports { subjects } => {
                for machine in subjects.iter().filter_map(|subject| subject.parse().ok()) {
                    self.send_report(machine)?;
                }
            }
        }
        Ok(Ok("sync"))
    }
}

/// Fills the ledger with what the store holds.
///
/// # Errors
/// When the store fails.
pub fn fill_ledger(context: &Context) -> Result<(), StoreError> {
    let leases = context.store.leases()?;
    for document in context.store.documents()?.into_iter().chain(leases) {
        context
            .ledger
            .hold_command(document.kind, &document.subject, document.revision);
    }
    for held in context.store.reports()? {
        context
            .ledger
            .hold_report(&held.report.machine.to_string(), held.revision);
    }
    Ok(())
}

/// The configuration that is held, verified again.
///
/// # Errors
/// When the store fails.
pub fn held_config(context: &Context) -> Result<Option<SiteConfig>, StoreError> {
    let topic = Topic::Config(context.site.clone());
    let Some(document) = context.store.document(Kind::Config, "-")? else {
        return Ok(None);
    };
    match context
        .key_ring()
        .open::<SiteConfig>(&topic, &document.payload, Expect::kept())
    {
        Ok(config) => Ok(Some(config.into_body())),
        Err(reason) => {
            error!(%reason, "the stored configuration is no longer valid; waiting for a new one");
            Ok(None)
        }
    }
}
