//! QEMU's monitor protocol, as much as the lab needs: commands, and waiting for a reset. One connection a call.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use slipway_edge::bmc::BootDevice;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// Any single answer takes far less, even on a loaded machine.
const LIMIT: Duration = Duration::from_secs(15);

/// Why the monitor failed, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct MonitorError(String);

/// A connection to a monitor.
pub struct Monitor {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Monitor {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// When nothing listens at `path` (yet).
    pub async fn connect(path: &Path) -> Result<Self, MonitorError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| MonitorError(error.to_string()))?;
        let (reader, writer) = stream.into_split();
        let mut monitor = Self {
            lines: BufReader::new(reader).lines(),
            writer,
        };
        monitor.next(|message| message.get("QMP").is_some()).await?;
        monitor.execute("qmp_capabilities", json!({})).await?;
        Ok(monitor)
    }

    async fn next(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, MonitorError> {
        let search = async {
            while let Some(line) = self
                .lines
                .next_line()
                .await
                .map_err(|e| MonitorError(e.to_string()))?
            {
                let message: Value =
                    serde_json::from_str(&line).map_err(|error| MonitorError(error.to_string()))?;
                if wanted(&message) {
                    return Ok(message);
                }
            }
            Err(MonitorError("the monitor was closed".to_owned()))
        };
        timeout(LIMIT, search)
            .await
            .unwrap_or_else(|_| Err(MonitorError("the monitor is silent".to_owned())))
    }

    async fn send(&mut self, command: &str, arguments: Value) -> Result<(), MonitorError> {
        let line = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.writer
            .write_all(line.as_bytes())
            .await
            .map_err(|error| MonitorError(error.to_string()))
    }

    /// Executes one command.
    ///
    /// # Errors
    /// QEMU's own description of what was wrong.
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, MonitorError> {
        self.send(command, arguments).await?;
        let answer = self
            .next(|m| m.get("return").is_some() || m.get("error").is_some())
            .await?;
        match answer.get("error") {
            Some(error) => Err(MonitorError(format!("{command}: {error}"))),
            None => Ok(answer["return"].clone()),
        }
    }

    /// Sets what firmware boots from after the machine's next reset. QEMU reads the order only at a reset, so
    /// the boot under way keeps the order it started with.
    ///
    /// # Errors
    /// QEMU's own description of what was wrong.
    pub async fn boot_order(&mut self, first: BootDevice) -> Result<(), MonitorError> {
        let (net, disk) = super::qemu::boot_indexes(first);
        // two devices may never have the same index, not even for a moment
        for (device, index) in [("net0", -1), ("disk0", -1), ("net0", net), ("disk0", disk)] {
            let path = format!("/machine/peripheral/{device}");
            let arguments = json!({ "path": path, "property": "bootindex", "value": index });
            self.execute("qom-set", arguments).await?;
        }
        Ok(())
    }
}
