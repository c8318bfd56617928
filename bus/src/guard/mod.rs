//! The guard: a door of the embedded broker. It ends TLS, knows who connects, speaks MQTT 3.1.1 with each client, and lets it publish
//! and subscribe only what its [`Acl`] allows, and no more than its [`Budget`].
//!
//! Everything that a client can make grow is bounded, and each client is served by a task of its own: a stalled handshake, a
//! reader that stalls, a flood or a panic costs nobody but who caused it.

mod budget;
mod connect;
mod session;
mod writer;

pub use budget::Budget;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use slipway_protocol::seal::Secret;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    acl::Acl,
    broker::Backend,
    router::{Room, Router},
};

/// How long TLS may take, and CONNECT after it: over a WAN that loses a third of its packets it takes many seconds.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);

/// How many connections of one address may be on their way in at once: whoever says nothing takes no more places than these.
const MAX_STRANGERS_PER_ADDRESS: usize = 64;

/// Who wants to connect.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// From where.
    pub peer: SocketAddr,
    /// What the verified client certificate says, where clients show one.
    pub certificate: Option<Certificate>,
    /// MQTT client id; only `[A-Za-z0-9._-]`, 1 to 128 characters, comes this far.
    pub client_id: String,
    /// MQTT user name and password, where given.
    pub login: Option<(String, Secret)>,
}

/// A verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Common name of its subject.
    pub common_name: String,
    /// Its serial number, in lower-case hexadecimal.
    pub serial: String,
}

/// What one who may connect may do.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Their topics.
    pub acl: Acl,
    /// Ends their connection when it is cancelled.
    pub leave: CancellationToken,
    /// How much they may send.
    pub budget: Budget,
    /// How much may wait for them.
    pub room: Room,
    /// Held as long as they are connected, so that who has a `Weak` of it knows whether they are.
    pub connected: Option<Arc<()>>,
}

impl From<Acl> for Admitted {
    /// Until they leave by themselves, with the budget of an agent.
    fn from(acl: Acl) -> Self {
        Self {
            acl,
            leave: CancellationToken::new(),
            budget: Budget::AGENT,
            room: Room::Client,
            connected: None,
        }
    }
}

/// Decides who may connect and what they may do.
pub trait Admission: Send + Sync + 'static {
    /// The topics of this client, and for how long.
    ///
    /// # Errors
    /// The reason for a refusal, for the log.
    fn admit(&self, applicant: &Applicant) -> Result<Admitted, String>;

    /// Told of every refused connection, publish and subscribe, to count it: `what` is a stable word.
    fn refused(&self, what: &'static str, applicant: &str, reason: &str) {
        warn!(what, applicant, reason, "refused at the broker");
    }
}

/// One listening door.
pub struct Guard {
    /// A bound socket.
    pub listener: TcpListener,
    /// TLS, unless the socket is on loopback.
    pub tls: Option<Arc<ServerConfig>>,
    /// Who may come in.
    pub admission: Arc<dyn Admission>,
    /// The broker behind.
    pub backend: Backend,
    /// Connections at once.
    pub max_connections: usize,
}

impl Guard {
    /// Serves until `stop`, which ends all connections.
    pub async fn run(self, stop: CancellationToken) {
        let counts = Arc::<Mutex<Counts>>::default();
        let acceptor = self.tls.map(TlsAcceptor::from);
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                Some(ended) = connections.join_next() => {
                    if let Err(failure) = ended {
                        // One client's connection ended by a fault of ours: the others go on.
                        self.admission.refused("panic", "a client", &failure.to_string());
                    }
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "cannot accept an MQTT connection; trying on");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let place = match Place::take(&counts, peer.ip().to_canonical(), self.max_connections) {
                Ok(place) => place,
                Err(reason) => {
                    self.admission.refused("connections", &peer.to_string(), reason);
                    continue;
                }
            };
            let door = Door {
                acceptor: acceptor.clone(),
                admission: Arc::clone(&self.admission),
                router: self.backend.router.clone(),
            };
            connections.spawn(async move {
                door.serve(tcp, peer, &place).await;
            });
        }
    }
}

/// The connections of a door: all, and by address those that have not logged in.
#[derive(Debug, Default)]
struct Counts {
    open: usize,
    strangers: HashMap<IpAddr, usize>,
}

/// A place among the connections open at once; given back when dropped.
struct Place {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
    /// Whether it still counts among the strangers of its address.
    is_stranger: AtomicBool,
}

impl Place {
    /// A place, or why there is none.
    fn take(counts: &Arc<Mutex<Counts>>, address: IpAddr, most: usize) -> Result<Self, &'static str> {
        let mut held = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if held.open >= most {
            return Err("the connection limit is reached");
        }
        let strangers = held.strangers.get(&address).copied().unwrap_or_default();
        if strangers >= MAX_STRANGERS_PER_ADDRESS {
            return Err("too many connections of this address have not logged in");
        }
        held.open += 1;
        held.strangers.insert(address, strangers + 1);
        Ok(Self {
            counts: Arc::clone(counts),
            address,
            is_stranger: AtomicBool::new(true),
        })
    }

    /// It is a stranger's no more.
    fn logged_in(&self) {
        if self.is_stranger.swap(false, Ordering::AcqRel) {
            let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            held.forget_stranger(self.address);
        }
    }
}

impl Counts {
    fn forget_stranger(&mut self, address: IpAddr) {
        match self.strangers.get_mut(&address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.strangers.remove(&address)),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.logged_in();
        let mut held = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        held.open = held.open.saturating_sub(1);
    }
}

/// What one connection needs.
struct Door {
    acceptor: Option<TlsAcceptor>,
    admission: Arc<dyn Admission>,
    router: Router,
}

impl Door {
    async fn serve(self, tcp: TcpStream, peer: SocketAddr, place: &Place) {
        // Small messages both ways: waiting to fill a packet only adds latency. A socket that cannot do it still works.
        let _ = tcp.set_nodelay(true);
        let ended = match self.acceptor.clone() {
            None => session::run(tcp, (peer, place), None, &self).await,
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await {
                Ok(Ok(stream)) => {
                    let certificate = certificate(stream.get_ref().1.peer_certificates());
                    session::run(stream, (peer, place), certificate, &self).await
                }
                Ok(Err(error)) => {
                    self.admission
                        .refused("tls", &peer.to_string(), &error.to_string());
                    return;
                }
                Err(_) => {
                    let reason = format!("no TLS handshake within {} s", HANDSHAKE_LIMIT.as_secs());
                    self.admission.refused("handshake", &peer.to_string(), &reason);
                    return;
                }
            },
        };
        debug!(%peer, reason = %ended, "MQTT connection ended");
    }
}

/// What a verified certificate says.
fn certificate(chain: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> Option<Certificate> {
    let (_, leaf) = x509_parser::parse_x509_certificate(chain?.first()?).ok()?;
    let common_name = leaf.subject().iter_common_name().next()?.as_str().ok()?;
    Some(Certificate {
        common_name: common_name.to_owned(),
        serial: leaf.serial.to_str_radix(16),
    })
}
