//! The end of this box's work at its site while its process lives on: it was revoked, or another box with the same identity works.
//! Whoever finds that out stops runner and boot services, so that two boxes never work on one machine. Only what the control plane
//! has signed retires a box; that it cannot be reached, or refuses a connection, does not.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use slipway_protocol::{
    keys::{Expect, KeyRing, VerifyingKey},
    site::{EdgeStanding, Standing},
    topic::Topic,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::{context::Context, identity::Identity, link::Link, store::Store};

/// How often a box that has no link asks how it stands.
const ASK_WITHOUT_LINK: Duration = Duration::from_secs(20);
/// How often one that has a link asks: a broker run elsewhere may let a revoked certificate stay until it is reloaded.
const ASK_WITH_LINK: Duration = Duration::from_secs(600);
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// The largest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 16 * 1024;
/// Setting that holds the key by which this box was revoked; another key is of a box that joined again.
pub const REVOKED_SETTING: &str = "revoked_report_key";

/// Why a box works no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It was revoked, or another one joined in its place.
    Revoked,
    /// Another box with the same identity works.
    Copied,
}

impl Reason {
    /// What is said on the box's console and in its log.
    #[must_use]
    pub fn text(self, identity: &Identity) -> String {
        let site = &identity.site;
        match self {
            Self::Revoked => format!(
                "Slipway edge: this box was revoked, or another one joined site {site} in its place. It serves nothing and works on no \
                 machine. Join it again with a new token, or take it away."
            ),
            Self::Copied => format!(
                "Slipway edge: another box with the identity of site {site} works; this one stands by and serves nothing. Switch one of \
                 them off for good, then start this one again if it is the one to stay."
            ),
        }
    }
}

/// Ends the work of this process, once.
#[derive(Debug, Clone)]
pub struct Retirement {
    reason: Arc<OnceLock<Reason>>,
    work: CancellationToken,
}

impl Retirement {
    /// For a process whose work ends with `work`.
    #[must_use]
    pub fn of(work: CancellationToken) -> Self {
        Self {
            reason: Arc::default(),
            work,
        }
    }

    /// Ends the work.
    pub fn retire(&self, reason: Reason) {
        if self.reason.set(reason).is_ok() {
            error!(?reason, "this box works at its site no more");
        }
        self.work.cancel();
    }

    /// Why the work has ended, if it was not for the end of the process.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason.get().copied()
    }
}

/// Whether this box, with this identity, was told that it is revoked.
///
/// # Errors
/// When the store or the identity cannot be read.
pub fn was_revoked(store: &Store, identity: &Identity) -> anyhow::Result<bool> {
    let own = identity.signer()?.verifying_key().to_string();
    Ok(store.setting(REVOKED_SETTING)? == Some(own))
}

/// Asks the control plane now and then how this box stands, until `stop`; a box that was revoked is retired, and stays so over
/// restarts.
///
/// # Errors
/// When the store cannot be written.
pub async fn run(
    context: Arc<Context>,
    link: Arc<Link>,
    url: String,
    retirement: Retirement,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let own = context.signer.verifying_key();
    loop {
        let is_up = link.is_up();
        let pause = if is_up { ASK_WITH_LINK } else { ASK_WITHOUT_LINK };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
            () = link.changed_from(is_up) => continue,
        }
        match ask(&context, &url, own).await {
            Ok(Standing::Revoked) => {
                context.store.put_setting(REVOKED_SETTING, &own.to_string())?;
                retirement.retire(Reason::Revoked);
                return Ok(());
            }
            Ok(Standing::Current | Standing::Unknown) => {}
            Err(error) => debug!(
                error = format!("{error:#}"),
                "how this box stands is not known; working on"
            ),
        }
    }
}

/// What the control plane says of this box, if it can be believed.
async fn ask(context: &Context, url: &str, own: VerifyingKey) -> anyhow::Result<Standing> {
    let site = &context.site;
    let url = format!("{}/api/v1/sites/{site}/edges/{own}", url.trim_end_matches('/'));
    let mut answer = reqwest::Client::new()
        .get(url)
        .timeout(ANSWER_LIMIT)
        .send()
        .await?
        .error_for_status()?;
    let mut payload = Vec::new();
    while let Some(piece) = answer.chunk().await? {
        payload.extend_from_slice(&piece);
        anyhow::ensure!(payload.len() <= MAX_ANSWER_BYTES, "the answer is too long");
    }
    standing(&context.key_ring(), context, own, &payload)
}

fn standing(
    keys: &KeyRing,
    context: &Context,
    own: VerifyingKey,
    payload: &[u8],
) -> anyhow::Result<Standing> {
    // A key is never used again, so an old answer that says `revoked` is as true as a new one.
    let topic = Topic::Standing(context.site.clone());
    let answer = keys.open::<EdgeStanding>(&topic, payload, Expect::kept())?;
    if answer.body().report_key != own {
        warn!("the control plane's answer is about another box; working on");
        return Ok(Standing::Unknown);
    }
    Ok(answer.body().standing)
}
