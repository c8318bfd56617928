//! The web UI: the files that Vite built, embedded, and the headers they are served under. It is the same for everybody;
//! what people may see comes from the API. This must never answer below `/api/`.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use rust_embed::{EmbeddedFile, RustEmbed};
use std::borrow::Cow;

use crate::{error::ApiError, vault};

/// What `npm run build` made of `control-plane/web`; empty in a build without it.
#[derive(RustEmbed)]
#[folder = "web/dist"]
#[allow_missing = true]
struct Files;

/// The page that loads the UI; its placeholder takes the answer's nonce.
const PAGE: &str = "index.html";
const PLACEHOLDER: &str = "{{nonce}}";
/// Addresses that belong to programs: a typing error there is told to a program, not to a person.
const PROGRAMS: [&str; 5] = ["/api/", "/docs/", "/metrics", "/healthz", "/readyz"];

/// The answer to every address that is no route: a file of the UI, or its page, which knows its own addresses.
/// `secure` says that people reach us by TLS.
#[must_use]
pub fn page(method: &Method, uri: &Uri, headers: &HeaderMap, secure: bool) -> Response {
    let path = uri.path();
    if PROGRAMS.iter().any(|program| path.starts_with(program)) {
        return ApiError::NotFound("address", path.to_owned()).into_response();
    }
    if method != Method::GET && method != Method::HEAD {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let name = path.trim_start_matches('/');
    if let Some(answer) = file(name, headers) {
        return answer;
    }
    if name.starts_with("assets/") {
        return ApiError::NotFound("file", path.to_owned()).into_response();
    }
    match vault::random::<16>() {
        Ok(nonce) => index(&hex::encode(nonce), secure),
        Err(error) => ApiError::Internal(error.into()).into_response(),
    }
}

/// A file as it was built. Names of assets hold a digest of what is in them: those never grow old.
fn file(name: &str, headers: &HeaderMap) -> Option<Response> {
    if name == PAGE {
        return None;
    }
    let found = Files::get(name)?;
    let accepts = headers.get(header::ACCEPT_ENCODING).and_then(|v| v.to_str().ok());
    let zipped = accepts
        .filter(|accepts| accepts.contains("gzip"))
        .and_then(|_| Files::get(&format!("{name}.gz")));
    let encoding = zipped.is_some().then_some("gzip");
    let EmbeddedFile { data, .. } = zipped.unwrap_or(found);
    let mut answer = Response::new(match data {
        Cow::Borrowed(bytes) => Body::from(bytes),
        Cow::Owned(bytes) => Body::from(bytes),
    });
    let told = answer.headers_mut();
    told.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(name)));
    told.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    told.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    let keep = if name.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "public, max-age=3600"
    };
    told.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    if let Some(encoding) = encoding {
        told.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Some(answer)
}

/// The media type of a file that Vite builds.
fn kind(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}

/// The page with this answer's nonce. Nothing runs or is drawn that is not ours: no third party, no inline script, and
/// inline styles only by the nonce, which the UI's components put on those they make.
fn index(nonce: &str, secure: bool) -> Response {
    let Some(page) = Files::get(PAGE) else {
        let hint = "This control plane was built without its web UI. Run `make web`, then build it again. \
                    The API is documented at /docs/.\n";
        return (StatusCode::NOT_FOUND, hint).into_response();
    };
    let text = String::from_utf8_lossy(&page.data).replace(PLACEHOLDER, nonce);
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self'; font-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    );
    let mut answer = axum::response::Html(text).into_response();
    let told = answer.headers_mut();
    let fixed = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        told.insert(name, HeaderValue::from_static(value));
    }
    told.insert(
        "cross-origin-opener-policy",
        HeaderValue::from_static("same-origin"),
    );
    if secure {
        let year = HeaderValue::from_static("max-age=31536000");
        told.insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
    match HeaderValue::from_str(&policy) {
        Ok(policy) => {
            told.insert(header::CONTENT_SECURITY_POLICY, policy);
            answer
        }
        Err(error) => ApiError::Internal(error.into()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_names_have_their_media_types() {
        assert_eq!(kind("assets/index-abc.js"), "text/javascript; charset=utf-8");
        assert_eq!(kind("favicon.svg"), "image/svg+xml");
        assert_eq!(kind("assets/unknown"), "application/octet-stream");
    }
}
