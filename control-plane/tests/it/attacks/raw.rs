//! MQTT 3.1.1 by hand over TLS: what a client of ours would never say.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, StreamOwned, pki_types::ServerName};

/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const PUBLISH: u8 = 3;
const SUBACK: u8 = 9;
pub(crate) const PINGREQ: [u8; 2] = [0xc0, 0];
const PINGRESP: u8 = 13;

/// How a broker took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It closed the connection without a word.
    Closed,
    /// Its CONNACK said no.
    Refused,
    /// Its SUBACK said no.
    NoSubscription,
    /// Nothing shows: the connection goes on.
    Silence,
}

pub(crate) struct Raw {
    tls: StreamOwned<ClientConnection, TcpStream>,
    /// Messages that it was sent.
    pub(crate) heard: usize,
}

impl Raw {
    pub(crate) fn open(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
        tcp.set_write_timeout(Some(ANSWER_LIMIT)).unwrap();
        let name = ServerName::from(address.ip());
        let connection = ClientConnection::new(config, name).unwrap();
        Self {
            tls: StreamOwned::new(connection, tcp),
            heard: 0,
        }
    }

    /// Says it; whether the other side still took it.
    pub(crate) fn say(&mut self, bytes: &[u8]) -> bool {
        self.tls.write_all(bytes).and_then(|()| self.tls.flush()).is_ok()
    }

    /// From now on only little fits between the other side and this one.
    pub(crate) fn read_little(&self) {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.tls.sock, 4096).unwrap();
        // What is said to one who reads nothing may be taken no longer; then it has been said often enough.
        self.tls
            .sock
            .set_write_timeout(Some(Duration::from_secs(5)))
            .unwrap();
    }

    /// The next packet, its type and what is in it; nothing once the connection is closed.
    fn packet(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.read(&mut byte)?;
        let kind = byte[0] >> 4;
        let (mut length, mut shift) = (0, 0);
        loop {
            self.read(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.read(&mut body)?;
        Some((kind, body))
    }

    fn read(&mut self, into: &mut [u8]) -> Option<()> {
        let result = self.tls.read_exact(into);
        if let Err(error) = &result {
            let waited = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut];
            assert!(!waited.contains(&error.kind()), "neither answered nor closed");
        }
        result.ok()
    }

    /// CONNECT, and whether it was answered by a yes.
    pub(crate) fn connect(&mut self, connect: &[u8]) -> Result<(), Seen> {
        self.say(connect);
        match self.packet() {
            None => Err(Seen::Closed),
            Some((2, body)) if body[1] == 0 => Ok(()),
            Some((2, _)) => Err(Seen::Refused),
            Some(other) => panic!("a CONNECT is answered by {other:?}"),
        }
    }

    /// Says it, and waits until the broker has done with it.
    pub(crate) fn attack(&mut self, packets: &[u8]) -> Seen {
        self.say(packets);
        self.say(&PINGREQ);
        let mut seen = Seen::Silence;
        loop {
            match self.packet() {
                None => return Seen::Closed,
                Some((SUBACK, body)) if body[2] & 0x80 != 0 => seen = Seen::NoSubscription,
                Some((PUBLISH, _)) => self.heard += 1,
                Some((PINGRESP, _)) => return seen,
                Some(_) => {}
            }
        }
    }
}

fn text(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).unwrap();
        left /= 128;
        out.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    [out, body.to_vec()].concat()
}

/// A CONNECT of MQTT 3.1.1 for a clean session, optionally with a last will.
pub(crate) fn connect(client_id: &str, will: Option<&str>) -> Vec<u8> {
    let flags = if will.is_some() { 6 } else { 2 };
    let mut body = [text(b"MQTT"), vec![4, flags, 0, 60], text(client_id.as_bytes())].concat();
    if let Some(topic) = will {
        body.extend([text(topic.as_bytes()), text(b"gone")].concat());
    }
    packet(0x10, &body)
}

/// One of MQTT 5.
pub(crate) fn connect_5(client_id: &str) -> Vec<u8> {
    let body = [text(b"MQTT"), vec![5, 2, 0, 60, 0], text(client_id.as_bytes())].concat();
    packet(0x10, &body)
}

/// A message with no acknowledgement, retained or not.
pub(crate) fn publish(topic: &[u8], payload: &[u8], retain: bool) -> Vec<u8> {
    packet(0x30 | u8::from(retain), &[&text(topic)[..], payload].concat())
}

pub(crate) fn subscribe(filter: &str) -> Vec<u8> {
    packet(0x82, &[vec![0, 1], text(filter.as_bytes()), vec![0]].concat())
}
