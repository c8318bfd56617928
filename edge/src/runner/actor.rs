//! The runner's one task: takes what happens, decides per machine, writes it to disk, then acts. All machines' states
//! live here and nowhere else, so there is no lock and no race between two decisions.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use slipway_protocol::{
    bmc::BmcState,
    ids::{Digest, JobId, MacAddr, MachineId, StepId},
    order::{Action, Order, Role},
    report::{
        AgentHello, AgentReport, EventSource, Failure, HardwareFault, MAX_LOCAL_USES, Report, TimelineEvent,
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    away, bmc_state, event_log,
    machine::Machine,
    next::{self, Side, StepUpdate},
    steps,
    taking_up::is_overtaken,
};
use crate::{
    context::Context,
    store::{HeldReport, StoreError},
};

/// Progress is written and sent at most this often a machine.
const PROGRESS_EVERY: TimeDelta = TimeDelta::seconds(1);

/// Something that happened.
pub enum Input {
    /// The control plane says that the reports held here are this edge's newest.
    Compared,
    /// A report of this edge's own, as the control plane has it.
    ReportBack {
        /// The report.
        report: Box<Report>,
        /// Its revision.
        revision: u64,
    },
    /// A verified order was stored.
    Order {
        /// The order.
        order: Box<Order>,
        /// Its revision.
        revision: u64,
        /// The envelope as it came.
        payload: Vec<u8>,
    },
    /// One of the edge's own steps came forward or ended.
    Step {
        /// The machine.
        machine: MachineId,
        /// The job the step is of.
        job: JobId,
        /// Which step.
        step: StepId,
        /// Which try.
        attempt: u32,
        /// What happened.
        update: StepUpdate,
    },
    /// The log of a machine's BMC was read.
    EventLog {
        /// The machine.
        machine: MachineId,
        /// The faults to tell, oldest first.
        faults: Vec<HardwareFault>,
        /// How much of the log is known now.
        seen: Box<event_log::Seen>,
    },
    /// A machine's BMC was asked how it is.
    Bmc {
        /// The machine.
        machine: MachineId,
        /// How it was.
        state: BmcState,
    },
    /// A verified hello of an agent.
    AgentHello {
        /// The machine.
        machine: MachineId,
        /// What it said.
        hello: Box<AgentHello>,
    },
    /// A verified report of an agent.
    AgentReport {
        /// The machine.
        machine: MachineId,
        /// What it said.
        report: Box<AgentReport>,
    },
    /// A boot service saw a machine.
    Seen {
        /// The port.
        mac: MacAddr,
        /// What was seen.
        event: TimelineEvent,
        /// Whether it shows that an operating system runs on the machine, which is not the LiveOS.
        system: bool,
    },
    /// A guest phoned home.
    PhoneHome {
        /// The machine it says it runs on.
        machine: MachineId,
        /// The nonce it sent.
        nonce: String,
        /// What it says of itself.
        text: String,
        /// Whether the machine itself phones, as far as the network shows.
        itself: bool,
        /// Whether the nonce is the order's.
        accepted: oneshot::Sender<bool>,
    },
}

/// A handle to the runner; clones share it.
#[derive(Clone)]
pub struct Runner {
    inputs: mpsc::Sender<Input>,
    /// What boot services see; heard when nothing else is to be done.
    seen: mpsc::Sender<Input>,
}

/// How many sightings wait for the runner.
const SEEN_QUEUE: usize = 64;

impl Runner {
    /// Tells the runner; waits while it is busy. A runner that has ended hears nothing more.
    pub async fn tell(&self, input: Input) {
        if self.inputs.send(input).await.is_err() {
            warn!("the order runner has ended; this process is stopping");
        }
    }

    /// Tells the runner what matters less than anything else, if there is room for it.
    #[must_use]
    pub fn tell_if_idle(&self, input: Input) -> bool {
        self.seen.try_send(input).is_ok()
    }

    /// Starts the runner with what the store holds. The task ends with `stop`, or with a store that cannot be written:
    /// then the process must end too, for nothing is promised that is not on disk.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn start(
        context: Arc<Context>,
        stop: CancellationToken,
    ) -> Result<(Self, tokio::task::JoinHandle<Result<(), StoreError>>), StoreError> {
        let (inputs, receiver) = mpsc::channel(1024);
        let (seen, seen_receiver) = mpsc::channel(SEEN_QUEUE);
        let runner = Self { inputs, seen };
        let started = (context.now)();
        let mut actor = Actor {
            context,
            started,
            runner: runner.clone(),
            machines: HashMap::new(),
            by_mac: HashMap::new(),
            wakes: BinaryHeap::new(),
            looked_at: DateTime::<Utc>::MIN_UTC,
            turned_at: None,
        };
        actor.load()?;
        Ok((
            runner,
            tokio::spawn(async move { actor.run((receiver, seen_receiver), stop).await }),
        ))
    }
}

pub(super) struct Actor {
    pub(super) context: Arc<Context>,
    runner: Runner,
    pub(super) machines: HashMap<MachineId, Machine>,
    by_mac: HashMap<MacAddr, MachineId>,
    wakes: BinaryHeap<Reverse<(DateTime<Utc>, MachineId)>>,
    /// When it last looked who is to be woken.
    looked_at: DateTime<Utc>,
    /// When it last did anything.
    turned_at: Option<DateTime<Utc>>,
    /// When this process began: what was to be seen before, it has not seen.
    started: DateTime<Utc>,
}

impl Actor {
    async fn run(
        mut self,
        (mut inputs, mut seen): (mpsc::Receiver<Input>, mpsc::Receiver<Input>),
        stop: CancellationToken,
    ) -> Result<(), StoreError> {
        let result = self.work(&mut inputs, &mut seen, &stop).await;
        // The process may live on: what is under way on a BMC or on the disk must not.
        for machine in self.machines.values() {
            machine.abort_all();
        }
        result
    }

    async fn work(
        &mut self,
        inputs: &mut mpsc::Receiver<Input>,
        seen: &mut mpsc::Receiver<Input>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        self.take_up(inputs, stop).await?;
        loop {
            let nap = self.until_next_wake();
            let turn = tokio::select! {
                // In a fixed order, so that what happened once can be made to happen again. Time goes first: however many
                // inputs wait, no deadline does. It leaves nothing due, so inputs come next.
                biased;
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(nap) => None,
                input = inputs.recv() => match input {
                    Some(input) => Some(input),
                    None => return Ok(()),
                },
                Some(sighting) = seen.recv() => Some(sighting),
            };
            self.turn();
            match turn {
                None => self.wake_due()?,
                Some(input) => self.take(input)?,
            }
        }
    }

    /// Begins a turn: time that was not lived through counts against nobody.
    fn turn(&mut self) {
        let now = (self.context.now)();
        let last = self.turned_at.replace(now);
        let Some(away) = last.and_then(|last| away::away(last, now)) else {
            return;
        };
        warn!(
            seconds = away.num_seconds(),
            "this process did nothing for a while, or the clock was set on; no step is blamed for it"
        );
        for m in self.machines.values_mut() {
            m.unsaved |= away::forgive(&mut m.report, away, now);
        }
    }

    fn until_next_wake(&self) -> Duration {
        let next = self.wakes.peek().map(|Reverse((at, _))| *at);
        let nap = next.map_or(TimeDelta::seconds(60), |at| at - (self.context.now)());
        nap.to_std().unwrap_or_default().min(Duration::from_secs(60))
    }

    fn wake_due(&mut self) -> Result<(), StoreError> {
        let now = (self.context.now)();
        if now < std::mem::replace(&mut self.looked_at, now) {
            // The clock was set back: what was to be done by its former time is reckoned anew.
            let machines: Vec<MachineId> = self.machines.keys().copied().collect();
            return machines
                .into_iter()
                .try_for_each(|machine| self.settle(machine, false));
        }
        while let Some(Reverse((at, machine))) = self.wakes.peek().copied() {
            if at > now {
                break;
            }
            self.wakes.pop();
            // A machine that was decided upon since has another wake-up in the heap.
            if self.machines.get(&machine).is_some_and(|m| m.wake_at == Some(at)) {
                self.settle(machine, false)?;
            }
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, machine: Machine) {
        let id = machine.order.machine;
        for mac in &machine.order.hardware.macs {
            self.by_mac.insert(*mac, id);
        }
        self.machines.insert(id, machine);
    }

    pub(super) fn take(&mut self, input: Input) -> Result<(), StoreError> {
        let now = (self.context.now)();
        match input {
            Input::Compared => Ok(()),
            Input::ReportBack { report, revision } => self.take_report_back(*report, revision),
            Input::Order {
                order,
                revision,
                payload,
            } => self.take_order(*order, revision, payload),
            Input::Step {
                machine,
                job,
                step,
                attempt,
                update,
            } => self.take_step(machine, (job, step, attempt), update),
            Input::EventLog {
                machine,
                faults,
                seen,
            } => self.take_event_log(machine, faults, &seen),
            Input::Bmc { machine, state } => self.take_bmc(machine, state),
            Input::AgentHello { machine, hello } => {
                let Some(m) = self.machines.get_mut(&machine) else {
                    return Ok(());
                };
                m.greet(*hello, now);
                note(m, EventSource::Agent, "connected", "the agent is up", now);
                self.settle(machine, true)?;
                if let Some(m) = self.machines.get_mut(&machine) {
                    m.send_to_agent(&self.context, true);
                }
                Ok(())
            }
            Input::AgentReport { machine, report } => {
                let Some(m) = self.machines.get_mut(&machine) else {
                    return Ok(());
                };
                let changed = next::agent_reported(&m.order, &mut m.report, &report, now);
                m.unsaved = true;
                self.settle(machine, changed)
            }
            Input::Seen { mac, event, system } => self.take_sighting(mac, event, system),
            Input::PhoneHome {
                machine,
                nonce,
                text,
                itself,
                accepted,
            } => {
                let good = self.phone_home(machine, &nonce, (text, itself), now)?;
                // A guest that hung up asks again.
                let _ = accepted.send(good);
                Ok(())
            }
        }
    }

    fn take_sighting(&mut self, mac: MacAddr, event: TimelineEvent, system: bool) -> Result<(), StoreError> {
        let Some(machine) = self.by_mac.get(&mac).copied() else {
            return Ok(());
        };
        let Some(m) = self.machines.get_mut(&machine) else {
            return Ok(());
        };
        if m.report.outcome.is_final() {
            return Ok(());
        }
        let now = (self.context.now)();
        // The first sign of a boot is written down before anything else happens: who starts after a crash does not boot the machine
        // again. All else can wait: whoever is on the network can make any number of sightings.
        let is_first_sign = next::is_first_sign_of_boot(&m.order, &m.report, &event);
        next::note(&mut m.report, event);
        m.unsaved = true;
        let lost = system && next::booted_another_system(&m.order, &mut m.report, self.started, now);
        self.settle(machine, is_first_sign || lost)
    }

    fn take_step(
        &mut self,
        machine: MachineId,
        (job, step, attempt): (JobId, StepId, u32),
        update: StepUpdate,
    ) -> Result<(), StoreError> {
        let Some(m) = self.machines.get_mut(&machine) else {
            return Ok(());
        };
        let current = next::running(&m.order, &m.report, Side::Edge);
        if m.order.job != job || !current.iter().any(|(s, a)| s.id == step && *a == attempt) {
            return Ok(());
        }
        let is_driver = m.order.step(&step).is_some_and(|s| s.role == Role::Driver);
        let reads_log = is_driver && update == StepUpdate::Done;
        let changed = next::apply(&m.order, &mut m.report, &step, update, (self.context.now)());
        m.unsaved = true;
        if reads_log {
            self.read_event_log(machine);
        }
        self.settle(machine, changed)
    }

    /// Starts to read the log of a machine's BMC, unless that is under way.
    fn read_event_log(&mut self, id: MachineId) {
        let Some(m) = self.machines.get_mut(&id) else {
            return;
        };
        if m.log_reading.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let reading = event_log::read(Arc::clone(&self.context), self.runner.clone(), m.order.clone());
        m.log_reading = Some(tokio::spawn(reading).abort_handle());
    }

    /// Faults are the machine's: they are told whatever order it has by now, and also after its end.
    fn take_event_log(
        &mut self,
        id: MachineId,
        faults: Vec<HardwareFault>,
        seen: &event_log::Seen,
    ) -> Result<(), StoreError> {
        let Some(m) = self.machines.get_mut(&id) else {
            return Ok(());
        };
        if event_log::add(&mut m.report, faults) {
            m.save(&self.context, (self.context.now)())?;
        }
        event_log::keep(&self.context, id, seen)
    }

    /// How the BMC is is the machine's, as faults are. The step that read it tells its end next, and both are sent as one.
    fn take_bmc(&mut self, id: MachineId, state: BmcState) -> Result<(), StoreError> {
        let Some(m) = self.machines.get_mut(&id) else {
            return Ok(());
        };
        m.unsaved |= bmc_state::keep(&mut m.report, state);
        self.settle(id, false)
    }

    fn take_order(&mut self, order: Order, revision: u64, payload: Vec<u8>) -> Result<(), StoreError> {
        let id = order.machine;
        if self.machines.get(&id).is_some_and(|m| m.revision >= revision) {
            return Ok(());
        }
        info!(machine = %id, job = %order.job, revision, steps = order.steps.len(), "new order");
        // One whose order was no longer valid when this process began is in the store alone.
        let earlier = match self.machines.get(&id) {
            Some(m) => Some(HeldReport {
                revision: m.report_revision,
                report: m.report.clone(),
            }),
            None => self.context.store.report(id)?,
        };
        if is_overtaken(revision, earlier.as_ref()) {
            return Ok(());
        }
        let broken = order.check().err();
        let mut machine = self.going_on((order, revision, payload), earlier)?;
        if let Some(former) = self.machines.remove(&id) {
            self.let_go(&former);
            machine.agent = former.agent;
            machine.log_reading = former.log_reading;
        }
        if let Some(reason) = broken {
            let failure = Failure {
                code: "bad_order".into(),
                message: reason.to_string(),
                transient: false,
            };
            next::fail_job(&mut machine.report, None, failure, (self.context.now)());
        }
        self.insert(machine);
        self.settle(id, true)?;
        if let Some(m) = self.machines.get_mut(&id) {
            m.send_to_agent(&self.context, true);
        }
        Ok(())
    }

    /// A machine with this order, its revision and its envelope, going on from what is held of it.
    pub(super) fn going_on(
        &self,
        (order, revision, payload): (Order, u64, Vec<u8>),
        held: Option<HeldReport>,
    ) -> Result<Machine, StoreError> {
        let earlier = self.at_its_job(&order, held)?;
        let mut machine = Machine::new(order, revision, payload, earlier);
        self.tell_local_use(&mut machine)?;
        Ok(machine)
    }

    /// An order that was taken from a lease is told of as such in its report. The journal knows: it was written with the
    /// order.
    fn tell_local_use(&self, machine: &mut Machine) -> Result<(), StoreError> {
        let told = &mut machine.report.local;
        if told.iter().any(|used| used.job == machine.order.job) {
            return Ok(());
        }
        if let Some(used) = self.context.store.local_use(machine.order.job)? {
            told.push(used);
            let too_many = told.len().saturating_sub(MAX_LOCAL_USES);
            told.drain(..too_many);
        }
        Ok(())
    }

    fn phone_home(
        &mut self,
        machine: MachineId,
        nonce: &str,
        (text, itself): (String, bool),
        now: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let Some(m) = self.machines.get_mut(&machine) else {
            return Ok(false);
        };
        let expected = Action::GuestVerify {
            nonce_sha256: Digest::of(nonce.as_bytes()),
        };
        if !m.order.steps.iter().any(|step| step.action == expected) {
            warn!(%machine, itself, "a guest phoned home with a nonce that is not its order's");
            if itself && next::former_guest_phoned_home(&m.order, &mut m.report, now) {
                self.settle(machine, true)?;
            }
            return Ok(false);
        }
        if !m.report.outcome.is_final() {
            next::guest_phoned_home(&m.order, &mut m.report, text, now);
            self.settle(machine, true)?;
        }
        Ok(true)
    }

    /// Stops what is under way for a machine, and answers it no more.
    pub(super) fn let_go(&mut self, former: &Machine) {
        former.live.values().for_each(|(_, task)| task.abort());
        for mac in &former.order.hardware.macs {
            self.context.table.unbind(*mac);
            self.by_mac.remove(mac);
        }
    }

    /// Decides for one machine until nothing changes, writes, then acts.
    pub(super) fn settle(&mut self, id: MachineId, changed: bool) -> Result<(), StoreError> {
        let context = Arc::clone(&self.context);
        let now = (context.now)();
        let Some(m) = self.machines.get_mut(&id) else {
            return Ok(());
        };
        let mut changed = changed;
        let wake_at = loop {
            let decision = next::advance(&m.order, &mut m.report, now);
            changed |= decision.changed;
            if !decision.changed {
                break decision.wake_at;
            }
        };
        let due = m
            .saved_at
            .is_none_or(|saved| (now - saved).abs() >= PROGRESS_EVERY);
        if changed || (m.unsaved && due) {
            m.save(&context, now)?;
        }
        let flush_at = m.unsaved.then(|| now + PROGRESS_EVERY);
        m.wake_at = [wake_at, flush_at].into_iter().flatten().min();
        if let Some(at) = m.wake_at {
            self.wakes.push(Reverse((at, id)));
        }
        if changed { self.act(id) } else { Ok(()) }
    }

    /// Makes the world follow the report: boot answers, the edge's own steps, the agent.
    pub(super) fn act(&mut self, id: MachineId) -> Result<(), StoreError> {
        self.serve_boot(id);
        let context = Arc::clone(&self.context);
        let Some(m) = self.machines.get_mut(&id) else {
            return Ok(());
        };
        if m.agent.is_some() && m.releasable() != m.released {
            m.send_to_agent(&context, false);
        }
        if m.report.outcome.is_final() {
            info!(machine = %id, job = %m.order.job, outcome = ?m.report.outcome, "order ended");
            context.boots.end(id)?;
            if !std::mem::replace(&mut m.end_is_read, true) {
                self.read_event_log(id);
            }
        }
        self.start_steps(id);
        Ok(())
    }

    /// Has DHCP and HTTP answer a machine by its report.
    pub(super) fn serve_boot(&self, id: MachineId) {
        let Some(m) = self.machines.get(&id) else { return };
        let boot_key = if m.boots_liveos() {
            match self.context.boots.ensure(id, m.order.job) {
                Ok(boot) => Some(boot.boot_key),
                Err(source) => {
                    error!(machine = %id, error = %source, "cannot make a boot token; the machine boots its disk");
                    None
                }
            }
        } else {
            None
        };
        for entry in m.boot_entries(boot_key.as_deref()) {
            self.context.table.bind(entry);
        }
    }

    /// Starts what is under way by the report but not in this process, and stops the reverse.
    fn start_steps(&mut self, id: MachineId) {
        let Some(m) = self.machines.get_mut(&id) else {
            return;
        };
        let running = next::running(&m.order, &m.report, Side::Edge);
        m.live.retain(|step, (attempt, task)| {
            let keep = running.iter().any(|(s, a)| s.id == *step && a == attempt);
            if !keep {
                task.abort();
            }
            keep
        });
        for (step, attempt) in running {
            if m.live.contains_key(&step.id) {
                continue;
            }
            let work = steps::Work {
                order: m.order.clone(),
                step: step.clone(),
                attempt,
                report: m.report.clone(),
            };
            let task = tokio::spawn(steps::run(Arc::clone(&self.context), self.runner.clone(), work));
            m.live.insert(step.id.clone(), (attempt, task.abort_handle()));
        }
    }
}

fn note(m: &mut Machine, source: EventSource, code: &str, text: &str, now: DateTime<Utc>) {
    next::note(
        &mut m.report,
        TimelineEvent {
            at: now,
            source,
            code: code.into(),
            text: text.into(),
        },
    );
}
