//! What goes wrong, and what is said between the parties.

use std::sync::atomic::Ordering;

use slipway_bus::Event as BusEvent;
use slipway_protocol::{
    keys::Stamp,
    order::Order,
    topic::{Kind, Topic},
};

use super::{
    agenda::{Ended, Event},
    clock,
    defect::Defect,
    judge::Judge,
    machine::Happens,
    schedule::{Crash, Fault, Lie, Work},
    site::job_id,
    wire::End,
    world::{World, locked},
};

impl Fault {
    /// How long it lasts, in ms; what is left to be healed afterwards comes to an end by itself.
    #[must_use]
    pub fn lasts_ms(self) -> u64 {
        match self {
            Self::EdgeCrash(_, ms)
            | Self::CentreCrash(_, ms)
            | Self::SiteCut(_, ms)
            | Self::EdgeDiskFull(ms)
            | Self::CentreDiskFull(ms)
            | Self::EdgeBackup(ms)
            | Self::CentreBackup(ms)
            | Self::BmcMute(_, ms) => ms,
            Self::Cut(ms, noticed) => ms.max(noticed),
            Self::EdgeClock(_) | Self::CentreClock(_) => 30_000,
            Self::PowerLoss(_) | Self::HangsInBoot(_) | Self::Lie(_) => 0,
        }
    }
}

/// Tells the judge of what the control plane gives out.
pub(super) fn note_given(judge: &Judge, topic: &str, payload: &[u8]) {
    let envelope: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    let revision = envelope["msg"]["revision"].as_u64().unwrap_or(0);
    judge.trace(|| format!("centre sends {topic} revision {revision}"));
    judge.given(topic, payload, revision);
}

impl World {
    /// How long the control plane is down when it dies now.
    pub(super) fn centre_down_ms(&self) -> u64 {
        let down = self.schedule.faults.iter().filter(|f| f.at_ms <= clock::now_ms());
        let down = down.filter_map(|f| match f.fault {
            Fault::CentreCrash(_, ms) => Some(ms),
            _ => None,
        });
        down.max().unwrap_or(1_000)
    }

    pub(super) fn befalls(&mut self, index: usize) {
        let fault = self.schedule.faults[index].fault;
        self.judge.trace(|| format!("fault: {fault:?}"));
        match fault {
            Fault::EdgeCrash(crash, down_ms) => self.crash_edge(crash, down_ms),
            Fault::CentreCrash(calls, _) => self.fragile.fuse.store(calls.into(), Ordering::Relaxed),
            Fault::Cut(ms, noticed) => {
                self.judge.out_of_touch();
                self.judge.count(|figures| figures.cuts += 1);
                self.wire.cut();
                self.agenda.after(noticed, Event::LinkKnown);
                self.agenda.after(ms, Event::Over(Ended::Cut));
            }
            Fault::SiteCut(machine, ms) => self.cut_site(machine.into(), ms),
            Fault::EdgeDiskFull(ms) => {
                self.judge.out_of_touch();
                self.disk.set_full(true);
                self.agenda.after(ms, Event::Over(Ended::EdgeDiskFull));
            }
            Fault::CentreDiskFull(ms) => {
                self.fragile.full.store(true, Ordering::Relaxed);
                self.agenda.after(ms, Event::Over(Ended::CentreDiskFull));
            }
            Fault::EdgeClock(ms) => {
                self.judge.out_of_touch();
                self.judge.count(|figures| figures.clock_jumps += 1);
                clock::set_edge_off(ms);
            }
            Fault::CentreClock(ms) => {
                self.judge.out_of_touch();
                self.judge.count(|figures| figures.clock_jumps += 1);
                clock::set_centre_off(ms);
            }
            Fault::EdgeBackup(ms) => {
                if let Ok(copy) = self.disk.copy() {
                    self.copies.push((index, copy));
                    self.agenda.after(ms, Event::Over(Ended::EdgeBackup(index)));
                }
            }
            Fault::CentreBackup(ms) => {
                self.backups.push((index, self.base.backup()));
                self.agenda.after(ms, Event::Over(Ended::CentreBackup(index)));
            }
            Fault::PowerLoss(machine) => {
                let mut machine = locked(&self.machines[usize::from(machine)]);
                if machine.power {
                    machine.boots();
                }
            }
            Fault::BmcMute(machine, ms) => {
                let index = usize::from(machine);
                locked(&self.machines[index]).mutes += 1;
                self.agenda.after(ms, Event::Over(Ended::BmcMute(index)));
            }
            Fault::HangsInBoot(machine) => locked(&self.machines[usize::from(machine)]).hangs = true,
            Fault::Lie(lie) => self.lie(lie),
        }
    }

    fn crash_edge(&mut self, crash: Crash, down_ms: u64) {
        match (crash, &self.edge) {
            (_, None) => {}
            (Crash::Now, _) => self.edge_dies(down_ms),
            (Crash::AtEffect(effects), Some(edge)) => edge.gate.set_fuse(effects),
            (Crash::AfterPolls(polls), Some(edge)) => {
                edge.die_after_polls(polls);
                self.edge_dies(down_ms);
            }
        }
    }

    fn cut_site(&mut self, index: usize, ms: u64) {
        self.judge.count(|figures| figures.cuts += 1);
        let mut machine = locked(&self.machines[index]);
        machine.cuts += 1;
        if let Some(agent) = machine.agent() {
            agent.connected = false;
        }
        drop(machine);
        self.agenda.after(ms, Event::Over(Ended::SiteCut(index)));
    }

    pub(super) fn is_over(&mut self, ended: Ended) {
        self.judge.trace(|| format!("over: {ended:?}"));
        match ended {
            Ended::Cut => {
                self.wire.mend();
                self.agenda.after(300, Event::LinkKnown);
            }
            Ended::SiteCut(index) => {
                let mut machine = locked(&self.machines[index]);
                machine.cuts = machine.cuts.saturating_sub(1);
                machine.soon(300, Happens::Connects);
            }
            Ended::EdgeDiskFull => self.disk.set_full(false),
            Ended::CentreDiskFull => self.fragile.full.store(false, Ordering::Relaxed),
            Ended::BmcMute(index) => {
                let mut machine = locked(&self.machines[index]);
                machine.mutes = machine.mutes.saturating_sub(1);
            }
            Ended::EdgeBackup(index) => self.restore_edge(index),
            Ended::CentreBackup(index) => self.restore_centre(index),
        }
    }

    /// The edge's box comes back with an old disk.
    fn restore_edge(&mut self, index: usize) {
        let Some((_, copy)) = self.copies.iter().find(|(fault, _)| *fault == index).copied() else {
            return;
        };
        self.edge_dies(1_000);
        self.judge.count(|figures| figures.restores += 1);
        if self.disk.restore(copy).is_err() {
            return;
        }
        if let Ok(store) = slipway_edge::store::Store::open(&self.disk.path()) {
            self.judge.edge_restored(&store);
        }
        if !self.wire.is_up() || self.gateway.is_none() || self.schedule.noise != Default::default() {
            self.judge.out_of_touch();
        }
    }

    /// The control plane is stopped, an old backup put back, and started again.
    fn restore_centre(&mut self, index: usize) {
        let Some((_, backup)) = self.backups.iter().find(|(fault, _)| *fault == index).copied() else {
            return;
        };
        self.centre_dies(2_000);
        self.judge.count(|figures| figures.restores += 1);
        self.base.restore(backup);
        let view = self.base.view();
        self.judge.centre_restored(&view);
        // What was taken on since the backup is known to nobody any more.
        self.taken.retain(|taken| view.jobs.contains_key(&taken.job));
    }

    pub(super) fn reaches_edge(&self, topic: String, payload: Vec<u8>) {
        let Some(edge) = self.edge.as_ref().filter(|_| self.wire.is_up()) else {
            return;
        };
        if self.defect == Some(Defect::EdgeActsBeforeItKeeps)
            && let Ok(Topic::Order(..)) = topic.parse()
        {
            let envelope: serde_json::Value = serde_json::from_slice(&payload).unwrap_or_default();
            let revision = envelope["msg"]["revision"].as_u64().unwrap_or(0);
            if let Ok(order) = serde_json::from_value::<Order>(envelope["msg"]["body"].clone()) {
                let order = Box::new(order);
                edge.tell(slipway_edge::runner::actor::Input::Order {
                    order,
                    revision,
                    payload,
                });
            }
            return;
        }
        edge.hears(BusEvent::Message {
            topic,
            payload: payload.into(),
        });
    }

    pub(super) fn reaches_centre(&mut self, topic: String, payload: Vec<u8>) {
        if !self.wire.is_up() {
            return;
        }
        self.judge.trace(|| format!("centre hears {topic}"));
        if self.defect == Some(Defect::CentreNeverCompares) && matches!(topic.parse(), Ok(Topic::Hello(_))) {
            return;
        }
        self.gateway_hears(BusEvent::Message {
            topic,
            payload: payload.into(),
        });
    }

    fn lie(&mut self, lie: Lie) {
        self.judge.count(|figures| figures.lies += 1);
        let order_at = |remembered: Option<(String, Vec<u8>)>| {
            remembered
                .filter(|(topic, _)| matches!(topic.parse::<Topic>().map(|t| t.kind()), Ok(Kind::Order)))
        };
        let told = match lie {
            Lie::ReplayToEdge => self.wire.remembered(End::Edge).map(|m| (End::Edge, m)),
            Lie::ReplayToCentre => self.wire.remembered(End::Centre).map(|m| (End::Centre, m)),
            Lie::Changed => order_at(self.wire.remembered(End::Edge)).map(|(topic, payload)| {
                let text = String::from_utf8_lossy(&payload).replacen("\"revision\":", "\"revision\":9", 1);
                (End::Edge, (topic, text.into_bytes()))
            }),
            Lie::OtherTopic => order_at(self.wire.remembered(End::Edge)).map(|(_, payload)| {
                let other = super::machine::machine_id(7);
                (
                    End::Edge,
                    (Topic::Order(self.site.id.clone(), other).to_string(), payload),
                )
            }),
            Lie::UnknownKey => Some((End::Edge, self.forged(&self.site.id.clone(), false))),
            Lie::ForeignSite => {
                let foreign = slipway_protocol::ids::SiteId::new("sim-2").expect("the name is one");
                Some((End::Edge, self.forged(&foreign, true)))
            }
            Lie::ForgedReport => self
                .wire
                .remembered(End::Centre)
                .map(|(_, _)| (End::Centre, self.forged_report())),
        };
        match told {
            Some((End::Edge, (topic, payload))) => self.agenda.after(5, Event::ToEdge(topic, payload)),
            Some((End::Centre, (topic, payload))) => self.agenda.after(5, Event::ToCentre(topic, payload)),
            None => {}
        }
    }

    /// An order to wipe the first machine, of a very high revision, signed by a stranger or for another site.
    fn forged(&self, site: &slipway_protocol::ids::SiteId, by_centre: bool) -> (String, Vec<u8>) {
        let now = clock::centre();
        let order = self
            .site
            .order(0, job_id(99), Work::Install, now + super::memory::JOB_LIFE);
        let topic = Topic::Order(site.clone(), order.machine);
        let signer = if by_centre {
            &self.site.centre
        } else {
            &self.site.stranger
        };
        let stamp = Stamp {
            revision: 9_000_000_000_000,
            issued_at: now,
            expires_at: now + super::memory::JOB_LIFE,
        };
        let payload = signer.seal(&topic, stamp, &order);
        (
            Topic::Order(self.site.id.clone(), order.machine).to_string(),
            payload,
        )
    }

    fn forged_report(&self) -> (String, Vec<u8>) {
        let view = self.base.view();
        let machine = super::machine::machine_id(0);
        let topic = Topic::Report(self.site.id.clone(), machine);
        let now = clock::centre();
        let stamp = Stamp {
            revision: 9_000_000_000_000,
            issued_at: now,
            expires_at: now + super::memory::JOB_LIFE,
        };
        let report = view.reports.get(&machine).map(|(_, report)| report.clone());
        let payload = report.map_or_else(Vec::new, |report| self.site.stranger.seal(&topic, stamp, &report));
        (topic.to_string(), payload)
    }
}
