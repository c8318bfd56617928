//! Files: LiveOS, boot programs, image chunks, and the metrics page.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use slipway_protocol::ids::{Digest, ImageId};
use tokio_util::io::ReaderStream;
use tracing::warn;

use super::{HttpState, boot, sent::Counted};

const BINARY: [(header::HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/octet-stream")];

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "not found\n").into_response()
}

/// `GET /liveos/{name}`: the kernel and the initramfs, streamed.
pub(super) async fn liveos(
    State(state): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
) -> Response {
    if !matches!(name.as_str(), "vmlinuz" | "initramfs.img") {
        return not_found();
    }
    let path = state.liveos.join(&name);
    let open = async {
        let file = tokio::fs::File::open(&path).await?;
        let len = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, len))
    };
    match open.await {
        Ok((file, len)) => {
            let pieces = ReaderStream::with_capacity(file, 256 * 1024);
            let port = match peer.ip() {
                IpAddr::V4(address) => state.context.table.port_at(address),
                IpAddr::V6(_) => None,
            };
            let body = Counted::new(pieces, len, move |sent| {
                let (code, text) = sent.told(&name);
                if let Some(mac) = port {
                    boot::sight(&state, mac, code, text);
                }
            });
            let length = [(header::CONTENT_LENGTH, len.to_string())];
            (BINARY, length, Body::from_stream(body)).into_response()
        }
        Err(error) => {
            warn!(path = %path.display(), %error, "the LiveOS cannot be read; build it with `make liveos`");
            not_found()
        }
    }
}

/// `GET /ipxe/{name}`: boot programs for UEFI HTTP boot.
pub(super) async fn boot_program(State(state): State<Arc<HttpState>>, Path(name): Path<String>) -> Response {
    state
        .boot_programs
        .get(&name)
        .map_or_else(not_found, |bytes| (BINARY, bytes).into_response())
}

/// `GET /images/{image}`: the signed notice of an image as the control plane sent it; the reader verifies it.
pub(super) async fn image(State(state): State<Arc<HttpState>>, Path(image): Path<String>) -> Response {
    let Ok(image) = image.parse::<ImageId>() else {
        return not_found();
    };
    match state.context.image(image) {
        Ok(Some((payload, _))) => ([(header::CONTENT_TYPE, "application/json")], payload).into_response(),
        Ok(None) => not_found(),
        Err(error) => {
            warn!(%image, %error, "an image notice cannot be read");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
    }
}

/// `GET /chunks/{digest}`: a compressed chunk, from the cache or through it.
pub(super) async fn chunk(State(state): State<Arc<HttpState>>, Path(digest): Path<String>) -> Response {
    let Ok(digest) = digest.parse::<Digest>() else {
        return not_found();
    };
    match state.context.images.chunk(digest).await {
        Ok(bytes) => (BINARY, bytes).into_response(),
        Err(error) => {
            warn!(%digest, error = %error, "a chunk cannot be served");
            (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response()
        }
    }
}

/// `GET /metrics`
pub(super) async fn metrics(State(state): State<Arc<HttpState>>) -> String {
    state.metrics.render()
}
