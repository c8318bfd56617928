//! `/api/v1/sites/{site}/addresses` and `/api/v1/sites/{site}/reservations`

use std::{net::Ipv4Addr, sync::Arc};

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Body, List, Path, sites::Subnet};
use crate::{
    access::Caller,
    app::App,
    domain::addresses::{self, Used},
    error::ApiError,
    store::reservations::Reservation,
};

/// Who holds an address.
#[derive(Debug, Serialize, ToSchema)]
pub struct Holder {
    /// The address.
    pub address: String,
    /// The machine.
    pub machine: String,
}

/// Addresses that no machine is given.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReservationView {
    /// Its id.
    pub id: String,
    /// The first address.
    pub first: String,
    /// The last one.
    pub last: String,
    /// What for.
    pub note: String,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

impl From<Reservation> for ReservationView {
    fn from(r: Reservation) -> Self {
        Self {
            id: r.id,
            first: r.first.to_string(),
            last: r.last.to_string(),
            note: r.note,
            created_at: r.created_at,
        }
    }
}

/// A subnet and what of it is used.
#[derive(Debug, Serialize, ToSchema)]
pub struct AddressesView {
    /// The subnet: its server, gateway and pool are given to no machine either.
    pub subnet: Subnet,
    /// How many addresses machines hold.
    pub used: usize,
    /// How many a machine could be given.
    pub free: u64,
    /// Who holds which.
    pub holders: Vec<Holder>,
    /// What is reserved.
    pub reservations: Vec<ReservationView>,
}

fn view(used: Used) -> AddressesView {
    let holder = |(address, machine): (Ipv4Addr, String)| Holder {
        address: address.to_string(),
        machine,
    };
    AddressesView {
        subnet: used.subnet.into(),
        used: used.holders.len(),
        free: used.free,
        holders: used.holders.into_iter().map(holder).collect(),
        reservations: used.reservations.into_iter().map(ReservationView::from).collect(),
    }
}

/// Shows each subnet of a site: who holds which address, what is reserved, how many are free.
#[utoipa::path(get, path = "/api/v1/sites/{site}/addresses", tag = "sites", params(("site" = String, Path)),
    responses((status = 200, body = List<AddressesView>), (status = 404)))]
pub async fn list(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
) -> Result<Json<List<AddressesView>>, ApiError> {
    let all = addresses::list(&app, &caller, site).await?;
    let items = all.into_iter().map(view).collect();
    Ok(Json(List { items, next: None }))
}

/// Addresses to be reserved.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewReservation {
    /// The first address.
    #[schema(value_type = String)]
    pub first: Ipv4Addr,
    /// The last one; only the first if left out.
    #[schema(value_type = Option<String>)]
    pub last: Option<Ipv4Addr>,
    /// What for, in one line of at most 200 characters.
    #[serde(default)]
    pub note: String,
}

/// Reserves addresses: no machine is given them.
#[utoipa::path(post, path = "/api/v1/sites/{site}/reservations", tag = "sites", params(("site" = String, Path)),
    request_body = NewReservation,
    responses((status = 201, body = ReservationView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn reserve(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(site): Path<String>,
    Body(new): Body<NewReservation>,
) -> Result<impl IntoResponse, ApiError> {
    let span = (new.first, new.last.unwrap_or(new.first));
    let made = addresses::reserve(&app, &caller, site, span, new.note).await?;
    Ok((StatusCode::CREATED, Json(ReservationView::from(made))))
}

/// Takes a reservation back, by its id or its first address.
#[utoipa::path(delete, path = "/api/v1/sites/{site}/reservations/{reservation}", tag = "sites",
    params(("site" = String, Path), ("reservation" = String, Path)),
    responses((status = 204), (status = 403), (status = 404)))]
pub async fn unreserve(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((site, reservation)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    addresses::unreserve(&app, &caller, site, reservation).await?;
    Ok(StatusCode::NO_CONTENT)
}
