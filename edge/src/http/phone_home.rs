//! The installed system's first word: it proves which one came up by the nonce only its own first-boot data holds.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Form,
    extract::{Path, State},
    http::StatusCode,
};
use slipway_protocol::ids::MachineId;
use tokio::sync::oneshot;

use super::HttpState;
use crate::runner::actor::Input;

/// `POST /phone-home/{machine}/{nonce}` with the form cloud-init's `phone_home` module sends.
pub(super) async fn phone_home(
    State(state): State<Arc<HttpState>>,
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
