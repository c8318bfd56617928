//! `slipway login --sso`: the browser logs in at the provider, and brings a one-time code to this process on the loopback
//! interface. The code is of no use to anybody who only sees it: for the key one also shows a secret that never leaves this
//! process before.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::client::Client;

/// How long somebody may take to log in.
const PATIENCE: Duration = Duration::from_secs(600);
/// Longest wait for one browser's request.
const REQUEST: Duration = Duration::from_secs(5);
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// Logs in by the browser: an API key of this name, secret and id. `show` is given the link to open.
pub(crate) async fn log_in(
    url: &str,
    key: &str,
    show: impl FnOnce(&str),
) -> anyhow::Result<(String, String)> {
    let client = Client::new(url, None)?;
    let mut bytes = [0; 32];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| anyhow::anyhow!("the system's random source failed"))?;
    let verifier = URL_SAFE_NO_PAD.encode(bytes);
    let hash = ring::digest::digest(&ring::digest::SHA256, verifier.as_bytes());
    let challenge = URL_SAFE_NO_PAD.encode(hash);
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("cannot listen on 127.0.0.1 for the browser")?;
    let port = listener.local_addr()?.port();
    let base = url.trim_end_matches('/');
    show(&format!(
        "{base}/api/v1/auth/oidc/login?port={port}&challenge={challenge}"
    ));
    let code = tokio::time::timeout(PATIENCE, code(&listener)).await;
    let code = code.context("nobody logged in within ten minutes")??;
    let body = json!({ "code": code, "verifier": verifier, "name": key });
    let made = client.post("/api/v1/auth/oidc/key", body).await?;
    match (made["key"].as_str(), made["id"].as_str()) {
        (Some(secret), Some(id)) => Ok((secret.to_owned(), id.to_owned())),
        _ => bail!("the control plane gave no key"),
    }
}

/// Shows the link, and opens it where there is a screen.
pub(crate) fn show(link: &str) {
    eprintln!("Log in with your browser, on this computer:\n\n    {link}\n");
    let screen = ["DISPLAY", "WAYLAND_DISPLAY"].map(std::env::var_os);
    if screen.iter().any(Option::is_some) {
        let mut open = std::process::Command::new("xdg-open");
        // Without it, the link is there to be clicked.
        let _ = open.arg(link).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    }
}

/// Waits for the browser that brings the code; whatever else knocks is sent away.
async fn code(listener: &TcpListener) -> anyhow::Result<String> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let head = tokio::time::timeout(REQUEST, head(&mut stream)).await;
        let Ok(Ok(head)) = head else { continue };
        let found = code_of(&head).map(str::to_owned);
        let (status, text) = match found {
            Some(_) => (
                "200 OK",
                "You are logged in. Close this page and go back to the terminal.",
            ),
            None => ("404 Not Found", "There is nothing here."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        // A browser that does not listen any more has brought what it had.
        let _ = stream.write_all(answer.as_bytes()).await;
        if let Some(code) = found {
            return Ok(code);
        }
    }
}

async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") && bytes.len() < MAX_HEAD {
        if stream.read_buf(&mut bytes).await? == 0 {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The code in a request for `/?code=CODE`.
fn code_of(head: &str) -> Option<&str> {
    let path = head.strip_prefix("GET ")?.split(' ').next()?;
    let code = path.strip_prefix("/?code=")?;
    let usable = !code.is_empty() && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    usable.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Json, Router, routing::post};
    use serde_json::Value;

    #[test]
    fn a_code_is_read_from_its_own_path_only() {
        assert_eq!(
            code_of("GET /?code=slipway-code-1 HTTP/1.1\r\n"),
            Some("slipway-code-1")
        );
        for other in [
            "GET /favicon.ico HTTP/1.1",
            "GET /?code= HTTP/1.1",
            "POST /?code=a HTTP/1.1",
            "GET /?code=a%20b HTTP/1.1",
            "",
        ] {
            assert_eq!(code_of(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn the_browsers_code_becomes_a_key_by_the_secret_behind_the_challenge() {
        slipway_bus::tls::install_provider();
        let (told, link) = std::sync::mpsc::channel::<String>();
        let (asked, bodies) = std::sync::mpsc::channel::<Value>();
        let router = Router::new().route(
            "/api/v1/auth/oidc/key",
            post(move |Json(body): Json<Value>| {
                asked.send(body).unwrap();
                async { Json(json!({ "id": "k-1", "key": "slipway-api-1" })) }
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let show = move |link: &str| told.send(link.to_owned()).unwrap();
        let waiting = tokio::spawn(async move { log_in(&url, "cli-box", show).await });
        let link = tokio::task::spawn_blocking(move || link.recv().unwrap())
            .await
            .unwrap();
        let (_, query) = link.split_once("?port=").unwrap();
        let (port, challenge) = query.split_once("&challenge=").unwrap();
        let browser = reqwest::Client::new();
        let answer = |path: &str| browser.get(format!("http://127.0.0.1:{port}{path}")).send();
        assert_eq!(answer("/favicon.ico").await.unwrap().status(), 404);
        assert_eq!(answer("/?code=slipway-code-1").await.unwrap().status(), 200);
        let made = waiting.await.unwrap().unwrap();
        assert_eq!(made, ("slipway-api-1".to_owned(), "k-1".to_owned()));
        let body = bodies.recv().unwrap();
        assert_eq!(
            (body["code"].as_str(), body["name"].as_str()),
            (Some("slipway-code-1"), Some("cli-box"))
        );
        let hash = ring::digest::digest(
            &ring::digest::SHA256,
            body["verifier"].as_str().unwrap().as_bytes(),
        );
        assert_eq!(URL_SAFE_NO_PAD.encode(hash), challenge);
    }
}
