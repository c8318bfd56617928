//! What a site should hold: its configuration, the order of each of its machines, and the images those orders need. Which
//! documents there are is known by their revisions alone; a document's content is read when it is to be sent. So a change
//! of one machine costs the same at a site of ten machines and of a thousand.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use chrono::TimeDelta;
use serde::Serialize;
use slipway_protocol::{
    ids::{ImageId, MachineId, SiteId},
    image::ImageNotice,
    keys::Stamp,
    order::{Action, Order},
    sync::{Document, Holdings},
    topic::{Kind, Topic},
};

use crate::{
    app::App,
    domain::sites::config_of,
    error::ApiError,
    store::{Database, StoreResult, images, orders, sites},
};

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
    pub(super) async fn of_site(&mut self, app: &App, site: &SiteId) -> Result<Option<Wanted>, ApiError> {
        let id = site.clone();
        let read = app.store.read(move |db| heads(db, &id)).await?;
        let Some((config_revision, heads)) = read else {
            return Ok(None);
        };
        let is_news =
            |(machine, revision): &&Head| self.needs.get(machine).map(|(held, _)| held) != Some(revision);
        let news: Vec<Head> = heads.iter().filter(is_news).copied().collect();
        if !news.is_empty() {
            let read = app.store.read(move |db| read_needs(db, &news)).await?;
            self.needs.extend(read);
        }
        let needed = heads
            .iter()
            .filter_map(|(machine, _)| Some(&self.needs.get(machine)?.1));
        let needed: BTreeSet<ImageId> = needed.flatten().copied().collect();
        let images = app
            .store
            .transaction(move |db| images::existing(db, &needed))
            .await?;
        Ok(Some(Wanted::new(config_revision, &heads, &images)))
    }
}

/// The revision of a site's configuration and the heads of its orders. A site without an edge that joined is sent nothing:
/// whoever listens there has lost its trust.
fn heads(db: &mut Database, site: &SiteId) -> StoreResult<Option<(u64, Vec<Head>)>> {
    let row = sites::get(db, site.as_str())?.filter(|row| row.report_key.is_some());
    let Some(row) = row else {
        return Ok(None);
    };
    Ok(Some((row.revision, orders::heads(db, site)?)))
}

fn read_needs(db: &mut Database, heads: &[Head]) -> StoreResult<Needs> {
    let mut needs = Needs::new();
    for (machine, _) in heads {
        if let Some(row) = orders::get(db, *machine)? {
            needs.insert(*machine, (row.revision, images_of(&row.order)));
        }
    }
    Ok(needs)
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
    fn new(config_revision: u64, orders: &[Head], images: &[ImageId]) -> Self {
        let mut documents = BTreeMap::new();
        let mut add = |kind: Kind, subject: String, revision: u64| {
            documents.insert(Document { kind, subject }, revision);
        };
        add(Kind::Config, "-".to_owned(), config_revision);
        for (machine, revision) in orders {
            add(Kind::Order, machine.to_string(), *revision);
        }
        for image in images {
            // An image never changes under its id, so its notice has one revision.
            add(Kind::Image, image.to_string(), 1);
        }
        Self { documents }
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
    app: &Arc<App>,
    site: &SiteId,
    document: &Document,
) -> Result<Option<Sealed>, ApiError> {
    match (document.kind, document.subject.parse(), document.subject.parse()) {
        (Kind::Config, ..) => config(app, site).await,
        (Kind::Order, Ok(machine), _) => order(app, site, machine).await,
        (Kind::Image, _, Ok(image)) => notice(app, site, image).await,
        _ => Ok(None),
    }
}

async fn config(app: &Arc<App>, site: &SiteId) -> Result<Option<Sealed>, ApiError> {
    let id = site.clone();
    let row = app
        .store
        .transaction(move |db| sites::get(db, id.as_str()))
        .await?;
    let topic = Topic::Config(site.clone());
    Ok(row.map(|row| seal(app, topic, (row.revision, LONG), &config_of(app, &row.settings))))
}

async fn order(app: &Arc<App>, site: &SiteId, machine: MachineId) -> Result<Option<Sealed>, ApiError> {
    let row = app.store.read(move |db| orders::get(db, machine)).await?;
    let topic = Topic::Order(site.clone(), machine);
    // A machine that was moved to another site has its order there.
    Ok(row.filter(|row| row.site == *site).map(|row| {
        let left = (row.order.deadline - (app.now)()).max(TimeDelta::zero());
        seal(app, topic, (row.revision, left + AFTER_DEADLINE), &row.order)
    }))
}

async fn notice(app: &Arc<App>, site: &SiteId, image: ImageId) -> Result<Option<Sealed>, ApiError> {
    let row = app
        .store
        .transaction(move |db| images::get(db, &image.to_string()))
        .await?;
    let topic = Topic::Image(site.clone(), image);
    Ok(row.map(|image| {
        let notice = ImageNotice {
            name: image.name,
            manifest: image.manifest,
            pinned: false,
        };
        seal(app, topic, (1, LONG), &notice)
    }))
}

fn seal<T: Serialize>(app: &App, topic: Topic, (revision, validity): (u64, TimeDelta), body: &T) -> Sealed {
    let issued_at = (app.now)();
    let stamp = Stamp {
        revision,
        issued_at,
        expires_at: issued_at + validity,
    };
    let payload = app.signer.seal(&topic, stamp, body);
    Sealed {
        topic,
        revision,
        payload,
    }
}
