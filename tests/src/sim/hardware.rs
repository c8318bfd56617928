//! What happens on machines, and between a machine and its edge: firmware asks what to boot, the LiveOS comes up, the agent
//! speaks, the installed system phones home.

use chrono::{DateTime, TimeDelta, Utc};
use slipway_edge::{boot::BootMode, runner::actor::Input};
use slipway_protocol::{
    ids::MachineId,
    keys::{Expect, KeyRing, Signer, Stamp},
    order::Order,
    report::{AgentHello, EventSource, Release, TimelineEvent},
    seal::OpeningKey,
    topic::Topic,
};

use super::{
    agenda::Event,
    clock,
    machine::{Agent, Happens, Runs, machine_id},
    site::nonce,
    world::{World, locked},
};

/// How long a word takes between an agent and its edge, in ms.
const WAY_MS: u64 = 2;

fn sighting(source: EventSource, code: &str) -> TimelineEvent {
    TimelineEvent {
        at: clock::edge(),
        source,
        code: code.to_owned(),
        text: String::new(),
    }
}

/// An agent may have no clock, so it judges no validity.
fn expect(held: Option<u64>) -> Expect {
    Expect {
        now: DateTime::<Utc>::MIN_UTC,
        held,
    }
}

impl World {
    fn seen(&self, index: usize, event: TimelineEvent, system: bool) {
        let mac = locked(&self.machines[index]).mac;
        if let Some(edge) = &self.edge {
            edge.tell(Input::Seen { mac, event, system });
        }
    }

    pub(super) fn on_machine(&mut self, index: usize, boot: u32, happens: Happens) {
        if locked(&self.machines[index]).boot != boot {
            return;
        }
        match happens {
            Happens::Firmware => self.firmware(index),
            Happens::Fetches(key) => self.fetches(index, &key),
            Happens::AgentUp => self.agent_up(index),
            Happens::Connects => self.connects(index),
            Happens::Works(step, attempt, quarters) => {
                let told = locked(&self.machines[index]).works(&step, attempt, quarters);
                self.agent_goes_on(index, told);
            }
            Happens::Restarts => {
                let mut machine = locked(&self.machines[index]);
                if machine.agent().is_some() {
                    machine.boots();
                }
            }
            Happens::GuestUp => self.guest_up(index),
            Happens::PhonesHome(times) => self.phones_home(index, times),
            Happens::PhoneHomeTaken => {
                if let Runs::Guest(_, known) = &mut locked(&self.machines[index]).runs {
                    *known = true;
                }
            }
        }
    }

    /// The firmware goes to the network first: the edge says whether it is to go on to the disk.
    fn firmware(&self, index: usize) {
        let mut machine = locked(&self.machines[index]);
        machine.next_boot_pxe = false;
        let entry = self
            .edge
            .as_ref()
            .and_then(|edge| edge.context.table.entry(machine.mac));
        let Some(entry) = entry else {
            return machine.boots_disk();
        };
        let key = match entry.mode {
            BootMode::Local => None,
            BootMode::LiveOs { boot_key } => Some(boot_key),
        };
        self.judge
            .trace(|| format!("machine {index} is told to boot the LiveOS: {}", key.is_some()));
        match key {
            Some(key) => machine.soon(1_500, Happens::Fetches(key)),
            None => machine.boots_disk(),
        }
        drop(machine);
        self.seen(index, sighting(EventSource::Http, "script"), false);
    }

    /// Kernel, initramfs and overlay come from the edge: without it the machine goes on to its disk.
    fn fetches(&self, index: usize, key: &str) {
        let mut machine = locked(&self.machines[index]);
        let boot = self
            .edge
            .as_ref()
            .and_then(|edge| edge.context.boots.get(machine.id));
        match boot.filter(|boot| boot.boot_key == key) {
            Some(_) => machine.soon(6_000, Happens::AgentUp),
            None => machine.boots_disk(),
        }
    }

    fn agent_up(&self, index: usize) {
        let mut machine = locked(&self.machines[index]);
        // The overlay was fetched in the boot's first seconds; its token is the edge's newest one then.
        let boot = self
            .edge
            .as_ref()
            .and_then(|edge| edge.context.boots.get(machine.id));
        let signer = boot.and_then(|boot| boot.token.signer().ok());
        let stranger = || Signer::from_seed(&[9; 32]).expect("the seed is 32 bytes long");
        let orders = KeyRing::new([self.site.centre.verifying_key()]);
        let releases = KeyRing::new([self.site.edge.verifying_key()]);
        machine.lives(signer.unwrap_or_else(stranger), orders, releases);
    }

    /// The agent connects, if its link and its edge are up and its token is in force, and says how things stand.
    fn connects(&self, index: usize) {
        let mut machine = locked(&self.machines[index]);
        let (id, cut) = (machine.id, machine.cuts > 0);
        let inventory = machine.inventory();
        let Some(agent) = machine.agent().filter(|agent| !agent.connected) else {
            return;
        };
        let ring = self.edge.as_ref().map(|edge| edge.context.boots.get(id));
        let token = ring.flatten().and_then(|boot| boot.token.signer().ok());
        let admitted = token.is_some_and(|token| token.verifying_key() == agent.signer.verifying_key());
        if cut || !admitted {
            // Both have somebody who tells when they are over; a token that is no longer in force comes back never.
            return;
        }
        agent.connected = true;
        let hello = AgentHello {
            boot: agent.work.boot,
            version: "0".to_owned(),
            sealing_key: OpeningKey::from_bytes([5; 32]).sealing_key(),
            inventory,
        };
        self.says(id, agent, Topic::AgentMachine(self.site.id.clone(), id), &hello);
        self.reports(id, agent);
    }

    fn says<T: serde::Serialize>(&self, id: MachineId, agent: &Agent, topic: Topic, body: &T) {
        let now = clock::edge();
        let stamp = Stamp {
            revision: now.timestamp_millis().cast_unsigned(),
            issued_at: now,
            expires_at: now + TimeDelta::days(1),
        };
        let payload = agent.signer.seal(&topic, stamp, body);
        self.agenda
            .after(WAY_MS, Event::FromAgent(id, topic.to_string(), payload));
    }

    fn reports(&self, id: MachineId, agent: &Agent) {
        if let Some(report) = agent.work.report().filter(|_| agent.connected) {
            self.says(id, agent, Topic::AgentReport(self.site.id.clone(), id), &report);
        }
    }

    pub(super) fn agent_reaches_edge(&self, id: MachineId, topic: String, payload: Vec<u8>) {
        let machine = self.machines.iter().find(|machine| locked(machine).id == id);
        let cut = machine.is_none_or(|machine| locked(machine).cuts > 0);
        if let Some(edge) = self.edge.as_ref().filter(|_| !cut) {
            edge.hears_agent(topic, payload);
        }
    }

    pub(super) fn reaches_agent(&self, id: MachineId, topic: &Topic, payload: &[u8]) {
        let Some(index) = (0..self.machines.len()).find(|index| machine_id(*index) == id) else {
            return;
        };
        let mut machine = locked(&self.machines[index]);
        let cut = machine.cuts > 0;
        let Some(agent) = machine.agent().filter(|agent| agent.connected && !cut) else {
            return;
        };
        let held = agent.work.order.as_ref().map(|(_, revision)| *revision);
        match topic {
            Topic::AgentOrder(..) => {
                if let Ok(order) = agent.orders.open::<Order>(topic, payload, expect(held)) {
                    let revision = order.header().revision;
                    agent.work.take_order(order.into_body(), revision);
                }
            }
            _ => {
                if let Ok(release) = agent.releases.open::<Release>(topic, payload, expect(None)) {
                    agent.work.take_release(release.into_body());
                }
            }
        }
        drop(machine);
        self.agent_goes_on(index, false);
    }

    /// What follows for the agent, and a report if there is news.
    fn agent_goes_on(&self, index: usize, news: bool) {
        let mut machine = locked(&self.machines[index]);
        let news = machine.goes_on() || news;
        let id = machine.id;
        if let Some(agent) = machine.agent().filter(|_| news) {
            self.reports(id, agent);
        }
    }

    fn guest_up(&self, index: usize) {
        let mut machine = locked(&self.machines[index]);
        let Some(job) = machine.image else { return };
        self.judge
            .trace(|| format!("machine {index}: the system of job {} is up", job.0.as_u128()));
        machine.runs = Runs::Guest(job, false);
        machine.soon(1_000, Happens::PhonesHome(1));
        drop(machine);
        self.seen(index, sighting(EventSource::Dhcp, "ack"), true);
    }

    /// Again and again, with longer and longer waits, until it is heard.
    fn phones_home(&self, index: usize, times: u32) {
        let machine = locked(&self.machines[index]);
        let Runs::Guest(job, known) = &machine.runs else {
            return;
        };
        if *known || times > 60 {
            return;
        }
        if let Some(edge) = self.edge.as_ref().filter(|_| machine.cuts == 0) {
            edge.phone_home(machine.id, nonce(*job), (index, machine.boot));
        }
        machine.soon(u64::from(times.min(6)) * 5_000, Happens::PhonesHome(times + 1));
    }
}
