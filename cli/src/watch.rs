//! `slipway mqtt watch`: what passes at a broker, verified where the keys are known, readable by people.

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::Value;
use slipway_bus::{Client, Event, Options};
use slipway_protocol::{
    keys::{Expect, KeyRing, VerifyingKey},
    topic::Topic,
};
use tokio_util::sync::CancellationToken;

/// Shows messages live. On an edge box: `slipway mqtt watch`.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Broker without TLS, as the read-only one of an edge
    #[arg(long, default_value = "127.0.0.1:1883")]
    broker: String,
    /// Which topics
    #[arg(long, default_value = "slipway/#")]
    filter: String,
    /// Verifying key (base64url); messages signed by another are marked. May be repeated
    #[arg(long = "key")]
    keys: Vec<String>,
}

pub(crate) async fn run(watch: Watch) -> anyhow::Result<()> {
    let (host, port) = watch
        .broker
        .rsplit_once(':')
        .context("--broker is not HOST:PORT")?;
    let keys = watch
        .keys
        .iter()
        .map(|key| key.parse::<VerifyingKey>())
        .collect::<Result<Vec<_>, _>>()?;
    let options = Options {
        client_id: format!("watch-{}", uuid::Uuid::new_v4()),
        host: host.to_owned(),
        port: port.parse().context("--broker is not HOST:PORT")?,
        tls: None,
        credentials: None,
        subscriptions: vec![watch.filter],
        will: None,
    };
    let (_client, mut events) = Client::start(options, CancellationToken::new());
    while let Some(event) = events.recv().await {
        match event {
            Event::Connected => eprintln!("connected to {}", watch.broker),
            Event::Disconnected { reason } => eprintln!("not connected: {reason}; trying on"),
            Event::Message { topic, payload } => println!("{}", line(&keys, &topic, &payload, Utc::now())),
        }
    }
    Ok(())
}

/// One message as one line. Pure.
pub(crate) fn line(keys: &[VerifyingKey], topic: &str, payload: &[u8], now: DateTime<Utc>) -> String {
    let envelope: Value = serde_json::from_slice(payload).unwrap_or(Value::Null);
    let msg = &envelope["msg"];
    let verdict = match topic.parse::<Topic>() {
        _ if msg.is_null() => "UNSIGNED".to_owned(),
        Err(_) => "unknown topic".to_owned(),
        Ok(_) if keys.is_empty() => format!(
            "signed by {} (no --key given)",
            envelope["key"].as_str().unwrap_or("?")
        ),
        Ok(parsed) => {
            let opened = KeyRing::new(keys.iter().copied()).open::<Value>(
                &parsed,
                payload,
                Expect { now, held: None },
            );
            opened.map_or_else(
                |reason| format!("NOT VERIFIED: {reason}"),
                |_| "verified".to_owned(),
            )
        }
    };
    let body = if msg.is_null() {
        String::from_utf8_lossy(payload).into_owned()
    } else {
        msg["body"].to_string()
    };
    format!(
        "{} {topic} rev {} [{verdict}]\n  {body}",
        now.format("%H:%M:%S%.3f"),
        msg["revision"]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;
    use slipway_protocol::{
        ids::SiteId,
        keys::{Signer, Stamp},
        report::Presence,
    };

    #[test]
    fn what_is_verified_is_told_from_what_is_not() {
        let (signer, _) = Signer::generate().unwrap();
        let (now, topic) = (Utc::now(), Topic::Presence(SiteId::new("bj-1").unwrap()));
        let stamp = Stamp {
            revision: 3,
            issued_at: now,
            expires_at: now + TimeDelta::hours(1),
        };
        let payload = signer.seal(&topic, stamp, &Presence { online: true });
        let said = |payload: &[u8]| line(&[signer.verifying_key()], &topic.to_string(), payload, now);
        assert!(said(&payload).contains("rev 3 [verified]"));
        let flipped = String::from_utf8(payload).unwrap().replace("true", "false");
        assert!(said(flipped.as_bytes()).contains("NOT VERIFIED"));
        assert!(said(b"hello").contains("UNSIGNED"));
    }
}
