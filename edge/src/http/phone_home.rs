//! The installed system's first word: it proves which one came up by the nonce only its own first-boot data holds.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Form,
    extract::{ConnectInfo, Path, State},
    http::StatusCode,
};
use slipway_protocol::ids::MachineId;
use tokio::sync::oneshot;

use super::{HttpState, caller};
use crate::runner::actor::Input;

/// `POST /phone-home/{machine}/{nonce}` with the form cloud-init's `phone_home` module sends.
pub(super) async fn phone_home(
    State(state): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((machine, nonce)): Path<(String, String)>,
    Form(said): Form<HashMap<String, String>>,
) -> (StatusCode, &'static str) {
    let Ok(machine) = machine.parse::<MachineId>() else {
        return (StatusCode::NOT_FOUND, "no such machine\n");
    };
    let word = |name: &str| {
        said.get(name)
            .map_or("unknown", String::as_str)
            .chars()
            .take(100)
            .collect::<String>()
    };
    let text = format!("host name {}, instance {}", word("hostname"), word("instance_id"));
    let (accepted, answer) = oneshot::channel();
    state
        .runner
        .tell(Input::PhoneHome {
            machine,
            nonce,
            text,
            itself: is_itself(&state, machine, peer),
            accepted,
        })
        .await;
    match answer.await {
        Ok(true) => (StatusCode::OK, "welcome\n"),
        Ok(false) => (
            StatusCode::FORBIDDEN,
            "this nonce is not known for that machine\n",
        ),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "try again\n"),
    }
}

/// Whether the machine itself phones, as far as the network shows.
fn is_itself(state: &HttpState, machine: MachineId, peer: SocketAddr) -> bool {
    let IpAddr::V4(address) = peer.ip().to_canonical() else {
        return false;
    };
    let table = &state.context.table;
    table.port_at(address).is_some_and(|mac| {
        let is_its = table.entry(mac).is_some_and(|entry| entry.machine == machine);
        is_its && caller::is_from(state, mac, peer)
    })
}
