//! What is to happen in one run: what people ask for, and which faults befall whom and when. Made of a seed, purely; a
//! shorter list of faults is a schedule too, which is how a failing one is made small.

use super::dice::Dice;

/// Until when faults begin, in ms. After the last one has ended all must come to rest.
const FAULTS_UNTIL_MS: u64 = 240_000;

/// What a job is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Install a system.
    Install,
    /// Switch on.
    Start,
    /// Switch off.
    Stop,
    /// Off, then on.
    Restart,
    /// Take the machine back.
    Release,
}

/// A wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// When it is made, at the earliest: the machine's former job must have ended.
    pub at_ms: u64,
    /// Which machine.
    pub machine: u8,
    /// What it is for.
    pub work: Work,
    /// How long after it was taken on it is called off, if it is.
    pub cancel_after_ms: Option<u64>,
}

/// How a process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// At once, wherever its tasks wait.
    Now,
    /// At the n-th effect from now on: before or after a write, a message, a word to a BMC.
    AtEffect(u32),
    /// After n more polls of its tasks.
    AfterPolls(u32),
}

/// A lie, told to the edge or the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// An older true message to the edge, again.
    ReplayToEdge,
    /// An older true message to the control plane, again.
    ReplayToCentre,
    /// An order signed by a key nobody trusts.
    UnknownKey,
    /// A true order of another site, on this site's topic.
    ForeignSite,
    /// A true order of one machine on another one's topic.
    OtherTopic,
    /// A true order, one byte of it changed.
    Changed,
    /// A report signed by a stranger.
    ForgedReport,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The edge's process dies and is started again.
    EdgeCrash(Crash, u64),
    /// The control plane's process dies at its n-th call of the store, and is started again after so many ms.
    CentreCrash(u32, u64),
    /// The link is cut for so many ms; either side learns of it after so many.
    Cut(u64, u64),
    /// A machine's link to its edge is cut for so many ms.
    SiteCut(u8, u64),
    /// The edge cannot write for so many ms.
    EdgeDiskFull(u64),
    /// The control plane cannot write for so many ms.
    CentreDiskFull(u64),
    /// The edge's clock is off by so much from now on.
    EdgeClock(i64),
    /// The control plane's clock is off by so much from now on.
    CentreClock(i64),
    /// A copy of the edge's disk is made; so many ms later the edge dies and comes back with it.
    EdgeBackup(u64),
    /// A backup of the control plane is made; so many ms later it is restored.
    CentreBackup(u64),
    /// A machine loses its power for a moment.
    PowerLoss(u8),
    /// A machine's BMC answers nothing for so many ms; whether it does what it is told is another matter.
    BmcMute(u8, u64),
    /// The machine hangs in its next boot.
    HangsInBoot(u8),
    /// Someone lies.
    Lie(Lie),
}

/// A fault and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Befalls {
    /// When.
    pub at_ms: u64,
    /// What.
    pub fault: Fault,
}

/// How bad the link is while faults last, in messages of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noise {
    /// Lost.
    pub lost: u64,
    /// Delivered twice.
    pub twice: u64,
    /// Late, and so behind others that were said after it.
    pub late: u64,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// What all of it was made of; the run's own throws go on from it.
    pub seed: u64,
    /// How many machines.
    pub machines: u8,
    /// What is asked for.
    pub wishes: Vec<Wish>,
    /// What goes wrong.
    pub faults: Vec<Befalls>,
    /// How bad the link is.
    pub noise: Noise,
}

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice::new(seed ^ 0x005c_4ed0_1e00);
        let machines = if dice.permille(250) { 2 } else { 1 };
        let wishes = wishes(&mut dice, machines);
        let count = dice.from_to(1, 6);
        let mut faults: Vec<Befalls> = (0..count).map(|_| befalls(&mut dice, machines)).collect();
        faults.sort_by_key(|f| f.at_ms);
        // See the head of the module above: what an edge reported by a clock that was ahead, it cannot take back.
        if faults.iter().any(|f| matches!(f.fault, Fault::EdgeBackup(_))) {
            faults.retain(|f| !matches!(f.fault, Fault::EdgeClock(_)));
        }
        let noise = match dice.from_to(0, 3) {
            0 => Noise::default(),
            1 => Noise {
                lost: 50,
                twice: 50,
                late: 50,
            },
            2 => Noise {
                lost: 200,
                twice: 100,
                late: 100,
            },
            _ => Noise {
                lost: 0,
                twice: 300,
                late: 400,
            },
        };
        Self {
            seed,
            machines,
            wishes,
            faults,
            noise,
        }
    }

    /// When faults have begun for the last time.
    #[must_use]
    pub fn last_fault_ms(&self) -> u64 {
        self.faults.iter().map(|f| f.at_ms).max().unwrap_or(0)
    }
}

fn wishes(dice: &mut Dice, machines: u8) -> Vec<Wish> {
    let mut wishes = Vec::new();
    for machine in 0..machines {
        let count = dice.from_to(1, 3);
        let mut at_ms = dice.from_to(10, 2_000);
        let first = if dice.permille(450) {
            Work::Install
        } else {
            Work::Restart
        };
        for n in 0..count {
            let then = [
                Work::Stop,
                Work::Start,
                Work::Restart,
                Work::Restart,
                Work::Release,
            ];
            let work = if n == 0 { first } else { dice.one_of(&then) };
            let cancel_after_ms = dice.permille(80).then(|| dice.from_to(50, 60_000));
            wishes.push(Wish {
                at_ms,
                machine,
                work,
                cancel_after_ms,
            });
            at_ms += dice.from_to(500, 60_000);
        }
    }
    wishes
}

fn befalls(dice: &mut Dice, machines: u8) -> Befalls {
    // Much happens in the first seconds: half of all faults fall there.
    let until = if dice.permille(500) {
        8_000
    } else {
        FAULTS_UNTIL_MS
    };
    let at_ms = dice.from_to(0, until);
    let machine = u8::try_from(dice.from_to(0, u64::from(machines) - 1)).unwrap_or(0);
    let fault = match dice.from_to(0, 99) {
        0..=29 => Fault::EdgeCrash(crash(dice), dice.from_to(100, 30_000)),
        30..=39 => Fault::CentreCrash(
            u32::try_from(dice.from_to(0, 12)).unwrap_or(0),
            dice.from_to(100, 30_000),
        ),
        40..=51 => Fault::Cut(dice.from_to(100, 90_000), dice.from_to(0, 20_000)),
        52..=57 => Fault::SiteCut(machine, dice.from_to(100, 40_000)),
        58..=65 => Fault::EdgeDiskFull(dice.from_to(10, 20_000)),
        66..=69 => Fault::CentreDiskFull(dice.from_to(10, 40_000)),
        70..=73 => Fault::EdgeClock(off(dice)),
        74..=76 => Fault::CentreClock(off(dice)),
        77..=80 => Fault::EdgeBackup(dice.from_to(500, 120_000)),
        81..=85 => Fault::CentreBackup(dice.from_to(500, 120_000)),
        86..=87 => Fault::PowerLoss(machine),
        88..=90 => Fault::BmcMute(machine, dice.from_to(100, 60_000)),
        91..=92 => Fault::HangsInBoot(machine),
        _ => Fault::Lie(lie(dice)),
    };
    Befalls { at_ms, fault }
}

fn crash(dice: &mut Dice) -> Crash {
    match dice.from_to(0, 9) {
        0..=1 => Crash::Now,
        2..=7 => Crash::AtEffect(u32::try_from(dice.from_to(0, 24)).unwrap_or(0)),
        _ => Crash::AfterPolls(u32::try_from(dice.from_to(0, 30)).unwrap_or(0)),
    }
}

/// From seconds to days, to either side.
fn off(dice: &mut Dice) -> i64 {
    let size = dice.one_of(&[3_000, 60_000, 900_000, 3_600_000, 10_800_000, 172_800_000_i64]);
    if dice.permille(500) { size } else { -size }
}

fn lie(dice: &mut Dice) -> Lie {
    dice.one_of(&[
        Lie::ReplayToEdge,
        Lie::ReplayToCentre,
        Lie::UnknownKey,
        Lie::ForeignSite,
        Lie::OtherTopic,
        Lie::Changed,
        Lie::ForgedReport,
    ])
}
