//! What the parts of an edge share: handles only, no behaviour beyond looking things up.

use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{ImageId, MachineId, SiteId},
    image::{ImageNotice, Manifest},
    keys::{Expect, KeyRing, Signer, VerifyingKey},
    seal::OpeningKey,
    topic::{Kind, Topic},
};

use crate::{
    bmc::Reach,
    boot::BootTable,
    boots::Boots,
    images::ImageCache,
    job_log::JobLogs,
    ledger::Ledger,
    store::{Store, StoreError},
};

/// Where the runner's words go.
pub trait Outbox: Send + Sync {
    /// A machine's report in the store is new.
    fn report_changed(&self, machine: MachineId);
    /// A message for an agent; lost if the agent is not there, and sent again when it says hello.
    fn to_agent(&self, topic: &Topic, payload: Vec<u8>);
}

/// Handles shared by all parts.
pub struct Context {
    /// The site.
    pub site: SiteId,
    /// What must not be forgotten.
    pub store: Store,
    /// What is held in which revision.
    pub ledger: Ledger,
    /// The logs of jobs.
    pub logs: JobLogs,
    /// Boot tokens in force.
    pub boots: Boots,
    /// What to answer a booting machine.
    pub table: Arc<BootTable>,
    /// The image cache.
    pub images: ImageCache,
    /// Signs reports and releases.
    pub signer: Signer,
    /// Opens secrets sealed to this site.
    pub opening: OpeningKey,
    /// Where words go.
    pub outbox: Arc<dyn Outbox>,
    /// How machines' BMCs are reached.
    pub bmcs: Arc<dyn Reach>,
    /// The clock.
    pub now: fn() -> DateTime<Utc>,
    /// The keys commands may be signed by.
    pub keys: RwLock<Vec<VerifyingKey>>,
}

impl Context {
    /// The ring that verifies commands.
    #[must_use]
    pub fn key_ring(&self) -> KeyRing {
        KeyRing::new(
            self.keys
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .copied(),
        )
    }

    /// The signed notice of an image as it came, and its verified manifest; `None` if it has not come yet.
    ///
    /// # Errors
    /// When the store fails.
    pub fn image(&self, image: ImageId) -> Result<Option<(Vec<u8>, Manifest)>, StoreError> {
        let Some(document) = self.store.document(Kind::Image, &image.to_string())? else {
            return Ok(None);
        };
        let topic = Topic::Image(self.site.clone(), image);
        let opened = self
            .key_ring()
            .open::<ImageNotice>(&topic, &document.payload, Expect::kept());
        Ok(opened
            .ok()
            .map(|notice| (document.payload, notice.into_body().manifest)))
    }
}
