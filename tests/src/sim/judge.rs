//! Watches a run and says what must never be. It sees what is on the edge's disk after each write, what the control plane
//! gives out and keeps, and each effect on a machine at the moment it is done. Its memory is the world's: no crash and
//! no restore takes anything from it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use slipway_edge::store::{HeldReport, Store};
use slipway_protocol::{
    ids::{Digest, JobId, MachineId, StepId},
    report::{Outcome, Report, StepState},
    topic::{Kind, Topic},
};

use super::{base::View, clock, figures::Figures};

/// One attempt at one step, which has an effect that cannot be taken back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deed {
    /// The machine.
    pub machine: MachineId,
    /// The job.
    pub job: JobId,
    /// How often the job was taken up again.
    pub retry: u32,
    /// The step.
    pub step: StepId,
    /// Which try.
    pub attempt: u32,
}

#[derive(Default)]
struct Inner {
    violations: Vec<String>,
    trace: Option<Vec<String>>,
    figures: Figures,
    /// Digests of the commands that the control plane sealed.
    given: HashSet<Digest>,
    /// The highest revision given out of each command.
    highest: BTreeMap<(Kind, String), u64>,
    /// Revisions on the edge's disk.
    on_disk: BTreeMap<(Kind, String), u64>,
    /// Revisions of the reports that the control plane holds.
    at_centre: BTreeMap<MachineId, u64>,
    /// What was ever written down as done at the edge.
    done: BTreeSet<Deed>,
    /// Jobs that were ever written down as ended well there.
    ended: BTreeSet<JobId>,
    /// The same as far as the control plane had heard, by now.
    centre_done: BTreeSet<Deed>,
    centre_ended: BTreeSet<JobId>,
    /// What the control plane had heard when an edge came back with an old disk, if it could be asked ever since.
    knowable: Option<(BTreeSet<Deed>, BTreeSet<JobId>)>,
    /// Whether the edge's disk was ever put back.
    edge_restored: bool,
}

/// A handle; clones share it.
#[derive(Clone, Default)]
pub struct Judge {
    inner: Arc<Mutex<Inner>>,
}

impl Judge {
    /// A judge; one that traces keeps what happens as text.
    #[must_use]
    pub fn new(traces: bool) -> Self {
        let judge = Self::default();
        judge.lock().trace = traces.then(Vec::new);
        judge
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts.
    pub fn count(&self, count: impl FnOnce(&mut Figures)) {
        count(&mut self.lock().figures);
    }

    /// What was counted.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.lock().figures
    }

    /// Notes what happens.
    pub fn trace(&self, what: impl FnOnce() -> String) {
        let mut inner = self.lock();
        if let Some(trace) = &mut inner.trace {
            trace.push(format!("{:>9.3} {}", clock::now_ms() as f64 / 1000.0, what()));
        }
    }

    /// What happened.
    #[must_use]
    pub fn traced(&self) -> Vec<String> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// A promise was broken.
    pub fn accuse(&self, what: String) {
        self.trace(|| format!("BROKEN: {what}"));
        self.lock().violations.push(what);
    }

    /// What was broken.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// The control plane gives something out.
    pub fn given(&self, topic: &str, payload: &[u8], revision: u64) {
        let Ok(topic) = topic.parse::<Topic>() else { return };
        if !matches!(topic.kind(), Kind::Order | Kind::Config | Kind::Image) {
            return;
        }
        let mut inner = self.lock();
        inner.given.insert(Digest::of(payload));
        let highest = inner.highest.entry((topic.kind(), topic.subject())).or_default();
        *highest = revision.max(*highest);
    }

    /// The highest revision ever given out.
    #[must_use]
    pub fn highest(&self, kind: Kind, subject: &str) -> u64 {
        let highest = self.lock().highest.get(&(kind, subject.to_owned())).copied();
        highest.unwrap_or(0)
    }

    /// Something was written at the edge.
    pub fn edge_wrote(&self, operation: &str, store: &Store) {
        self.count(|figures| figures.writes += 1);
        match operation {
            "keep a command" => self.see_commands(store),
            "keep a report" => self.see_reports(store),
            _ => {}
        }
    }

    fn see_commands(&self, store: &Store) {
        for document in store.documents().unwrap_or_default() {
            let key = (document.kind, document.subject.clone());
            let former = self.lock().on_disk.insert(key, document.revision);
            if former.is_some_and(|former| former > document.revision) {
                self.accuse(format!(
                    "the edge's {:?} {} went back from revision {former:?} to {}",
                    document.kind, document.subject, document.revision
                ));
            }
            if former != Some(document.revision) {
                self.trace(|| {
                    format!(
                        "edge keeps {:?} {} revision {}",
                        document.kind, document.subject, document.revision
                    )
                });
            }
            let given = self.lock().given.contains(&Digest::of(&document.payload));
            if !given {
                self.accuse(format!(
                    "the edge keeps a {:?} {} that the control plane never sealed",
                    document.kind, document.subject
                ));
            }
        }
    }

    fn see_reports(&self, store: &Store) {
        for HeldReport { revision, report } in store.reports().unwrap_or_default() {
            let key = (Kind::Report, report.machine.to_string());
            let former = self.lock().on_disk.insert(key, revision);
            if former.is_some_and(|former| former > revision) {
                self.accuse(format!(
                    "the edge's report on {} went back to revision {revision}",
                    report.machine
                ));
            }
            if former != Some(revision) {
                self.trace(|| format!("edge keeps report {revision}: {}", short(&report)));
                let (done, ended) = told_by(&report);
                let mut inner = self.lock();
                inner.done.extend(done);
                inner.ended.extend(ended);
            }
        }
    }

    /// The control plane keeps a report.
    pub fn centre_keeps(&self, revision: u64, report: &Report) {
        let former = self.lock().at_centre.insert(report.machine, revision);
        if former.is_some_and(|former| former > revision) {
            self.accuse(format!(
                "the control plane's report on {} went back from revision {former:?} to {revision}",
                report.machine
            ));
        }
        self.trace(|| format!("centre keeps report {revision}: {}", short(report)));
        let (done, ended) = told_by(report);
        let mut inner = self.lock();
        inner.centre_done.extend(done);
        inner.centre_ended.extend(ended);
    }

    /// The control plane went back to an old backup; it knows what that knew.
    pub fn centre_restored(&self, view: &View) {
        let mut inner = self.lock();
        inner.at_centre = view
            .reports
            .iter()
            .map(|(machine, (revision, _))| (*machine, *revision))
            .collect();
        (inner.centre_done, inner.centre_ended, inner.knowable) = (BTreeSet::new(), BTreeSet::new(), None);
        for (_, report) in view.reports.values() {
            let (done, ended) = told_by(report);
            inner.centre_done.extend(done);
            inner.centre_ended.extend(ended);
        }
    }

    /// The edge came back with an old disk.
    pub fn edge_restored(&self, store: &Store) {
        let mut inner = self.lock();
        inner.on_disk.clear();
        inner.edge_restored = true;
        inner.knowable = Some((inner.centre_done.clone(), inner.centre_ended.clone()));
        drop(inner);
        for document in store.documents().unwrap_or_default() {
            let key = (document.kind, document.subject);
            self.lock().on_disk.insert(key, document.revision);
        }
        for held in store.reports().unwrap_or_default() {
            let key = (Kind::Report, held.report.machine.to_string());
            self.lock().on_disk.insert(key, held.revision);
        }
    }

    /// The control plane cannot be asked: what an edge does now that came back with an old disk, it could not know.
    pub fn out_of_touch(&self) {
        self.lock().knowable = None;
    }

    /// A BMC changes the power, for this job; whether something that runs loses it.
    pub fn powers(&self, machine: MachineId, (job, cuts): (JobId, bool), what: &str, store: &Store) {
        self.count(|figures| figures.powers += 1);
        let report = store.report(machine).ok().flatten().map(|held| held.report);
        let order = store.document(Kind::Order, &machine.to_string()).ok().flatten();
        let Some(report) = report.filter(|report| report.job == job && order.is_some()) else {
            return self.accuse(format!(
                "{what} on {machine} for {job}, of which nothing is on the edge's disk"
            ));
        };
        let drives = ["boot-network", "shut-down", "power-on", "power-off"];
        let running = |s: &&slipway_protocol::report::StepReport| {
            s.state == StepState::Running && drives.contains(&s.id.as_str())
        };
        let Some(step) = report.steps.iter().find(running) else {
            return self.accuse(format!(
                "{what} on {machine} for {job}, no step of which is under way on the edge's disk"
            ));
        };
        let deed = Deed {
            machine,
            job,
            retry: report.retry,
            step: step.id.clone(),
            attempt: step.attempt,
        };
        self.trace(|| {
            format!(
                "bmc of {machine}: {what} for {job} `{}` attempt {} cuts={cuts}",
                deed.step, deed.attempt
            )
        });
        if cuts {
            self.count(|figures| figures.cuts_of_power += 1);
            self.effect(&deed, what);
        }
    }

    /// An agent begins to write an image.
    pub fn writes(&self, deed: &Deed) {
        self.count(|figures| figures.images += 1);
        self.trace(|| {
            format!(
                "agent of {} writes for {} attempt {}",
                deed.machine, deed.job, deed.attempt
            )
        });
        self.effect(deed, "writing the image");
    }

    /// An effect that cannot be taken back: it must not have been done.
    fn effect(&self, deed: &Deed, what: &str) {
        let mut inner = self.lock();
        let repeated = inner.done.contains(deed) || inner.ended.contains(&deed.job);
        if !repeated {
            return;
        }
        if inner.edge_restored {
            match &inner.knowable {
                // The control plane had the report and could be asked: no excuse.
                Some((done, ended)) if done.contains(deed) || ended.contains(&deed.job) => {}
                _ => {
                    inner.figures.unknowable += 1;
                    return;
                }
            }
        }
        drop(inner);
        self.accuse(format!(
            "{what} on {} again, though `{}` attempt {} of {} retry {} had been done",
            deed.machine, deed.step, deed.attempt, deed.job, deed.retry
        ));
    }

    /// Whether a job was ever written down at the edge as ended well, each of its steps done.
    #[must_use]
    pub fn has_ended_well(&self, job: JobId) -> bool {
        self.lock().ended.contains(&job)
    }
}

/// What a report says is done; a job without steps does nothing, so it does not count.
fn told_by(report: &Report) -> (Vec<Deed>, Option<JobId>) {
    let deed = |step: &slipway_protocol::report::StepReport| Deed {
        machine: report.machine,
        job: report.job,
        retry: report.retry,
        step: step.id.clone(),
        attempt: step.attempt,
    };
    let done: Vec<Deed> = report
        .steps
        .iter()
        .filter(|step| step.state == StepState::Done)
        .map(deed)
        .collect();
    let all = !done.is_empty() && done.len() == report.steps.len();
    let ended = (all && matches!(report.outcome, Outcome::Done { .. })).then_some(report.job);
    (done, ended)
}

/// A report in a line.
#[must_use]
pub fn short(report: &Report) -> String {
    let outcome = match &report.outcome {
        Outcome::Running => "running".to_owned(),
        Outcome::Done { .. } => "done".to_owned(),
        Outcome::Failed { failure, .. } => format!("failed {}", failure.code),
    };
    let step = |s: &slipway_protocol::report::StepReport| {
        let state = match s.state {
            StepState::Pending => '-',
            StepState::Running => '>',
            StepState::Done => '+',
            StepState::Failed => '!',
        };
        format!("{}{state}{}", s.id, s.attempt)
    };
    let steps: Vec<String> = report.steps.iter().map(step).collect();
    format!(
        "job {} order {} retry {} {outcome}: {}",
        report.job.0.as_u128(),
        report.order_revision,
        report.retry,
        steps.join(" ")
    )
}
