//! One machine at the runner: its order, its report, and what follows from them for DHCP, HTTP and the agent. Derived
//! values are computed anew from order and report each time, so nothing is out of step after a restart.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Duration, Utc};
use slipway_protocol::{
    ids::{BootId, StepId},
    keys::Stamp,
    limits::next_report_revision,
    order::{Action, Order, secret_context, secrets_of},
    report::{AgentHello, Release, ReleasedStep, Report, StepState},
    seal::{self, SealError, Sealed, SealingKey},
    topic::Topic,
};
use tokio::task::AbortHandle;
use tracing::error;

use super::next::{self, Side};
use crate::{
    boot::{BootEntry, BootMode},
    context::Context,
    job_log,
    store::{HeldReport, StoreError},
};

/// An agent that said hello to this process.
#[derive(Debug, Clone, Copy)]
pub(super) struct AgentSession {
    pub(super) boot: BootId,
    pub(super) sealing_key: SealingKey,
}

/// One machine.
pub(super) struct Machine {
    pub(super) order: Order,
    pub(super) revision: u64,
    /// The order as it came, for the agent.
    pub(super) payload: Vec<u8>,
    pub(super) report: Report,
    pub(super) report_revision: u64,
    pub(super) agent: Option<AgentSession>,
    /// The edge's own steps under way, by step: attempt and task.
    pub(super) live: HashMap<StepId, (u32, AbortHandle)>,
    pub(super) released: Vec<ReleasedStep>,
    pub(super) saved_at: Option<DateTime<Utc>>,
    pub(super) unsaved: bool,
    pub(super) wake_at: Option<DateTime<Utc>>,
    /// The BMC's event log is being read.
    pub(super) log_reading: Option<AbortHandle>,
    /// It was read, or is being read, after the order's end.
    pub(super) end_is_read: bool,
    /// What of the report stands in the job's log.
    told: job_log::Told,
}

impl Machine {
    pub(super) fn new(order: Order, revision: u64, payload: Vec<u8>, earlier: Option<HeldReport>) -> Self {
        let report_revision = earlier.as_ref().map_or(0, |held| held.revision);
        let report = match earlier {
            Some(held) if held.report.job == order.job && held.report.order_revision == revision => {
                held.report
            }
            other => next::begin(&order, revision, other.as_ref().map(|held| &held.report)),
        };
        // An order that had ended before this process: its end was read then, or is read with the next order.
        let end_is_read = report.outcome.is_final();
        let told = job_log::Told::all_of(&report);
        Self {
            order,
            revision,
            payload,
            report,
            report_revision,
            agent: None,
            live: HashMap::new(),
            released: Vec::new(),
            saved_at: None,
            unsaved: true,
            wake_at: None,
            log_reading: None,
            end_is_read,
            told,
        }
    }

    /// Ends what is under way, wherever it waits.
    pub(super) fn abort_all(&self) {
        let live = self.live.values().map(|(_, task)| task);
        live.chain(&self.log_reading).for_each(AbortHandle::abort);
    }

    /// Writes the report to disk, then says so. A report's revision grows by time, so it also grows for an edge that
    /// lost its disk.
    pub(super) fn save(&mut self, context: &Context, now: DateTime<Utc>) -> Result<(), StoreError> {
        let lines = self.told.news(&self.report, now);
        context.logs.say(self.order.machine, self.report.job, &lines);
        let revision = next_report_revision(self.report_revision, now);
        context.store.put_report(&HeldReport {
            revision,
            report: self.report.clone(),
        })?;
        self.report_revision = revision;
        self.saved_at = Some(now);
        self.unsaved = false;
        context
            .ledger
            .hold_report(&self.order.machine.to_string(), revision);
        context.outbox.report_changed(self.order.machine);
        Ok(())
    }

    fn is_done(&self, is_it: impl Fn(&Action) -> bool) -> bool {
        let done = |id: &StepId| {
            self.report
                .steps
                .iter()
                .any(|s| s.id == *id && s.state == StepState::Done)
        };
        self.order
            .steps
            .iter()
            .any(|step| is_it(&step.action) && done(&step.id))
    }

    /// Whether the LiveOS is to be booted now.
    pub(super) fn boots_liveos(&self) -> bool {
        !self.report.outcome.is_final()
            && self.is_done(|action| *action == Action::BootLiveos)
            && !self.is_done(|action| *action == Action::BootLocal)
    }

    /// What DHCP and HTTP answer this machine: one entry a port, none before `dhcp-bind` is done.
    pub(super) fn boot_entries(&self, boot_key: Option<&str>) -> Vec<BootEntry> {
        let bound = self.order.steps.iter().find_map(|step| match &step.action {
            Action::DhcpBind { address, hostname } => Some((*address, hostname.clone())),
            _ => None,
        });
        let Some((address, hostname)) = bound else {
            return Vec::new();
        };
        if !self.is_done(|action| matches!(action, Action::DhcpBind { .. })) {
            return Vec::new();
        }
        let mode = match boot_key.filter(|_| self.boots_liveos()) {
            Some(boot_key) => BootMode::LiveOs {
                boot_key: boot_key.to_owned(),
            },
            None => BootMode::Local,
        };
        let entry = |&mac| BootEntry {
            machine: self.order.machine,
            mac,
            address,
            hostname: hostname.clone(),
            mode: mode.clone(),
        };
        self.order.hardware.macs.iter().map(entry).collect()
    }

    /// The steps the agent may run now.
    pub(super) fn releasable(&self) -> Vec<ReleasedStep> {
        let running = next::running(&self.order, &self.report, Side::Agent);
        running
            .into_iter()
            .map(|(step, attempt)| ReleasedStep {
                id: step.id.clone(),
                attempt,
            })
            .collect()
    }

    /// Sends the agent its order, unopened, and what it may do.
    pub(super) fn send_to_agent(&mut self, context: &Context, with_order: bool) {
        let Some(agent) = self.agent else { return };
        let (site, machine) = (context.site.clone(), self.order.machine);
        if with_order {
            context
                .outbox
                .to_agent(&Topic::AgentOrder(site.clone(), machine), self.payload.clone());
        }
        self.released = self.releasable();
        let secrets = match self.secrets_for(context, agent.sealing_key) {
            Ok(secrets) => secrets,
            Err(source) => {
                error!(machine = %machine, error = %source, "cannot pass the order's secrets to the agent");
                return;
            }
        };
        let release = Release {
            boot: agent.boot,
            job: self.order.job,
            order_revision: self.revision,
            run: self.released.clone(),
            disk: self.report.disk.clone(),
            secrets,
        };
        let issued_at = (context.now)();
        let revision = issued_at.timestamp_millis().cast_unsigned();
        let stamp = Stamp {
            revision,
            issued_at,
            expires_at: issued_at + Duration::days(1),
        };
        let topic = Topic::AgentRelease(site, machine);
        context
            .outbox
            .to_agent(&topic, context.signer.seal(&topic, stamp, &release));
    }

    /// The secrets of the released steps, opened with the site's key and sealed to the agent's.
    fn secrets_for(&self, context: &Context, to: SealingKey) -> Result<BTreeMap<String, Sealed>, SealError> {
        let mut secrets = BTreeMap::new();
        for released in &self.released {
            let Some(step) = self.order.step(&released.id) else {
                continue;
            };
            for name in secrets_of(&step.action) {
                let place = secret_context(&context.site, self.order.machine, self.order.job, name);
                let sealed = self.order.secrets.get(name).ok_or(SealError::Form)?;
                let secret = context.opening.open(sealed, &place)?;
                secrets.insert(name.to_owned(), seal::seal(to, &place, &secret)?);
            }
        }
        Ok(secrets)
    }

    /// An agent said hello.
    pub(super) fn greet(&mut self, hello: AgentHello, now: DateTime<Utc>) {
        next::agent_said_hello(&self.order, &mut self.report, hello.boot, now);
        self.agent = Some(AgentSession {
            boot: hello.boot,
            sealing_key: hello.sealing_key,
        });
        self.report.inventory = Some(hello.inventory);
    }
}
