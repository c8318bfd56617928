//! Applies machine types to machines that a crash kept from being classified.

use crate::{app::App, domain, error::ApiError};

pub(super) async fn reconcile(app: &App) -> Result<(), ApiError> {
    domain::machine_types::reclassify(app).await
}
