//! A machine's BMC: does what it is told, unless it is mute; then it answers nothing, and does it or does not. Each word is
//! an effect of the edge's process, which can die on either side of it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use slipway_edge::{
    bmc::{
        Bmc, BmcError, BmcInfo, BootDevice, Firmware, PowerAction, PowerState, Reach,
        event_log::{Bounds, EventLog, Mark},
    },
    store::Store,
};
use slipway_protocol::{ids::JobId, order::BmcAccess, seal::Secret};

use super::{gate::Gate, judge::Judge, machine::Machine};

/// How long a word takes to a BMC, and its answer back.
const WAY: Duration = Duration::from_millis(20);
/// After which time no answer is waited for.
const SILENCE: Duration = Duration::from_secs(3);

/// All BMCs of a site, by the port number of their address.
pub struct Bmcs {
    /// The machines.
    pub machines: Vec<Arc<Mutex<Machine>>>,
    /// The edge's life.
    pub gate: Gate,
    /// What the edge holds on its disk.
    pub store: Store,
    /// Judges what is done.
    pub judge: Judge,
}

/// The password of a machine's BMC in a job's order: it says which job a word is of.
#[must_use]
pub fn password(job: JobId) -> Secret {
    Secret::new(job.0.to_string())
}

impl Reach for Bmcs {
    fn reach(&self, access: &BmcAccess, passwords: &[Secret]) -> Box<dyn Bmc> {
        let machine = &self.machines[usize::from(access.address.port()) % self.machines.len()];
        Box::new(OneBmc {
            machine: Arc::clone(machine),
            job: passwords
                .first()
                .and_then(|password| password.reveal().parse().ok())
                .map_or(JobId(uuid::Uuid::nil()), JobId),
            gate: self.gate.clone(),
            store: self.store.clone(),
            judge: self.judge.clone(),
        })
    }
}

struct OneBmc {
    machine: Arc<Mutex<Machine>>,
    job: JobId,
    gate: Gate,
    store: Store,
    judge: Judge,
}

impl OneBmc {
    fn with<T>(&self, look: impl FnOnce(&mut Machine) -> T) -> T {
        look(&mut self.machine.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One word: there, done, and the answer back.
    async fn word<T>(
        &self,
        operation: &'static str,
        act: impl FnOnce(&mut Machine) -> Result<T, BmcError>,
    ) -> Result<T, BmcError> {
        self.gate.point();
        tokio::time::sleep(WAY).await;
        let (mute, obeys) = self.with(|m| {
            m.words += 1;
            (m.mutes > 0, m.words % 2 == 0)
        });
        let timeout = || BmcError::Timeout {
            bmc: "sim".to_owned(),
            operation,
            heard: false,
        };
        if mute && !obeys {
            tokio::time::sleep(SILENCE).await;
            return Err(timeout());
        }
        self.gate.point();
        let done = self.with(act);
        self.gate.point();
        if mute {
            tokio::time::sleep(SILENCE).await;
            return Err(timeout());
        }
        tokio::time::sleep(WAY).await;
        done
    }

    fn judged(&self, action: PowerAction, machine: &Machine) {
        let cuts = match action {
            PowerAction::On => false,
            PowerAction::Off | PowerAction::Cycle | PowerAction::Reset | PowerAction::Soft => machine.power,
        };
        self.judge
            .powers(machine.id, (self.job, cuts), &format!("{action:?}"), &self.store);
    }
}

#[async_trait]
impl Bmc for OneBmc {
    async fn event_log(&self, _since: Option<&Mark>, _bounds: Bounds) -> Result<Option<EventLog>, BmcError> {
        // It keeps none.
        Ok(None)
    }

    async fn power_state(&self) -> Result<PowerState, BmcError> {
        let state = |m: &mut Machine| Ok(if m.power { PowerState::On } else { PowerState::Off });
        self.word("read the power state", state).await
    }

    async fn power(&self, action: PowerAction) -> Result<(), BmcError> {
        self.word("change the power", |m| {
            self.judged(action, m);
            match (action, m.power) {
                (PowerAction::On, false) => m.boots(),
                (PowerAction::On, true) | (PowerAction::Off | PowerAction::Soft, false) => {}
                (PowerAction::Off | PowerAction::Soft, true) => m.loses_power(),
                (PowerAction::Cycle | PowerAction::Reset, true) => m.boots(),
                (PowerAction::Cycle | PowerAction::Reset, false) => {
                    return Err(BmcError::PowerIsOff {
                        bmc: "sim".to_owned(),
                        operation: "reset",
                    });
                }
            }
            Ok(())
        })
        .await
    }

    async fn set_next_boot(&self, device: BootDevice, _firmware: Firmware) -> Result<(), BmcError> {
        self.word("set the boot device", |m| {
            m.next_boot_pxe = device == BootDevice::Pxe;
            Ok(())
        })
        .await
    }

    async fn next_boot(&self) -> Result<Option<BootDevice>, BmcError> {
        self.word("read the boot device", |m| {
            Ok(m.next_boot_pxe.then_some(BootDevice::Pxe))
        })
        .await
    }

    async fn restart(&self) -> Result<(), BmcError> {
        self.word("restart the BMC", |_| Ok(())).await
    }

    async fn change_password(&self, _new: &Secret) -> Result<(), BmcError> {
        self.word("change the password", |_| Ok(())).await
    }

    async fn device(&self) -> Result<BmcInfo, BmcError> {
        let info = BmcInfo {
            protocol: "sim".to_owned(),
            manufacturer: 0,
            product: 0,
            firmware: "0.0".to_owned(),
            security: "none".to_owned(),
        };
        self.word("ask the BMC what it is", |_| Ok(info)).await
    }

    async fn close(&self) {}
}
