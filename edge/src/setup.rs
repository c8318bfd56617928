//! The page of a box that has not joined yet: it shows whether the box is fit, takes a join token, and joins. One page without
//! scripts, served until the box has joined and never afterwards. It gives nothing away: whoever holds a token may join.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{
    Form, Router,
    extract::State,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use chrono::Utc;
use serde::Deserialize;
use slipway_protocol::site::JoinToken;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Config,
    join,
    preflight::{self, Finding, Status},
    status,
};

/// Longest token that is read, in bytes.
const MAX_TOKEN: usize = 4096;

struct Page {
    config: Config,
    joined: CancellationToken,
}

/// Serves the page until the box has joined or `stop`; `true` if it has joined.
///
/// # Errors
/// When the address cannot be served.
pub async fn serve(config: &Config, at: SocketAddr, stop: &CancellationToken) -> anyhow::Result<bool> {
    let listener = TcpListener::bind(at)
        .await
        .with_context(|| format!("cannot serve the set-up page on {at}"))?;
    let joined = CancellationToken::new();
    let page = Arc::new(Page {
        config: config.clone(),
        joined: joined.clone(),
    });
    let router = Router::new().route("/", get(show).post(take)).with_state(page);
    let at = listener.local_addr()?;
    status::say(config, &status::not_joined(&config.addresses(), at));
    info!(page = %format!("http://{at}/"), "this box has not joined a site: give it a token on its page");
    let (ended, stopped) = (joined.clone(), stop.clone());
    axum::serve(listener, router)
        .with_graceful_shutdown(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = stopped.cancelled() => {}
            }
        })
        .await?;
    Ok(joined.is_cancelled())
}

/// What the form sends.
#[derive(Deserialize)]
struct Given {
    token: String,
}

async fn show(State(page): State<Arc<Page>>) -> Response {
    let found = preflight::look(&page.config, None, Utc::now()).await;
    answer(StatusCode::OK, "", &found, true)
}

async fn take(State(page): State<Arc<Page>>, Form(given): Form<Given>) -> Response {
    let token = Some(given.token).filter(|text| text.len() <= MAX_TOKEN);
    let token = match token.as_deref().map(JoinToken::from_text) {
        Some(Ok(token)) => token,
        Some(Err(error)) => return answer(StatusCode::BAD_REQUEST, &error.to_string(), &[], true),
        None => {
            return answer(
                StatusCode::BAD_REQUEST,
                "this is longer than any token",
                &[],
                true,
            );
        }
    };
    let found = preflight::look(&page.config, Some(&token), Utc::now()).await;
    if !preflight::works(&found) {
        let why = "Not joined: see to what failed, then give the same token again.";
        return answer(StatusCode::CONFLICT, why, &found, true);
    }
    let config = &page.config;
    match join::join(&token, &config.addresses(), &config.data_dir, Utc::now()).await {
        Ok(identity) => {
            info!(site = %identity.site, "joined by the set-up page");
            page.joined.cancel();
            let text = format!("Joined site {}. This box serves it from now on.", identity.site);
            answer(StatusCode::OK, &text, &found, false)
        }
        Err(error) => {
            let error = anyhow::Error::from(error);
            warn!(error = format!("{error:#}"), "the set-up page could not join");
            answer(
                StatusCode::BAD_GATEWAY,
                &format!("Not joined: {error:#}"),
                &found,
                true,
            )
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn answer(status: StatusCode, text: &str, found: &[Finding], form: bool) -> Response {
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'sha256-w5cp3QRCsHJrFqAprAeeqv42GSK8CfGk0TVANmRYtfo='; form-action 'self'; \
             base-uri 'none'; frame-ancestors 'none'",
        ),
    ];
    (status, headers, Html(html(text, found, form))).into_response()
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
table{border-collapse:collapse;width:100%}td{border-top:1px solid #ccc;padding:.3rem .6rem;vertical-align:top}\
.OK{color:#126b2e}.WARN{color:#7a4a00}.FAIL{color:#a40e26;font-weight:bold}\
textarea{width:100%;box-sizing:border-box;font:14px monospace}button{font:inherit;padding:.4rem 1.2rem;margin-top:.5rem}";

fn html(text: &str, found: &[Finding], form: bool) -> String {
    let row = |found: &Finding| {
        let word = match found.status {
            Status::Ok => "OK",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        format!(
            "<tr><td class=\"{word}\">{word}</td><td>{}</td><td>{}</td></tr>",
            escaped(&found.check),
            escaped(&found.detail)
        )
    };
    let rows: String = found.iter().map(row).collect();
    let text = if text.is_empty() {
        String::new()
    } else {
        format!("<p role=\"status\"><strong>{}</strong></p>", escaped(text))
    };
    let form = if form {
        "<form method=\"post\"><p><label for=\"token\">Join token, made by <code>slipway site token SITE</code>:</label></p>\
         <textarea id=\"token\" name=\"token\" rows=\"5\" required autofocus spellcheck=\"false\"></textarea>\
         <button>Join</button></form>"
    } else {
        ""
    };
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Slipway edge: join a site</title><style>{STYLE}</style>\
         </head><body><h1>Slipway edge</h1>{text}{form}<h2>This box</h2><table>{rows}</table></body></html>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    #[test]
    fn the_policy_names_this_very_style() {
        let digest = ring::digest::digest(&ring::digest::SHA256, STYLE.as_bytes());
        let response = answer(StatusCode::OK, "", &[], true);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .unwrap();
        let named = format!("sha256-{}", STANDARD.encode(digest));
        assert!(policy.contains(&named), "{named}");
    }

    #[test]
    fn what_others_say_is_text_on_the_page() {
        let page = html("<script>alert(1)</script>", &[], true);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
    }
}
