//! What a site should hold: its configuration, the order of each of its machines, and the images those orders need.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use slipway_protocol::{
    ids::SiteId,
    image::ImageNotice,
    keys::Stamp,
    order::{Action, Order},
    site::SiteConfig,
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

/// One document's content.
enum Content {
    Config(SiteConfig),
    Order(Box<Order>),
    Image(Box<ImageNotice>),
}

/// All documents of a site.
pub(super) struct Wanted {
    site: SiteId,
    documents: BTreeMap<Document, (u64, Content)>,
}

/// What a site should hold; `None` for a site nobody made.
pub(super) async fn of_site(app: &App, site: &SiteId) -> Result<Option<Wanted>, ApiError> {
    let id = site.clone();
    let read = app.store.transaction(move |db| read(db, &id)).await?;
    let Some((settings, revision, orders, notices)) = read else {
        return Ok(None);
    };
    let mut documents = BTreeMap::new();
    let mut add = |kind: Kind, subject: String, revision: u64, content: Content| {
        documents.insert(Document { kind, subject }, (revision, content));
    };
    add(
        Kind::Config,
        "-".to_owned(),
        revision,
        Content::Config(config_of(app, &settings)),
    );
    for row in orders {
        add(
            Kind::Order,
            row.order.machine.to_string(),
            row.revision,
            Content::Order(Box::new(row.order)),
        );
    }
    for notice in notices {
        // An image never changes under its id, so its notice has one revision.
        add(
            Kind::Image,
            notice.manifest.id().to_string(),
            1,
            Content::Image(Box::new(notice)),
        );
    }
    Ok(Some(Wanted {
        site: site.clone(),
        documents,
    }))
}

type Read = (sites::SiteSettings, u64, Vec<orders::OrderRow>, Vec<ImageNotice>);

fn read(db: &mut Database, site: &SiteId) -> StoreResult<Option<Read>> {
    let Some(row) = sites::get(db, site.as_str())? else {
        return Ok(None);
    };
    // An order that is past its validity is history: no edge would take it.
    let orders = orders::of_site(db, site)?;
    let mut notices: BTreeMap<String, ImageNotice> = BTreeMap::new();
    for step in orders.iter().flat_map(|row| &row.order.steps) {
        let Action::ImageEnsure { image } = &step.action else {
            continue;
        };
        let id = image.to_string();
        if notices.contains_key(&id) {
            continue;
        }
        if let Some(image) = images::get(db, &id)? {
            notices.insert(
                id,
                ImageNotice {
                    name: image.name,
                    manifest: image.manifest,
                    pinned: false,
                },
            );
        }
    }
    Ok(Some((
        row.settings,
        row.revision,
        orders,
        notices.into_values().collect(),
    )))
}

impl Wanted {
    /// Images first, then configuration and orders, so that an order finds its image there.
    pub(super) fn documents(&self) -> Vec<Document> {
        let mut documents: Vec<Document> = self.documents.keys().cloned().collect();
        documents.sort_by_key(|document| document.kind != Kind::Image);
        documents
    }

    pub(super) fn revision(&self, document: &Document) -> Option<u64> {
        self.documents.get(document).map(|(revision, _)| *revision)
    }

    pub(super) fn holdings(&self) -> Holdings {
        let mut holdings = Holdings::default();
        for (document, (revision, _)) in &self.documents {
            holdings.hold(document.kind, document.subject.clone(), *revision);
        }
        holdings
    }

    /// A document's topic, revision and signed payload.
    pub(super) fn sealed(&self, app: &App, document: &Document) -> Option<(Topic, u64, Vec<u8>)> {
        let (revision, content) = self.documents.get(document)?;
        let issued_at = (app.now)();
        let stamp = |expires_at| Stamp {
            revision: *revision,
            issued_at,
            expires_at,
        };
        let site = self.site.clone();
        let (topic, payload) = match content {
            Content::Config(config) => {
                let topic = Topic::Config(site);
                let payload = app.signer.seal(&topic, stamp(issued_at + LONG), config);
                (topic, payload)
            }
            Content::Order(order) => {
                let topic = Topic::Order(site, order.machine);
                let until = order.deadline.max(issued_at) + AFTER_DEADLINE;
                let payload = app.signer.seal(&topic, stamp(until), &**order);
                (topic, payload)
            }
            Content::Image(notice) => {
                let topic = Topic::Image(site, notice.manifest.id());
                let payload = app.signer.seal(&topic, stamp(issued_at + LONG), &**notice);
                (topic, payload)
            }
        };
        Some((topic, *revision, payload))
    }
}
