//! Looks at the alert rules now and then; one replica at a time does so.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::error;
use uuid::Uuid;

use crate::{app::App, domain::alerts, error::chain};

/// How often the rules are looked at.
const TICK: Duration = Duration::from_secs(5);

/// Works until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let holder = Uuid::new_v4().to_string();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let (holder, now) = (holder.clone(), (app.now)());
        let evaluated = app
            .store
            .transaction(move |db| alerts::evaluate(db, &holder, now).map(|_| ()));
        if let Err(failure) = evaluated.await {
            error!(error = %chain(&failure), "alert rules cannot be looked at; trying again");
        }
    }
}
