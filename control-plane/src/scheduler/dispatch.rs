//! Gives requested instances their machines, oldest first.

use tracing::{debug, info};

use crate::{app::App, domain, error::ApiError, store::instances, workflow::state::InstanceState};

/// Instances looked at in one round.
const ROUND: i64 = 500;

pub(super) async fn reconcile(app: &App) -> Result<(), ApiError> {
    let waiting = app
        .store
        .transaction(|db| instances::in_state(db, InstanceState::Requested, ROUND))
        .await?;
    for instance in waiting {
        match domain::instances::dispatch(app, instance.id).await? {
            Ok(site) => info!(instance = %instance.id, job = %instance.job, %site, "dispatched"),
            Err(why) => debug!(instance = %instance.id, why, "waiting"),
        }
    }
    Ok(())
}
