//! The scheduler: one reconciler a file, woken by a word and by a tick, taking no input. What happens after a crash is
//! what happens every few seconds.

mod classify;
mod deadlines;
mod dispatch;
mod leases;
pub mod plan;

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    app::App,
    error::{ApiError, chain},
};

/// How often everything is looked at without a word.
const TICK: Duration = Duration::from_secs(2);

/// Runs all reconcilers until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut told = dispatch::Told::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        let woken_by_tick = tokio::select! {
            () = stop.cancelled() => return,
            () = app.work.notified() => false,
            _ = tick.tick() => true,
        };
        tell(dispatch::reconcile(&app, &mut told).await);
        // A word says that there is something to dispatch; it does not make time pass faster.
        if woken_by_tick {
            tell(deadlines::reconcile(&app).await);
            tell(classify::reconcile(&app).await);
            tell(leases::reconcile(&app).await);
        }
    }
}

fn tell(result: Result<(), ApiError>) {
    if let Err(failure) = result {
        error!(error = %chain(&failure), "a reconciler failed; it is tried again at the next tick");
    }
}
