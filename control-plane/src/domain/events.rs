//! The event stream's readers: pages of what happened, and the live tail. It writes nothing but numbers; events are
//! written by whoever makes them happen.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::{
    access::{Caller, Permission, authenticate},
    app::App,
    error::{ApiError, chain},
    store::{
        events::{self, Event, Filter, Order},
        instances, jobs, machines,
    },
};

/// How often the store is asked for events of other replicas.
const TICK: Duration = Duration::from_secs(1);

/// How long events wait for each other.
const MOMENT: Duration = Duration::from_millis(50);

/// How often events that are too old are removed.
const PRUNE: Duration = Duration::from_secs(3600);

/// Events looked at in one piece of that.
const PRUNE_PIECE: i64 = 5000;

/// Most events read at once for a live tail.
const TAIL_PAGE: i64 = 500;

/// The head of the stream as this process knows it.
pub struct Feed {
    last: watch::Sender<u64>,
    closed: CancellationToken,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            last: watch::Sender::new(0),
            closed: CancellationToken::new(),
        }
    }
}

impl Feed {
    /// Tells the highest number as it grows.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }
}

/// Numbers what was committed, here and by other replicas, and wakes the readers; until `stop`, which ends all tails.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut hourly = tokio::time::interval(PRUNE);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            // What is committed within a moment is numbered at once: one more write for many, and readers wake less often.
            () = app.store.appended() => tokio::time::sleep(MOMENT).await,
            _ = tick.tick() => {}
            _ = hourly.tick() => {
                prune(&app).await;
                super::job_logs::prune(&app).await;
                super::machines::prune_discovered(&app).await;
                continue;
            }
        }
        match app.store.transaction(events::number).await {
            Ok(last) => {
                app.feed
                    .last
                    .send_if_modified(|known| std::mem::replace(known, last) != last);
            }
            Err(failure) => error!(error = %chain(&failure), "events could not be numbered; trying again"),
        }
    }
    app.feed.closed.cancel();
}

/// Removes events that are too old, in pieces, so that nobody waits long for the database.
async fn prune(app: &App) {
    let before = (app.now)() - TimeDelta::days(app.config.event_days.into());
    loop {
        match app
            .store
            .transaction(move |db| events::prune(db, before, PRUNE_PIECE))
            .await
        {
            Ok(0) => return,
            Ok(_) => {}
            Err(failure) => {
                error!(error = %chain(&failure), "old events cannot be removed; trying again in an hour");
                return;
            }
        }
    }
}

/// A page of events; whatever was committed before the call is in it.
///
/// # Errors
/// When the store fails.
pub async fn page(app: &App, filter: Filter, order: Order, limit: i64) -> Result<Vec<Event>, ApiError> {
    let page = app.store.transaction(move |db| {
        events::number(db)?;
        events::list(db, &filter, order, limit)
    });
    Ok(page.await?)
}

/// The highest number there is.
///
/// # Errors
/// When the store fails.
pub async fn last(app: &App) -> Result<u64, ApiError> {
    Ok(app.store.transaction(events::number).await?)
}

/// A tail of the stream.
struct Tail {
    app: Arc<App>,
    caller: Caller,
    filter: Filter,
    read: VecDeque<Event>,
    news: watch::Receiver<u64>,
}

impl Tail {
    /// Reads on what the caller may see now; `after` moves past what the filter leaves out, so that nothing is looked at twice.
    async fn read(&mut self) -> Result<(), ApiError> {
        let (mut filter, caller, now) = (self.filter.clone(), self.caller.clone(), (self.app.now)());
        let read = self.app.store.transaction(move |db| {
            let caller = authenticate::judged_again(db, &caller, now)?;
            filter.visible = caller.visible(Permission::EventsRead);
            let last = events::number(db)?;
            Ok::<_, ApiError>((last, events::list(db, &filter, Order::Oldest, TAIL_PAGE)?))
        });
        let (last, read) = read.await?;
        let full = i64::try_from(read.len()).is_ok_and(|len| len >= TAIL_PAGE);
        let newest = read.last().map_or(0, |event| event.seq);
        // What `list` saw may be newer than `last`: another replica may have numbered in between.
        self.filter.after = self
            .filter
            .after
            .max(if full { newest } else { last.max(newest) });
        self.read.extend(read);
        Ok(())
    }
}

/// The events of a filter above `filter.after` that the caller may see, each once and in order, without end; it ends when the
/// process stops, or when the caller's key or session was taken back. What they may see is looked up at each read, and at
/// least each 15 s. Nothing is lost by a store that fails for a while: it is read again at the next event.
pub fn tail(app: &Arc<App>, caller: Caller, filter: Filter) -> impl Stream<Item = Event> + Send + use<> {
    let tail = Tail {
        app: Arc::clone(app),
        caller,
        filter,
        read: VecDeque::new(),
        news: app.feed.subscribe(),
    };
    stream::unfold(tail, |mut tail| async move {
        let closed = tail.app.feed.closed.clone();
        loop {
            if closed.is_cancelled() {
                return None;
            }
            if let Some(event) = tail.read.pop_front() {
                return Some((event, tail));
            }
            tail.news.mark_unchanged();
            match tail.read().await {
                Ok(()) if tail.read.is_empty() => {}
                Ok(()) => continue,
                Err(ApiError::Unauthorized) => return None,
                Err(failure) => error!(error = %chain(&failure), "events could not be read; trying again"),
            }
            tokio::select! {
                () = closed.cancelled() => return None,
                // A failed read is tried again even if nothing happens; the sender lives as long as the application.
                _ = tokio::time::timeout(TICK * 15, tail.news.changed()) => {}
            }
        }
    })
}

/// An object with a timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// A machine, by id or name.
    Machine,
    /// An instance, by id or name.
    Instance,
    /// A job, by id.
    Job,
}

/// The events of one object above `filter.after` that may be seen, oldest first. One that was deleted still has its timeline, by its id.
///
/// # Errors
/// When nothing is known of it.
pub async fn timeline(
    app: &App,
    object: Object,
    key: String,
    mut filter: Filter,
    limit: i64,
) -> Result<Vec<Event>, ApiError> {
    let page = app.store.transaction(move |db| {
        events::number(db)?;
        let (name, place) = match object {
            Object::Machine => ("machine", &mut filter.machine),
            Object::Instance => ("instance", &mut filter.instance),
            Object::Job => ("job", &mut filter.job),
        };
        let id = match object {
            Object::Machine => machines::get(db, &key)?.map(|m| m.id.to_string()),
            Object::Instance => instances::get(db, &key, &filter.visible)?.map(|i| i.id.to_string()),
            Object::Job => jobs::get(db, &key)?.map(|j| j.id.to_string()),
        };
        *place = Some(id.unwrap_or_else(|| key.clone()));
        let page = events::list(db, &filter, Order::Oldest, limit)?;
        // Everything there is has an event of its beginning, so none means: not there, or not for this caller.
        if page.is_empty() && filter.after == 0 {
            return Err(ApiError::NotFound(name, key));
        }
        Ok(page)
    });
    page.await
}
