//! The loop: hears the edge, runs what [`Work::next_step`] says, one step at a time, and reports. It decides nothing that
//! is not in [`crate::work`], but when to send and when to restart.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use slipway_bus::Event;
use slipway_protocol::{
    ids::{BootId, JobId, StepId},
    report::{AgentHello, Failure, Progress},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    VERSION,
    link::{Link, LinkError, Said},
    steps::{self, Attempt, Cancel, Machine, Outcome},
    work::Work,
};

/// Progress is said at most once in this time.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How long the edge may take to answer that a restart is due, once it was told.
const RESTART_ACK: Duration = Duration::from_secs(5);
/// How long a restart waits for a connection by which to tell.
const RESTART_LIMIT: Duration = Duration::from_secs(120);

/// What a step's thread says.
enum StepEvent {
    Progress(Progress),
    Ended(Result<Outcome, Failure>),
}

/// The step that runs.
struct Running {
    job: JobId,
    id: StepId,
    attempt: u32,
    cancel: Cancel,
    events: mpsc::UnboundedReceiver<StepEvent>,
}

/// A restart that waits for the edge to have heard of it.
struct Restart {
    id: StepId,
    attempt: u32,
    job: JobId,
    since: Instant,
    told: Option<Instant>,
}

struct Agent {
    machine: Arc<Machine>,
    link: Link,
    work: Work,
    running: Option<Running>,
    restart: Option<Restart>,
    /// Progress that was not said yet.
    unsaid: bool,
}

/// Runs until the machine was restarted or `stop`.
///
/// # Errors
/// When the link cannot be made, or the machine cannot be restarted.
pub async fn run(machine: Machine, stop: CancellationToken) -> anyhow::Result<()> {
    let (link, mut events) = connect(&machine, &stop)?;
    let mut agent = Agent {
        machine: Arc::new(machine),
        link,
        work: Work::new(BootId(uuid::Uuid::new_v4())),
        running: None,
        restart: None,
        unsaid: false,
    };
    let mut neighbours = agent.machine.neighbours.changes();
    let mut tick = tokio::time::interval(REPORT_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            event = events.recv() => match event {
                Some(event) => agent.heard(event).await,
                None => break,
            },
            event = step_event(&mut agent.running) => agent.step_said(event),
            // The sender lives as long as the machine.
            Ok(()) = neighbours.changed() => agent.greet().await,
            _ = tick.tick() => agent.tick(),
        }
        if agent.restart_is_due(Instant::now()) {
            info!("restarting the machine");
            agent.say_log(usize::MAX);
            agent.machine.env.reboot()?;
            break;
        }
        agent.start_next();
    }
    if let Some(running) = agent.running {
        running.cancel.set();
    }
    Ok(())
}

fn connect(machine: &Machine, stop: &CancellationToken) -> Result<(Link, mpsc::Receiver<Event>), LinkError> {
    let config = &machine.config;
    info!(edge = %config.edge, port = config.mqtt_port, machine = %config.machine, "connecting to the edge");
    Link::start(config, stop.clone())
}

/// The next word of the running step; waits for ever when none runs.
async fn step_event(running: &mut Option<Running>) -> StepEvent {
    let Some(running) = running else {
        return std::future::pending().await;
    };
    running.events.recv().await.unwrap_or_else(|| {
        StepEvent::Ended(Err(Failure {
            code: "agent_fault".to_owned(),
            message: format!(
                "the agent's thread for step `{}` ended without an answer; see its console",
                running.id
            ),
            transient: true,
        }))
    })
}

impl Agent {
    fn now(&self) -> DateTime<Utc> {
        self.machine.env.now()
    }

    async fn heard(&mut self, event: Event) {
        match event {
            Event::Connected => {
                self.machine.log.say_again();
                self.greet().await;
            }
            Event::Disconnected { reason } => info!(reason, "no connection to the edge; trying again"),
            Event::Message { topic, payload } => {
                let held = self.work.order.as_ref().map(|(_, revision)| *revision);
                match self.link.open(&topic, &payload, held) {
                    Some(Said::Order {
                        order,
                        revision,
                        issued_at,
                    }) => {
                        correct_clock(&self.machine, issued_at);
                        info!(job = %order.job, revision, "order received");
                        self.work.take_order(*order, revision);
                    }
                    Some(Said::Release(release)) => {
                        let ours = self.work.take_release(*release);
                        debug!(ours, "release received");
                    }
                    None => {}
                }
                self.cancel_what_is_taken_back();
            }
        }
    }

    /// Says who this is and how things stand: at every connect, and when a neighbour was heard.
    async fn greet(&mut self) {
        let machine = Arc::clone(&self.machine);
        let look = move || {
            let mut found = machine.env.inventory();
            machine.neighbours.tell(&mut found.nics);
            found
        };
        let inventory = tokio::task::spawn_blocking(look).await;
        let hello = AgentHello {
            boot: self.work.boot,
            version: VERSION.to_owned(),
            sealing_key: self.machine.opening.sealing_key(),
            inventory: inventory.unwrap_or_default().fitted(),
        };
        if self.link.hello(&hello, self.now()) {
            let (disks, ports) = (hello.inventory.disks.len(), hello.inventory.nics.len());
            info!(boot = %self.work.boot, disks, ports, "said hello to the edge");
        }
        self.report();
    }

    fn cancel_what_is_taken_back(&mut self) {
        if let Some(running) = &self.running
            && !self.work.may_go_on(running.job, &running.id, running.attempt)
            && !running.cancel.is_set()
        {
            warn!(step = %running.id, "the step is taken back; stopping it");
            running.cancel.set();
        }
    }

    fn start_next(&mut self) {
        if self.running.is_some() || self.restart.is_some() {
            return;
        }
        let Some((step, attempt)) = self.work.next_step() else {
            return;
        };
        let (step, (Some((order, _)), Some(release))) =
            (step.clone(), (&self.work.order, &self.work.release))
        else {
            return;
        };
        info!(step = %step.id, attempt, "step begins");
        let (events, receiver) = mpsc::unbounded_channel();
        let running = Running {
            job: order.job,
            id: step.id.clone(),
            attempt,
            cancel: Cancel::default(),
            events: receiver,
        };
        let progress = events.clone();
        let job = Attempt {
            job: order.job,
            step,
            release: release.clone(),
            disk: self.work.bound_disk().cloned(),
            cancel: running.cancel.clone(),
            // Nobody listens to a step that was taken back.
            progress: Box::new(move |done| drop(progress.send(StepEvent::Progress(done)))),
        };
        let machine = Arc::clone(&self.machine);
        tokio::task::spawn_blocking(move || {
            let result = steps::run(&machine, &job);
            drop(events.send(StepEvent::Ended(result)));
        });
        let now = self.now();
        self.work.begin(running.id.clone(), attempt, now);
        self.running = Some(running);
        self.report();
    }

    fn step_said(&mut self, event: StepEvent) {
        let Some(running) = &self.running else { return };
        let now = self.now();
        match event {
            StepEvent::Progress(progress) => {
                self.work.progress(&running.id, progress, now);
                self.unsaid = true;
            }
            StepEvent::Ended(result) => {
                let Some(running) = self.running.take() else {
                    return;
                };
                if running.cancel.is_set() {
                    self.work.forget(&running.id);
                } else {
                    self.step_ended(&running, result, now);
                }
            }
        }
    }

    fn step_ended(&mut self, running: &Running, result: Result<Outcome, Failure>, now: DateTime<Utc>) {
        match &result {
            Ok(_) => info!(step = %running.id, "step done"),
            Err(failure) => {
                warn!(step = %running.id, code = failure.code, "step failed: {}", failure.message)
            }
        }
        match &result {
            Ok(Outcome::Chosen(disk)) => self.work.disk = Some(disk.clone()),
            Ok(Outcome::Restart) => {
                self.restart = Some(Restart {
                    id: running.id.clone(),
                    attempt: running.attempt,
                    job: running.job,
                    since: Instant::now(),
                    told: None,
                });
            }
            Ok(Outcome::Done) | Err(_) => {}
        }
        self.work.end(&running.id, result.map(drop), now);
        // A failure ends the job at the edge, and with it this agent's right to speak.
        self.say_log(usize::MAX);
        self.report();
    }

    /// Sends what was logged and not sent yet, in at most so many chunks; what cannot go out now waits in the ring.
    fn say_log(&self, chunks: usize) {
        let (Some((order, _)), log) = (&self.work.order, &self.machine.log) else {
            return;
        };
        for _ in 0..chunks {
            let Some(chunk) = log.next(order.job, self.work.boot) else {
                return;
            };
            if !self.link.log(&chunk, self.now()) {
                return;
            }
            log.sent(&chunk);
        }
    }

    fn tick(&mut self) {
        self.say_log(1);
        if self.unsaid {
            self.report();
        }
    }

    fn report(&mut self) {
        let Some(report) = self.work.report() else { return };
        let sent = self.link.report(&report, self.now());
        self.unsaid = !sent;
        if let Some(restart) = self.restart.as_mut().filter(|_| sent) {
            restart.told.get_or_insert_with(Instant::now);
        }
    }

    /// A restart is due when the edge no longer lists the step, or did not answer in time.
    fn restart_is_due(&self, now: Instant) -> bool {
        self.restart.as_ref().is_some_and(|restart| {
            let heard = !self.work.may_go_on(restart.job, &restart.id, restart.attempt);
            let told = restart
                .told
                .is_some_and(|told| now.duration_since(told) >= RESTART_ACK);
            (heard && restart.told.is_some()) || told || now.duration_since(restart.since) >= RESTART_LIMIT
        })
    }
}

/// Sets a clock that is behind what was signed.
fn correct_clock(machine: &Machine, at_least: DateTime<Utc>) {
    // less than a second is the way the message took
    if machine.env.now() + chrono::Duration::seconds(1) >= at_least {
        return;
    }
    match machine.env.set_clock(at_least) {
        Ok(()) => info!(to = %at_least, "clock set by the signed order"),
        Err(error) => warn!(%error, "cannot set the clock"),
    }
}
