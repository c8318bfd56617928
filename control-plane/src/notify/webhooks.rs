//! Delivers events to webhooks, in order for each, at least once. One replica works for a webhook while it holds its
//! lease; if it dies the lease ends and another goes on with the delivery that was not noted as done.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chrono::TimeDelta;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use uuid::Uuid;

use super::post::Message;
use crate::{
    app::App,
    domain::{
        webhook_secrets,
        webhooks::{self, Step},
    },
    error::{ApiError, chain},
};

/// How often due deliveries are looked for without a word.
const TICK: Duration = Duration::from_secs(1);

/// How often deliveries that ended long ago are removed.
const PRUNE: Duration = Duration::from_secs(3600);

/// How long a replica has for one attempt, which takes 10 s at most, and for noting it.
const LEASE: TimeDelta = TimeDelta::seconds(60);

/// Works until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let holder = Uuid::new_v4().to_string();
    let mut news = app.feed.subscribe();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hourly = tokio::time::interval(PRUNE);
    let mut workers = Workers::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
            Ok(()) = news.changed() => {}
            _ = hourly.tick() => {
                let now = (app.now)();
                if let Err(failure) = app.store.transaction(move |db| webhooks::prune(db, now)).await {
                    error!(error = %chain(&failure), "old deliveries cannot be removed; trying again in an hour");
                }
                continue;
            }
            Some(ended) = workers.set.join_next_with_id() => {
                workers.ended(ended);
                continue;
            }
        }
        let now = (app.now)();
        match app.store.transaction(move |db| webhooks::due(db, now)).await {
            Ok(due) => due.into_iter().for_each(|id| workers.start(&app, id, &holder)),
            Err(failure) => error!(error = %chain(&failure), "due deliveries cannot be read; trying again"),
        }
    }
    // An attempt under way is cut off; it is made again by whoever comes after.
    workers.set.abort_all();
    while workers.set.join_next().await.is_some() {}
}

/// One task a webhook that has something due.
#[derive(Default)]
struct Workers {
    set: JoinSet<()>,
    busy: HashMap<Id, String>,
}

impl Workers {
    fn start(&mut self, app: &Arc<App>, webhook: String, holder: &str) {
        let busy: HashSet<&String> = self.busy.values().collect();
        if busy.contains(&webhook) {
            return;
        }
        let work = work(Arc::clone(app), webhook.clone(), holder.to_owned());
        self.busy.insert(self.set.spawn(work).id(), webhook);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(failure) => {
                error!(error = %failure, "a delivery task failed; its lease ends by itself");
                failure.id()
            }
        };
        self.busy.remove(&id);
    }
}

/// Delivers what is due of one webhook.
async fn work(app: Arc<App>, webhook: String, holder: String) {
    loop {
        match step(&app, &webhook, &holder).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(failure) => {
                error!(webhook, error = %chain(&failure), "a webhook cannot be served; trying again");
                break;
            }
        }
    }
    let released = webhook.clone();
    let release = move |db: &mut _| crate::store::webhooks::release(db, &released, &holder);
    if let Err(failure) = app.store.transaction(release).await {
        error!(webhook, error = %chain(&failure), "a lease could not be given back; it ends by itself");
    }
}

/// Makes one attempt; `false` if nothing is due.
async fn step(app: &App, webhook: &str, holder: &str) -> Result<bool, ApiError> {
    let (id, by, now) = (webhook.to_owned(), holder.to_owned(), (app.now)());
    let next = app
        .store
        .transaction(move |db| webhooks::next(db, &id, &by, now, now + LEASE));
    let Some(Step {
        webhook,
        delivery,
        event,
    }) = next.await?
    else {
        return Ok(false);
    };
    let secrets = webhook_secrets::signing(&app.vault, &webhook, now)?;
    let body = serde_json::to_vec(&event).map_err(|e| ApiError::Internal(e.into()))?;
    let message = Message {
        url: &webhook.url,
        kind: &event.kind,
        delivery: &delivery.id,
        secrets: &secrets,
        body,
    };
    let answer = app.poster.post(message, now).await;
    if let Some(error) = &answer.error {
        info!(webhook = webhook.id, seq = event.seq, error, "a delivery failed");
    }
    let (by, now, random) = (holder.to_owned(), (app.now)(), super::jitter());
    let noted = app
        .store
        .transaction(move |db| webhooks::note(db, delivery, &by, answer, (now, random)));
    Ok(noted.await?)
}
