//! One run: takes what comes next from the agenda, lets the edge live until then, and has it happen. Single-threaded, in
//! virtual time; nothing in here asks the machine it runs on for anything but memory.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use slipway_bus::Event as BusEvent;
use slipway_control_plane::{
    gateway::{Gateway, records::Records},
    workflow::state::JobState,
};
use slipway_protocol::ids::JobId;
use tokio::sync::{Notify, broadcast, mpsc};

use super::{
    agenda::{Agenda, Event},
    base::{Base, Fragile},
    clock,
    defect::Defect,
    dice::Dice,
    disk::Disk,
    edge::{Edge, Parts},
    figures::Figures,
    judge::Judge,
    machine::Machine,
    memory::JOB_LIFE,
    schedule::{Crash, Fault, Schedule},
    site::{Site, job_id},
    wire::{CentreEnd, Wire},
};

/// How long the service manager waits before it starts an edge again that ended, in ms.
const START_AGAIN_MS: u64 = 2_000;
/// How long after the last fault all must have come to rest, in ms: a job's longest life and then some.
const REST_MS: u64 = 3 * 3_600_000;
/// More events than any run needs.
const MOST_EVENTS: u64 = 200_000;
/// How often the control plane looks for what is overdue, and people for what failed.
const TICK_MS: u64 = 20_000;

/// A job that was taken on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub(super) wish: usize,
    pub(super) job: JobId,
    pub(super) retried: bool,
}

/// A run under way.
pub struct World {
    pub(super) schedule: Schedule,
    pub(super) site: Arc<Site>,
    pub(super) agenda: Agenda,
    pub(super) judge: Judge,
    pub(super) wire: Wire,
    pub(super) disk: Disk,
    pub(super) machines: Vec<Arc<Mutex<Machine>>>,
    pub(super) base: Box<dyn Base>,
    pub(super) fragile: Fragile,
    pub(super) gateway: Option<Gateway>,
    pub(super) edge: Option<Edge>,
    pub(super) taken: Vec<Taken>,
    pub(super) open: BTreeSet<usize>,
    pub(super) dice: Dice,
    pub(super) defect: Option<Defect>,
    pub(super) counts_polls: bool,
    pub(super) healed_ms: Option<u64>,
    pub(super) backups: Vec<(usize, usize)>,
    pub(super) copies: Vec<(usize, u32)>,
    pub(super) edge_start_due: bool,
    events: u64,
    at_rest: bool,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Promises that were broken.
    pub violations: Vec<String>,
    /// What was counted.
    pub figures: Figures,
    /// What happened, if it was traced.
    pub trace: Vec<String>,
    /// The control plane at the end.
    pub view: super::base::View,
}

/// Locks a machine.
pub(super) fn locked(machine: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world of a schedule over a control plane's database.
    ///
    /// # Errors
    /// When there is no room in memory for the edge's disk.
    pub fn new(
        schedule: Schedule,
        (site, base): (Arc<Site>, Box<dyn Base>),
        defect: Option<Defect>,
        traces: bool,
    ) -> std::io::Result<Self> {
        clock::reset();
        let (agenda, judge) = (Agenda::default(), Judge::new(traces));
        let wire = Wire::new(agenda.clone(), schedule.seed, schedule.noise);
        let machines = (0..usize::from(schedule.machines))
            .map(|index| Arc::new(Mutex::new(Machine::new(index, agenda.clone(), judge.clone()))))
            .collect();
        let fragile = Fragile {
            inner: base.records(),
            fuse: Arc::new(AtomicI64::new(-1)),
            full: Arc::new(AtomicBool::new(false)),
            died: Arc::new(Notify::new()),
            judge: judge.clone(),
        };
        let polls =
            |f: &super::schedule::Befalls| matches!(f.fault, Fault::EdgeCrash(Crash::AfterPolls(_), _));
        Ok(Self {
            counts_polls: schedule.faults.iter().any(polls),
            dice: Dice::new(schedule.seed ^ 0x00d1_ce00),
            open: (0..schedule.wishes.len()).collect(),
            schedule,
            site,
            agenda,
            judge,
            wire,
            disk: Disk::new()?,
            machines,
            base,
            fragile,
            gateway: None,
            edge: None,
            taken: Vec::new(),
            defect,
            healed_ms: None,
            backups: Vec::new(),
            copies: Vec::new(),
            edge_start_due: false,
            events: 0,
            at_rest: false,
        })
    }

    /// Runs to the end.
    #[must_use]
    pub fn run(mut self) -> Ending {
        self.put_down();
        while !self.at_rest && self.judge.violations().is_empty() {
            let Some(next) = self.agenda.next_at() else { break };
            if let Some(edge) = &self.edge {
                edge.live_until(next);
                if edge.gate.is_over() {
                    self.edge_dies(START_AGAIN_MS);
                    continue;
                }
                if clock::now_ms() < next || self.agenda.next_at() != Some(next) {
                    continue;
                }
            } else {
                clock::set_ms(next);
            }
            let Some((_, event)) = self.agenda.take() else {
                break;
            };
            self.events += 1;
            if self.events > MOST_EVENTS {
                self.judge.accuse("there is no end of events".to_owned());
            }
            self.happens(event);
        }
        self.end()
    }

    fn end(self) -> Ending {
        let carried = self.wire.carried();
        let view = self.base.view();
        let done = view
            .jobs
            .values()
            .filter(|job| job.state == JobState::Done)
            .count();
        let (events, jobs) = (self.events, self.taken.len() as u64);
        self.judge.count(|figures| {
            figures.schedules = 1;
            figures.events = events;
            figures.jobs = jobs;
            figures.jobs_done = done as u64;
            figures.messages = carried.messages;
            figures.lost = carried.lost;
            figures.twice = carried.twice;
            figures.late = carried.late;
        });
        Ending {
            violations: self.judge.violations(),
            figures: self.judge.figures(),
            trace: self.judge.traced(),
            view,
        }
    }

    fn put_down(&mut self) {
        self.agenda.after(0, Event::CentreStarts);
        self.wire.cut();
        self.start_edge_after(1);
        for (index, wish) in self.schedule.wishes.iter().enumerate() {
            self.agenda.after(wish.at_ms, Event::Wish(index));
        }
        for (index, befalls) in self.schedule.faults.iter().enumerate() {
            self.agenda.after(befalls.at_ms, Event::Fault(index));
        }
        let ends = self.schedule.faults.iter().map(|f| f.at_ms + f.fault.lasts_ms());
        self.agenda.after(ends.max().unwrap_or(0) + 1_000, Event::Healed);
        self.agenda.after(TICK_MS, Event::Tick);
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Wish(index) => self.wish(index),
            Event::Cancel(index) => self.cancel(index),
            Event::Fault(index) => self.befalls(index),
            Event::Over(ended) => self.is_over(ended),
            Event::ToEdge(topic, payload) => self.reaches_edge(topic, payload),
            Event::ToCentre(topic, payload) => self.reaches_centre(topic, payload),
            Event::ToAgent(machine, topic, payload) => self.reaches_agent(machine, &topic, &payload),
            Event::FromAgent(machine, topic, payload) => self.agent_reaches_edge(machine, topic, payload),
            Event::LinkKnown => self.link_known(),
            Event::EdgeStarts => self.edge_starts(),
            Event::CentreStarts => self.centre_starts(),
            Event::Machine(index, boot, happens) => self.on_machine(index, boot, happens),
            Event::Tick => self.tick(),
            Event::Healed => self.heal(),
            Event::Rested => self.at_rest = self.look_for_rest(REST_MS),
        }
    }

    /// The edge is to be started, if that is not on its way.
    pub(super) fn start_edge_after(&mut self, ms: u64) {
        if !self.edge_start_due {
            self.edge_start_due = true;
            self.agenda.after(ms, Event::EdgeStarts);
        }
    }

    /// The edge's process is gone; so are the connections to it.
    pub(super) fn edge_dies(&mut self, again_after_ms: u64) {
        let Some(edge) = self.edge.take() else { return };
        self.judge
            .trace(|| format!("the edge dies after {} sides of effects", edge.gate.effects()));
        self.judge.count(|figures| figures.edge_crashes += 1);
        drop(edge);
        self.wire.edge_is_up(false);
        for machine in &self.machines {
            if let Some(agent) = locked(machine).agent() {
                agent.connected = false;
            }
        }
        self.start_edge_after(again_after_ms);
    }

    fn edge_starts(&mut self) {
        self.edge_start_due = false;
        if self.edge.is_some() {
            return;
        }
        let parts = Parts {
            site: &self.site,
            disk: &self.disk,
            wire: &self.wire,
            machines: &self.machines,
            agenda: &self.agenda,
            judge: &self.judge,
            defect: self.defect,
        };
        self.edge = Edge::start(&parts, self.counts_polls);
        if self.edge.is_none() {
            return self.start_edge_after(START_AGAIN_MS);
        }
        self.judge.trace(|| "the edge is up".to_owned());
        self.wire.edge_is_up(true);
        self.agenda.after(200, Event::LinkKnown);
        for machine in &self.machines {
            locked(machine).soon(500, super::machine::Happens::Connects);
        }
    }

    /// The edge's client learns how its link is.
    fn link_known(&self) {
        let Some(edge) = &self.edge else { return };
        match (self.wire.is_up(), self.wire.is_believed()) {
            (true, false) => {
                self.wire.believe(true);
                self.judge.trace(|| "the edge is connected".to_owned());
                edge.hears(BusEvent::Connected);
            }
            (false, true) => {
                self.wire.believe(false);
                self.judge.trace(|| "the edge has lost its link".to_owned());
                edge.hears(BusEvent::Disconnected {
                    reason: "cut".to_owned(),
                });
            }
            _ => {}
        }
    }

    fn centre_starts(&mut self) {
        if self.gateway.is_some() {
            return;
        }
        self.judge.trace(|| "the control plane is up".to_owned());
        self.fragile.fuse.store(-1, Ordering::Relaxed);
        self.fragile.inner = self.base.records();
        let judge = self.judge.clone();
        let client = CentreEnd {
            wire: self.wire.clone(),
            given: Box::new(move |topic, payload| super::faults::note_given(&judge, topic, payload)),
        };
        let records: Arc<dyn Records> = Arc::new(self.fragile.clone());
        // Nobody pokes: the world has the gateway look when something was committed.
        let (_pokes, poked) = broadcast::channel(1);
        self.gateway = Some(Gateway::new(records, Arc::new(client), poked));
        self.wire.mend();
        self.agenda.after(300, Event::LinkKnown);
        self.gateway_hears(BusEvent::Connected);
    }

    /// The control plane's process is gone, and the broker in it.
    pub(super) fn centre_dies(&mut self, again_after_ms: u64) {
        if self.gateway.take().is_none() {
            return;
        }
        self.judge.trace(|| "the control plane dies".to_owned());
        self.judge.out_of_touch();
        self.judge.count(|figures| figures.centre_crashes += 1);
        self.wire.cut();
        self.agenda.after(50, Event::LinkKnown);
        self.agenda.after(again_after_ms, Event::CentreStarts);
    }

    pub(super) fn gateway_hears(&mut self, event: BusEvent) {
        let Some(gateway) = &mut self.gateway else { return };
        let (_none, mut behind) = mpsc::channel(1);
        let mut work = Box::pin(gateway.take_batch(event, &mut behind));
        let lived = self.base.drive(&mut work, &self.fragile.died);
        drop(work);
        if !lived {
            self.centre_dies(self.centre_down_ms());
        }
    }

    /// Something that the site should hold was committed.
    pub(super) fn push(&mut self) {
        let Some(gateway) = &mut self.gateway else { return };
        let mut work = Box::pin(gateway.push_all(BTreeSet::from([self.site.id.to_string()])));
        let lived = self.base.drive(&mut work, &self.fragile.died);
        drop(work);
        if !lived {
            self.centre_dies(self.centre_down_ms());
        }
    }

    fn wish(&mut self, index: usize) {
        let wish = self.schedule.wishes[index];
        let before = self
            .taken
            .iter()
            .filter(|taken| self.schedule.wishes[taken.wish].machine == wish.machine);
        let former = before.map(|taken| taken.job).next_back();
        let busy = former.is_some_and(|job| self.base.job(job).is_some_and(|job| !job.state.is_final()));
        if busy || self.gateway.is_none() || self.fragile.full.load(Ordering::Relaxed) {
            return self.agenda.after(3_000, Event::Wish(index));
        }
        let job = job_id(index);
        let order = self
            .site
            .order(wish.machine.into(), job, wish.work, clock::centre() + JOB_LIFE);
        self.judge.trace(|| {
            format!(
                "job {} taken on: {:?} machine {}",
                job.0.as_u128(),
                wish.work,
                wish.machine
            )
        });
        self.base.issue(job, &order);
        self.open.remove(&index);
        self.taken.push(Taken {
            wish: index,
            job,
            retried: false,
        });
        if let Some(after) = wish.cancel_after_ms {
            self.agenda.after(after, Event::Cancel(index));
        }
        self.push();
    }

    fn cancel(&mut self, index: usize) {
        if self.gateway.is_none() || self.fragile.full.load(Ordering::Relaxed) {
            return self.agenda.after(3_000, Event::Cancel(index));
        }
        if self.base.cancel(job_id(index)) {
            self.judge
                .trace(|| format!("job {} is called off", job_id(index).0.as_u128()));
            self.push();
        }
    }

    /// The control plane looks for what is overdue; people take up again what failed.
    fn tick(&mut self) {
        self.agenda.after(TICK_MS, Event::Tick);
        if self.gateway.is_none() || self.fragile.full.load(Ordering::Relaxed) {
            return;
        }
        let overdue = self.base.fail_overdue();
        let clock_is_wrong = |f: &super::schedule::Befalls| matches!(f.fault, Fault::CentreClock(_));
        if let Some(job) = overdue.first()
            && !self.schedule.faults.iter().any(clock_is_wrong)
        {
            self.judge.accuse(format!(
                "job {} was lost: nobody told its end in time",
                job.0.as_u128()
            ));
        }
        let mut again = overdue.len();
        for at in 0..self.taken.len() {
            let taken = self.taken[at];
            let last = self.taken[at + 1..].iter().all(|later| {
                self.schedule.wishes[later.wish].machine != self.schedule.wishes[taken.wish].machine
            });
            let failed = self
                .base
                .job(taken.job)
                .is_some_and(|job| job.state == JobState::Failed);
            if failed && last && !taken.retried {
                self.taken[at].retried = true;
                if self.dice.permille(500) && self.base.retry(taken.job) {
                    self.judge
                        .trace(|| format!("job {} is taken up again", taken.job.0.as_u128()));
                    again += 1;
                }
            }
        }
        if again > 0 {
            self.push();
        }
    }
}
