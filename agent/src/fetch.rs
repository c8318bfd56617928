//! Bytes from the edge over plain HTTP. Nothing that comes from here is trusted: callers verify it against what the
//! control plane signed. An edge that restarts or is short of a chunk for a while is waited for, within a limit.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tracing::warn;

use crate::steps::Cancel;

/// How long the edge may be unreachable or refusing before a fetch fails.
const PATIENCE: Duration = Duration::from_secs(120);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(5);

/// Bytes that could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The edge does not have it.
    #[error("the edge has no {0}; see that the site holds the image")]
    Missing(String),
    /// The edge did not give it within the limit.
    #[error("cannot fetch {path} from the edge for {seconds} s: {reason}")]
    Unreachable {
        /// What was asked for.
        path: String,
        /// For how long.
        seconds: u64,
        /// What the last try ended with.
        reason: String,
    },
    /// The step is not to go on.
    #[error("the fetch was broken off, as the step was taken back")]
    Cancelled,
}

impl FetchError {
    /// A stable word for reports.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing(_) => "image_missing",
            Self::Unreachable { .. } => "image_fetch",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The edge's HTTP server.
#[derive(Debug, Clone)]
pub struct Edge {
    base: String,
    agent: ureq::Agent,
    patience: Duration,
}

impl Edge {
    /// The server at this address.
    #[must_use]
    pub fn new(address: Ipv4Addr, port: u16) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(5)))
            // the edge may have to fetch a chunk over the WAN first
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_recv_body(Some(Duration::from_secs(60)))
            .max_redirects(0)
            .proxy(None)
            .http_status_as_error(false)
            .build();
        Self {
            base: format!("http://{address}:{port}"),
            agent: ureq::Agent::new_with_config(config),
            patience: PATIENCE,
        }
    }

    /// The same with another limit to how long it is waited for.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The body at `path`, at most `limit` bytes. Blocks.
    ///
    /// # Errors
    /// When the edge says that it has no such thing, does not answer in time, or `cancel` is set.
    pub fn get(&self, path: &str, limit: u64, cancel: &Cancel) -> Result<Vec<u8>, FetchError> {
        let begun = Instant::now();
        let mut delay = FIRST_DELAY;
        loop {
            if cancel.is_set() {
                return Err(FetchError::Cancelled);
            }
            let reason = match self.try_get(path, limit) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => return Err(FetchError::Missing(path.to_owned())),
                Err(reason) => reason,
            };
            let waited = begun.elapsed();
            if waited + delay > self.patience {
                return Err(FetchError::Unreachable {
                    path: path.to_owned(),
                    seconds: waited.as_secs(),
                    reason,
                });
            }
            warn!(path, reason, "fetching again");
            cancel.wait(delay);
            delay = (delay * 2).min(MAX_DELAY);
        }
    }

    /// One try: the body, `None` for "not found", or why to try again.
    fn try_get(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, String> {
        let url = format!("{}{path}", self.base);
        let mut answer = self.agent.get(&url).call().map_err(|e| e.to_string())?;
        match answer.status().as_u16() {
            200 => {}
            404 | 410 => return Ok(None),
            status => return Err(format!("HTTP status {status}")),
        }
        let body = answer.body_mut().with_config().limit(limit).read_to_vec();
        body.map(Some).map_err(|e| e.to_string())
    }
}
