//! Boot scripts and overlays. A script URL always answers with a script, never with an error page: firmware that gets
//! one drops out of its boot order.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    extract::{ConnectInfo, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use slipway_protocol::{
    boot::{BOOT_CONFIG_PATH, BootConfig},
    ids::{Digest, MacAddr, MachineId},
    report::{EventSource, TimelineEvent},
};
use tracing::{debug, info, warn};

use super::{HttpState, caller};
use crate::{
    boot::BootMode,
    boots::{AgentAtWork, unknown_job},
    dhcp::server::Sighting,
    ipxe, metrics,
    overlay::{self, File},
    store::Boot,
};

/// `GET /boot/{mac}.ipxe`
pub(super) async fn script(
    State(state): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(name): Path<String>,
) -> Response {
    let mac = name
        .strip_suffix(".ipxe")
        .and_then(|mac| mac.parse::<MacAddr>().ok());
    let script = mac.map_or_else(ipxe::local, |mac| script_for(&state, mac, peer));
    ([(header::CONTENT_TYPE, "text/plain")], script).into_response()
}

fn script_for(state: &HttpState, mac: MacAddr, peer: SocketAddr) -> String {
    if !caller::is_from(state, mac, peer) {
        refuse(state, mac, peer, "script");
        return ipxe::local();
    }
    let (script, what) = match boot_key(state, mac) {
        Some((server, boot_key)) => (ipxe::liveos(state.server_on(server), mac, &boot_key), "LiveOS"),
        None => (ipxe::local(), "disk"),
    };
    sight(state, mac, "script", format!("boot script: {what}"));
    script
}

/// Somebody asks in the name of a port for what only the machine itself is given. Counted, and an event of the machine.
fn refuse(state: &HttpState, mac: MacAddr, peer: SocketAddr, what: &'static str) {
    metrics::boot_refused(what);
    let from = peer.ip();
    let text = format!(
        "the {what} of this machine was asked for from {from}, which is not the machine by the address it was given and the port \
         that answers for it; it was not given"
    );
    sight(state, mac, "not_the_machine", text);
}

/// The address of this server towards a machine and the name of its overlay, if it is to boot the LiveOS.
fn boot_key(state: &HttpState, mac: MacAddr) -> Option<(std::net::Ipv4Addr, String)> {
    let table = &state.context.table;
    let server = table.subnet_of(table.address_of(mac)?)?.server;
    match table.entry(mac).map(|entry| entry.mode) {
        Some(BootMode::LiveOs { boot_key }) => Some((server, boot_key)),
        Some(BootMode::Local) => None,
        None if table.discovers() => match state.context.boots.ensure(unknown_machine(mac), unknown_job()) {
            Ok(boot) => Some((server, boot.boot_key)),
            Err(error) => {
                warn!(%mac, %error, "an unknown machine cannot be looked at");
                None
            }
        },
        None => None,
    }
}

/// The id an unknown machine goes by until somebody enrols it: made from its MAC, so that it is the same every time.
#[must_use]
pub(crate) fn unknown_machine(mac: MacAddr) -> MachineId {
    let digest = Digest::of(format!("unknown machine {mac}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.0[..16]);
    MachineId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

/// `GET /boot/{mac}/{boot_key}/overlay.img`
pub(super) async fn overlay(
    State(state): State<Arc<HttpState>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((mac, boot_key)): Path<(String, String)>,
) -> Response {
    let refused = || (StatusCode::NOT_FOUND, "no such overlay\n").into_response();
    let Ok(mac) = mac.parse::<MacAddr>() else {
        return refused();
    };
    if !caller::is_from(&state, mac, peer) {
        refuse(&state, mac, peer, "overlay");
        return refused();
    }
    let Some(boot) = boot_waited_for(&state, mac).filter(|boot| same(&boot.boot_key, &boot_key)) else {
        metrics::boot_refused("overlay");
        debug!(%mac, "an overlay was asked for by a wrong name, or while no boot is waited for");
        return refused();
    };
    let handed_out = match state.context.boots.hand_out(boot) {
        Ok(Ok(handed_out)) => handed_out,
        Ok(Err(AgentAtWork)) => {
            metrics::boot_refused("overlay");
            let text = "the overlay was asked for while the agent is at work; it was not given".to_owned();
            sight(&state, mac, "agent_at_work", text);
            return refused();
        }
        Err(error) => {
            warn!(%mac, %error, "a boot token cannot be made");
            return StatusCode::SERVICE_UNAVAILABLE.into_response();
        }
    };
    let Some(bytes) = overlay_of(&state, mac, &handed_out.boot) else {
        return refused();
    };
    info!(%mac, machine = %handed_out.boot.machine, again = handed_out.again, "LiveOS handed out");
    if handed_out.again {
        let text = "the overlay was fetched again: the token given before is good no more, and its agent was put out".to_owned();
        sight(&state, mac, "overlay_again", text);
    }
    sight(&state, mac, "overlay", "LiveOS loaded".to_owned());
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

/// The token of a port's machine, if a boot of the LiveOS is waited for.
fn boot_waited_for(state: &HttpState, mac: MacAddr) -> Option<Boot> {
    let machine = match state.context.table.entry(mac) {
        Some(entry) if entry.mode == BootMode::Local => return None,
        Some(entry) => entry.machine,
        None => unknown_machine(mac),
    };
    state.context.boots.get(machine)
}

fn overlay_of(state: &HttpState, mac: MacAddr, boot: &Boot) -> Option<Vec<u8>> {
    let json = serde_json::to_vec(&boot_config(state, mac, boot)?).ok()?;
    Some(overlay::archive(&[File {
        path: BOOT_CONFIG_PATH.trim_start_matches('/'),
        mode: 0o600,
        bytes: &json,
    }]))
}

/// Compares digests, so that the time taken says nothing of the key.
fn same(a: &str, b: &str) -> bool {
    Digest::of(a.as_bytes()) == Digest::of(b.as_bytes())
}

fn boot_config(state: &HttpState, mac: MacAddr, boot: &Boot) -> Option<BootConfig> {
    let context = &state.context;
    let address = context.table.address_of(mac)?;
    let subnet = context.table.subnet_of(address)?;
    let keys = context
        .keys
        .read()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clone();
    Some(BootConfig {
        site: context.site.clone(),
        machine: boot.machine,
        mac,
        address,
        prefix: subnet.network.prefix_len(),
        gateway: subnet.gateway,
        edge: subnet.server,
        mqtt_port: state.mqtt_port,
        http_port: state.http_port,
        ca: state.ca.clone(),
        verifying_keys: keys,
        edge_key: context.signer.verifying_key(),
        token: boot.token.clone(),
        edge_time_s: (context.now)().timestamp(),
    })
}

pub(super) fn sight(state: &HttpState, mac: MacAddr, code: &str, text: String) {
    let table = &state.context.table;
    let event = TimelineEvent {
        at: (state.context.now)(),
        source: EventSource::Http,
        code: code.to_owned(),
        text,
    };
    let address = table.address_of(mac).unwrap_or(std::net::Ipv4Addr::UNSPECIFIED);
    let sighting = Sighting {
        mac,
        address,
        unknown: table.entry(mac).is_none(),
        event,
        system: false,
    };
    // A full queue means that nobody keeps up with watching; the machine boots all the same.
    let _ = state.sightings.try_send(sighting);
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn an_unknown_machine_has_the_same_id_every_time() {
        let (a, b) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!(unknown_machine(a), unknown_machine(a));
        assert_ne!(unknown_machine(a), unknown_machine(b));
        assert_ne!(unknown_machine(a).0, Uuid::nil());
    }
}
