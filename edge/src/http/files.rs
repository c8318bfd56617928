//! Files: LiveOS, boot programs, image chunks, and the metrics page.

use std::{
    io::SeekFrom,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use slipway_protocol::ids::{Digest, ImageId};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use tracing::warn;

use super::{
    HttpState, boot, ranged,
    sent::{Counted, Sent},
};

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, "not found\n").into_response()
}

/// `GET /liveos/{name}`: the kernel and the initramfs, streamed.
pub(super) async fn liveos(
    State(state): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
    (method, headers): (Method, HeaderMap),
) -> Response {
    if !matches!(name.as_str(), "vmlinuz" | "initramfs.img") {
        return not_found();
    }
    let path = state.liveos.join(&name);
    let opened = match open(&path).await {
        Ok(opened) => opened,
        Err(error) => {
            warn!(path = %path.display(), %error, "the LiveOS cannot be read; build it with `make liveos`");
            return not_found();
        }
    };
    let port = match peer.ip() {
        IpAddr::V4(address) => state.context.table.port_at(address),
        IpAddr::V6(_) => None,
    };
    let tell = move |sent: Sent| {
        let (code, text) = sent.told(&name);
        if let Some(mac) = port {
            boot::sight(&state, mac, code, text);
        }
    };
    streamed(opened, (&method, &headers), tell).await
}

async fn open(path: &std::path::Path) -> std::io::Result<(tokio::fs::File, u64)> {
    let file = tokio::fs::File::open(path).await?;
    let len = file.metadata().await?.len();
    Ok((file, len))
}

/// A file, or the part of it that is asked for, read as fast as the client takes it. `tell` hears how far it came.
async fn streamed(
    (mut file, len): (tokio::fs::File, u64),
    (method, headers): (&Method, &HeaderMap),
    tell: impl FnMut(Sent) + Send + Unpin + 'static,
) -> Response {
    let part = ranged::wanted(headers, len);
    let (first, count) = part.extent(len);
    if method == Method::HEAD || count == 0 {
        return part.response(len, Body::empty());
    }
    if let Err(error) = file.seek(SeekFrom::Start(first)).await {
        warn!(%error, "a file cannot be read from its middle");
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let pieces = ReaderStream::with_capacity(file.take(count), 256 * 1024);
    part.response(len, Body::from_stream(Counted::new(pieces, count, tell)))
}

/// `GET /ipxe/{name}`: boot programs for UEFI HTTP boot.
pub(super) async fn boot_program(
    State(state): State<Arc<HttpState>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = state.boot_programs.get(&name) else {
        return not_found();
    };
    let len = bytes.len() as u64;
    let part = ranged::wanted(&headers, len);
    let (first, count) = part.extent(len);
    // Both are within the length of what is in memory.
    let (first, end) = (first as usize, (first + count) as usize);
    part.response(len, Body::from(bytes.slice(first..end)))
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
pub(super) async fn chunk(
    State(state): State<Arc<HttpState>>,
    Path(digest): Path<String>,
    (method, headers): (Method, HeaderMap),
) -> Response {
    let Ok(digest) = digest.parse::<Digest>() else {
        return not_found();
    };
    match state.context.images.open(digest).await {
        Ok(opened) => streamed(opened, (&method, &headers), |_| {}).await,
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
