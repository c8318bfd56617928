//! Renewal of this edge's certificates: in time, with new TLS keys made on the box, shown by connections from then on. It
//! speaks HTTP to the control plane and signs by the key of its reports, so that an edge that was cut off for longer than
//! its certificate was good comes back by itself. Never touches the keys of reports and secrets.

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use rcgen::KeyPair;
use slipway_bus::tls::Shown;
use slipway_protocol::{
    keys::{Expect, KeyRing, Stamp},
    site::{RenewAnswer, RenewRequest},
    topic::Topic,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    context::Context,
    identity::Identity,
    join::{certificate_request, post},
};

/// How often it is looked whether it is time; also how soon a failed renewal is tried again.
const LOOK: Duration = Duration::from_secs(600);
/// How long a request is good.
const REQUEST_LIFE: TimeDelta = TimeDelta::minutes(10);

/// Whether a certificate is to be renewed: less than a third of its time is left, or it has run out.
#[must_use]
pub fn is_due((from, until): (DateTime<Utc>, DateTime<Utc>), now: DateTime<Utc>) -> bool {
    (until - now) * 3 < until - from
}

/// From when until when a certificate (PEM) is good.
///
/// # Errors
/// When it is none.
pub fn validity(certificate: &str) -> anyhow::Result<(DateTime<Utc>, DateTime<Utc>)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())?;
    let validity = pem.parse_x509()?.validity().clone();
    let time = |seconds: i64| DateTime::from_timestamp(seconds, 0).context("a time beyond all times");
    Ok((
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}

/// What renewal works on.
pub struct Renewal {
    /// Who this edge is; kept in the data folder.
    pub identity: Identity,
    /// The data folder.
    pub data_dir: PathBuf,
    /// This box's addresses now: agents must find theirs in the certificate of this edge's broker.
    pub addresses: Vec<IpAddr>,
    /// What connections to the centre show.
    pub uplink: Shown,
    /// What this edge's own broker shows.
    pub agents: Shown,
}

impl Renewal {
    /// Renews in time, until `stop`.
    ///
    /// # Errors
    /// When the certificate that is held cannot be read.
    pub async fn run(mut self, context: Arc<Context>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = look.tick() => {}
            }
            let (from, until) = validity(&self.identity.certificate)?;
            let now = (context.now)();
            if !is_due((from, until), now) && self.addresses == self.identity.addresses {
                continue;
            }
            match self.renew(&context.key_ring(), now).await {
                Ok(until) => info!(%until, "this edge's certificates are renewed"),
                Err(error) => warn!(
                    until = %until.to_rfc3339(),
                    error = format!("{error:#}"),
                    "this edge's certificates cannot be renewed; trying on"
                ),
            }
        }
    }

    /// Renews now; `keys` are those the answer may be signed by. Gives back until when the new ones are good.
    ///
    /// # Errors
    /// When the control plane does not answer, refuses, or is not believed. What was shown is shown on then.
    pub async fn renew(&mut self, keys: &KeyRing, now: DateTime<Utc>) -> anyhow::Result<DateTime<Utc>> {
        let (tls, agent_tls) = (KeyPair::generate()?, KeyPair::generate()?);
        let site = self.identity.site.clone();
        let request = RenewRequest {
            csr: certificate_request(site.as_str(), &[], &tls)?,
            agent_csr: certificate_request(site.as_str(), &self.addresses, &agent_tls)?,
        };
        let stamp = Stamp {
            revision: now.timestamp_millis().cast_unsigned(),
            issued_at: now,
            expires_at: now + REQUEST_LIFE,
        };
        let sealed = self
            .identity
            .signer()?
            .seal(&Topic::Renew(site.clone()), stamp, &request);
        let path = format!("/api/v1/sites/{site}/renew");
        let answer = post(&self.identity.url, &path, sealed).await?;
        let expect = Expect { now, held: None };
        let answer = keys
            .open::<RenewAnswer>(&Topic::Identity(site), &answer, expect)?
            .into_body();
        let identity = Identity {
            certificate: answer.certificate,
            key: tls.serialize_pem(),
            agent_certificate: answer.agent_certificate,
            agent_key: agent_tls.serialize_pem(),
            ca: answer.ca,
            addresses: self.addresses.clone(),
            ..self.identity.clone()
        };
        let (_, until) = validity(&identity.certificate)?;
        // Kept first: a certificate that is shown and forgotten would be lost with the process.
        identity.save(&self.data_dir)?;
        self.uplink.set(&identity.uplink_tls())?;
        self.agents.set(&identity.agent_tls())?;
        self.identity = identity;
        Ok(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_when_a_third_is_left_and_after() {
        let from = DateTime::UNIX_EPOCH;
        let until = from + TimeDelta::days(90);
        let due = |day: i64| is_due((from, until), from + TimeDelta::days(day));
        assert!(!due(0) && !due(60));
        assert!(due(61) && due(89) && due(100) && due(4000));
    }
}
