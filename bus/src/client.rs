//! The MQTT client: connects for ever with back-off, subscribes anew at every connect, hands messages on.
//!
//! It must never hold messages for later: what cannot be sent now is refused with [`PublishError::Offline`], and found
//! by the comparison of holdings that follows each [`Event::Connected`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rumqttc::{
    AsyncClient, Broker, Event as MqttEvent, EventLoop, LastWill, MqttOptions, Packet, PublishOptions, QoS,
    SubscribeFilter, TlsConfiguration, Transport,
};
use slipway_protocol::seal::Secret;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{MAX_PACKET_BYTES, backoff::Backoff};

/// How many events may wait for a slow receiver before messages are dropped.
const EVENT_QUEUE: usize = 10_000;
/// How long TCP, TLS and CONNECT may take together, in seconds: on a bad WAN each packet is sent several times.
const CONNECT_S: u64 = 30;
/// Publishes that may wait for the socket.
const PUBLISH_QUEUE: usize = 1_000;

/// Where and as whom to connect.
#[derive(Clone)]
pub struct Options {
    /// MQTT client id: `[A-Za-z0-9._-]`, unique at the broker.
    pub client_id: String,
    /// Broker host; with TLS also the name in its certificate.
    pub host: String,
    /// Broker port.
    pub port: u16,
    /// TLS, unless the broker listens on loopback in clear.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// User name and password.
    pub credentials: Option<(String, Secret)>,
    /// Filters to subscribe at every connect.
    pub subscriptions: Vec<String>,
    /// Topic and payload the broker publishes when the connection is lost.
    pub will: Option<(String, Vec<u8>)>,
}

/// What a client tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Connected, and all subscriptions acknowledged: compare holdings now.
    Connected,
    /// The connection is lost; it is being made anew.
    Disconnected {
        /// Why, for people.
        reason: String,
    },
    /// A message.
    Message {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Bytes,
    },
}

/// A message that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no connection now.
    #[error("not connected to the broker; what is missing there is sent after the next connect")]
    Offline,
    /// The connection is slower than what is to be sent.
    #[error(
        "the connection to the broker is congested; what is missing there is sent with the next comparison"
    )]
    Congested,
}

/// Where a part says what others are to hear. [`Client`] is the real one.
pub trait Publish: Send + Sync {
    /// Sends now or not at all.
    ///
    /// # Errors
    /// When there is no connection or it is congested.
    fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError>;
}

/// A handle to the connection; clones share it.
#[derive(Clone)]
pub struct Client {
    current: Arc<Mutex<Option<AsyncClient>>>,
}

impl Client {
    /// Starts connecting in a task that ends with `stop`. Events come in the order they happened.
    #[must_use]
    pub fn start(options: Options, stop: CancellationToken) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let client = Self {
            current: Arc::default(),
        };
        let connection = Connection {
            options,
            events,
            current: Arc::clone(&client.current),
        };
        tokio::spawn(async move { connection.run(stop).await });
        (client, receiver)
    }

    /// Sends now or not at all.
    ///
    /// # Errors
    /// When there is no connection or it is congested.
    pub fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let client = current.as_ref().ok_or(PublishError::Offline)?;
        client
            .try_publish(topic, payload, PublishOptions::at_least_once())
            .map_err(|_| PublishError::Congested)
    }

    /// Whether there is a connection with acknowledged subscriptions.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

impl Publish for Client {
    fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        Self::publish(self, topic, payload)
    }
}

/// One client's task.
struct Connection {
    options: Options,
    events: mpsc::Sender<Event>,
    current: Arc<Mutex<Option<AsyncClient>>>,
}

impl Connection {
    async fn run(self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));
        loop {
            let reason = tokio::select! {
                () = stop.cancelled() => break,
                reason = self.connect_once(&mut backoff) => reason,
            };
            self.set_current(None);
            debug!(broker = %self.options.host, reason, "MQTT connection ended");
            if self.events.send(Event::Disconnected { reason }).await.is_err() {
                break;
            }
            let delay = backoff.next_delay(rand::random());
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
        }
        self.set_current(None);
    }

    /// One connection from CONNECT to its end; the answer is why it ended. A new event loop each time: nothing of an
    /// old connection, above all no half-sent message, is carried over.
    async fn connect_once(&self, backoff: &mut Backoff) -> String {
        let (client, mut events) = AsyncClient::builder(self.mqtt_options())
            .capacity(PUBLISH_QUEUE)
            .build();
        events.network_options.set_connection_timeout(CONNECT_S);
        let mut subscribed = self.options.subscriptions.is_empty();
        loop {
            let event = match self.poll(&mut events).await {
                Ok(event) => event,
                Err(reason) => return reason,
            };
            match event {
                MqttEvent::Incoming(Packet::ConnAck(_)) => {
                    if subscribed {
                        self.connected(&client, backoff).await;
                    } else if let Err(e) = client.subscribe_many(self.filters()).await {
                        return format!("cannot subscribe: {e}");
                    }
                }
                MqttEvent::Incoming(Packet::SubAck(_)) if !subscribed => {
                    subscribed = true;
                    self.connected(&client, backoff).await;
                }
                MqttEvent::Incoming(Packet::Publish(publish)) => {
                    self.message(&publish.topic, publish.payload)
                }
                _ => {}
            }
        }
    }

    async fn poll(&self, events: &mut EventLoop) -> Result<MqttEvent, String> {
        events.poll().await.map_err(|e| e.to_string())
    }

    async fn connected(&self, client: &AsyncClient, backoff: &mut Backoff) {
        backoff.reset();
        info!(broker = %self.options.host, client = %self.options.client_id, "connected to the MQTT broker");
        self.set_current(Some(client.clone()));
        // The receiver being gone shows at the next event; the connection itself must not wait for it.
        let _ = self.events.send(Event::Connected).await;
    }

    fn message(&self, topic: &impl AsRef<[u8]>, payload: Bytes) {
        let topic = String::from_utf8_lossy(topic.as_ref()).into_owned();
        if let Err(e) = self.events.try_send(Event::Message { topic, payload }) {
            warn!(error = %e, "MQTT message dropped: its receiver is too slow; the next comparison brings it again");
        }
    }

    fn set_current(&self, client: Option<AsyncClient>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }

    fn filters(&self) -> Vec<SubscribeFilter> {
        self.options
            .subscriptions
            .iter()
            .map(|f| SubscribeFilter::new(f.clone(), QoS::AtLeastOnce))
            .collect()
    }

    fn mqtt_options(&self) -> MqttOptions {
        let o = &self.options;
        let mut options = MqttOptions::new(&o.client_id, Broker::tcp(&o.host, o.port));
        options.set_clean_session(true);
        options.set_keep_alive(15);
        options.set_max_packet_size(MAX_PACKET_BYTES, MAX_PACKET_BYTES);
        if let Some(tls) = &o.tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(
                tls,
            ))));
        }
        if let Some((user, password)) = &o.credentials {
            options.set_credentials(user, password.reveal().as_bytes().to_vec());
        }
        if let Some((topic, payload)) = &o.will {
            options.set_last_will(LastWill::new(topic, payload.clone(), QoS::AtLeastOnce, false));
        }
        options
    }
}
