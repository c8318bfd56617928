//! The guard: the only door to the embedded broker. It ends TLS, knows who connects, and lets each client publish and
//! subscribe only what its [`Acl`] allows.
//!
//! It closes what rumqttd leaves open (each has a test in `tests/guard.rs`): no topic rules; a stalled handshake that
//! stops all others; a panic on reconnecting odd client ids; a panic at the connection limit; retained messages
//! without bound; sessions kept for ever; a slow reader; unanswered UNSUBSCRIBEs.

mod session;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustls::ServerConfig;
use slipway_protocol::seal::Secret;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{acl::Acl, broker::Backend};

/// How long TLS may take, and CONNECT after it: over a WAN that loses a third of its packets it takes many seconds.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);

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
}

impl From<Acl> for Admitted {
    /// Until they leave by themselves.
    fn from(acl: Acl) -> Self {
        Self {
            acl,
            leave: CancellationToken::new(),
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
    /// Serves until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let open = Arc::new(AtomicUsize::new(0));
        let acceptor = self.tls.map(TlsAcceptor::from);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
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
            let place = Place::take(&open);
            if place.number > self.max_connections {
                self.admission.refused(
                    "connections",
                    &peer.to_string(),
                    "the connection limit is reached",
                );
                continue;
            }
            let door = Door {
                acceptor: acceptor.clone(),
                admission: Arc::clone(&self.admission),
                backend: self.backend.clone(),
            };
            let stop = stop.clone();
            tokio::spawn(async move {
                let _place = place;
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = door.serve(tcp, peer) => {}
                }
            });
        }
    }
}

/// A place among the connections open at once; given back when dropped.
struct Place {
    open: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        let number = open.fetch_add(1, Ordering::AcqRel) + 1;
        Self {
            open: Arc::clone(open),
            number,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What one connection needs.
struct Door {
    acceptor: Option<TlsAcceptor>,
    admission: Arc<dyn Admission>,
    backend: Backend,
}

impl Door {
    async fn serve(self, tcp: TcpStream, peer: SocketAddr) {
        // Small messages both ways: waiting to fill a packet only adds latency. A socket that cannot do it still works.
        let _ = tcp.set_nodelay(true);
        let ended = match self.acceptor.clone() {
            None => session::run(tcp, peer, None, &self).await,
            Some(acceptor) => match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(tcp)).await {
                Ok(Ok(stream)) => {
                    let certificate = certificate(stream.get_ref().1.peer_certificates());
                    session::run(stream, peer, certificate, &self).await
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
