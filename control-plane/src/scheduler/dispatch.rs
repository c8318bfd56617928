//! Gives requested instances their machines, oldest first at each site.

use std::collections::{BTreeMap, HashSet};

use futures::StreamExt as _;
use slipway_protocol::ids::SiteId;
use tracing::{debug, error, info};

use crate::{
    app::App,
    domain,
    error::{ApiError, chain},
    store::instances::{self, Cursor, Instance},
    workflow::state::InstanceState,
};

/// Instances read at once.
const PAGE: i64 = 500;
/// Sites worked on at once: dispatches at different sites have nothing to do with each other but the database, and most
/// of a dispatch is waiting for it. Most of the database is left to requests and reports.
fn parallel(app: &App) -> usize {
    (app.store.writers() / 4).max(1)
}

/// Looks at every instance that waits: those that wait for a full site must not hold up another site's.
pub(super) async fn reconcile(app: &App) -> Result<(), ApiError> {
    let mut after: Cursor = None;
    let mut full: HashSet<SiteId> = HashSet::new();
    loop {
        let read = move |db: &mut _| instances::in_state(db, InstanceState::Requested, after, PAGE);
        let waiting = app.store.read(read).await?;
        let Some(last) = waiting.last() else {
            return Ok(());
        };
        after = Some((last.created_at, last.id));
        let mut by_site: BTreeMap<SiteId, Vec<Instance>> = BTreeMap::new();
        for instance in waiting {
            by_site.entry(instance.site.clone()).or_default().push(instance);
        }
        let sites = by_site.into_iter().map(|(site, waiting)| {
            let was_full = full.contains(&site);
            async move {
                let is_full = dispatch_at_site(app, waiting, was_full).await;
                is_full.then_some(site)
            }
        });
        let found: Vec<Option<SiteId>> = futures::stream::iter(sites)
            .buffer_unordered(parallel(app))
            .collect()
            .await;
        full.extend(found.into_iter().flatten());
    }
}

/// Dispatches what waits at one site; answers whether the site has no free machine.
async fn dispatch_at_site(app: &App, waiting: Vec<Instance>, was_full: bool) -> bool {
    let mut full = was_full;
    for instance in waiting {
        // A site without a free machine has none for the next one either; there may be thousands that wait.
        let any_machine = instance.wish.machine.is_none();
        if any_machine && full {
            continue;
        }
        match domain::instances::dispatch(app, instance.id).await {
            Ok(Ok(site)) => info!(instance = %instance.id, job = %instance.job, %site, "dispatched"),
            Ok(Err(why)) => {
                debug!(instance = %instance.id, why, "waiting");
                full |= any_machine;
            }
            // One that cannot be dispatched must not hold up all that came after it.
            Err(failure) => {
                error!(instance = %instance.id, error = %chain(&failure), "cannot be dispatched; trying again")
            }
        }
    }
    full
}
