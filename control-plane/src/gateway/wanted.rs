//! What a site should hold: its configuration, the order of each of its machines, and the images those orders need. Which
//! documents there are is known by their revisions alone; a document's content is read when it is to be sent. So a change
//! of one machine costs the same at a site of ten machines and of a thousand.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::TimeDelta;
use serde::Serialize;
use slipway_protocol::{
    ids::{ImageId, MachineId, SiteId},
    keys::Stamp,
    order::{Action, Order},
    sync::{Document, Holdings},
    topic::{Kind, Topic},
};

use super::records::Records;
use crate::error::ApiError;

/// How long configuration and image notices stay good.
const LONG: TimeDelta = TimeDelta::days(365);
/// How long an order stays good after its deadline: late reports still refer to it.
const AFTER_DEADLINE: TimeDelta = TimeDelta::days(1);

/// An order that is in force: its machine and its revision.
type Head = (MachineId, u64);
/// The images each order needs. An order never changes under its revision, so what was read once holds.
type Needs = HashMap<MachineId, (u64, BTreeSet<ImageId>)>;

/// Knows what sites should hold. Keeps nothing but what it read of orders, which it may forget at any time.
#[derive(Default)]
pub(super) struct Library {
    needs: Needs,
}

/// All documents of a site, by their revisions.
pub(super) struct Wanted {
    documents: BTreeMap<Document, u64>,
}

/// A document to be sent.
pub(super) struct Sealed {
    pub(super) topic: Topic,
    pub(super) revision: u64,
    pub(super) payload: Vec<u8>,
}

impl Library {
    /// What a site should hold; `None` for a site nobody made.
    pub(super) async fn of_site(
        &mut self,
        records: &dyn Records,
        site: &SiteId,
    ) -> Result<Option<Wanted>, ApiError> {
        let Some((config_revision, heads)) = records.heads(site).await? else {
            return Ok(None);
        };
        let is_news =
            |(machine, revision): &&Head| self.needs.get(machine).map(|(held, _)| held) != Some(revision);
        let news: Vec<MachineId> = heads
            .iter()
            .filter(is_news)
            .map(|(machine, _)| *machine)
            .collect();
        if !news.is_empty() {
            for row in records.orders(news).await? {
                self.needs
                    .insert(row.order.machine, (row.revision, images_of(&row.order)));
            }
        }
        let needed = heads
            .iter()
            .filter_map(|(machine, _)| Some(&self.needs.get(machine)?.1));
        let needed: BTreeSet<ImageId> = needed.flatten().copied().collect();
        let images = records.images(needed).await?;
        let edition = records.edition(site);
        let leases = records.leases(site).await?;
        let mut wanted = Wanted::new(config_revision, &heads, (&images, edition));
        wanted.add_leases(&leases);
        Ok(Some(wanted))
    }
}

fn images_of(order: &Order) -> BTreeSet<ImageId> {
    let image = |action: &Action| match action {
        Action::ImageEnsure { image } => Some(*image),
        _ => None,
    };
    order
        .steps
        .iter()
        .filter_map(|step| image(&step.action))
        .collect()
}

impl Wanted {
    fn new(config_revision: u64, orders: &[Head], (images, edition): (&[ImageId], u64)) -> Self {
        let mut documents = BTreeMap::new();
        let mut add = |kind: Kind, subject: String, revision: u64| {
            documents.insert(Document { kind, subject }, revision);
        };
        add(Kind::Config, "-".to_owned(), config_revision);
        for (machine, revision) in orders {
            add(Kind::Order, machine.to_string(), *revision);
        }
        for image in images {
            add(Kind::Image, image.to_string(), edition);
        }
        Self { documents }
    }

    fn add_leases(&mut self, leases: &[Head]) {
        for (machine, revision) in leases {
            let (kind, subject) = (Kind::Lease, machine.to_string());
            self.documents.insert(Document { kind, subject }, *revision);
        }
    }

    /// The leases among them.
    pub(super) fn leases(&self) -> Vec<(MachineId, u64)> {
        let leases = self
            .documents
            .iter()
            .filter(|(document, _)| document.kind == Kind::Lease);
        leases
            .filter_map(|(document, revision)| Some((document.subject.parse().ok()?, *revision)))
            .collect()
    }

    /// Images first, then configuration and orders, so that an order finds its image there.
    pub(super) fn documents(&self) -> Vec<(Document, u64)> {
        let mut documents: Vec<(Document, u64)> = self
            .documents
            .iter()
            .map(|(document, revision)| (document.clone(), *revision))
            .collect();
        documents.sort_by_key(|(document, _)| document.kind != Kind::Image);
        documents
    }

    /// The revision of the configuration.
    pub(super) fn config(&self) -> u64 {
        let config = Document {
            kind: Kind::Config,
            subject: "-".to_owned(),
        };
        self.documents.get(&config).copied().unwrap_or_default()
    }

    pub(super) fn holdings(&self) -> Holdings {
        let mut holdings = Holdings::default();
        for (document, revision) in &self.documents {
            holdings.hold(document.kind, document.subject.clone(), *revision);
        }
        holdings
    }
}

/// A document of a site as it stands now, signed; `None` if it is gone.
pub(super) async fn sealed(
    records: &dyn Records,
    site: &SiteId,
    document: &Document,
) -> Result<Option<Sealed>, ApiError> {
    match (document.kind, document.subject.parse(), document.subject.parse()) {
        (Kind::Config, ..) => config(records, site).await,
        (Kind::Order, Ok(machine), _) => order(records, site, machine).await,
        (Kind::Lease, Ok(machine), _) => lease(records, site, machine).await,
        (Kind::Image, _, Ok(image)) => notice(records, site, image).await,
        _ => Ok(None),
    }
}

async fn config(records: &dyn Records, site: &SiteId) -> Result<Option<Sealed>, ApiError> {
    let config = records.config(site).await?;
    let topic = Topic::Config(site.clone());
    Ok(config.map(|(revision, config)| seal(records, topic, (revision, LONG), &config)))
}

pub(super) async fn order(
    records: &dyn Records,
    site: &SiteId,
    machine: MachineId,
) -> Result<Option<Sealed>, ApiError> {
    let row = records.orders(vec![machine]).await?.pop();
    let topic = Topic::Order(site.clone(), machine);
    // A machine that was moved to another site has its order there.
    Ok(row.filter(|row| row.site == *site).map(|row| {
        let left = (row.order.deadline - records.now()).max(TimeDelta::zero());
        seal(records, topic, (row.revision, left + AFTER_DEADLINE), &row.order)
    }))
}

async fn lease(records: &dyn Records, site: &SiteId, machine: MachineId) -> Result<Option<Sealed>, ApiError> {
    let row = records.lease(site, machine).await?;
    let topic = Topic::Lease(site.clone(), machine);
    Ok(row.map(|row| {
        // One that was taken back must arrive however long that takes: it allows nothing.
        let left = if row.lease.offers.is_empty() {
            LONG
        } else {
            row.lease.until - records.now()
        };
        seal(records, topic, (row.revision, left), &row.lease)
    }))
}

async fn notice(records: &dyn Records, site: &SiteId, image: ImageId) -> Result<Option<Sealed>, ApiError> {
    let notice = records.notice(image).await?;
    let topic = Topic::Image(site.clone(), image);
    Ok(notice.map(|notice| seal(records, topic, (records.edition(site), LONG), &notice)))
}

fn seal<T: Serialize>(
    records: &dyn Records,
    topic: Topic,
    (revision, validity): (u64, TimeDelta),
    body: &T,
) -> Sealed {
    let issued_at = records.now();
    let stamp = Stamp {
        revision,
        issued_at,
        expires_at: issued_at + validity,
    };
    let payload = records.signer(topic.site()).seal(&topic, stamp, body);
    Sealed {
        topic,
        revision,
        payload,
    }
}
