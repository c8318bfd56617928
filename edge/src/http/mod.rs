//! The site's HTTP server: boot scripts, LiveOS, overlays, image chunks, the guest's phone-home, metrics. All routes stand
//! in [`router`]. What it hands out to booting machines is either public, named by a one-time key, or verified by who
//! reads it; it never says a secret of one machine to another.

mod boot;
mod caller;
mod files;
mod phone_home;
mod ranged;
mod sent;

use std::{net::SocketAddrV4, path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::Request,
    routing::{get, post},
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::mpsc;

use crate::{
    context::Context, dhcp::server::Sighting, neighbours::Neighbours, runner::actor::Runner,
    tftp::server::Files,
};

/// What the handlers need.
pub struct HttpState {
    /// Shared handles.
    pub context: Arc<Context>,
    /// The runner.
    pub runner: Runner,
    /// Folder with `vmlinuz` and `initramfs.img`.
    pub liveos: PathBuf,
    /// Boot programs, for UEFI HTTP boot.
    pub boot_programs: Arc<Files>,
    /// Port this server listens on.
    pub http_port: u16,
    /// Port of the agents' broker.
    pub mqtt_port: u16,
    /// Authority of this edge's certificate, PEM.
    pub ca: String,
    /// Who answers for an address.
    pub neighbours: Arc<dyn Neighbours>,
    /// Whether this edge gives out addresses.
    pub serves_dhcp: bool,
    /// Where sightings go.
    pub sightings: mpsc::Sender<Sighting>,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
}

impl HttpState {
    fn server_on(&self, subnet_server: std::net::Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(subnet_server, self.http_port)
    }
}

/// Every route. Slashes count once, however many firmware writes.
pub fn router(state: Arc<HttpState>) -> Router {
    let routes = routes(state);
    Router::new().fallback_service(tower::util::MapRequest::new(routes, single_slashes))
}

/// A request with each run of slashes in its path as one.
fn single_slashes(mut request: Request) -> Request {
    let path = request.uri().path();
    if !path.contains("//") {
        return request;
    }
    let mut clean = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !clean.ends_with('/') {
            clean.push(c);
        }
    }
    if let Some(query) = request.uri().query() {
        clean = format!("{clean}?{query}");
    }
    if let Ok(uri) = clean.parse() {
        *request.uri_mut() = uri;
    }
    request
}

fn routes(state: Arc<HttpState>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(files::metrics))
        .route("/boot/{script}", get(boot::script))
        .route("/boot/{mac}/{boot_key}/overlay.img", get(boot::overlay))
        .route("/ipxe/{name}", get(files::boot_program))
        .route("/liveos/{name}", get(files::liveos))
        .route("/images/{image}", get(files::image))
        .route("/chunks/{digest}", get(files::chunk))
        .route("/phone-home/{machine}/{nonce}", post(phone_home::phone_home))
        .with_state(state)
}
