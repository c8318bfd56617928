//! A simulated machine behind its BMC: power and boot flags are kept here, and a change of power starts or ends a boot.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use slipway_edge::bmc::{BootDevice, PowerAction, PowerState};
use slipway_lab::bmc::{BootFlags, Chassis, ChassisError};
use tokio_util::sync::CancellationToken;

use super::machine::Machine;

/// How often what cannot be taken back was done to a machine.
#[derive(Debug, Default)]
pub struct Deeds {
    /// It was switched on, or cut off and on.
    pub starts: AtomicU32,
    /// It was switched off under whatever ran.
    pub cuts: AtomicU32,
    /// It booted from the network.
    pub network_boots: AtomicU32,
}

/// Power, flags, and the boot that runs.
pub(super) struct SimulatedChassis {
    machine: Machine,
    state: Arc<Mutex<State>>,
    deeds: Arc<Deeds>,
    /// Ends every boot with the fleet.
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    flags: BootFlags,
    /// Ended when the power goes or the machine is reset; there is one while the power is on.
    running: Option<CancellationToken>,
}

/// The firmware's view of the boot flags.
#[derive(Clone)]
pub(super) struct Flags(Arc<Mutex<State>>, Arc<Deeds>);

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flags {
    /// What this boot starts from: the override, which is used up, else the disk.
    #[must_use]
    pub(super) fn take(&self) -> BootDevice {
        let mut state = lock(&self.0);
        let device = state.flags.device().unwrap_or(BootDevice::Disk);
        state.flags = state.flags.after_boot();
        if device == BootDevice::Pxe {
            self.1.network_boots.fetch_add(1, Ordering::Relaxed);
        }
        device
    }
}

impl SimulatedChassis {
    /// A machine that is switched off.
    #[must_use]
    pub(super) fn new(machine: Machine, stop: CancellationToken) -> Self {
        Self {
            machine,
            state: Arc::default(),
            deeds: Arc::default(),
            stop,
        }
    }

    /// What is done to it.
    #[must_use]
    pub(super) fn deeds(&self) -> Arc<Deeds> {
        Arc::clone(&self.deeds)
    }

    fn start(&self, state: &mut State) {
        self.deeds.starts.fetch_add(1, Ordering::Relaxed);
        self.cut(state);
        let power = self.stop.child_token();
        let flags = Flags(Arc::clone(&self.state), Arc::clone(&self.deeds));
        tokio::spawn(self.machine.clone().run(flags, power.clone()));
        state.running = Some(power);
    }

    fn cut(&self, state: &mut State) {
        if let Some(running) = state.running.take() {
            self.deeds.cuts.fetch_add(1, Ordering::Relaxed);
            running.cancel();
        }
    }
}

#[async_trait]
impl Chassis for SimulatedChassis {
    async fn power_state(&self) -> PowerState {
        match lock(&self.state).running {
            Some(_) => PowerState::On,
            None => PowerState::Off,
        }
    }

    async fn power(&self, action: PowerAction) -> Result<(), ChassisError> {
        let mut state = lock(&self.state);
        match action {
            PowerAction::On if state.running.is_none() => self.start(&mut state),
            PowerAction::On => {}
            PowerAction::Cycle | PowerAction::Reset if state.running.is_some() => self.start(&mut state),
            PowerAction::Cycle | PowerAction::Reset => return Err(ChassisError::PowerIsOff),
            PowerAction::Off | PowerAction::Soft => self.cut(&mut state),
        }
        Ok(())
    }

    async fn boot_flags(&self) -> BootFlags {
        lock(&self.state).flags
    }

    async fn set_boot_flags(&self, flags: BootFlags) -> Result<(), ChassisError> {
        lock(&self.state).flags = flags;
        Ok(())
    }
}
