//! One client's connection through the guard: CONNECT is judged and rewritten, every later packet is read, judged and
//! passed on as it came. Packets from the broker pass unread.

use std::{collections::BTreeSet, fmt, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use rumqttd::protocol::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Login, Packet, Protocol as _, UnsubAck,
    v4::{self, V4},
};
use slipway_protocol::seal::Secret;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use super::{Admitted, Applicant, Certificate, Door, HANDSHAKE_LIMIT};
use crate::{MAX_PACKET_BYTES, acl::Acl};

/// How long a client may leave bytes unread before it is dropped.
const WRITE_LIMIT: Duration = Duration::from_secs(20);

/// Why a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client or the broker closed it.
    Closed,
    /// The client did what it may not.
    Refused(String),
    /// The connection failed.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::Refused(reason) | Self::Broken(reason) => f.write_str(reason),
        }
    }
}

fn broken(error: impl fmt::Display) -> Ended {
    Ended::Broken(error.to_string())
}

/// Serves one client until either side ends.
pub(super) async fn run<S>(
    stream: S,
    peer: SocketAddr,
    certificate: Option<Certificate>,
    door: &Door,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let mut buffer = BytesMut::with_capacity(4096);
    let connect = match first_frame(&mut from_client, &mut buffer, peer, door).await {
        Ok(frame) => frame,
        Err(ended) => return ended,
    };
    let (client, admitted, connect) = match judge_connect(connect, peer, certificate, door) {
        Ok(judged) => judged,
        Err(reason) => {
            door.admission.refused("connect", &peer.to_string(), &reason);
            let mut out = BytesMut::new();
            let refusal = ConnAck {
                session_present: false,
                code: ConnectReturnCode::NotAuthorized,
            };
            if V4.write(Packet::ConnAck(refusal, None), &mut out).is_ok() {
                // The client is told if it still listens; it is closed either way.
                let _ = timeout(WRITE_LIMIT, to_client.write_all(&out)).await;
            }
            return Ended::Refused(reason);
        }
    };
    let broker = match TcpStream::connect(door.backend.address).await {
        Ok(broker) => broker,
        Err(error) => return broken(error),
    };
    let (mut from_broker, mut to_broker) = tokio::io::split(broker);
    let mut from_broker_buffer = BytesMut::with_capacity(16 * 1024);
    let welcome = async {
        to_broker.write_all(&connect).await.map_err(broken)?;
        let connack = read_frame(&mut from_broker, &mut from_broker_buffer).await?;
        to_client.write_all(&connack).await.map_err(broken)?;
        to_client.flush().await.map_err(broken)
    };
    if let Err(ended) = welcome.await {
        return ended;
    }
    let (answers, queue) = mpsc::channel(16);
    let Admitted { acl, leave } = admitted;
    let name = client.clone();
    let mut upward = Upward {
        acl,
        client,
        door,
        answers,
        subscribed: BTreeSet::new(),
    };
    tokio::select! {
        () = leave.cancelled() => put_out(door, peer),
        ended = upward.run(from_client, buffer, to_broker) => ended,
        ended = downward((from_broker, from_broker_buffer), to_client, queue) => {
            if let Ended::Refused(reason) = &ended {
                door.admission.refused("slow", &name, reason);
            }
            ended
        }
    }
}

/// The first packet, which is to be a CONNECT, or why there is none.
async fn first_frame<R: AsyncRead + Unpin>(
    from: &mut R,
    buffer: &mut BytesMut,
    peer: SocketAddr,
    door: &Door,
) -> Result<BytesMut, Ended> {
    let (what, reason) = match timeout(HANDSHAKE_LIMIT, read_frame(from, buffer)).await {
        Ok(Err(Ended::Refused(reason))) => ("connect", format!("no CONNECT: {reason}")),
        Ok(read) => return read,
        Err(_) => (
            "handshake",
            format!("no CONNECT within {} s", HANDSHAKE_LIMIT.as_secs()),
        ),
    };
    door.admission.refused(what, &peer.to_string(), &reason);
    Err(Ended::Refused(reason))
}

/// A client that may no longer be here.
fn put_out(door: &Door, peer: SocketAddr) -> Ended {
    let reason = "the certificate was taken back";
    door.admission.refused("revoked", &peer.to_string(), reason);
    Ended::Refused(reason.to_owned())
}

/// Judges a CONNECT; gives back the client's name, its topics and the CONNECT for the broker.
fn judge_connect(
    frame: BytesMut,
    peer: SocketAddr,
    certificate: Option<Certificate>,
    door: &Door,
) -> Result<(String, Admitted, BytesMut), String> {
    let mut frame = frame;
    let packet = V4
        .read_mut(&mut frame, MAX_PACKET_BYTES)
        .map_err(|e| format!("unreadable CONNECT: {e}"))?;
    let Packet::Connect(mut connect, _, will, _, login) = packet else {
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
        login: login.map(|l| (l.username, Secret::new(l.password))),
    };
    let admitted = door.admission.admit(&applicant)?;
    let will = will.map(|will| judge_will(will, &admitted.acl)).transpose()?;
    let client = connect.client_id.clone();
    // No session outlives its connection: the broker would keep it for ever.
    let connect = Connect {
        clean_session: true,
        ..connect
    };
    let login = Login {
        username: door.backend.login.0.clone(),
        password: door.backend.login.1.clone(),
    };
    let mut out = BytesMut::new();
    V4.write(Packet::Connect(connect, None, will, None, Some(login)), &mut out)
        .map_err(|e| format!("cannot pass the CONNECT on: {e}"))?;
    Ok((client, admitted, out))
}

fn judge_will(will: LastWill, acl: &Acl) -> Result<LastWill, String> {
    let topic = topic_text(&will.topic)?;
    if acl.may_publish(topic) {
        Ok(LastWill {
            retain: false,
            ..will
        })
    } else {
        Err(format!(
            "the last will is on `{topic}`, which this client may not publish"
        ))
    }
}

/// A topic's text. Bytes that are no UTF-8 would be one topic to the rules here and another one to the broker.
fn topic_text(topic: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(topic).map_err(|_| "the topic is not UTF-8 (MQTT 3.1.1, 1.5.3)".to_owned())
}

fn is_plain_id(id: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    (1..=128).contains(&id.len()) && id.bytes().all(plain)
}

/// Client to broker.
struct Upward<'a> {
    acl: Acl,
    client: String,
    door: &'a Door,
    answers: mpsc::Sender<BytesMut>,
    subscribed: BTreeSet<String>,
}

/// What becomes of one packet.
enum Verdict {
    Pass,
    Swallow,
}

impl Upward<'_> {
    async fn run<R, W>(&mut self, mut from: R, mut buffer: BytesMut, mut to: W) -> Ended
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        loop {
            let mut frame = match read_frame(&mut from, &mut buffer).await {
                Ok(frame) => frame,
                Err(ended) => {
                    if let Ended::Refused(reason) = &ended {
                        self.door.admission.refused("packet", &self.client, reason);
                    }
                    return ended;
                }
            };
            match self.judge(&mut frame).await {
                Ok(Verdict::Pass) => {
                    if let Err(error) = to.write_all(&frame).await {
                        return broken(error);
                    }
                }
                Ok(Verdict::Swallow) => {}
                Err((what, reason)) => {
                    self.door.admission.refused(what, &self.client, &reason);
                    return Ended::Refused(reason);
                }
            }
        }
    }

    async fn judge(&mut self, frame: &mut BytesMut) -> Result<Verdict, (&'static str, String)> {
        let mut copy = frame.clone();
        let packet = V4
            .read_mut(&mut copy, MAX_PACKET_BYTES)
            .map_err(|e| ("packet", e.to_string()))?;
        match packet {
            Packet::Publish(publish, _) => {
                let topic = topic_text(&publish.topic).map_err(|reason| ("packet", reason))?;
                if !self.acl.may_publish(topic) {
                    return Err(("publish", format!("may not publish on `{topic}`")));
                }
                // Bit 0 of the first byte is RETAIN (MQTT 3.1.1, 3.3.1): a broker here keeps nothing.
                frame[0] &= !1;
                Ok(Verdict::Pass)
            }
            Packet::Subscribe(subscribe, _) => {
                for filter in subscribe.filters {
                    if !self.acl.may_subscribe(&filter.path) {
                        return Err(("subscribe", format!("may not subscribe to `{}`", filter.path)));
                    }
                    self.subscribed.insert(filter.path);
                }
                Ok(Verdict::Pass)
            }
            Packet::Unsubscribe(unsubscribe, _) => {
                let known = unsubscribe
                    .filters
                    .iter()
                    .any(|filter| self.subscribed.remove(filter));
                if known {
                    Ok(Verdict::Pass)
                } else {
                    self.acknowledge_unsubscribe(unsubscribe.pkid).await
                }
            }
            Packet::Connect(..) => Err(("packet", "a second CONNECT".to_owned())),
            _ => Ok(Verdict::Pass),
        }
    }

    /// rumqttd never answers the UNSUBSCRIBE of a filter it does not know; MQTT 3.1.1, 3.10.4 says it must.
    async fn acknowledge_unsubscribe(&self, pkid: u16) -> Result<Verdict, (&'static str, String)> {
        let mut out = BytesMut::new();
        let answer = Packet::UnsubAck(
            UnsubAck {
                pkid,
                reasons: Vec::new(),
            },
            None,
        );
        V4.write(answer, &mut out)
            .map_err(|e| ("packet", e.to_string()))?;
        // A closed queue means that the session is ending anyway.
        let _ = self.answers.send(out).await;
        Ok(Verdict::Swallow)
    }
}

/// Broker to client, with the guard's own answers in between whole packets.
async fn downward<S>(
    (mut from, mut buffer): (ReadHalf<TcpStream>, BytesMut),
    mut to: WriteHalf<S>,
    mut answers: mpsc::Receiver<BytesMut>,
) -> Ended
where
    S: AsyncRead + AsyncWrite,
{
    loop {
        let frame = tokio::select! {
            Some(answer) = answers.recv() => answer,
            frame = read_frame(&mut from, &mut buffer) => match frame {
                Ok(frame) => frame,
                Err(ended) => return ended,
            },
        };
        let written = timeout(WRITE_LIMIT, async {
            to.write_all(&frame).await?;
            to.flush().await
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return broken(error),
            Err(_) => return Ended::Refused("the client does not read".to_owned()),
        }
    }
}

/// The next whole packet. Cancel-safe: what is read stays in `buffer`.
async fn read_frame<R: AsyncRead + Unpin>(from: &mut R, buffer: &mut BytesMut) -> Result<BytesMut, Ended> {
    loop {
        match v4::check(buffer.iter(), MAX_PACKET_BYTES) {
            Ok(header) => return Ok(buffer.split_to(header.frame_length())),
            Err(rumqttd::protocol::Error::InsufficientBytes(_)) => {}
            Err(error) => return Err(Ended::Refused(error.to_string())),
        }
        match from.read_buf(buffer).await {
            Ok(0) => return Err(Ended::Closed),
            Ok(_) => {}
            Err(error) => return Err(broken(error)),
        }
    }
}
