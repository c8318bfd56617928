//! `/api/v1/machines` and `/api/v1/discovered`

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use slipway_protocol::{
    bmc::BmcState,
    ids::MacAddr,
    inventory::{FirmwareKind, Inventory},
    order::BmcDriver,
    seal::Secret,
};
use utoipa::ToSchema;

use super::{Body, List, MAX_PAGE, Page, Path, Query, parse, since};
use crate::{
    access::{Caller, Permission},
    app::App,
    domain::{self, limits::limit_s, machines::NewMachine},
    error::ApiError,
    gateway,
    store::{
        discovered,
        events::{Event, Filter, Order},
        machines::{BmcDetails, Machine},
        orders, reports,
    },
    workflow::state::MachineState,
};

/// A BMC with its password; the password is never given back.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBmc {
    /// `ipmi`.
    #[schema(value_type = String)]
    pub driver: BmcDriver,
    /// Where the edge reaches it, as in `192.0.2.101:623`.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
}

/// A machine to be added.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMachineBody {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub site: String,
    /// The ports it may boot from.
    #[schema(value_type = Vec<String>)]
    pub macs: Vec<MacAddr>,
    /// `bios` or `uefi`.
    #[schema(value_type = String)]
    pub firmware: FirmwareKind,
    /// The address it is given; chosen if left out.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// Its BMC.
    pub bmc: Option<NewBmc>,
    /// For operators.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Whether it is to be shelved: enrolled, and given to nobody until it is unshelved.
    #[serde(default)]
    pub shelved: bool,
}

/// A machine.
#[derive(Debug, Serialize, ToSchema)]
pub struct MachineView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub site: String,
    /// Its state.
    pub state: MachineState,
    /// Since when it is in its state; null where nothing tells.
    pub state_since: Option<DateTime<Utc>>,
    /// For how many seconds it may be in its state; longer, and it is stuck. Null for a state of rest.
    pub state_limit_s: Option<i64>,
    /// Why it is kept out of use, or will be.
    pub reason: Option<String>,
    /// Whether it is to be quarantined when its instance gives it back.
    pub quarantine_when_released: bool,
    /// The address it is given.
    pub address: String,
    /// Its ports.
    #[schema(value_type = Vec<String>)]
    pub macs: Vec<MacAddr>,
    /// How it boots.
    #[schema(value_type = String)]
    pub firmware: FirmwareKind,
    /// Its BMC, without the password.
    #[schema(value_type = Option<Object>)]
    pub bmc: Option<BmcDetails>,
    /// Whether a change of its BMC's password has no known end yet: until then several are kept, and the right one is used.
    pub bmc_password_unsettled: bool,
    /// How its BMC was when it was last asked: `power` (`on`, `off`), `seen_at`, and where known `manufacturer`, `product`,
    /// `firmware` and `security`. Null until it was.
    #[schema(value_type = Option<Object>)]
    pub bmc_state: Option<BmcState>,
    /// For operators.
    pub labels: BTreeMap<String, String>,
    /// Its type.
    pub machine_type: Option<String>,
    /// Whether an operator gave it its type; rules do not change it then.
    pub type_pinned: bool,
    /// Why it has no type although some fit.
    pub type_reason: Option<String>,
    /// The hardware an agent found.
    #[schema(value_type = Option<Object>)]
    pub inventory: Option<Inventory>,
    /// The job that works on it.
    pub live_job: Option<String>,
    /// Grows with each change by an operator; also its ETag.
    pub version: u64,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

pub(super) fn view(m: Machine) -> MachineView {
    MachineView {
        id: m.id.to_string(),
        name: m.name,
        site: m.site.to_string(),
        state: m.state,
        state_since: None,
        state_limit_s: limit_s("machine", m.state.word()),
        reason: m.hold.reason,
        quarantine_when_released: m.hold.quarantine,
        address: m.address.to_string(),
        macs: m.details.macs,
        firmware: m.details.firmware,
        bmc: m.details.bmc,
        bmc_state: m.bmc_state,
        bmc_password_unsettled: !m.bmc_candidates.is_empty(),
        labels: m.details.labels,
        machine_type: m.class.machine_type,
        type_pinned: m.class.pinned,
        type_reason: m.class.reason,
        inventory: m.details.inventory,
        live_job: m.live_job.map(|job| job.to_string()),
        version: m.version,
        created_at: m.created_at,
    }
}

/// Adds a machine; it is free at once, unless it is to be shelved.
#[utoipa::path(post, path = "/api/v1/machines", tag = "machines", request_body = NewMachineBody,
    responses((status = 201, body = MachineView), (status = 400), (status = 404), (status = 409)))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    Body(new): Body<NewMachineBody>,
) -> Result<impl IntoResponse, ApiError> {
    parse::<slipway_protocol::ids::SiteId>("name", &new.name)?;
    let bmc = new.bmc.map(|bmc| {
        let details = BmcDetails {
            driver: bmc.driver,
            address: bmc.address,
            username: bmc.username,
        };
        (details, Secret::new(bmc.password))
    });
    let new = NewMachine {
        name: new.name,
        site: parse("name", &new.site)?,
        macs: new.macs,
        firmware: new.firmware,
        address: new.address,
        bmc,
        labels: new.labels,
        shelved: new.shelved,
    };
    let machine = domain::machines::create(&app, &caller, new).await?;
    Ok((
        StatusCode::CREATED,
        Json(since::dated(&app, view(machine)).await?),
    ))
}

/// Shows a machine, by id or name.
#[utoipa::path(get, path = "/api/v1/machines/{machine}", tag = "machines", params(("machine" = String, Path)),
    responses((status = 200, body = MachineView), (status = 404)))]
pub async fn get(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let machine = domain::machines::get(&app, &caller, key).await?;
    Ok(tagged(since::dated(&app, view(machine)).await?))
}

/// A machine's view with its ETag.
pub(super) fn tagged(view: MachineView) -> impl IntoResponse {
    ([(header::ETAG, format!("\"{}\"", view.version))], Json(view))
}

/// Removes a machine that is free.
#[utoipa::path(delete, path = "/api/v1/machines/{machine}", tag = "machines", params(("machine" = String, Path)),
    responses((status = 204), (status = 404), (status = 409)))]
pub async fn delete(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<StatusCode, ApiError> {
    domain::machines::delete(&app, &caller, key).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Shows the machine's order as it is in force, secrets sealed: its body, and the signed envelope as it goes to the edge.
#[utoipa::path(get, path = "/api/v1/machines/{machine}/order", tag = "machines", params(("machine" = String, Path)),
    responses((status = 200, body = Object), (status = 404)))]
pub async fn order(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let machine = domain::machines::get(&app, &caller, key).await?;
    let name = machine.name.clone();
    let row = app.store.read(move |db| orders::get(db, machine.id)).await?;
    let row = row.ok_or_else(|| ApiError::NotFound("order of machine", name))?;
    let sealed = gateway::sealed_order(&*app, &row.site, row.order.machine).await?;
    let signed = sealed.map(|s| serde_json::json!({ "topic": s.topic, "payload": s.payload }));
    Ok(Json(
        serde_json::json!({ "revision": row.revision, "order": row.order, "signed": signed }),
    ))
}

/// Shows the machine's last report.
#[utoipa::path(get, path = "/api/v1/machines/{machine}/report", tag = "machines", params(("machine" = String, Path)),
    responses((status = 200, body = Object), (status = 404)))]
pub async fn report(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<impl IntoResponse, ApiError> {
    let machine = domain::machines::get(&app, &caller, key).await?;
    let name = machine.name.clone();
    let row = app
        .store
        .read(move |db| reports::of_machine(db, machine.id))
        .await?;
    let (revision, report) = row.ok_or_else(|| ApiError::NotFound("report of machine", name))?;
    Ok(Json(
        serde_json::json!({ "revision": revision, "report": report }),
    ))
}

/// A line of history.
#[derive(Debug, Serialize, ToSchema)]
pub struct HistoryView {
    /// When.
    pub at: DateTime<Utc>,
    /// What happened.
    pub what: String,
    /// The rest.
    pub detail: String,
}

/// Shows the last 1000 things that were done with a machine, oldest first; its timeline has what was seen of it too.
#[utoipa::path(get, path = "/api/v1/machines/{machine}/history", tag = "machines", params(("machine" = String, Path)),
    responses((status = 200, body = List<HistoryView>), (status = 404)))]
pub async fn history(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<List<HistoryView>>, ApiError> {
    let machine = domain::machines::get(&app, &caller, key).await?;
    let filter = Filter {
        machine: Some(machine.id.to_string()),
        kind: Some("machine".to_owned()),
        ..Filter::default()
    };
    let mut rows = domain::events::page(&app, filter, Order::Newest, MAX_PAGE).await?;
    rows.reverse();
    let line = |event: Event| HistoryView {
        at: event.at,
        what: event.kind.trim_start_matches("machine.").replace('_', " "),
        detail: event.text,
    };
    let items = rows.into_iter().map(line).collect();
    Ok(Json(List { items, next: None }))
}

/// A machine nobody has enrolled.
#[derive(Debug, Serialize, ToSchema)]
pub struct DiscoveredView {
    /// Where it was seen.
    pub site: String,
    /// Its port.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// When last.
    pub at: DateTime<Utc>,
    /// The address it has.
    pub address: String,
    /// Its hardware, once an agent looked.
    #[schema(value_type = Option<Object>)]
    pub inventory: Option<Inventory>,
}

/// Lists machines that were seen booting and that nobody has enrolled, by port.
#[utoipa::path(get, path = "/api/v1/discovered", tag = "machines", params(Page),
    responses((status = 200, body = List<DiscoveredView>)))]
pub async fn discovered(
    State(app): State<Arc<App>>,
    caller: Caller,
    Query(page): Query<Page>,
) -> Result<Json<List<DiscoveredView>>, ApiError> {
    let (limit, cursor) = (page.limit(), page.cursor());
    let sites = caller.visible(Permission::MachinesRead).sites(None);
    let read = app.store.read(move |db| {
        let after = cursor.split_once(' ').unwrap_or_default();
        discovered::page(db, sites.as_deref(), after, limit)
    });
    let view = |(site, mac, seen): discovered::Discovered| DiscoveredView {
        site: site.to_string(),
        mac,
        at: seen.at,
        address: seen.address.to_string(),
        inventory: seen.inventory,
    };
    let items = read.await?.into_iter().map(view).collect();
    Ok(Json(List::page(items, limit, |seen: &DiscoveredView| {
        format!("{} {}", seen.mac, seen.site)
    })))
}
