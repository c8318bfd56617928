//! What a client hears: answers to its packets, and messages from its queue at the router.

use bytes::BytesMut;
use rumqttc::mqttbytes::{
    QoS,
    v4::{Packet, Publish},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use super::session::{Ended, WRITE_LIMIT, broken};
use crate::{
    MAX_PACKET_BYTES,
    router::{Delivery, Message, Seat},
};

/// Writes whole packets to a client.
pub(super) struct Writer<W> {
    to: W,
    out: BytesMut,
    /// Packet id of the last message that was sent at least once.
    next_id: u16,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            out: BytesMut::new(),
            next_id: 0,
        }
    }

    /// Writes answers and messages until that fails.
    pub(super) async fn run(mut self, mut answers: mpsc::Receiver<Packet>, seat: &Seat) -> Ended {
        loop {
            let written = tokio::select! {
                biased;
                Some(answer) = answers.recv() => self.write(&answer).await,
                message = seat.next() => self.publish(message).await,
            };
            if let Err(ended) = written {
                return ended;
            }
        }
    }

    async fn publish(&mut self, message: Message) -> Result<(), Ended> {
        let mut publish = Publish {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic: message.topic,
            pkid: 0,
            payload: message.payload,
        };
        if message.delivery == Delivery::AtLeastOnce {
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            publish.qos = QoS::AtLeastOnce;
            publish.pkid = self.next_id;
        }
        self.write(&Packet::Publish(publish)).await
    }

    async fn write(&mut self, packet: &Packet) -> Result<(), Ended> {
        self.out.clear();
        packet
            .write(&mut self.out, 2 * MAX_PACKET_BYTES)
            .map_err(broken)?;
        let written = timeout(WRITE_LIMIT, async {
            self.to.write_all(&self.out).await?;
            self.to.flush().await
        });
        if self.out.capacity() > 256 * 1024 {
            // One large message must not cost each of ten thousand clients its size.
            let ended = written.await;
            self.out = BytesMut::new();
            return settled(ended);
        }
        settled(written.await)
    }
}

fn settled(written: Result<std::io::Result<()>, tokio::time::error::Elapsed>) -> Result<(), Ended> {
    match written {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(broken(error)),
        Err(_) => Err(Ended::Refused("the client does not read".to_owned())),
    }
}
