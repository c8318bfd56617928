//! Issues, renews and takes back what sites may do while they are cut off.

use crate::{app::App, domain, error::ApiError};

pub(super) async fn reconcile(app: &App) -> Result<(), ApiError> {
    domain::offline::reconcile(app).await
}
