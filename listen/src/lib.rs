//! HTTP servers that nobody can use up. Connections are limited in all and by address; headers, bodies, idle connections and
//! readers have time limits by progress, so that a long upload, a slow WAN and a live stream go on as long as something moves.

mod places;
mod stream;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ipnet::IpNet;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tower_http::timeout::RequestBodyTimeoutLayer;
use tracing::{debug, warn};

use crate::{places::Places, stream::Patient};

/// What clients may use of a server.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address; of IPv6 from one network of 64 bits.
    pub per_address: usize,
    /// Who stands for many others, such as proxies: the limit by address is not theirs.
    pub exempt: Vec<IpNet>,
    /// How long a request's head may take, and how long a connection may lie idle between two requests.
    pub head: Duration,
    /// How long a body may make no progress, and how long a reader may take nothing.
    pub progress: Duration,
    /// How long requests under way may take once the server is to end.
    pub drain: Duration,
}

/// The largest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most headers of a request.
const MAX_HEADERS: usize = 100;
/// Of this share of the descriptors that a process may open servers take no more, in percent: databases, files and clients need
/// some, too.
const SHARE_OF_DESCRIPTORS: u64 = 75;
/// Pause after a failed accept, as when no descriptor is left.
const AFTER_ERROR: Duration = Duration::from_millis(100);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 8192,
            per_address: 256,
            exempt: Vec::new(),
            head: Duration::from_secs(20),
            progress: Duration::from_secs(30),
            drain: Duration::from_secs(3),
        }
    }
}

/// Raises the limit of open descriptors as far as this process may, and gives back how many connections fit below it.
///
/// # Errors
/// Never: where the limit cannot be read or raised, what holds now is what counts.
#[must_use]
pub fn room_for_connections() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let held = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: held.maximum,
        ..held
    };
    // Where that is not allowed the lower limit stays, and is counted with.
    let _ = setrlimit(Resource::Nofile, raised);
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(limit.saturating_mul(SHARE_OF_DESCRIPTORS) / 100).unwrap_or(usize::MAX)
}

/// Serves until `stop`; then answers what is under way.
///
/// # Errors
/// Never; the type is that of all tasks.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> io::Result<()> {
    let places = Arc::new(Places::new(&limits));
    let router = router.layer(RequestBodyTimeoutLayer::new(limits.progress));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next() => {
                if let Err(failure) = ended {
                    warn!(%failure, "an HTTP connection ended by a fault of ours");
                }
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept an HTTP connection; trying on");
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let Some(place) = places.take(peer.ip()) else {
            debug!(%peer, "too many HTTP connections; this one is closed");
            continue;
        };
        // Small answers must not wait to fill a packet. A socket that cannot do it still works.
        let _ = tcp.set_nodelay(true);
        let stream = TokioIo::new(Patient::new(tcp, limits.progress));
        let (router, limits, stop) = (router.clone(), limits.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            connection(stream, peer, router, &limits, stop).await;
        });
    }
    let drain = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, drain).await.is_err() {
        debug!("some HTTP connections did not end in time");
    }
    Ok(())
}

async fn connection(
    stream: TokioIo<Patient<tokio::net::TcpStream>>,
    peer: SocketAddr,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let service = tower::service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let answer = router.oneshot(request).await;
            answer.map_err(|never: Infallible| match never {})
        }
    });
    let service = TowerToHyperService::new(service);
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(stream, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%peer, %error, "HTTP connection ended");
    }
}
