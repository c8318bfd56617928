//! One client's connection: CONNECT is judged, then every packet is read, judged and answered here, and what the client hears is
//! written from its queue at the router. MQTT 3.1.1, QoS 0 and 1.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use rumqttc::mqttbytes::{
    self, QoS,
    v4::{
        ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, Subscribe, SubscribeReasonCode, UnsubAck,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    Admitted, Certificate, Door, Place,
    budget::Spent,
    connect::{Joined, first_packet, judge_connect},
    writer::Writer,
};
use crate::{
    MAX_PACKET_BYTES,
    router::{Delivery, PutOut, Seat},
};

/// How long a client may leave bytes unread before it is dropped.
pub(super) const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// The most filters of one SUBSCRIBE, and of one client.
const MAX_FILTERS: usize = 4;
/// The longest topic or filter, in bytes.
pub(super) const MAX_TOPIC_BYTES: usize = 512;
/// Answers that wait to be written: who sends more before reading them is not read on meanwhile.
const ANSWERS: usize = 64;

/// Why a session ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client said goodbye.
    Goodbye,
    /// The client closed the connection without one.
    Closed,
    /// The client did what it may not.
    Refused(String),
    /// The connection failed.
    Broken(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Goodbye => f.write_str("goodbye"),
            Self::Closed => f.write_str("closed"),
            Self::Refused(reason) | Self::Broken(reason) => f.write_str(reason),
        }
    }
}

pub(super) fn broken(error: impl fmt::Display) -> Ended {
    Ended::Broken(error.to_string())
}

/// A refusal: its stable word, and why.
type Refusal = (&'static str, String);

/// Serves one client until it ends.
pub(super) async fn run<S>(
    stream: S,
    (peer, place): (SocketAddr, &Place),
    certificate: Option<Certificate>,
    door: &Door,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let mut buffer = BytesMut::with_capacity(1024);
    let connect = match first_packet(&mut from_client, &mut buffer, peer, door).await {
        Ok(packet) => packet,
        Err((ended, answer)) => {
            if let Some(code) = answer {
                // The client is told if it still listens; it is closed either way.
                let _ = timeout(WRITE_LIMIT, to_client.write_all(&connack(code))).await;
            }
            return ended;
        }
    };
    let joined = judge_connect(connect, peer, certificate, door);
    let joined = match joined {
        Ok(joined) => joined,
        Err(reason) => {
            door.admission.refused("connect", &peer.to_string(), &reason);
            // The client is told if it still listens; it is closed either way.
            let refusal = connack(ConnectReturnCode::NotAuthorized);
            let _ = timeout(WRITE_LIMIT, to_client.write_all(&refusal)).await;
            return Ended::Refused(reason);
        }
    };
    place.logged_in();
    let welcome = connack(ConnectReturnCode::Success);
    match timeout(WRITE_LIMIT, to_client.write_all(&welcome)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return broken(error),
        Err(_) => return Ended::Refused("the client does not read".to_owned()),
    }
    let Joined {
        name,
        admitted,
        will,
        silence,
    } = joined;
    let seat = door.router.enter(&name, admitted.room);
    let ended = serve(
        Session {
            door,
            name,
            admitted,
            silence,
        },
        seat,
        (from_client, buffer),
        to_client,
    )
    .await;
    if let (Some(will), false) = (will, matches!(ended, Ended::Goodbye)) {
        door.router.publish(&will.topic, will.message, delivery(will.qos));
    }
    ended
}

/// What is known of a client that is in.
struct Session<'a> {
    door: &'a Door,
    name: String,
    admitted: Admitted,
    /// How long it may say nothing.
    silence: Duration,
}

async fn serve<R, W>(session: Session<'_>, seat: Seat, (mut from, mut buffer): (R, BytesMut), to: W) -> Ended
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (answers, waiting) = mpsc::channel(ANSWERS);
    let writer = Writer::new(to);
    // Whatever reading or writing waits for, who is to leave leaves at once.
    tokio::select! {
        biased;
        () = session.admitted.leave.cancelled() => {
            let reason = "the right to be here was taken back";
            session.door.admission.refused("revoked", &session.name, reason);
            Ended::Refused(reason.to_owned())
        }
        why = seat.put_out() => put_out(&session, why),
        ended = session.read(&mut from, &mut buffer, answers, &seat) => ended,
        ended = writer.run(waiting, &seat) => session.slow(ended),
    }
}

fn put_out(session: &Session<'_>, why: PutOut) -> Ended {
    match why {
        PutOut::TakenOver => Ended::Broken("another connection has the same client id".to_owned()),
        PutOut::Slow => session.slow(Ended::Refused("the client does not read".to_owned())),
    }
}

impl Session<'_> {
    /// Counts that a client does not read.
    fn slow(&self, ended: Ended) -> Ended {
        if let Ended::Refused(reason) = &ended {
            self.door.admission.refused("slow", &self.name, reason);
        }
        ended
    }

    async fn read<R: AsyncRead + Unpin>(
        &self,
        from: &mut R,
        buffer: &mut BytesMut,
        answers: mpsc::Sender<Packet>,
        seat: &Seat,
    ) -> Ended {
        let mut spent = Spent::new(self.admitted.budget, Instant::now().into_std());
        loop {
            let read = timeout(self.silence, read_packet(from, buffer, MAX_PACKET_BYTES)).await;
            let (packet, bytes) = match read {
                Ok(Ok(read)) => read,
                Ok(Err(ended)) => {
                    if let Ended::Refused(reason) = &ended {
                        self.door.admission.refused("packet", &self.name, reason);
                    }
                    return ended;
                }
                Err(_) => return Ended::Broken("nothing came within one and a half keep-alives".to_owned()),
            };
            // Who sends more than it may is read more slowly: its own connection fills, and nobody else's.
            let pause = spent.pause(bytes, Instant::now().into_std());
            if !pause.is_zero() {
                if spent.is_first_pause() {
                    let reason = "it sends more than it may and is read more slowly";
                    self.door.admission.refused("budget", &self.name, reason);
                }
                tokio::time::sleep(pause).await;
            }
            match self.judge(packet, seat) {
                Ok(Verdict::Goodbye) => return Ended::Goodbye,
                Ok(Verdict::Nothing) => {}
                Ok(Verdict::Answer(answer)) => {
                    if answers.send(answer).await.is_err() {
                        return Ended::Closed;
                    }
                }
                Err((what, reason)) => {
                    self.door.admission.refused(what, &self.name, &reason);
                    return Ended::Refused(reason);
                }
            }
        }
    }

    fn judge(&self, packet: Packet, seat: &Seat) -> Result<Verdict, Refusal> {
        match packet {
            Packet::Publish(publish) => self.publish(publish),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe, seat),
            Packet::Unsubscribe(unsubscribe) => {
                for filter in &unsubscribe.topics {
                    seat.unsubscribe(filter);
                }
                let answer = UnsubAck::new(unsubscribe.pkid);
                Ok(Verdict::Answer(Packet::UnsubAck(answer)))
            }
            Packet::PingReq => Ok(Verdict::Answer(Packet::PingResp)),
            Packet::Disconnect => Ok(Verdict::Goodbye),
            // What is sent at least once is not kept, so who acknowledges it tells nothing new.
            Packet::PubAck(_) => Ok(Verdict::Nothing),
            Packet::Connect(_) => Err(("packet", "a second CONNECT".to_owned())),
            other => {
                let reason = format!("a {:?} is nothing a client sends here", other.packet_type());
                Err(("packet", reason))
            }
        }
    }

    fn publish(&self, publish: Publish) -> Result<Verdict, Refusal> {
        let topic = std::str::from_utf8(&publish.topic)
            .map_err(|_| ("packet", "the topic is not UTF-8 (MQTT 3.1.1, 1.5.3)".to_owned()))?;
        check_topic(topic)?;
        if !self.admitted.acl.may_publish(topic) {
            return Err(("publish", format!("may not publish on `{topic}`")));
        }
        if publish.qos == QoS::ExactlyOnce {
            return Err(("packet", "messages are taken at QoS 0 and 1 alone".to_owned()));
        }
        // RETAIN is passed over: nothing is kept here.
        self.door
            .router
            .publish(topic, publish.payload, delivery(publish.qos));
        Ok(match publish.qos {
            QoS::AtLeastOnce => Verdict::Answer(Packet::PubAck(PubAck::new(publish.pkid))),
            _ => Verdict::Nothing,
        })
    }

    fn subscribe(&self, subscribe: Subscribe, seat: &Seat) -> Result<Verdict, Refusal> {
        if subscribe.filters.len() > MAX_FILTERS {
            return Err(("subscribe", format!("more than {MAX_FILTERS} filters at once")));
        }
        let mut codes = Vec::new();
        for filter in subscribe.filters {
            self.check_filter(&filter.path)?;
            let delivery = delivery(filter.qos);
            if !seat.subscribe(&filter.path, delivery, MAX_FILTERS) {
                return Err(("subscribe", format!("more than {MAX_FILTERS} filters")));
            }
            codes.push(SubscribeReasonCode::Success(match delivery {
                Delivery::AtMostOnce => QoS::AtMostOnce,
                Delivery::AtLeastOnce => QoS::AtLeastOnce,
            }));
        }
        Ok(Verdict::Answer(Packet::SubAck(SubAck::new(
            subscribe.pkid,
            codes,
        ))))
    }

    fn check_filter(&self, filter: &str) -> Result<(), Refusal> {
        check_topic(filter)?;
        if filter.starts_with("$share/") {
            let reason = "shared subscriptions are not to be had at this broker".to_owned();
            return Err(("subscribe", reason));
        }
        if !mqttbytes::valid_filter(filter) {
            return Err(("subscribe", format!("`{filter}` is no filter (MQTT 3.1.1, 4.7)")));
        }
        if !self.admitted.acl.may_subscribe(filter) {
            return Err(("subscribe", format!("may not subscribe to `{filter}`")));
        }
        Ok(())
    }
}

/// What becomes of one packet.
enum Verdict {
    Nothing,
    Goodbye,
    Answer(Packet),
}

fn check_topic(topic: &str) -> Result<(), Refusal> {
    if topic.len() > MAX_TOPIC_BYTES {
        return Err(("packet", format!("a topic of more than {MAX_TOPIC_BYTES} bytes")));
    }
    Ok(())
}

fn delivery(qos: QoS) -> Delivery {
    match qos {
        QoS::AtMostOnce => Delivery::AtMostOnce,
        QoS::AtLeastOnce | QoS::ExactlyOnce => Delivery::AtLeastOnce,
    }
}

fn connack(code: ConnectReturnCode) -> BytesMut {
    let mut out = BytesMut::new();
    // Four bytes always fit.
    let _ = ConnAck::new(code, false).write(&mut out);
    out
}

/// The next whole packet and its length. Cancel-safe: what is read stays in `buffer`.
pub(super) async fn read_packet<R: AsyncRead + Unpin>(
    from: &mut R,
    buffer: &mut BytesMut,
    max_bytes: usize,
) -> Result<(Packet, usize), Ended> {
    loop {
        let held = buffer.len();
        match mqttbytes::check(buffer.iter(), max_bytes) {
            Ok(_) => {
                let packet = Packet::read(buffer, max_bytes).map_err(|e| Ended::Refused(e.to_string()))?;
                return Ok((packet, held - buffer.len()));
            }
            Err(mqttbytes::Error::InsufficientBytes(_)) => {}
            Err(error) => return Err(Ended::Refused(error.to_string())),
        }
        match from.read_buf(buffer).await {
            Ok(0) => return Err(Ended::Closed),
            Ok(_) => {}
            Err(error) => return Err(broken(error)),
        }
    }
}
