//! The link to the edge: one MQTT connection by TLS. What comes in is opened here or dropped; what goes out is signed here.
//! Holds no state of the work.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use slipway_bus::{Client, Event, Options, tls, tls::TlsError};
use slipway_protocol::{
    boot::BootConfig,
    ids::{MachineId, SiteId},
    keys::{Expect, KeyError, KeyRing, OpenError, Signer, Stamp},
    order::Order,
    report::{AgentHello, AgentReport, LogChunk, Release},
    topic::{self, Topic},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// A link that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The token of the overlay is none.
    #[error("the overlay's boot token cannot be used")]
    Token(#[source] KeyError),
    /// The authority of the overlay is none.
    #[error("the overlay's certificate authority cannot be used")]
    Authority(#[source] TlsError),
}

/// What the edge said, verified.
#[derive(Debug, Clone)]
pub enum Said {
    /// The order, with the revision and the time of its signature.
    Order {
        /// The order.
        order: Box<Order>,
        /// Its revision.
        revision: u64,
        /// When it was signed: the time is at least that.
        issued_at: DateTime<Utc>,
    },
    /// What may run.
    Release(Box<Release>),
}

/// The connection and the keys.
pub struct Link {
    client: Client,
    site: SiteId,
    machine: MachineId,
    signer: Signer,
    orders: KeyRing,
    releases: KeyRing,
}

impl Link {
    /// Starts connecting; ends with `stop`.
    ///
    /// # Errors
    /// When token or authority cannot be used.
    pub fn start(
        config: &BootConfig,
        stop: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<Event>), LinkError> {
        let options = Options {
            client_id: format!("agent-{}", config.machine),
            host: config.edge.to_string(),
            port: config.mqtt_port,
            tls: Some(Arc::clone(
                &tls::client_config(&config.ca, None).map_err(LinkError::Authority)?,
            )),
            credentials: Some((config.machine.to_string(), config.token.mqtt_password())),
            subscriptions: vec![topic::agent_commands(&config.site, config.machine)],
            will: None,
        };
        let signer = config.token.signer().map_err(LinkError::Token)?;
        let (client, events) = Client::start(options, stop);
        let link = Self {
            client,
            site: config.site.clone(),
            machine: config.machine,
            signer,
            orders: KeyRing::new(config.verifying_keys.iter().copied()),
            releases: KeyRing::new([config.edge_key]),
        };
        Ok((link, events))
    }

    /// Opens a message; what is not to be trusted or not for this machine is logged and dropped.
    /// `held` is the revision of the order that is held.
    #[must_use]
    pub fn open(&self, topic: &str, payload: &[u8], held: Option<u64>) -> Option<Said> {
        let opened = match topic.parse::<Topic>() {
            Ok(at @ Topic::AgentOrder(_, machine)) if machine == self.machine => {
                self.open_order(&at, payload, held)
            }
            Ok(at @ Topic::AgentRelease(_, machine)) if machine == self.machine => {
                // Revisions of releases follow the edge's clock, which may be set back; within one connection they come
                // in order, and they name boot, job and attempt.
                let opened = self.releases.open::<Release>(&at, payload, expect(None));
                opened.map(|verified| Said::Release(Box::new(verified.into_body())))
            }
            Ok(_) | Err(_) => {
                debug!(topic, "not for this agent");
                return None;
            }
        };
        opened
            .inspect_err(|reason| warn!(code = reason.code(), %reason, "a message of the edge is refused"))
            .ok()
    }

    fn open_order(&self, at: &Topic, payload: &[u8], held: Option<u64>) -> Result<Said, OpenError> {
        let verified = self.orders.open::<Order>(at, payload, expect(held))?;
        let (revision, issued_at) = (verified.header().revision, verified.header().issued_at);
        let order = verified.into_body();
        if order.machine != self.machine {
            let made_for = format!("machine {}", order.machine);
            let topic = at.to_string();
            return Err(OpenError::Misaddressed { topic, made_for });
        }
        if let Err(reason) = order.check() {
            let (topic, reason) = (at.to_string(), reason.to_string());
            return Err(OpenError::Malformed { topic, reason });
        }
        let order = Box::new(order);
        Ok(Said::Order {
            order,
            revision,
            issued_at,
        })
    }

    /// Says who this is; answers whether it was sent.
    #[must_use]
    pub fn hello(&self, hello: &AgentHello, now: DateTime<Utc>) -> bool {
        self.send(&Topic::AgentMachine(self.site.clone(), self.machine), hello, now)
    }

    /// Says how the steps stand; answers whether it was sent.
    #[must_use]
    pub fn report(&self, report: &AgentReport, now: DateTime<Utc>) -> bool {
        self.send(&Topic::AgentReport(self.site.clone(), self.machine), report, now)
    }

    /// Says what was said on the console; answers whether it was sent.
    #[must_use]
    pub fn log(&self, chunk: &LogChunk, now: DateTime<Utc>) -> bool {
        self.send(&Topic::AgentLog(self.site.clone(), self.machine), chunk, now)
    }

    fn send<T: serde::Serialize>(&self, topic: &Topic, body: &T, now: DateTime<Utc>) -> bool {
        let stamp = Stamp {
            revision: now.timestamp_millis().cast_unsigned(),
            issued_at: now,
            expires_at: now + Duration::days(1),
        };
        let sent = self
            .client
            .publish(&topic.to_string(), self.signer.seal(topic, stamp, body));
        sent.inspect_err(|reason| debug!(%topic, %reason, "not sent"))
            .is_ok()
    }
}

/// Validity is not judged by this machine's clock, which may be dead: the edge judged it, and it is set by what was
/// signed.
fn expect(held: Option<u64>) -> Expect {
    Expect {
        now: DateTime::<Utc>::MIN_UTC,
        held,
    }
}
