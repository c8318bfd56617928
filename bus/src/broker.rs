//! The embedded broker: rumqttd on a loopback port that only the [guard](crate::guard) knows the password of.
//!
//! It must never be reached but through a guard: it has no topic rules, and two of its panics are remote
//! (ADR 0001). It cannot be stopped: it ends with the process.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};

use crate::MAX_PACKET_BYTES;

/// The embedded broker did not come up.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// No free loopback port, or no password.
    #[error("cannot prepare the embedded broker: {0}")]
    Prepare(String),
    /// It does not answer on its port.
    #[error("the embedded broker did not start on {0}; the log says why")]
    Start(SocketAddr),
}

/// A running embedded broker, as its guard sees it. Has no `Debug`: it holds a password.
#[derive(Clone)]
pub struct Backend {
    /// Where it listens, on loopback.
    pub address: SocketAddr,
    /// User name and password of this process's guard.
    pub login: (String, String),
}

/// How many connections the broker itself would take. Far above any guard's limit, since reaching it kills rumqttd.
const MAX_CONNECTIONS: usize = 20_000;
/// How long the broker may take to answer.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How often another port is tried.
const TRIES: u32 = 5;

/// Starts the broker in threads of its own.
///
/// # Errors
/// When it cannot be started.
pub fn start() -> Result<Backend, BrokerError> {
    start_on_one_of(free_port)
}

/// rumqttd binds its port itself, so a port that was free may be another's by then: a hundred edges on one host meet that.
/// Then the next one is tried.
fn start_on_one_of(mut ports: impl FnMut() -> std::io::Result<SocketAddr>) -> Result<Backend, BrokerError> {
    let mut tries = 0;
    loop {
        let address = ports().map_err(|e| BrokerError::Prepare(e.to_string()))?;
        tries += 1;
        match start_on(address) {
            Err(BrokerError::Start(_)) if tries < TRIES => {
                tracing::warn!(%address, "the embedded broker's port is taken; trying another");
            }
            other => return other,
        }
    }
}

fn start_on(address: SocketAddr) -> Result<Backend, BrokerError> {
    let prepare = |e: &dyn std::fmt::Display| BrokerError::Prepare(e.to_string());
    let mut password = [0_u8; 24];
    SystemRandom::new()
        .fill(&mut password)
        .map_err(|_| prepare(&"no random bytes"))?;
    let password: String = password.iter().map(|byte| format!("{byte:02x}")).collect();
    let login = ("guard".to_owned(), password);
    let mut broker = rumqttd::Broker::new(config(address, &login));
    let thread = std::thread::Builder::new()
        .name("mqtt-broker".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the embedded broker ended; restart this process");
            }
        })
        .map_err(|e| prepare(&e))?;
    let backend = Backend { address, login };
    let limit = Instant::now() + START_LIMIT;
    while Instant::now() < limit && !thread.is_finished() {
        if lets_in(&backend).unwrap_or(false) {
            return Ok(backend);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(BrokerError::Start(address))
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// Whether our broker answers there, and not somebody else's server: only ours takes this password.
fn lets_in(backend: &Backend) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(backend.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let (user, password) = (&backend.login.0, &backend.login.1);
    // MQTT 3.1.1 section 3.1: name, level 4, user name and password and clean session, keep-alive 10 s
    let mut body = b"\x00\x04MQTT\x04\xc2\x00\x0a".to_vec();
    for text in ["start", user, password] {
        body.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
        body.extend(text.as_bytes());
    }
    let mut packet = vec![0x10, u8::try_from(body.len()).unwrap_or_default()];
    packet.extend(body);
    stream.write_all(&packet)?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    // DISCONNECT; whether it arrives does not matter
    let _ = stream.write_all(&[0xe0, 0x00]);
    Ok(answer == [0x20, 0x02, 0x00, 0x00])
}

fn config(listen: SocketAddr, (user, password): &(String, String)) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 10_000,
        max_payload_size: MAX_PACKET_BYTES,
        max_inflight_count: 500,
        auth: Some(HashMap::from([(user.clone(), password.clone())])),
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "loopback".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections,
    };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: MAX_CONNECTIONS,
            max_outgoing_packet_count: 200,
            // The ring holds what a slow reader has not read yet; it is lossy by design and bounded in memory.
            max_segment_size: 2 * 1024 * 1024,
            max_segment_count: 8,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("loopback".to_owned(), server)])),
        v5: None,
        ws: None,
        cluster: None,
        console: None,
        bridge: None,
        prometheus: None,
        metrics: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_taken_meanwhile_is_left_for_another() {
        let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = stranger.local_addr().unwrap();
        let mut asked = 0;
        let backend = start_on_one_of(|| {
            asked += 1;
            if asked == 1 { Ok(taken) } else { free_port() }
        })
        .unwrap();
        assert_ne!(backend.address, taken);
        assert!(lets_in(&backend).unwrap());
        let wrong = Backend {
            login: ("guard".to_owned(), "wrong".to_owned()),
            ..backend
        };
        assert!(
            !lets_in(&wrong).unwrap_or(false),
            "it is told from a broker of others"
        );
    }
}
