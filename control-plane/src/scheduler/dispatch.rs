//! Gives requested instances their machines, oldest first.

use std::collections::HashSet;

use tracing::{debug, error, info};

use crate::{
    app::App,
    domain,
    error::{ApiError, chain},
    store::instances::{self, Cursor},
    workflow::state::InstanceState,
};

/// Instances read at once.
const PAGE: i64 = 500;

/// Looks at every instance that waits: those that wait for a full site must not hold up another site's.
pub(super) async fn reconcile(app: &App) -> Result<(), ApiError> {
    let mut after: Cursor = None;
    let mut full = HashSet::new();
    loop {
        let read = move |db: &mut _| instances::in_state(db, InstanceState::Requested, after, PAGE);
        let waiting = app.store.transaction(read).await?;
        let Some(last) = waiting.last() else {
            return Ok(());
        };
        after = Some((last.created_at, last.id));
        for instance in waiting {
            // A site without a free machine has none for the next one either; there may be thousands that wait.
            let any_machine = instance.wish.machine.is_none();
            if any_machine && full.contains(&instance.site) {
                continue;
            }
            match domain::instances::dispatch(app, instance.id).await {
                Ok(Ok(site)) => info!(instance = %instance.id, job = %instance.job, %site, "dispatched"),
                Ok(Err(why)) => {
                    debug!(instance = %instance.id, why, "waiting");
                    if any_machine {
                        full.insert(instance.site);
                    }
                }
                // One that cannot be dispatched must not hold up all that came after it.
                Err(failure) => {
                    error!(instance = %instance.id, error = %chain(&failure), "cannot be dispatched; trying again")
                }
            }
        }
    }
}
