//! What the agent holds and what follows from it: order, release and the reports of its own steps. Pure: nothing here
//! touches a disk, a socket or a clock.

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{BootId, JobId, StepId},
    inventory::Disk,
    order::{Order, Role, Step},
    report::{AgentReport, Failure, Progress, Release, StepReport, StepState},
};

/// All that is known of the work to do and done in this boot.
#[derive(Debug, Clone)]
pub struct Work {
    /// This boot.
    pub boot: BootId,
    /// The order and its revision.
    pub order: Option<(Order, u64)>,
    /// What the edge lets run.
    pub release: Option<Release>,
    /// The steps begun in this boot for `job`, in the order they began.
    pub steps: Vec<StepReport>,
    /// The disk chosen in this boot.
    pub disk: Option<Disk>,
    job: Option<JobId>,
}

impl Work {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(boot: BootId) -> Self {
        Self {
            boot,
            order: None,
            release: None,
            steps: Vec::new(),
            disk: None,
            job: None,
        }
    }

    /// Takes an order. Work of another job is forgotten.
    pub fn take_order(&mut self, order: Order, revision: u64) {
        if self.job != Some(order.job) {
            self.job = Some(order.job);
            self.steps.clear();
            self.disk = None;
        }
        self.order = Some((order, revision));
    }

    /// Takes a release; one that is for another boot of the agent is ignored. Answers whether it was taken.
    pub fn take_release(&mut self, release: Release) -> bool {
        let ours = release.boot == self.boot;
        if ours {
            self.release = Some(release);
        }
        ours
    }

    /// The step to run next, with its attempt: the first in the order that is released, is for the agent, and was not
    /// yet run in that attempt. None while order and release are not of the same job and revision.
    #[must_use]
    pub fn next_step(&self) -> Option<(&Step, u32)> {
        let (order, revision) = self.order.as_ref()?;
        let release = self.release.as_ref()?;
        if release.job != order.job || release.order_revision != *revision {
            return None;
        }
        order.steps.iter().find_map(|step| {
            let attempt = attempt_of(release, &step.id)?;
            let done = self.steps.iter().any(|s| s.id == step.id && s.attempt >= attempt);
            (step.role == Role::Agent && !done).then_some((step, attempt))
        })
    }

    /// Whether a step may go on in that attempt. A release that is for an order yet to come decides nothing.
    #[must_use]
    pub fn may_go_on(&self, job: JobId, id: &StepId, attempt: u32) -> bool {
        let same_job = self.order.as_ref().is_some_and(|(order, _)| order.job == job);
        let release = self.release.as_ref().filter(|release| release.job == job);
        same_job && release.is_some_and(|release| attempt_of(release, id) == Some(attempt))
    }

    /// The disk that steps are bound to: the one chosen in this boot, else the one an earlier boot chose.
    #[must_use]
    pub fn bound_disk(&self) -> Option<&Disk> {
        let released = self.release.as_ref().and_then(|release| release.disk.as_ref());
        self.disk.as_ref().or(released)
    }

    /// Notes that a step begins.
    pub fn begin(&mut self, id: StepId, attempt: u32, now: DateTime<Utc>) {
        self.steps.retain(|step| step.id != id);
        self.steps.push(StepReport {
            state: StepState::Running,
            attempt,
            started_at: Some(now),
            progressed_at: Some(now),
            ..StepReport::pending(id)
        });
    }

    /// Notes how far a running step is.
    pub fn progress(&mut self, id: &StepId, progress: Progress, now: DateTime<Utc>) {
        if let Some(step) = self.running(id) {
            step.progress = Some(progress);
            step.progressed_at = Some(now);
        }
    }

    /// Notes how a running step ended.
    pub fn end(&mut self, id: &StepId, result: Result<(), Failure>, now: DateTime<Utc>) {
        if let Some(step) = self.running(id) {
            step.finished_at = Some(now);
            step.state = if result.is_ok() {
                StepState::Done
            } else {
                StepState::Failed
            };
            step.failure = result.err();
        }
    }

    /// Forgets a running step that was broken off: released again in the same attempt, it runs from its start.
    pub fn forget(&mut self, id: &StepId) {
        self.steps
            .retain(|step| step.id != *id || step.state != StepState::Running);
    }

    fn running(&mut self, id: &StepId) -> Option<&mut StepReport> {
        let running = |step: &&mut StepReport| step.id == *id && step.state == StepState::Running;
        self.steps.iter_mut().find(running)
    }

    /// What is said to the edge, once there is an order to answer.
    #[must_use]
    pub fn report(&self) -> Option<AgentReport> {
        let (order, revision) = self.order.as_ref()?;
        let mut steps = self.steps.clone();
        for step in &mut steps {
            step.failure = step.failure.take().map(Failure::shortened);
        }
        Some(AgentReport {
            boot: self.boot,
            job: order.job,
            order_revision: *revision,
            steps,
            disk: self.disk.clone(),
        })
    }
}

fn attempt_of(release: &Release, id: &StepId) -> Option<u32> {
    let released = release.run.iter().find(|released| released.id == *id);
    released.map(|released| released.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_protocol::{
        ids::MachineId,
        inventory::FirmwareKind,
        order::{Action, Hardware},
        report::ReleasedStep,
    };
    use uuid::Uuid;

    const BOOT: BootId = BootId(Uuid::from_u128(1));

    fn id(name: &str) -> StepId {
        StepId::new(name).unwrap()
    }

    fn job(n: u128) -> JobId {
        JobId(Uuid::from_u128(n))
    }

    fn order(n: u128) -> Order {
        let step = |name: &str, action: Action| Step {
            id: id(name),
            role: action.role(),
            action,
            needs: Vec::new(),
            no_progress_timeout_s: 60,
            retries: 0,
        };
        Order {
            machine: MachineId(Uuid::nil()),
            job: job(n),
            deadline: DateTime::<Utc>::MAX_UTC,
            retry: 0,
            settled: None,
            hardware: Hardware {
                macs: Vec::new(),
                firmware: FirmwareKind::Bios,
                bmc: None,
            },
            secrets: std::collections::BTreeMap::new(),
            steps: vec![
                step("boot", Action::BootLiveos),
                step("look", Action::AgentInventory),
                step("reboot", Action::AgentReboot),
            ],
        }
    }

    fn release(n: u128, revision: u64, run: &[(&str, u32)]) -> Release {
        Release {
            boot: BOOT,
            job: job(n),
            order_revision: revision,
            run: run
                .iter()
                .map(|(name, attempt)| ReleasedStep {
                    id: id(name),
                    attempt: *attempt,
                })
                .collect(),
            disk: None,
            secrets: std::collections::BTreeMap::new(),
        }
    }

    fn work(ran: &[(&str, u32)]) -> Work {
        let mut work = Work::new(BOOT);
        work.take_order(order(1), 5);
        for (name, attempt) in ran {
            work.begin(id(name), *attempt, DateTime::UNIX_EPOCH);
        }
        work
    }

    #[test]
    fn next_step_by_table() {
        type Case<'a> = (&'a [(&'a str, u32)], Release, Option<(&'a str, u32)>, &'a str);
        let cases: [Case; 9] = [
            (&[], release(1, 5, &[]), None, "nothing released"),
            (&[], release(1, 5, &[("look", 1)]), Some(("look", 1)), "released"),
            (
                &[],
                release(1, 5, &[("reboot", 1), ("look", 1)]),
                Some(("look", 1)),
                "the order's order",
            ),
            (&[("look", 1)], release(1, 5, &[("look", 1)]), None, "a repeat"),
            (
                &[("look", 1)],
                release(1, 5, &[("look", 2)]),
                Some(("look", 2)),
                "again",
            ),
            (
                &[("look", 2)],
                release(1, 5, &[("look", 1)]),
                None,
                "an old release",
            ),
            (&[], release(2, 5, &[("look", 1)]), None, "another job"),
            (&[], release(1, 6, &[("look", 1)]), None, "an order yet to come"),
            (
                &[],
                release(1, 5, &[("boot", 1), ("absent", 1)]),
                None,
                "not for the agent",
            ),
        ];
        for (ran, release, expected, why) in cases {
            let mut work = work(ran);
            assert!(work.take_release(release));
            let next = work
                .next_step()
                .map(|(step, attempt)| (step.id.as_str(), attempt));
            assert_eq!(next, expected, "{why}");
        }
        assert!(work(&[]).next_step().is_none(), "no release at all");
    }

    #[test]
    fn a_release_for_another_boot_is_ignored() {
        let mut work = work(&[]);
        let other = Release {
            boot: BootId(Uuid::from_u128(9)),
            ..release(1, 5, &[("look", 1)])
        };
        assert!(!work.take_release(other));
        assert!(work.next_step().is_none());
    }

    #[test]
    fn a_step_goes_on_only_while_it_is_released() {
        let mut work = work(&[("look", 1)]);
        work.take_release(release(1, 5, &[("look", 1)]));
        assert!(work.may_go_on(job(1), &id("look"), 1));
        work.take_release(release(1, 5, &[("look", 2)]));
        assert!(
            !work.may_go_on(job(1), &id("look"), 1),
            "the edge counts a new attempt"
        );
        work.take_release(release(1, 5, &[]));
        assert!(!work.may_go_on(job(1), &id("look"), 1), "taken back");
        work.take_release(release(1, 5, &[("look", 1)]));
        work.take_order(order(2), 6);
        assert!(!work.may_go_on(job(1), &id("look"), 1), "another job");
    }

    #[test]
    fn a_step_broken_off_can_be_released_again() {
        let mut work = work(&[("look", 1)]);
        work.take_release(release(1, 5, &[("look", 1)]));
        assert!(work.next_step().is_none());
        work.forget(&id("look"));
        assert_eq!(
            work.next_step().map(|(step, n)| (step.id.as_str(), n)),
            Some(("look", 1))
        );
        work.begin(id("look"), 1, DateTime::UNIX_EPOCH);
        work.end(&id("look"), Ok(()), DateTime::UNIX_EPOCH);
        work.forget(&id("look"));
        assert!(work.next_step().is_none(), "what is done is not forgotten");
    }

    #[test]
    fn another_job_begins_with_an_empty_report() {
        let mut work = work(&[("look", 1)]);
        work.end(&id("look"), Ok(()), DateTime::UNIX_EPOCH);
        work.take_order(order(1), 6);
        let report = work.report().unwrap();
        assert_eq!(
            (report.order_revision, report.steps.len()),
            (6, 1),
            "a revision keeps what is done"
        );
        assert_eq!(report.steps[0].state, StepState::Done);
        work.take_order(order(2), 7);
        assert!(work.report().unwrap().steps.is_empty());
    }

    #[test]
    fn what_comes_after_the_end_changes_nothing() {
        let mut work = work(&[("look", 1)]);
        let failure = Failure {
            code: "x".into(),
            message: "y".into(),
            transient: false,
        };
        work.end(&id("look"), Err(failure.clone()), DateTime::UNIX_EPOCH);
        work.end(&id("look"), Ok(()), DateTime::UNIX_EPOCH);
        work.progress(
            &id("look"),
            Progress {
                done_bytes: 1,
                total_bytes: 2,
            },
            DateTime::UNIX_EPOCH,
        );
        let report = work.report().unwrap();
        assert_eq!(report.steps[0].state, StepState::Failed);
        assert_eq!(report.steps[0].failure, Some(failure));
        assert_eq!(report.steps[0].progress, None);
    }
}
