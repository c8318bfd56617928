//! The report: the state of every step of a machine's order, with times. It is the answer to an order and a level like
//! it: the highest revision holds. An agent reports its own steps in the same words.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    bmc::BmcState,
    ids::{BootId, JobId, MachineId, StepId},
    inventory::{Disk, Inventory},
    lease::LocalUse,
    limits::{MAX_TEXT_BYTES, cut},
    seal::{Sealed, SealingKey},
};

/// How many timeline events a report keeps; the oldest of repeated ones go first.
pub const MAX_EVENTS: usize = 200;

/// How many hardware faults a report keeps; the oldest go first.
pub const MAX_HARDWARE_FAULTS: usize = 16;

/// How many local operations a report keeps; the oldest go first.
pub const MAX_LOCAL_USES: usize = 16;

/// Where a machine stands with its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub machine: MachineId,
    /// The job of the order that is answered.
    pub job: JobId,
    /// The revision of the order that is answered.
    pub order_revision: u64,
    /// The order's [`retry`](crate::order::Order::retry).
    #[serde(default, skip_serializing_if = "crate::order::is_zero")]
    pub retry: u32,
    /// How it stands as a whole.
    pub outcome: Outcome,
    /// Every step, in the order's order.
    pub steps: Vec<StepReport>,
    /// The disk that was chosen, once it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// The hardware the agent found, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
    /// The boot of the agent that was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<BootId>,
    /// What was seen of the machine from outside and inside, oldest first.
    #[serde(default)]
    pub events: Vec<TimelineEvent>,
    /// The last faults that the machine's BMC has logged, oldest first, at most [`MAX_HARDWARE_FAULTS`]. They are the
    /// machine's and not the job's: the next job's report has them too, so that none is lost with a report. Who tells of
    /// them knows by machine and [`HardwareFault::raw`] what was told already.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hardware_faults: Vec<HardwareFault>,
    /// What was done with the machine at its site without the control plane, oldest first, at most [`MAX_LOCAL_USES`]. As
    /// with faults, the next job's report has them too, so that none is lost with a report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<LocalUse>,
    /// How the machine's BMC was when it was last asked. As with faults, the next job's report has it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bmc: Option<BmcState>,
}

/// A fault from the log that a machine's BMC keeps by itself (IPMI: the System Event Log).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardwareFault {
    /// The number of the log's record. Numbers begin anew in a log that was cleared or is full.
    pub record: u16,
    /// When it happened by the BMC's own clock, in seconds since 1970. That clock is often wrong: below 0x20000000 it
    /// counts from the BMC's own start, and 0xffffffff means that the BMC does not know.
    pub bmc_time: u32,
    /// When the edge read it, by the edge's clock.
    pub seen_at: DateTime<Utc>,
    /// What is faulty, a stable word: `memory`, `power_supply`, `drive`, `temperature`, `processor`, `fan`, ...
    pub kind: String,
    /// How bad it is.
    pub severity: FaultSeverity,
    /// One line for people.
    pub text: String,
    /// The record as it stands in the log, in hex.
    pub raw: String,
}

/// How bad a hardware fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultSeverity {
    /// It still works, and may not for long.
    Warning,
    /// A part has failed, or works outside of what it is made for.
    Critical,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// How a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Outcome {
    /// Not at its end yet.
    Running,
    /// Every step is done.
    Done {
        /// When the last one was.
        at: DateTime<Utc>,
    },
    /// A step failed for good.
    Failed {
        /// When.
        at: DateTime<Utc>,
        /// Which step, if it was one.
        step: Option<StepId>,
        /// Why.
        failure: Failure,
    },
}

impl Outcome {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::Running)
    }
}

/// Where one step stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepReport {
    /// Which step.
    pub id: StepId,
    /// How it stands.
    pub state: StepState,
    /// Which try this is, from 1; 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// When the current attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    /// When it last came forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progressed_at: Option<DateTime<Utc>>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<DateTime<Utc>>,
    /// How far it is, where that can be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl StepReport {
    /// A step that nobody has begun.
    #[must_use]
    pub fn pending(id: StepId) -> Self {
        Self {
            id,
            state: StepState::Pending,
            attempt: 0,
            started_at: None,
            progressed_at: None,
            finished_at: None,
            progress: None,
            failure: None,
        }
    }
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Not begun.
    Pending,
    /// Under way.
    Running,
    /// Done.
    Done,
    /// Failed for good.
    Failed,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Bytes done.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Code of the failure that says that a BMC refused a new password and proved afterwards that the former one is in force: the
/// one failure after which the new one may be forgotten.
pub const PASSWORD_REFUSED: &str = "bmc_password_refused";

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A stable word for programs.
    pub code: String,
    /// What failed, on which object, and what to do; for people.
    pub message: String,
    /// Whether trying again may help.
    #[serde(default)]
    pub transient: bool,
}

impl Failure {
    /// The same with a message that a message on the wire may hold.
    #[must_use]
    pub fn shortened(mut self) -> Self {
        let end = cut(&self.message, MAX_TEXT_BYTES).len();
        self.message.truncate(end);
        self
    }
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineEvent {
    /// When.
    pub at: DateTime<Utc>,
    /// By whom.
    pub source: EventSource,
    /// A stable word: `offer`, `file`, `script`, `connected`.
    pub code: String,
    /// For people.
    pub text: String,
}

/// Who saw a timeline event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventSource {
    /// The order runner.
    Runner,
    /// The BMC driver.
    Driver,
    /// The DHCP server.
    Dhcp,
    /// The TFTP server.
    Tftp,
    /// The HTTP boot server.
    Http,
    /// The agent.
    Agent,
    /// The installed system.
    Guest,
    /// A source of a later version.
    #[serde(other)]
    Unknown,
}

/// What an agent says of itself when it connects (`agent/{machine}/evt/machine`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// This boot of the agent.
    pub boot: BootId,
    /// The agent's version.
    pub version: String,
    /// To what the edge seals the secrets it passes on.
    pub sealing_key: SealingKey,
    /// The hardware it found.
    pub inventory: Inventory,
}

/// Where an agent stands with the steps it was released (`agent/{machine}/evt/report`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// This boot of the agent.
    pub boot: BootId,
    /// The job it works on.
    pub job: JobId,
    /// The order's revision it works by.
    pub order_revision: u64,
    /// Its own steps only.
    pub steps: Vec<StepReport>,
    /// The disk it chose, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
}

/// What an edge lets an agent do (`agent/{machine}/cmd/release`). Signed by the edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The boot of the agent this is for; another boot ignores it.
    pub boot: BootId,
    /// The job.
    pub job: JobId,
    /// The order's revision.
    pub order_revision: u64,
    /// The steps that may run now.
    pub run: Vec<ReleasedStep>,
    /// The disk all steps are bound to, once chosen: an agent that was restarted checks that it is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// The secrets those steps need, sealed to the agent's key under [`crate::order::secret_context`].
    #[serde(default)]
    pub secrets: BTreeMap<String, Sealed>,
}

/// A step an agent may run. A higher attempt than it has run means: again, from the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedStep {
    /// Which step.
    pub id: StepId,
    /// Which try.
    pub attempt: u32,
}

/// An unknown machine was seen (`evt/machine/{mac}`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSeen {
    /// When last.
    pub at: DateTime<Utc>,
    /// The address it was given.
    pub address: std::net::Ipv4Addr,
    /// Its hardware, once an agent looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory: Option<Inventory>,
}

/// Whether an edge is connected (`evt/presence`); the will a broker publishes for it is signed in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// `false` in the will.
    pub online: bool,
}

/// A piece of a log: of a job's whole log as its edge keeps it (`evt/log/{machine}`), or of what one boot of the agent has
/// said during the job (`agent/{machine}/evt/log`). At most [`MAX_CHUNK_BYTES`](crate::log::MAX_CHUNK_BYTES) of text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunk {
    /// The job it belongs to.
    pub job: JobId,
    /// The boot of the agent whose log it is; none in a job's whole log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootId>,
    /// Where it stands in that log, in bytes.
    pub offset: u64,
    /// The text.
    pub text: String,
}
