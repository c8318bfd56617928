//! What the runner does before it goes on with what an earlier life of this edge left on disk. The disk may be an old
//! one that was put back: so it is first heard from the control plane whether it holds newer reports of this edge, and
//! what those say is done is not done again. A control plane that cannot be asked does not hold a site up for long.

use std::{collections::HashMap, time::Duration};

use chrono::TimeDelta;
use slipway_protocol::{
    ids::MachineId,
    keys::Expect,
    order::Order,
    report::Report,
    topic::{Kind, Topic},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    actor::{Actor, Input},
    next,
};
use crate::store::{HeldReport, StoreError};

/// How long an edge that starts waits to hear whether its reports are its newest.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long it is remembered how far a job came whose order is no longer in force. Orders are good for a few hours.
const FORMER_KEPT: TimeDelta = TimeDelta::days(30);

impl Actor {
    /// Reads every stored order; each is verified again before anything acts on it. What boots meanwhile is answered by
    /// what is on disk.
    pub(super) fn load(&mut self) -> Result<(), StoreError> {
        let held = self.context.store.reports()?.into_iter();
        let mut reports: HashMap<MachineId, HeldReport> =
            held.map(|held| (held.report.machine, held)).collect();
        let ring = self.context.key_ring();
        let documents = self.context.store.documents()?.into_iter();
        for document in documents.filter(|d| d.kind == Kind::Order) {
            let Ok(machine) = document.subject.parse::<MachineId>() else {
                continue;
            };
            let held = reports.remove(&machine);
            if is_overtaken(document.revision, held.as_ref()) {
                info!(%machine, "the stored order has been overtaken; waiting for the one that is in force");
                continue;
            }
            let topic = Topic::Order(self.context.site.clone(), machine);
            match ring.open::<Order>(&topic, &document.payload, Expect::kept()) {
                Ok(order) => {
                    // The last process may have died between keeping an order and taking it.
                    let order = (order.into_body(), document.revision, document.payload);
                    let machine = self.going_on(order, held)?;
                    self.insert(machine);
                }
                Err(reason) => {
                    warn!(%machine, %reason, "a stored order is no longer valid; it is left alone")
                }
            }
        }
        info!(orders = self.machines.len(), "orders taken up");
        self.sorted()
            .into_iter()
            .for_each(|machine| self.serve_boot(machine));
        Ok(())
    }

    fn sorted(&self) -> Vec<MachineId> {
        let mut machines: Vec<MachineId> = self.machines.keys().copied().collect();
        machines.sort_unstable();
        machines
    }

    /// Waits until it is known that the reports on disk are this edge's newest, or for [`PATIENCE`]; then goes on with
    /// what is held, and takes what happened meanwhile.
    pub(super) async fn take_up(
        &mut self,
        inputs: &mut mpsc::Receiver<Input>,
        stop: &CancellationToken,
    ) -> Result<(), StoreError> {
        let mut meanwhile = Vec::new();
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = &mut patience => {
                    info!("nothing heard of the control plane; going on with what is on this disk");
                    break;
                }
                input = inputs.recv() => match input {
                    Some(Input::Compared) | None => break,
                    Some(Input::ReportBack { report, revision }) => {
                        self.go_back(*report, revision)?;
                    }
                    Some(other) => meanwhile.push(other),
                },
            }
        }
        for machine in self.sorted() {
            self.settle(machine, false)?;
            self.act(machine)?;
        }
        meanwhile.into_iter().try_for_each(|input| self.take(input))
    }

    /// A newer report of this edge's own than is on its disk: it goes on from there.
    pub(super) fn take_report_back(&mut self, report: Report, revision: u64) -> Result<(), StoreError> {
        let id = report.machine;
        if self.go_back(report, revision)? && self.machines.contains_key(&id) {
            self.settle(id, true)?;
            if let Some(m) = self.machines.get_mut(&id) {
                m.send_to_agent(&self.context, true);
            }
        }
        Ok(())
    }

    /// Puts a report in the place of an older one; `false` if the one on disk is as new.
    fn go_back(&mut self, report: Report, revision: u64) -> Result<bool, StoreError> {
        let id = report.machine;
        let held = self.context.store.report(id)?;
        if held.is_some_and(|held| held.revision >= revision) {
            return Ok(false);
        }
        warn!(machine = %id, job = %report.job, revision, "this edge's own report is newer than its disk; going on from it");
        let told = HeldReport { revision, report };
        let former = self.machines.remove(&id);
        if let Some(former) = &former {
            self.let_go(former);
            let mut left = former.report.clone();
            next::leave_behind(&mut left, &told.report, (self.context.now)());
            self.keep_former(&left)?;
        }
        self.context.store.put_report(&told)?;
        self.context.ledger.hold_report(&id.to_string(), revision);
        if let Some(former) = former.filter(|m| !is_overtaken(m.revision, Some(&told))) {
            let order = (former.order, former.revision, former.payload);
            let mut machine = self.going_on(order, Some(told))?;
            machine.agent = former.agent;
            machine.log_reading = former.log_reading;
            self.insert(machine);
            self.serve_boot(id);
        }
        Ok(true)
    }

    /// The report that a new order goes on from. A control plane that was restored from a backup may put an order in
    /// force again that had its time: what was done of it then is not done once more. So how far the former job came is
    /// kept, and taken up when its order comes back.
    pub(super) fn at_its_job(
        &self,
        order: &Order,
        earlier: Option<HeldReport>,
    ) -> Result<Option<HeldReport>, StoreError> {
        let Some(held) = earlier else { return Ok(None) };
        if next::is_told_by(order, &held.report) {
            return Ok(Some(held));
        }
        self.keep_former(&held.report)?;
        let former = self.context.store.former(order.job)?;
        let former = former.filter(|_| !order.steps.is_empty());
        let report = match former {
            Some(former) => Report {
                local: next::local_uses(order, &held.report),
                ..former
            },
            None => held.report,
        };
        Ok(Some(HeldReport {
            revision: held.revision,
            report,
        }))
    }

    fn keep_former(&self, report: &Report) -> Result<(), StoreError> {
        let now = (self.context.now)();
        if report.steps.is_empty() {
            return Ok(());
        }
        self.context.store.put_former(report, now, now - FORMER_KEPT)
    }
}

/// Whether an order has had its time: the report is on a later one.
pub(super) fn is_overtaken(revision: u64, held: Option<&HeldReport>) -> bool {
    held.is_some_and(|held| held.report.order_revision > revision)
}
