//! `/api/v1/events`, as pages or live, and the timelines of machines, instances and jobs.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, header},
    response::{
        IntoResponse, Response, Sse,
        sse::{self, KeepAlive},
    },
};
use futures::StreamExt as _;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::{List, Page, Path, Query};
use crate::{
    access::{Caller, Permission, Visible},
    app::App,
    domain::events::{self, Object},
    error::{ApiError, chain},
    store::events::{Event, Filter, Order},
};

/// In which order.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderWord {
    /// Oldest first.
    Oldest,
    /// Newest first.
    Newest,
}

/// Which events.
#[derive(Debug, Clone, Default, Deserialize, IntoParams)]
#[serde(default)]
pub struct EventFilter {
    /// At one site
    pub site: Option<String>,
    /// Of one machine, by id
    pub machine: Option<String>,
    /// Of one instance, by id
    pub instance: Option<String>,
    /// Of one job
    pub job: Option<String>,
    /// Of this kind or below it: `job` is `job.failed` too
    pub kind: Option<String>,
    /// Above this number
    pub after: Option<u64>,
    /// `oldest` first, as is usual with `after`, or `newest` first, as is usual without
    #[param(inline)]
    pub order: Option<OrderWord>,
}

impl EventFilter {
    fn within(&self, visible: Visible) -> Filter {
        Filter {
            site: self.site.clone(),
            machine: self.machine.clone(),
            instance: self.instance.clone(),
            job: self.job.clone(),
            kind: self.kind.clone(),
            after: self.after.unwrap_or(0),
            before: None,
            visible,
        }
    }

    fn order(&self) -> Order {
        match (self.order, self.after) {
            (Some(OrderWord::Oldest), _) | (None, Some(_)) => Order::Oldest,
            (Some(OrderWord::Newest), _) | (None, None) => Order::Newest,
        }
    }
}

/// The cursor of a list of events is the last one's number.
pub(super) fn cursor(page: &Page) -> Result<Option<u64>, ApiError> {
    let bad = |_| ApiError::Bad("cursor", "cursor is not the `next` of a page before".to_owned());
    let text = page.cursor.as_deref().filter(|text| !text.is_empty());
    text.map(str::parse).transpose().map_err(bad)
}

/// Shows what happened: a page of it, or with `Accept: text/event-stream` everything from now on, live. A live stream
/// goes on after `Last-Event-ID`, else after `after`, else with what happens next.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(Page, EventFilter),
    responses((status = 200, body = List<Event>), (status = 400)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(page): Query<Page>,
    Query(filter): Query<EventFilter>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let visible = caller.visible(Permission::EventsRead);
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("text/event-stream")) {
        return live(&app, &filter, &headers, caller).await;
    }
    let page = list_page(&app, &page, &filter, visible).await?;
    Ok(Json(page).into_response())
}

/// A page of the events that `visible` lets through.
async fn list_page(
    app: &App,
    page: &Page,
    filter: &EventFilter,
    visible: Visible,
) -> Result<List<Event>, ApiError> {
    let (limit, cursor, order) = (page.limit(), cursor(page)?, filter.order());
    let mut wanted = filter.within(visible);
    match order {
        Order::Oldest => wanted.after = cursor.unwrap_or(0).max(wanted.after),
        Order::Newest => wanted.before = cursor,
    }
    let rows = events::page(app, wanted, order, limit).await?;
    Ok(List::page(rows, limit, |event: &Event| event.seq.to_string()))
}

/// The events that the caller may see, as server-sent events.
async fn live(
    app: &Arc<App>,
    filter: &EventFilter,
    headers: &HeaderMap,
    caller: Caller,
) -> Result<Response, ApiError> {
    let bad = |_| {
        ApiError::Bad(
            "last_event_id",
            "Last-Event-ID is not a number given here".to_owned(),
        )
    };
    let resumed = headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let resumed = resumed.map(str::parse).transpose().map_err(bad)?;
    let mut wanted = filter.within(caller.visible(Permission::EventsRead));
    wanted.after = match resumed.or(filter.after) {
        Some(after) => after,
        None => events::last(app).await?,
    };
    let stream = events::tail(app, caller, wanted).map(|event| Ok::<_, Infallible>(message(&event)));
    // Intermediaries end silent connections; a comment now and then is no silence, and shows a browser that we live.
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

/// Without a name of its own, so that a browser's `onmessage` gets every kind.
fn message(event: &Event) -> sse::Event {
    let message = sse::Event::default().id(event.seq.to_string());
    message.json_data(event).unwrap_or_else(|failure| {
        tracing::error!(seq = event.seq, error = %chain(&failure), "an event is not JSON");
        sse::Event::default().comment("an event could not be written")
    })
}

/// The events of one object that `visible` lets through.
async fn timeline(
    app: &App,
    object: Object,
    (caller, key): (Caller, String),
    page: &Page,
) -> Result<Json<List<Event>>, ApiError> {
    let filter = Filter {
        after: cursor(page)?.unwrap_or(0),
        visible: caller.visible(Permission::EventsRead),
        ..Filter::default()
    };
    let rows = events::timeline(app, object, key, filter, page.limit()).await?;
    Ok(Json(List::page(rows, page.limit(), |event: &Event| {
        event.seq.to_string()
    })))
}

/// Shows everything about a machine, oldest first.
#[utoipa::path(get, path = "/api/v1/machines/{machine}/timeline", tag = "events",
    params(("machine" = String, Path), Page), responses((status = 200, body = List<Event>), (status = 404)))]
pub async fn machine_timeline(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<List<Event>>, ApiError> {
    timeline(&app, Object::Machine, (caller, key), &page).await
}

/// Shows everything about an instance, oldest first.
#[utoipa::path(get, path = "/api/v1/instances/{instance}/timeline", tag = "events",
    params(("instance" = String, Path), Page), responses((status = 200, body = List<Event>), (status = 404)))]
pub async fn instance_timeline(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<List<Event>>, ApiError> {
    timeline(&app, Object::Instance, (caller, key), &page).await
}

/// Shows everything about a job, oldest first.
#[utoipa::path(get, path = "/api/v1/jobs/{job}/timeline", tag = "events",
    params(("job" = String, Path), Page), responses((status = 200, body = List<Event>), (status = 404)))]
pub async fn job_timeline(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<List<Event>>, ApiError> {
    timeline(&app, Object::Job, (caller, key), &page).await
}
