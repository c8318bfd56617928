//! The handles every part of the control plane shares. No behaviour beyond making them.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
    time::Instant,
};

use chrono::{DateTime, SubsecRound as _, Utc};
use metrics_exporter_prometheus::PrometheusHandle;
use slipway_bus::{Client, broker::Backend};
use slipway_protocol::keys::Signer;
use tokio::sync::{Notify, broadcast};

use crate::{
    access::{oidc::provider::Provider, throttle::Throttle},
    chunks::Chunks,
    config::Config,
    domain::{events::Feed, image_chunks::SweepQueue, readiness::NotReady},
    gateway::Admitted,
    notify::{egress::Private, post::Poster},
    pki::{self, Authority, PkiError},
    signing::Signing,
    store::Store,
    vault::Vault,
};

/// Shared handles.
pub struct App {
    /// Settings.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// Secrets at rest.
    pub vault: Vault,
    /// Certificates.
    pub authority: Authority,
    /// Signs orders.
    pub signing: Signing,
    /// The first signing key, which lies in a file.
    pub file_key: Arc<Signer>,
    /// Image chunks.
    pub chunks: Chunks,
    /// The clock, in microseconds as the store keeps them: what is told is what is read later.
    pub now: fn() -> DateTime<Utc>,
    /// Wakes the scheduler.
    pub work: Notify,
    /// Wakes the sweep of chunks.
    pub sweep: SweepQueue,
    /// Wakes the gateway for one site: something it should hold was committed.
    pub sites: broadcast::Sender<String>,
    /// Wakes those who wait for a job's next report.
    pub reports: broadcast::Sender<String>,
    /// Which edges' certificates are good, for the embedded broker's door.
    pub edges: Admitted,
    /// The embedded broker, if this process runs one.
    pub broker: OnceLock<Backend>,
    /// The connection to the broker.
    pub link: OnceLock<Client>,
    /// Whether the work could be done when that was last looked at.
    pub readiness: tokio::sync::Mutex<Option<(Instant, Result<(), NotReady>)>>,
    /// Slows log-ins down, by address, and new passwords, by user.
    pub logins: Throttle,
    /// Slows callers down who prove nothing, by address.
    pub strangers: Throttle,
    /// How many refused log-ins the audit log takes.
    pub noted_strangers: Throttle,
    /// The single sign-on provider, if there is one.
    pub sso: Option<Provider>,
    /// Wakes the readers of the event stream.
    pub feed: Feed,
    /// Sends to webhooks.
    pub poster: Poster,
    /// Renders `/metrics`.
    pub metrics: PrometheusHandle,
}

fn clock() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

impl App {
    /// Makes the handles; keys that are not there are made.
    ///
    /// # Errors
    /// When a key file cannot be used.
    pub fn new(config: Config, store: Store, metrics: PrometheusHandle) -> Result<Arc<Self>, PkiError> {
        let dir: &Path = &config.data_dir;
        let private = if config.webhook_private {
            Private::Allowed
        } else {
            Private::Refused
        };
        let file_key = Arc::new(pki::order_signer(dir)?);
        Ok(Arc::new(Self {
            vault: Vault::new(&pki::vault_key(dir)?),
            authority: Authority::open(dir)?,
            signing: Signing::new(Arc::clone(&file_key)),
            file_key,
            chunks: Chunks::new(dir.join("chunks")),
            store,
            now: clock,
            work: Notify::new(),
            sweep: SweepQueue::default(),
            sites: broadcast::channel(1024).0,
            reports: broadcast::channel(1024).0,
            edges: Admitted::default(),
            broker: OnceLock::new(),
            link: OnceLock::new(),
            readiness: tokio::sync::Mutex::default(),
            logins: Throttle::new(10, 0.1),
            strangers: Throttle::new(600, 10.0),
            noted_strangers: Throttle::new(100, 0.1),
            sso: config.oidc.clone().map(|oidc| {
                let back = format!(
                    "{}/api/v1/auth/oidc/callback",
                    config.public_url.trim_end_matches('/')
                );
                Provider::new(oidc, back)
            }),
            feed: Feed::default(),
            poster: Poster::new(private),
            metrics,
            config,
        }))
    }

    /// Says that what a site should hold has changed. Nobody listening means that the next comparison finds it.
    pub fn poke_site(&self, site: &str) {
        let _ = self.sites.send(site.to_owned());
    }
}
