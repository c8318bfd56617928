//! The first packet of a client: CONNECT is read within a time and a size, and judged. MQTT 3.1.1, section 3.1.

use std::{net::SocketAddr, time::Duration};

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{Connect, ConnectAuth, ConnectReturnCode, LastWill, Packet};
use slipway_protocol::seal::Secret;
use tokio::{io::AsyncRead, time::timeout};

use super::{
    Admitted, Applicant, Certificate, Door, HANDSHAKE_LIMIT,
    session::{Ended, MAX_TOPIC_BYTES, read_packet},
};
use crate::acl::Acl;

/// The largest CONNECT, in bytes: the signed last will of an edge is about 600 long.
const MAX_FIRST_BYTES: usize = 2 * 1024;
/// How long a client that asked for no keep-alive may say nothing. People's tools ask for a minute.
const NO_KEEP_ALIVE: Duration = Duration::from_secs(24 * 3600);

/// The first packet, which is to be a CONNECT; or why there is none, and what is answered.
pub(super) async fn first_packet<R: AsyncRead + Unpin>(
    from: &mut R,
    buffer: &mut BytesMut,
    peer: SocketAddr,
    door: &Door,
) -> Result<Packet, (Ended, Option<ConnectReturnCode>)> {
    let read = timeout(HANDSHAKE_LIMIT, read_packet(from, buffer, MAX_FIRST_BYTES)).await;
    let (what, reason, answer) = match read {
        Ok(Ok((packet, _))) => return Ok(packet),
        Ok(Err(Ended::Refused(reason))) => {
            // MQTT 3.1.1, 3.1.2.2: a client of another version is told so.
            let is_version = reason.starts_with("Invalid protocol level");
            let answer = is_version.then_some(ConnectReturnCode::RefusedProtocolVersion);
            ("connect", format!("no CONNECT: {reason}"), answer)
        }
        Ok(Err(ended)) => return Err((ended, None)),
        Err(_) => {
            let reason = format!("no CONNECT within {} s", HANDSHAKE_LIMIT.as_secs());
            ("handshake", reason, None)
        }
    };
    door.admission.refused(what, &peer.to_string(), &reason);
    Err((Ended::Refused(reason), answer))
}

/// A client that may come in.
pub(super) struct Joined {
    /// Its client id.
    pub(super) name: String,
    /// What it may do.
    pub(super) admitted: Admitted,
    /// What is told if it ends without a goodbye.
    pub(super) will: Option<LastWill>,
    /// How long it may say nothing.
    pub(super) silence: Duration,
}

/// Judges a first packet: who may come in as what, or why not.
pub(super) fn judge_connect(
    packet: Packet,
    peer: SocketAddr,
    certificate: Option<Certificate>,
    door: &Door,
) -> Result<Joined, String> {
    let Packet::Connect(mut connect) = packet else {
        return Err("the first packet is not a CONNECT".to_owned());
    };
    if connect.client_id.is_empty() && connect.clean_session {
        // MQTT 3.1.1, 3.1.3.1: the server names a client that has no name, as MQTT tools have none.
        connect.client_id = format!("unnamed-{:016x}", rand::random::<u64>());
    }
    if !is_plain_id(&connect.client_id) {
        return Err("the client id is not 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'".to_owned());
    }
    let applicant = Applicant {
        peer,
        certificate,
        client_id: connect.client_id.clone(),
        login: login(&connect)?,
    };
    let admitted = door.admission.admit(&applicant)?;
    let will = connect.last_will;
    let will = will.map(|will| judge_will(will, &admitted.acl)).transpose()?;
    let silence = match connect.keep_alive {
        0 => NO_KEEP_ALIVE,
        // MQTT 3.1.1, 3.1.2.10.
        seconds => Duration::from_secs(seconds.into()) * 3 / 2,
    };
    Ok(Joined {
        name: connect.client_id,
        admitted,
        will,
        silence,
    })
}

fn login(connect: &Connect) -> Result<Option<(String, Secret)>, String> {
    match &connect.auth {
        ConnectAuth::UsernamePassword { username, password } => {
            let password =
                std::str::from_utf8(password).map_err(|_| "the password is not UTF-8".to_owned())?;
            Ok(Some((username.clone(), Secret::new(password))))
        }
        ConnectAuth::None | ConnectAuth::Username { .. } => Ok(None),
    }
}

fn judge_will(will: LastWill, acl: &Acl) -> Result<LastWill, String> {
    let topic = &will.topic;
    if topic.len() <= MAX_TOPIC_BYTES && acl.may_publish(topic) {
        Ok(will)
    } else {
        Err(format!(
            "the last will is on `{topic}`, which this client may not publish"
        ))
    }
}

fn is_plain_id(id: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=128).contains(&id.len()) && id.bytes().all(plain)
}
