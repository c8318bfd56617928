//! `bmc-serve`: the background process that is every machine's BMC, and the switch that they are cabled to. Started by `up`, ended by `down`.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UdpSocket, UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::bmc::{Faults, Users, serve_with_faults};
use crate::error::LabError;
use crate::machine::QemuChassis;
use crate::netns;
use crate::state::{Lab, LabId};
use crate::switch;

/// A line on the control socket: faults to arm, and events to log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultOrder {
    /// Which machine's BMC.
    pub machine: String,
    /// Packets to lose.
    #[serde(default)]
    pub drop: Option<u32>,
    /// Commands to answer 0xC0 (busy).
    #[serde(default)]
    pub busy: Option<u32>,
    /// An event to log.
    #[serde(default)]
    pub event: Option<SelEvent>,
    /// Empty the event log first.
    #[serde(default)]
    pub clear_log: bool,
}

/// An event for a BMC's log, written as 12 hexadecimal digits: sensor type, sensor number, event type with bit 7 for "over",
/// event data 1 to 3 (IPMI 2.0 table 32-1, bytes 11 to 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SelEvent(pub [u8; 6]);

impl FromStr for SelEvent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || {
            format!(
                "`{text}` is not 12 hexadecimal digits, such as 08526f03ffff (the input of power supply sensor 0x52 is lost)"
            )
        };
        let number = u64::from_str_radix(text, 16).map_err(|_| wrong())?;
        match (text.len(), number.to_be_bytes()) {
            (12, [_, _, event @ ..]) if !text.starts_with('+') => Ok(Self(event)),
            _ => Err(wrong()),
        }
    }
}

type AllFaults = Arc<HashMap<String, Arc<Faults>>>;

/// Serves all BMCs of the lab until SIGTERM. Moves the calling thread into the site's namespace. Machines keep
/// running when it ends.
///
/// # Errors
/// When an address is taken or a socket breaks.
pub fn bmc_serve(id: &LabId) -> Result<(), LabError> {
    let lab = Lab::load(id)?;
    rustix::process::setsid().ok(); // fails when it leads a session already, which is as good
    netns::enter(&id.site())?;
    super::runtime()?.block_on(run(id, lab))
}

async fn run(id: &LabId, lab: Lab) -> Result<(), LabError> {
    switch::announce(&lab.machines).map_err(LabError::file("speak at", "the cables"))?;
    let mut tasks = JoinSet::new();
    let mut faults: HashMap<String, Arc<Faults>> = HashMap::new();
    for machine in lab.machines {
        let address = SocketAddr::new(machine.bmc_address.into(), 623);
        let socket = UdpSocket::bind(address)
            .await
            .map_err(LabError::file("bind", address.to_string()))?;
        let users = Users::administrator(&lab.bmc_user, &lab.bmc_password);
        let own = Arc::clone(faults.entry(machine.name.clone()).or_default());
        tracing::info!(machine = machine.name, %address, "BMC is up");
        tasks.spawn(serve_with_faults(
            socket,
            users,
            Arc::new(QemuChassis::new(machine)),
            own,
        ));
    }
    fs::remove_file(id.control()).ok(); // left by a killed one
    let listener = UnixListener::bind(id.control()).map_err(LabError::file("bind", id.control()))?;
    tasks.spawn(control(listener, Arc::new(faults)));
    let mut stop = signal(SignalKind::terminate()).map_err(LabError::file("watch", "SIGTERM"))?;
    tokio::select! {
        _ = stop.recv() => Ok(()),
        Some(ended) = tasks.join_next() => {
            let source = ended.map_err(std::io::Error::other).and_then(|result| result).err();
            let source = source.unwrap_or_else(|| std::io::Error::other("a BMC ended"));
            Err(LabError::File { operation: "serve", path: "a BMC".into(), source })
        }
    }
}

async fn control(listener: UnixListener, faults: AllFaults) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let faults = Arc::clone(&faults);
        tokio::spawn(async move {
            if let Err(error) = obey(stream, &faults).await {
                tracing::debug!(%error, "control connection");
            }
        });
    }
}

async fn obey(stream: UnixStream, faults: &AllFaults) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    while let Some(line) = lines.next_line().await? {
        let answer = match serde_json::from_str::<FaultOrder>(&line) {
            Err(error) => format!("error: {error}\n"),
            Ok(order) => match faults.get(&order.machine) {
                None => format!("error: no machine {}\n", order.machine),
                Some(own) => {
                    order.drop.inspect(|count| own.drop_packets(*count));
                    order.busy.inspect(|count| own.busy(*count));
                    if order.clear_log {
                        own.log().clear();
                    }
                    order.event.inspect(|event| own.log().add(event.0));
                    "ok\n".to_owned()
                }
            },
        };
        writer.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}
