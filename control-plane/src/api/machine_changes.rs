//! What operators do with a machine that is there: change it, and move it through its life.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{extract::State, http::HeaderMap, response::IntoResponse};
use serde::Deserialize;
use slipway_protocol::{ids::MacAddr, inventory::FirmwareKind, order::BmcDriver, seal::Secret};
use utoipa::ToSchema;

use super::{
    Body, Path, if_match,
    machines::{MachineView, tagged, view},
    since,
};
use crate::{
    access::Caller,
    app::App,
    domain::{
        self,
        machines::{BmcUpdate, Update},
    },
    error::ApiError,
    workflow::state::MachineEvent,
};

/// A BMC to be changed; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BmcChange {
    /// `ipmi`.
    #[schema(value_type = Option<String>)]
    pub driver: Option<BmcDriver>,
    /// Where the edge reaches it, as in `192.0.2.101:623`.
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
}

impl From<Option<BmcChange>> for BmcUpdate {
    fn from(change: Option<BmcChange>) -> Self {
        change.map_or(Self::Remove, |change| Self::Set {
            driver: change.driver,
            address: change.address,
            username: change.username,
            password: change.password.map(Secret::new),
        })
    }
}

/// What is to be changed of a machine; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineChange {
    /// Its name.
    pub name: Option<String>,
    /// Labels to be set, or removed where the value is null; the others stay (a merge patch, RFC 7396).
    #[serde(default)]
    pub labels: BTreeMap<String, Option<String>>,
    /// `bios` or `uefi`; not while it is in use.
    #[schema(value_type = Option<String>)]
    pub firmware: Option<FirmwareKind>,
    /// The address it is given; not while it is in use.
    #[schema(value_type = Option<String>)]
    pub address: Option<Ipv4Addr>,
    /// All its ports; not while it is in use.
    #[schema(value_type = Option<Vec<String>>)]
    pub macs: Option<Vec<MacAddr>>,
    /// Its BMC; null removes it.
    #[serde(default, deserialize_with = "super::given")]
    #[schema(value_type = Option<BmcChange>)]
    pub bmc: Option<Option<BmcChange>>,
    /// Its type, from now on by hand; null leaves it to rules again.
    #[serde(default, deserialize_with = "super::given")]
    #[schema(value_type = Option<String>)]
    pub machine_type: Option<Option<String>>,
}

/// Changes a machine.
#[utoipa::path(patch, path = "/api/v1/machines/{machine}", tag = "machines", request_body = MachineChange,
    params(("machine" = String, Path), ("If-Match" = Option<String>, Header)),
    responses((status = 200, body = MachineView), (status = 400), (status = 403), (status = 404), (status = 409), (status = 412)))]
pub async fn update(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path(key): Path<String>,
    headers: HeaderMap,
    Body(change): Body<MachineChange>,
) -> Result<impl IntoResponse, ApiError> {
    let seen = if_match(&headers)?;
    let wanted = Update {
        name: change.name,
        labels: change.labels,
        firmware: change.firmware,
        address: change.address,
        macs: change.macs,
        bmc: change.bmc.map(BmcUpdate::from),
        machine_type: change.machine_type,
    };
    let machine = domain::machines::update(&app, &caller, key, seen, wanted).await?;
    Ok(tagged(since::dated(&app, view(machine)).await?))
}

/// What an operator does with a machine.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineMove {
    /// Keep it, and give it to nobody.
    Shelve,
    /// Give it out.
    Unshelve,
    /// Keep it out of use for work on it.
    Maintenance,
    /// Keep it out of use because something is wrong with it; when its instance gives it back, if one holds it.
    Quarantine,
    /// Give it out again after maintenance or quarantine, or take the mark away.
    Return,
    /// Keep only its history.
    Retire,
}

impl From<MachineMove> for MachineEvent {
    fn from(asked: MachineMove) -> Self {
        match asked {
            MachineMove::Shelve => Self::Shelve,
            MachineMove::Unshelve => Self::Unshelve,
            MachineMove::Maintenance => Self::Maintain,
            MachineMove::Quarantine => Self::Quarantine,
            MachineMove::Return => Self::Return,
            MachineMove::Retire => Self::Retire,
        }
    }
}

/// Why a machine is moved.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MoveBody {
    /// For people, in one line of at most 500 characters; kept while it is out of use.
    pub reason: Option<String>,
}

/// Moves a machine: on and off the shelf, into maintenance or quarantine and back, or out of service for good.
#[utoipa::path(post, path = "/api/v1/machines/{machine}/{move}", tag = "machines", request_body = MoveBody,
    params(("machine" = String, Path), ("move" = inline(MachineMove), Path)),
    responses((status = 200, body = MachineView), (status = 400), (status = 403), (status = 404), (status = 409)))]
pub async fn move_by(
    State(app): State<Arc<App>>,
    caller: Caller,
    Path((key, asked)): Path<(String, MachineMove)>,
    Body(body): Body<MoveBody>,
) -> Result<impl IntoResponse, ApiError> {
    let machine = domain::machines::move_by(&app, &caller, key, asked.into(), body.reason).await?;
    Ok(tagged(since::dated(&app, view(machine)).await?))
}
