//! Ends jobs whose time is over.

use crate::{app::App, domain, error::ApiError};

pub(super) async fn reconcile(app: &App) -> Result<(), ApiError> {
    // Times that were measured are put into their buckets here, also if nobody asks for them.
    app.metrics.run_upkeep();
    domain::jobs::fail_overdue(app).await?;
    Ok(())
}
