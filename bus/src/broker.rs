//! The embedded broker: a [router](crate::router) that doors ([guards](crate::guard)) share, and a door on loopback for the program
//! that runs it, which alone knows its password. The broker asks itself now and then whether a message still comes through, and
//! starts its own door again if it does not.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ring::rand::{SecureRandom as _, SystemRandom};
use rumqttc::mqttbytes::{
    self, QoS,
    v4::{Connect, Packet, Publish, Subscribe},
};
use slipway_protocol::{ids::Digest, seal::Secret};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::{
    MAX_PACKET_BYTES,
    acl::Acl,
    guard::{Admission, Admitted, Applicant, Budget, Guard},
    router::{Room, Router},
};

/// Connections at once at the own door.
const OWN_CONNECTIONS: usize = 16;
/// How often the broker asks itself.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How long a message may take to come through.
const CHECK_LIMIT: Duration = Duration::from_secs(3);
/// After how many failed checks it starts its door again.
const CHECKS: u32 = 3;

/// The embedded broker does not work.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No loopback port, or no password.
    #[error("cannot prepare the embedded broker: {0}")]
    Prepare(String),
    /// A message did not come through.
    #[error("the embedded broker does not pass a message on: {0}")]
    Silent(String),
}

/// A running embedded broker, as doors and its own clients see it. Has no `Debug`: it holds a password.
#[derive(Clone)]
pub struct Backend {
    /// Where it listens for its own program, on loopback.
    pub address: SocketAddr,
    /// User name and password of its own program.
    pub login: (String, String),
    /// Who hears what.
    pub router: Router,
}

/// The broker's own task.
pub struct Broker {
    backend: Backend,
    listener: std::net::TcpListener,
}

/// Prepares the broker; nothing is served until its task [runs](Broker::run).
///
/// # Errors
/// When there is no loopback port or no random password.
pub fn prepare() -> Result<(Backend, Broker), BrokerError> {
    let refused = |e: &dyn std::fmt::Display| BrokerError::Prepare(e.to_string());
    let mut password = [0_u8; 24];
    SystemRandom::new()
        .fill(&mut password)
        .map_err(|_| refused(&"no random bytes"))?;
    let password: String = password.iter().map(|byte| format!("{byte:02x}")).collect();
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| refused(&e))?;
    listener.set_nonblocking(true).map_err(|e| refused(&e))?;
    let backend = Backend {
        address: listener.local_addr().map_err(|e| refused(&e))?,
        login: ("own".to_owned(), password),
        router: Router::default(),
    };
    let broker = Broker {
        backend: backend.clone(),
        listener,
    };
    Ok((backend, broker))
}

/// The same with its task started, for tests and tools; it ends with the process.
///
/// # Errors
/// As [`prepare`].
pub fn start() -> Result<Backend, BrokerError> {
    let (backend, broker) = prepare()?;
    tokio::spawn(broker.run(CancellationToken::new()));
    Ok(backend)
}

/// The program that runs the broker, by its password.
struct Own(String, String);

impl Admission for Own {
    fn admit(&self, applicant: &Applicant) -> Result<Admitted, String> {
        let (user, password) = applicant.login.as_ref().ok_or("no user name and password")?;
        // Digests, so that the time taken says nothing of the password.
        let digest = |text: &str| Digest::of(text.as_bytes());
        if *user != self.0 || digest(password.reveal()) != digest(&self.1) {
            return Err("not the program that runs this broker".to_owned());
        }
        Ok(Admitted {
            room: Room::Own,
            budget: Budget::OWN,
            ..Admitted::from(Acl {
                publish: vec!["#".to_owned()],
                subscribe: vec!["#".to_owned()],
            })
        })
    }
}

impl Broker {
    /// Serves the own door, and watches it, until `stop`.
    ///
    /// # Errors
    /// When the door cannot be opened again.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        let Self { backend, listener } = self;
        let mut failed = 0;
        loop {
            let door = stop.child_token();
            let own = Guard {
                listener: TcpListener::from_std(listener.try_clone()?)?,
                tls: None,
                admission: Arc::new(Own(backend.login.0.clone(), backend.login.1.clone())),
                backend: backend.clone(),
                max_connections: OWN_CONNECTIONS,
            };
            let mut serving = tokio::spawn(own.run(door.clone()));
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    ended = &mut serving => {
                        error!(?ended, "the embedded broker's own door ended; opening it again");
                        break;
                    }
                    () = tokio::time::sleep(CHECK_EVERY) => {}
                }
                match backend.check().await {
                    Ok(()) => failed = 0,
                    Err(error) => {
                        failed += 1;
                        error!(%error, failed, "the embedded broker does not answer itself");
                    }
                }
                if failed >= CHECKS {
                    break;
                }
            }
            failed = 0;
            door.cancel();
            serving.abort();
            backend.router.clear();
            info!("the embedded broker starts again; its clients connect again by themselves");
        }
    }
}

impl Backend {
    /// What a client of the own program logs in with.
    #[must_use]
    pub fn credentials(&self) -> (String, Secret) {
        (self.login.0.clone(), Secret::new(self.login.1.clone()))
    }

    /// Sends a message through the broker to itself, by the own door, as any client does.
    ///
    /// # Errors
    /// When it does not come back in time.
    pub async fn check(&self) -> Result<(), BrokerError> {
        match tokio::time::timeout(CHECK_LIMIT, self.round_trip()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(BrokerError::Silent(error.to_string())),
            Err(_) => Err(BrokerError::Silent(format!(
                "nothing came back within {} s",
                CHECK_LIMIT.as_secs()
            ))),
        }
    }

    async fn round_trip(&self) -> Result<(), CheckError> {
        let mut stream = TcpStream::connect(self.address).await?;
        let id = format!("check-{:016x}", rand::random::<u64>());
        let topic = format!("slipway/check/{id}");
        let mut connect = Connect::new(id);
        connect.set_credentials(self.login.0.clone(), self.login.1.clone());
        let mut subscribe = Subscribe::new(topic.clone(), QoS::AtMostOnce);
        subscribe.pkid = 1;
        let mut buffer = bytes::BytesMut::new();
        send(&mut stream, &Packet::Connect(connect)).await?;
        while !matches!(receive(&mut stream, &mut buffer).await?, Packet::ConnAck(_)) {}
        send(&mut stream, &Packet::Subscribe(subscribe)).await?;
        while !matches!(receive(&mut stream, &mut buffer).await?, Packet::SubAck(_)) {}
        let publish = Publish::new(topic, QoS::AtMostOnce, b"check".to_vec());
        send(&mut stream, &Packet::Publish(publish)).await?;
        while !matches!(receive(&mut stream, &mut buffer).await?, Packet::Publish(_)) {}
        send(&mut stream, &Packet::Disconnect).await
    }
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Packet(#[from] mqttbytes::Error),
}

async fn send(stream: &mut TcpStream, packet: &Packet) -> Result<(), CheckError> {
    let mut out = bytes::BytesMut::new();
    packet.write(&mut out, MAX_PACKET_BYTES)?;
    Ok(stream.write_all(&out).await?)
}

async fn receive(stream: &mut TcpStream, buffer: &mut bytes::BytesMut) -> Result<Packet, CheckError> {
    loop {
        match Packet::read(buffer, MAX_PACKET_BYTES) {
            Ok(packet) => return Ok(packet),
            Err(mqttbytes::Error::InsufficientBytes(_)) => {}
            Err(error) => return Err(error.into()),
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_own_door_takes_its_own_program_alone_and_a_check_goes_through() {
        let (backend, broker) = prepare().unwrap();
        assert!(backend.check().await.is_err(), "nothing is served yet");
        let stop = CancellationToken::new();
        let running = tokio::spawn(broker.run(stop.clone()));
        backend.check().await.unwrap();
        let wrong = Backend {
            login: ("own".to_owned(), "wrong".to_owned()),
            ..backend.clone()
        };
        assert!(wrong.check().await.is_err());
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}
