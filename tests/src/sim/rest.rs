//! The end of a run: faults cease, and all must come to rest. Says what is still missing, and what must hold then.

use std::sync::atomic::Ordering;

use slipway_control_plane::workflow::state::JobState;
use slipway_protocol::{ids::JobId, topic::Kind};

use super::{
    agenda::Event,
    base::View,
    clock,
    schedule::Noise,
    world::{World, locked},
};

/// How often somebody looks whether all has come to rest, in ms.
const LOOK_MS: u64 = 5_000;

impl World {
    /// All faults are over: links, disks and clocks are well again, and whoever is down is started.
    pub(super) fn heal(&mut self) {
        self.judge.trace(|| "all faults are over".to_owned());
        self.healed_ms = Some(clock::now_ms());
        self.schedule.noise = Noise::default();
        self.wire.heal();
        self.disk.set_full(false);
        self.fragile.full.store(false, Ordering::Relaxed);
        self.fragile.fuse.store(-1, Ordering::Relaxed);
        clock::set_edge_off(0);
        clock::set_centre_off(0);
        if self.gateway.is_none() {
            // Its start is on the agenda, and mends the link to the broker that is down with it.
            self.wire.cut();
        }
        if self.edge.is_none() {
            self.start_edge_after(1_000);
        }
        for machine in &self.machines {
            let mut machine = locked(machine);
            (machine.cuts, machine.mutes) = (0, 0);
            machine.soon(500, super::machine::Happens::Connects);
        }
        self.agenda.after(500, Event::LinkKnown);
        self.agenda.after(LOOK_MS, Event::Rested);
    }

    /// Whether all has come to rest; if that takes too long, says what is missing.
    pub(super) fn look_for_rest(&mut self, limit_ms: u64) -> bool {
        let missing = self.missing();
        let Some(missing) = missing else {
            self.judge_the_end(&self.base.view());
            return true;
        };
        let healed = self.healed_ms.unwrap_or_default();
        if clock::now_ms() > healed + limit_ms {
            self.judge.accuse(format!("all does not come to rest: {missing}"));
        }
        self.agenda.after(LOOK_MS, Event::Rested);
        false
    }

    fn missing(&self) -> Option<String> {
        if !self.open.is_empty() {
            return Some("not every wish was taken on".to_owned());
        }
        let live = |job: JobId| self.base.job(job).is_none_or(|job| !job.state.is_final());
        if let Some(taken) = self.taken.iter().find(|taken| live(taken.job)) {
            return Some(format!("job {} has not ended", taken.job.0.as_u128()));
        }
        let Some(edge) = &self.edge else {
            return Some("the edge is down".to_owned());
        };
        if self.gateway.is_none() || !self.wire.is_up() || !self.wire.is_believed() {
            return Some("there is no link".to_owned());
        }
        if self.agenda.carries_messages() {
            return Some("a message is on its way".to_owned());
        }
        let view = self.base.view();
        if edge.context.ledger.command_revision(Kind::Config, "-") != Some(view.config) {
            return Some("the configurations differ".to_owned());
        }
        for (machine, (revision, order)) in &view.orders {
            let held = edge
                .context
                .ledger
                .command_revision(Kind::Order, &machine.to_string());
            if held != Some(*revision) {
                return Some(format!(
                    "the orders on {machine} differ: {held:?}, {revision} in force"
                ));
            }
            let at_edge = edge.plain.report(*machine).ok().flatten();
            let at_centre = view.reports.get(machine);
            let same = at_edge.as_ref().map(|held| (held.revision, &held.report))
                == at_centre.map(|(revision, report)| (*revision, report));
            if !same {
                let revisions = (
                    at_edge.as_ref().map(|held| held.revision),
                    at_centre.map(|(r, _)| *r),
                );
                return Some(format!("the reports on {machine} differ: {revisions:?}"));
            }
            if at_edge.is_none_or(|held| held.report.job != order.job) {
                return Some(format!("the report on {machine} is not on its order"));
            }
        }
        None
    }

    fn judge_the_end(&self, view: &View) {
        for (id, job) in &view.jobs {
            let done = self.judge.has_ended_well(*id);
            if job.state == JobState::Done && !done {
                self.judge.accuse(format!(
                    "job {} counts as done, but its steps were never done",
                    id.0.as_u128()
                ));
            }
        }
        let highest = self.judge.highest(Kind::Config, "-");
        if view.config < highest {
            self.judge.accuse(format!(
                "the configuration went back from revision {highest} to {}",
                view.config
            ));
        }
        for (machine, (revision, _)) in &view.orders {
            let highest = self.judge.highest(Kind::Order, &machine.to_string());
            if *revision < highest {
                self.judge.accuse(format!(
                    "the order on {machine} went back from revision {highest} to {revision}"
                ));
            }
        }
    }
}
