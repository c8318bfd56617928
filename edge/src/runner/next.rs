//! What comes next for one machine: a pure function of its order, its report and the time. The loop in
//! [`super::machine`] only carries out what is decided here, so a crash at any moment is followed by the same decision.

use std::collections::HashSet;

use chrono::{DateTime, Duration, Utc};
use slipway_protocol::{
    ids::{BootId, StepId},
    lease::LocalUse,
    limits::{MAX_EVENT_TEXT_BYTES, cut},
    order::{Action, Order, Role, Step},
    report::{
        AgentReport, EventSource, Failure, Outcome, Progress, Report, StepReport, StepState, TimelineEvent,
    },
};

/// What to do after a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the report changed in a way others must hear of at once.
    pub changed: bool,
    /// When to decide again if nothing happens before.
    pub wake_at: Option<DateTime<Utc>>,
}

/// Something that happened to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepUpdate {
    /// It came forward.
    Progress(Option<Progress>),
    /// It is done.
    Done,
    /// This attempt failed.
    Failed(Failure),
}

/// A fresh report for an order. Of an earlier revision of the same job everything is kept as it stands, its end too,
/// unless the order says that the job is taken up again: then what had not been done begins anew. Of another job only what
/// is the machine's is kept: its hardware faults, how its BMC was, and what was done locally.
#[must_use]
pub fn begin(order: &Order, revision: u64, earlier: Option<&Report>) -> Report {
    // What the BMC has logged and how it was is the machine's, whichever job it was read in.
    let hardware_faults = earlier.map(|r| r.hardware_faults.clone()).unwrap_or_default();
    let bmc = earlier.and_then(|r| r.bmc.clone());
    let earlier_local = earlier.map(|r| local_uses(order, r)).unwrap_or_default();
    let earlier = earlier.filter(|report| report.job == order.job);
    let kept = |id: &StepId| {
        earlier
            .and_then(|r| r.steps.iter().find(|s| s.id == *id))
            .cloned()
    };
    let steps = order
        .steps
        .iter()
        .map(|s| kept(&s.id).unwrap_or_else(|| StepReport::pending(s.id.clone())));
    let mut report = Report {
        machine: order.machine,
        job: order.job,
        order_revision: revision,
        retry: order.retry,
        outcome: Outcome::Running,
        steps: steps.collect(),
        disk: earlier.and_then(|r| r.disk.clone()),
        inventory: earlier.and_then(|r| r.inventory.clone()),
        agent: earlier.and_then(|r| r.agent),
        events: earlier.map(|r| r.events.clone()).unwrap_or_default(),
        hardware_faults,
        local: earlier_local,
        bmc,
    };
    let Some(earlier) = earlier else {
        settle(order, &mut report);
        return report;
    };
    match earlier.outcome {
        Outcome::Running => {}
        // Of an order that was taken back meanwhile, which says "do nothing": of this one not all is done.
        Outcome::Done { .. } if report.steps.iter().any(|s| s.state != StepState::Done) => {}
        Outcome::Failed { at, .. } if order.retry > earlier.retry => take_up(order, &mut report, at),
        Outcome::Done { .. } | Outcome::Failed { .. } => report.outcome = earlier.outcome.clone(),
    }
    report
}

/// What was done locally, as the report of a new order tells it: with how the job stood whose order that one replaces.
#[must_use]
pub fn local_uses(order: &Order, earlier: &Report) -> Vec<LocalUse> {
    let told = |used: &LocalUse| {
        let outcome = match used.job {
            job if job == order.job => None,
            job if job == earlier.job => Some(earlier.outcome.clone()),
            _ => used.outcome.clone(),
        };
        LocalUse {
            outcome,
            ..used.clone()
        }
    };
    earlier.local.iter().map(told).collect()
}

/// Takes the end of a job that this edge knows nothing of from its order: what was done is not done again. The machine keeps
/// its address either way.
fn settle(order: &Order, report: &mut Report) {
    let Some(outcome) = &order.settled else { return };
    let done = matches!(outcome, Outcome::Done { .. });
    for (step, state) in order.steps.iter().zip(&mut report.steps) {
        if done || matches!(step.action, Action::DhcpBind { .. }) {
            state.state = StepState::Done;
        }
    }
    report.outcome = outcome.clone();
}

/// Whether a report is on this order or a former revision of it, so that it tells of all its steps.
#[must_use]
pub fn is_told_by(order: &Order, report: &Report) -> bool {
    let tells = |step: &Step| report.steps.iter().any(|s| s.id == step.id);
    report.job == order.job && order.steps.len() == report.steps.len() && order.steps.iter().all(tells)
}

/// What had not ended well when the job ended begins anew, after a boot if an agent is to do it.
fn take_up(order: &Order, report: &mut Report, ended: DateTime<Utc>) {
    let mut open = HashSet::new();
    for state in report.steps.iter_mut().filter(|s| s.state != StepState::Done) {
        *state = StepReport::pending(state.id.clone());
        open.insert(state.id.clone());
    }
    let waits = |step: &&Step| step.role == Role::Agent && open.contains(&step.id);
    if let Some(step) = order.steps.iter().find(waits) {
        boot_again(order, report, step, ended);
    }
}

/// Decides what comes next and notes it in the report.
pub fn advance(order: &Order, report: &mut Report, now: DateTime<Utc>) -> Decision {
    let mut decision = Decision {
        changed: false,
        wake_at: None,
    };
    if report.outcome.is_final() {
        return decision;
    }
    if now >= order.deadline {
        let message = format!("the job's deadline {} has passed", order.deadline);
        fail_job(
            report,
            None,
            Failure {
                code: "deadline".into(),
                message,
                transient: false,
            },
            now,
        );
        decision.changed = true;
        return decision;
    }
    for state in &mut report.steps {
        none_later_than(state, now);
    }
    for index in 0..order.steps.len() {
        decide_step(order, &order.steps[index], report, now, &mut decision);
        if report.outcome.is_final() {
            return decision;
        }
    }
    if report.steps.iter().all(|step| step.state == StepState::Done) {
        report.outcome = Outcome::Done { at: now };
        decision.changed = true;
        return decision;
    }
    wake_no_later_than(&mut decision, order.deadline);
    decision
}

fn decide_step(order: &Order, step: &Step, report: &mut Report, now: DateTime<Utc>, decision: &mut Decision) {
    let Some(state) = report.steps.iter().find(|s| s.id == step.id) else {
        return;
    };
    match state.state {
        StepState::Done | StepState::Failed => {}
        StepState::Running
            if matches!(step.action, Action::GuestVerify { .. }) && has_phoned_home(report) =>
        {
            apply(order, report, &step.id, StepUpdate::Done, now);
            decision.changed = true;
        }
        StepState::Running => {
            let since = state.progressed_at.or(state.started_at).unwrap_or(now);
            let limit = since + Duration::seconds(step.no_progress_timeout_s.into());
            if now < limit {
                return wake_no_later_than(decision, limit);
            }
            let message = format!(
                "step `{}` made no progress for {} s; look at the machine's console and its timeline",
                step.id, step.no_progress_timeout_s
            );
            let failure = Failure {
                code: "no_progress".into(),
                message,
                transient: true,
            };
            if step.role == Role::Agent {
                agent_is_lost(order, report, step, failure, now);
            } else {
                apply(order, report, &step.id, StepUpdate::Failed(failure), now);
            }
            decision.changed = true;
            wake_no_later_than(decision, now);
        }
        StepState::Pending => {
            let is_done = |id: &StepId| {
                report
                    .steps
                    .iter()
                    .any(|s| s.id == *id && s.state == StepState::Done)
            };
            if !needed_by(order, &step.id).iter().all(|need| is_done(&need.id)) {
                return;
            }
            let not_before = retry_at(state);
            if now < not_before {
                return wake_no_later_than(decision, not_before);
            }
            start_step(step, report, now);
            decision.changed = true;
            wake_no_later_than(
                decision,
                now + Duration::seconds(step.no_progress_timeout_s.into()),
            );
        }
    }
}

/// What a step's next attempt and its silence are reckoned from was not later than now. A clock that was set back would
/// have them wait until it has caught up with itself.
fn none_later_than(state: &mut StepReport, now: DateTime<Utc>) {
    if matches!(state.state, StepState::Done | StepState::Failed) {
        return;
    }
    let reckoned_from = [
        &mut state.started_at,
        &mut state.progressed_at,
        &mut state.finished_at,
    ];
    for at in reckoned_from.into_iter().flatten() {
        *at = now.min(*at);
    }
}

/// All steps that must be done before a step, near and far. A step that is booted for again holds back what was only
/// ready thanks to the boot that is lost.
fn needed_by<'a>(order: &'a Order, id: &StepId) -> Vec<&'a Step> {
    let mut found: Vec<&Step> = Vec::new();
    let mut open: Vec<&StepId> = order
        .step(id)
        .map(|s| s.needs.iter().collect())
        .unwrap_or_default();
    while let Some(step) = open.pop().and_then(|need| order.step(need)) {
        if !found.iter().any(|s| s.id == step.id) {
            found.push(step);
            open.extend(&step.needs);
        }
    }
    found
}

/// The agent that a step waits for is not there: the machine hangs, or booted something else. The step's next attempt
/// is preceded by another boot. Not for a reboot: then the LiveOS is no longer served.
fn boot_again(order: &Order, report: &mut Report, step: &Step, now: DateTime<Utc>) {
    if step.action == Action::AgentReboot {
        return;
    }
    // What a boot that is given up still says is late; the next agent's hello is no restart.
    report.agent = None;
    let boots = |s: &&Step| matches!(s.action, Action::DriverBoot { .. } | Action::AgentInventory);
    for need in needed_by(order, &step.id).into_iter().filter(boots) {
        for state in report.steps.iter_mut().filter(|s| s.id == need.id) {
            state.state = StepState::Pending;
            state.finished_at = Some(now);
        }
    }
}

/// The machine asks for an address as an operating system does, which the LiveOS does not. By itself that shows nothing, since
/// anybody on the network can ask in its name. But where the agent is waited for, the boot was ordered before this process
/// began, and no sign of it was seen since, the machine went past an edge that was away, and is booted again: at most once a
/// start of this process, as the next boot is ordered after it. Answers whether that changed anything.
pub fn booted_another_system(
    order: &Order,
    report: &mut Report,
    started: DateTime<Utc>,
    now: DateTime<Utc>,
) -> bool {
    went_past_its_boot(order, report, now, |ordered| ordered < started)
}

/// How long after a boot was ordered the system that it ended may still be heard.
const LAST_WORDS: Duration = Duration::seconds(2);

/// The system that an earlier job installed phones home, from the machine itself as far as the network shows: where the agent is
/// waited for and no sign of the boot was seen, the machine booted its disk, and is booted again. Answers whether that changed
/// anything.
pub fn former_guest_phoned_home(order: &Order, report: &mut Report, now: DateTime<Utc>) -> bool {
    went_past_its_boot(order, report, now, |ordered| ordered + LAST_WORDS <= now)
}

/// Boots a machine again whose agent is waited for, if the boot that was ordered last is one that `applies`, by when it was
/// ordered, and it gave no sign since.
fn went_past_its_boot(
    order: &Order,
    report: &mut Report,
    now: DateTime<Utc>,
    applies: impl FnOnce(DateTime<Utc>) -> bool,
) -> bool {
    let ordered = report.steps.iter().filter(|state| {
        let boots = |step: &Step| matches!(step.action, Action::DriverBoot { .. });
        order.step(&state.id).is_some_and(boots)
    });
    let ordered = ordered.filter_map(|state| state.finished_at).max();
    let missed = ordered.is_some_and(|at| !has_booted_since(report, at) && applies(at));
    if !missed {
        return false;
    }
    let waits = |(step, _): &(&Step, u32)| step.action == Action::AgentInventory;
    let Some((step, _)) = running(order, report, Side::Agent).into_iter().find(waits) else {
        return false;
    };
    let failure = Failure {
        code: "booted_another_system".into(),
        message: "the machine did not boot the LiveOS but a system on its disk; it is booted from the network again; if \
                  this repeats, look at its boot order and its console"
            .into(),
        transient: true,
    };
    agent_is_lost(order, report, step, failure, now)
}

/// An attempt of an agent's step has failed because there is no agent.
fn agent_is_lost(
    order: &Order,
    report: &mut Report,
    step: &Step,
    failure: Failure,
    now: DateTime<Utc>,
) -> bool {
    let changed = apply(order, report, &step.id, StepUpdate::Failed(failure), now);
    let again = report
        .steps
        .iter()
        .any(|s| s.id == step.id && s.state == StepState::Pending);
    if changed && again {
        boot_again(order, report, step, now);
    }
    changed
}

/// When a failed attempt may be followed by the next: 1, 2, 4 .. 30 s after it.
fn retry_at(state: &StepReport) -> DateTime<Utc> {
    let Some(ended) = state.finished_at else {
        return DateTime::<Utc>::MIN_UTC;
    };
    let seconds = 2_i64.saturating_pow(state.attempt.saturating_sub(1)).min(30);
    ended + Duration::seconds(seconds)
}

fn start_step(step: &Step, report: &mut Report, now: DateTime<Utc>) {
    if let Action::Unknown(action) = &step.action {
        let message = format!(
            "this edge does not know the action `{}`; update the edge",
            action.name
        );
        let failure = Failure {
            code: "unknown_action".into(),
            message,
            transient: false,
        };
        fail_job(report, Some(&step.id), failure, now);
        return;
    }
    if let Some(state) = report.steps.iter_mut().find(|s| s.id == step.id) {
        state.state = StepState::Running;
        state.attempt += 1;
        state.started_at = Some(now);
        state.progressed_at = Some(now);
        state.finished_at = None;
        state.progress = None;
    }
}

/// Notes what happened to a running step. What comes for a step that is not running changes nothing: it is a repeat, or
/// late. Answers whether others must hear of it at once.
pub fn apply(
    order: &Order,
    report: &mut Report,
    id: &StepId,
    update: StepUpdate,
    now: DateTime<Utc>,
) -> bool {
    let retries = order.step(id).map_or(0, |step| step.retries);
    let Some(state) = report
        .steps
        .iter_mut()
        .find(|s| s.id == *id && s.state == StepState::Running)
    else {
        return false;
    };
    state.progressed_at = Some(now);
    match update {
        StepUpdate::Progress(progress) => {
            state.progress = progress.or(state.progress);
            false
        }
        StepUpdate::Done => {
            state.state = StepState::Done;
            state.finished_at = Some(now);
            state.failure = None;
            if let Some(progress) = &mut state.progress {
                progress.done_bytes = progress.total_bytes;
            }
            true
        }
        StepUpdate::Failed(failure) => {
            state.finished_at = Some(now);
            state.failure = Some(failure.clone());
            if failure.transient && state.attempt <= retries {
                state.state = StepState::Pending;
            } else {
                fail_job(report, Some(id), failure, now);
            }
            true
        }
    }
}

/// Ends the job with a named reason.
pub fn fail_job(report: &mut Report, step: Option<&StepId>, failure: Failure, now: DateTime<Utc>) {
    for state in report.steps.iter_mut().filter(|s| Some(&s.id) == step) {
        state.state = StepState::Failed;
        state.finished_at = Some(now);
        state.failure = Some(failure.clone());
    }
    report.outcome = Outcome::Failed {
        at: now,
        step: step.cloned(),
        failure,
    };
}

/// Ends a report that the disk had when it was put back, and that a later job's report follows: how far its job came in
/// between nobody here knows. Should its order be put in force again, it does nothing until people have looked and retry it.
pub fn leave_behind(report: &mut Report, later: &Report, now: DateTime<Utc>) {
    if report.job == later.job || report.outcome.is_final() {
        return;
    }
    let failure = Failure {
        code: "disk_put_back".into(),
        message: "the edge's disk was put back to an older state, and what it did of this job since is not known; look at \
                  the machine, then retry the job"
            .into(),
        transient: false,
    };
    fail_job(report, None, failure, now);
}

/// Adds a timeline event, keeping their number bounded.
pub fn note(report: &mut Report, mut event: TimelineEvent) {
    if report.events.len() >= slipway_protocol::report::MAX_EVENTS {
        report.events.remove(0);
    }
    let end = cut(&event.text, MAX_EVENT_TEXT_BYTES).len();
    event.text.truncate(end);
    report.events.push(event);
}

/// Whether the machine was seen to follow a boot order given at `since`: it fetched its boot script after it. An edge
/// that crashed between resetting a machine and noting so does not reset it a second time.
#[must_use]
pub fn has_booted_since(report: &Report, since: DateTime<Utc>) -> bool {
    let script = |e: &TimelineEvent| e.source == EventSource::Http && e.code == "script" && e.at >= since;
    report.events.iter().any(script)
}

/// Whether an event is the first sign that the machine follows the boot that is under way or was ordered last.
#[must_use]
pub fn is_first_sign_of_boot(order: &Order, report: &Report, event: &TimelineEvent) -> bool {
    let boots = |state: &&StepReport| {
        let step = order.step(&state.id);
        step.is_some_and(|step| matches!(step.action, Action::DriverBoot { .. }))
    };
    let begun = report
        .steps
        .iter()
        .filter(boots)
        .filter_map(|state| state.started_at);
    let is_script = event.source == EventSource::Http && event.code == "script";
    is_script && begun.max().is_some_and(|begun| !has_booted_since(report, begun))
}

/// The steps that are under way, with the attempt, of one side: the agent's or the edge's own. The edge keeps its own
/// running ones alive, also after a restart; the agent is released its.
#[must_use]
pub fn running<'a>(order: &'a Order, report: &Report, agents: Side) -> Vec<(&'a Step, u32)> {
    if report.outcome.is_final() {
        return Vec::new();
    }
    let attempt = |id: &StepId| {
        report
            .steps
            .iter()
            .find(|s| s.id == *id && s.state == StepState::Running)
            .map(|s| s.attempt)
    };
    let of_side = |step: &&Step| (step.role == Role::Agent) == (agents == Side::Agent);
    order
        .steps
        .iter()
        .filter(of_side)
        .filter_map(|step| Some((step, attempt(&step.id)?)))
        .collect()
}

/// Who carries a step out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent on the machine.
    Agent,
    /// This edge.
    Edge,
}

/// An agent of another boot says hello: what the former one was doing is lost, and counts as a failed attempt. A reboot
/// that was asked for is no loss.
pub fn agent_said_hello(order: &Order, report: &mut Report, boot: BootId, now: DateTime<Utc>) {
    let former = report.agent.replace(boot);
    if former.is_none_or(|former| former == boot) {
        return;
    }
    let lost: Vec<StepId> = running(order, report, Side::Agent)
        .into_iter()
        .filter(|(step, _)| step.action != Action::AgentReboot)
        .map(|(step, _)| step.id.clone())
        .collect();
    for id in lost {
        let message = format!("the machine restarted during step `{id}`; look at its console");
        let failure = Failure {
            code: "agent_restarted".into(),
            message,
            transient: true,
        };
        apply(order, report, &id, StepUpdate::Failed(failure), now);
    }
}

/// Takes what an agent says of its steps. What is of another boot, job or attempt changes nothing.
/// Answers whether others must hear of it at once.
pub fn agent_reported(order: &Order, report: &mut Report, said: &AgentReport, now: DateTime<Utc>) -> bool {
    if report.agent != Some(said.boot) || report.job != said.job || report.outcome.is_final() {
        return false;
    }
    if said.disk.is_some() {
        report.disk.clone_from(&said.disk);
    }
    let mut changed = false;
    for step in &said.steps {
        let current = running(order, report, Side::Agent)
            .iter()
            .any(|(s, attempt)| s.id == step.id && *attempt == step.attempt);
        if !current {
            continue;
        }
        let update = match step.state {
            StepState::Pending => continue,
            StepState::Running => StepUpdate::Progress(step.progress),
            StepState::Done => StepUpdate::Done,
            StepState::Failed => StepUpdate::Failed(step.failure.clone().unwrap_or_else(unnamed_failure)),
        };
        let came_forward = !matches!(update, StepUpdate::Progress(_)) || has_come_forward(report, step);
        if came_forward {
            changed |= apply(order, report, &step.id, update, now);
        }
    }
    changed
}

/// Whether a running step says more than was known: a repeated report is no progress.
fn has_come_forward(report: &Report, said: &StepReport) -> bool {
    let known = report
        .steps
        .iter()
        .find(|s| s.id == said.id)
        .and_then(|s| s.progress);
    said.progress.is_some() && said.progress != known
}

fn unnamed_failure() -> Failure {
    Failure {
        code: "agent".into(),
        message: "the agent gave no reason".into(),
        transient: true,
    }
}

/// The guest phoned home with this order's nonce: it is up, so the reboot happened, whether or not it was reported.
pub fn guest_phoned_home(order: &Order, report: &mut Report, text: String, now: DateTime<Utc>) {
    note(
        report,
        TimelineEvent {
            at: now,
            source: EventSource::Guest,
            code: PHONE_HOME.into(),
            text,
        },
    );
    let reboots: Vec<StepId> = order
        .steps
        .iter()
        .filter(|s| s.action == Action::AgentReboot)
        .map(|s| s.id.clone())
        .collect();
    for id in reboots {
        apply(order, report, &id, StepUpdate::Done, now);
    }
}

/// Code of the timeline event that a verified phone-home leaves.
const PHONE_HOME: &str = "phone_home";

fn has_phoned_home(report: &Report) -> bool {
    report
        .events
        .iter()
        .any(|e| e.source == EventSource::Guest && e.code == PHONE_HOME)
}

fn wake_no_later_than(decision: &mut Decision, at: DateTime<Utc>) {
    decision.wake_at = Some(decision.wake_at.map_or(at, |earlier| earlier.min(at)));
}
