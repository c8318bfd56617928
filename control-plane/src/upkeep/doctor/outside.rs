//! What lies outside: who holds our ports, and whether mail server and sign-on provider answer. Sends nothing but a knock.

use std::{net::SocketAddr, time::Duration};

use tokio::net::{TcpListener, TcpStream};

use super::Finding;
use crate::{access::oidc::provider::Provider, config::Config, notify::mail::Mailer};

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Whether a control plane answers at an address.
async fn answers(address: SocketAddr) -> bool {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let client = reqwest::Client::builder().timeout(LIMIT).no_proxy().build();
    let Ok(client) = client else { return false };
    let asked = client.get(format!("http://{address}/healthz")).send().await;
    asked.is_ok_and(|answer| answer.status().is_success())
}

pub(super) async fn ports(config: &Config) -> Vec<Finding> {
    let running = answers(config.http).await;
    let mut wanted = vec![("port of the API", config.http)];
    if config.broker.is_none() {
        wanted.push(("port of the broker", config.mqtt));
    }
    let mut found = Vec::new();
    for (check, address) in wanted {
        found.push(match TcpListener::bind(address).await {
            Ok(_) => Finding::ok(check, format!("{address} is free; no control plane runs here")),
            Err(_) if running => Finding::ok(
                check,
                format!("{address} is held by the control plane that runs here"),
            ),
            Err(e) => Finding::fail(
                check,
                format!("{address} cannot be had: {e}"),
                format!(
                    "`ss -ltnp 'sport = :{}'` says who holds it; stop that, or choose another port",
                    address.port()
                ),
            ),
        });
    }
    found
}

pub(super) async fn mail(config: &Config) -> Option<Finding> {
    const CHECK: &str = "mail";
    let url = config.smtp.as_deref()?;
    if let Err(e) = Mailer::new(url, &config.smtp_from) {
        let advice = "set SLIPWAY_SMTP=smtp://HOST:25 and SLIPWAY_SMTP_FROM to a mail address";
        return Some(Finding::fail(CHECK, e.to_string(), advice));
    }
    // The URL holds the password, so only host and port are shown.
    let parsed = reqwest::Url::parse(url).ok()?;
    let usual = if parsed.scheme() == "smtps" { 465 } else { 25 };
    let server = format!(
        "{}:{}",
        parsed.host_str().unwrap_or_default(),
        parsed.port().unwrap_or(usual)
    );
    let knock = tokio::time::timeout(LIMIT, TcpStream::connect(&server)).await;
    Some(match knock {
        Ok(Ok(_)) => Finding::ok(CHECK, format!("{server} takes connections")),
        Ok(Err(e)) => Finding::warn(
            CHECK,
            format!("{server}: {e}"),
            "alerts wait for a day, then are given up",
        ),
        Err(_) => Finding::warn(
            CHECK,
            format!("{server} does not answer"),
            "look at the way there",
        ),
    })
}

pub(super) fn webhooks(config: &Config) -> Vec<Finding> {
    if config.webhook_private {
        let advice =
            "leave SLIPWAY_WEBHOOK_PRIVATE off unless everybody who makes webhooks may knock at doors inside";
        return vec![Finding::warn("webhooks", "may reach private addresses", advice)];
    }
    vec![Finding::ok("webhooks", "reach public addresses only")]
}

pub(super) async fn sign_on(config: &Config) -> Option<Finding> {
    const CHECK: &str = "single sign-on";
    let oidc = config.oidc.clone()?;
    let issuer = oidc.issuer.clone();
    Some(match Provider::new(oidc, String::new()).look().await {
        Ok(()) => Finding::ok(CHECK, format!("{issuer} answers and publishes keys")),
        Err(e) => Finding::warn(
            CHECK,
            e.to_string(),
            "nobody can log in by it until it answers; passwords go on working",
        ),
    })
}
