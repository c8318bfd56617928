//! A machine: power, firmware, what runs on it, what its disk holds. Its agent decides by the real agent's own [`Work`];
//! only what costs hours on hardware is played in virtual seconds. It must never touch anything but itself.

use slipway_agent::work::Work;
use slipway_protocol::{
    ids::{BootId, JobId, MacAddr, MachineId, StepId},
    inventory::{Disk, DiskKind, FirmwareKind, Inventory, Nic},
    keys::{KeyRing, Signer},
    order::{Action, Order, Step},
    report::Progress,
};
use uuid::Uuid;

use super::{
    agenda::{Agenda, Event},
    clock,
    judge::{Deed, Judge},
};

/// What happens on a machine by itself.
#[derive(Debug, Clone)]
pub enum Happens {
    /// The firmware asks the network what to boot.
    Firmware,
    /// iPXE fetches what the script named; the overlay has this key.
    Fetches(String),
    /// The LiveOS is up.
    AgentUp,
    /// The agent connects to the edge.
    Connects,
    /// A step of the agent comes forward: so many quarters of it are done.
    Works(StepId, u32, u8),
    /// The agent restarts the machine.
    Restarts,
    /// The installed system is up.
    GuestUp,
    /// The installed system phones home, for the n-th time.
    PhonesHome(u32),
    /// The edge has taken the phone-home.
    PhoneHomeTaken,
}

/// What runs.
pub enum Runs {
    /// Nothing: off, or hanging.
    Nothing,
    /// Firmware, up to the boot.
    Firmware,
    /// The LiveOS with its agent.
    LiveOs(Box<Agent>),
    /// The system that this job installed; whether its edge knows that it is up.
    Guest(JobId, bool),
}

/// The agent of one boot.
pub struct Agent {
    /// What it holds and what follows.
    pub work: Work,
    /// By what it signs.
    pub signer: Signer,
    /// Whose orders it takes.
    pub orders: KeyRing,
    /// Whose releases it takes.
    pub releases: KeyRing,
    /// Whether it is connected to the edge.
    pub connected: bool,
    running: Option<(JobId, StepId, u32)>,
    /// A restart that is due once the edge has heard of it.
    restart: Option<(JobId, StepId, u32)>,
}

/// A machine.
pub struct Machine {
    /// Its number.
    pub index: usize,
    /// Its id.
    pub id: MachineId,
    /// Its port.
    pub mac: MacAddr,
    /// Whether it has power.
    pub power: bool,
    /// Counts its boots: what an earlier boot was about to do is lost.
    pub boot: u32,
    /// Whether the next boot goes to the network whatever else is set.
    pub next_boot_pxe: bool,
    /// Whether the next boot hangs.
    pub hangs: bool,
    /// What runs.
    pub runs: Runs,
    /// The job whose image is on the disk, whole.
    pub image: Option<JobId>,
    /// The job whose settings are on the disk.
    pub settings: Option<JobId>,
    /// Cuts of its link to the edge.
    pub cuts: u32,
    /// Silences of its BMC.
    pub mutes: u32,
    /// Words its BMC heard.
    pub words: u32,
    agenda: Agenda,
    judge: Judge,
}

/// The id of the n-th machine.
#[must_use]
pub fn machine_id(index: usize) -> MachineId {
    MachineId(Uuid::from_u128(0x1_0000 + index as u128))
}

/// The port of the n-th machine.
#[must_use]
pub fn mac(index: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, u8::try_from(index).unwrap_or(u8::MAX)])
}

impl Machine {
    /// A machine that is off, its disk empty.
    #[must_use]
    pub fn new(index: usize, agenda: Agenda, judge: Judge) -> Self {
        Self {
            index,
            id: machine_id(index),
            mac: mac(index),
            power: false,
            boot: 0,
            next_boot_pxe: false,
            hangs: false,
            runs: Runs::Nothing,
            image: None,
            settings: None,
            cuts: 0,
            mutes: 0,
            words: 0,
            agenda,
            judge,
        }
    }

    /// Has something happen later in this boot.
    pub fn soon(&self, delay_ms: u64, happens: Happens) {
        self.agenda
            .after(delay_ms, Event::Machine(self.index, self.boot, happens));
    }

    /// Gives it power, or a reset: it boots.
    pub fn boots(&mut self) {
        self.power = true;
        self.boot += 1;
        self.runs = Runs::Firmware;
        self.judge
            .trace(|| format!("machine {} boots, for the {}th time", self.index, self.boot));
        if std::mem::take(&mut self.hangs) {
            self.runs = Runs::Nothing;
        } else {
            self.soon(3_000, Happens::Firmware);
        }
    }

    /// Takes its power.
    pub fn loses_power(&mut self) {
        self.judge.trace(|| format!("machine {} is off", self.index));
        self.power = false;
        self.boot += 1;
        self.runs = Runs::Nothing;
    }

    /// Boots what its disk holds.
    pub fn boots_disk(&mut self) {
        self.runs = Runs::Nothing;
        if self.image.is_some() && self.image == self.settings {
            self.soon(5_000, Happens::GuestUp);
        }
    }

    /// The LiveOS is up, with the keys of its overlay.
    pub fn lives(&mut self, signer: Signer, orders: KeyRing, releases: KeyRing) {
        let boot = BootId(Uuid::from_u128(
            0xb00_0000 + (self.index as u128) * 0x1000 + u128::from(self.boot),
        ));
        self.runs = Runs::LiveOs(Box::new(Agent {
            work: Work::new(boot),
            signer,
            orders,
            releases,
            connected: false,
            running: None,
            restart: None,
        }));
        self.soon(100, Happens::Connects);
    }

    /// Its agent, if the LiveOS runs.
    pub fn agent(&mut self) -> Option<&mut Agent> {
        match &mut self.runs {
            Runs::LiveOs(agent) => Some(agent),
            _ => None,
        }
    }

    /// What it is made of.
    #[must_use]
    pub fn inventory(&self) -> Inventory {
        let nic = Nic {
            name: "eth0".to_owned(),
            mac: self.mac,
            speed_mbit: None,
            link: true,
            neighbour: None,
        };
        Inventory {
            firmware: Some(FirmwareKind::Bios),
            nics: vec![nic],
            disks: vec![disk()],
            ..Inventory::default()
        }
    }

    /// The agent looks what is to be done now: what was taken back ends, the next step begins. Answers whether there is
    /// something new to report.
    pub fn goes_on(&mut self) -> bool {
        let (index, judge) = (self.index, self.judge.clone());
        let Runs::LiveOs(agent) = &mut self.runs else {
            return false;
        };
        if let Some((job, step, attempt)) = agent.running.clone()
            && !agent.work.may_go_on(job, &step, attempt)
        {
            judge.trace(|| format!("machine {index}: step `{step}` is taken back"));
            agent.work.forget(&step);
            agent.running = None;
        }
        if let Some((job, step, attempt)) = &agent.restart {
            if !agent.work.may_go_on(*job, step, *attempt) {
                self.soon(50, Happens::Restarts);
            }
            return false;
        }
        if agent.running.is_some() {
            return false;
        }
        let Some((step, attempt)) = agent.work.next_step().map(|(s, a)| (s.clone(), a)) else {
            return false;
        };
        let Some((job, retry)) = agent.work.order.as_ref().map(|(o, _)| (o.job, o.retry)) else {
            return false;
        };
        agent.work.begin(step.id.clone(), attempt, clock::edge());
        agent.running = Some((job, step.id.clone(), attempt));
        let deed = Deed {
            machine: self.id,
            job,
            retry,
            step: step.id.clone(),
            attempt,
        };
        self.begins(&step, &deed);
        true
    }

    fn begins(&mut self, step: &Step, deed: &Deed) {
        if matches!(step.action, Action::AgentWriteImage { .. }) {
            self.judge.writes(deed);
            (self.image, self.settings) = (None, None);
        }
        let quarter_ms = duration_ms(&step.action) / 4;
        self.soon(quarter_ms, Happens::Works(step.id.clone(), deed.attempt, 1));
    }

    /// A step came forward. Answers whether there is something new to report.
    pub fn works(&mut self, id: &StepId, attempt: u32, quarters: u8) -> bool {
        let now = clock::edge();
        let Runs::LiveOs(agent) = &mut self.runs else {
            return false;
        };
        let Some((job, ..)) = agent.running.clone().filter(|(_, s, a)| s == id && *a == attempt) else {
            return false;
        };
        let Some((order, _)) = agent.work.order.clone() else {
            return false;
        };
        let Some(step) = order.step(id).cloned() else {
            return false;
        };
        if quarters < 4 {
            let progress = Progress {
                done_bytes: quarters.into(),
                total_bytes: 4,
            };
            agent.work.progress(id, progress, now);
            let wait = duration_ms(&step.action) / 4;
            self.soon(wait, Happens::Works(id.clone(), attempt, quarters + 1));
            return matches!(step.action, Action::AgentWriteImage { .. });
        }
        agent.work.end(id, Ok(()), now);
        agent.running = None;
        match &step.action {
            Action::AgentChooseDisk { .. } => agent.work.disk = Some(disk()),
            Action::AgentReboot => {
                agent.restart = Some((job, id.clone(), attempt));
                self.soon(5_000, Happens::Restarts);
            }
            Action::AgentWriteImage { .. } => self.wrote(&order),
            Action::AgentConfigure { .. } => self.settings = Some(job),
            _ => {}
        }
        true
    }

    fn wrote(&mut self, order: &Order) {
        self.judge
            .trace(|| format!("machine {}: image of {} is whole", self.index, order.job));
        self.image = Some(order.job);
    }
}

fn disk() -> Disk {
    Disk {
        serial: Some("S1".to_owned()),
        wwn: None,
        model: None,
        size_bytes: 1 << 30,
        kind: DiskKind::Ssd,
    }
}

fn duration_ms(action: &Action) -> u64 {
    match action {
        Action::AgentWriteImage { .. } => 12_000,
        Action::AgentWipeDisks => 4_000,
        _ => 400,
    }
}
