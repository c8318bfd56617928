//! The embedded broker: rumqttd on a loopback port that only the [guard](crate::guard) knows the password of.
//!
//! It must never be reached but through a guard: it has no topic rules, and two of its panics are remote
//! (ADR 0001). It cannot be stopped: it ends with the process.

use std::{
    collections::HashMap,
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
    /// Nothing answers on its port.
    #[error("the embedded broker did not start on {0} within 10 s")]
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

/// Starts the broker in threads of its own.
///
/// # Errors
/// When it cannot be started.
pub fn start() -> Result<Backend, BrokerError> {
    let prepare = |e: &dyn std::fmt::Display| BrokerError::Prepare(e.to_string());
    let address = free_port().map_err(|e| prepare(&e))?;
    let mut password = [0_u8; 24];
    SystemRandom::new()
        .fill(&mut password)
        .map_err(|_| prepare(&"no random bytes"))?;
    let password: String = password.iter().map(|byte| format!("{byte:02x}")).collect();
    let login = ("guard".to_owned(), password);
    let mut broker = rumqttd::Broker::new(config(address, &login));
    std::thread::Builder::new()
        .name("mqtt-broker".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "the embedded broker ended; restart this process");
            }
        })
        .map_err(|e| prepare(&e))?;
    wait_for(address)?;
    Ok(Backend { address, login })
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn wait_for(address: SocketAddr) -> Result<(), BrokerError> {
    let limit = Instant::now() + Duration::from_secs(10);
    while Instant::now() < limit {
        if TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(BrokerError::Start(address))
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
