//! Ends jobs whose time is over, and keeps the count of jobs by state.

use crate::{app::App, domain, error::ApiError, metrics, store::jobs};

pub(super) async fn reconcile(app: &App) -> Result<(), ApiError> {
    domain::jobs::fail_overdue(app).await?;
    for (state, count) in app.store.read(jobs::counts).await? {
        metrics::jobs(state.word(), count);
    }
    Ok(())
}
