//! The machine behind a BMC: its power and its boot flags. [`MemoryChassis`] is one without any hardware.

use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use slipway_edge::bmc::{BootDevice, PowerAction, PowerState};

/// IPMI boot flags, parameter 5 data 1 to 5 (table 28-14), kept as they were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootFlags(pub [u8; 5]);

impl BootFlags {
    /// Flags for the next boot only.
    pub fn once(device: BootDevice) -> Self {
        Self([0x80, if device == BootDevice::Pxe { 0x04 } else { 0x08 }, 0, 0, 0])
    }

    /// The override counts.
    pub fn valid(self) -> bool {
        self.0[0] & 0x80 != 0
    }

    /// It holds for all boots to come, not just the next.
    pub fn persistent(self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// It asks for UEFI.
    pub fn efi(self) -> bool {
        self.0[0] & 0x20 != 0
    }

    /// The device asked for, if the flags are valid and the lab has such a device.
    pub fn device(self) -> Option<BootDevice> {
        match (self.valid(), (self.0[1] >> 2) & 0x0f) {
            (true, 0x1) => Some(BootDevice::Pxe),
            (true, 0x2) => Some(BootDevice::Disk),
            _ => None,
        }
    }

    /// What is left of the flags once a boot has used them.
    pub fn after_boot(self) -> Self {
        if self.persistent() { self } else { Self::default() }
    }
}

/// Why the machine did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum ChassisError {
    /// The machine is off and the action needs it on (completion code 0xD5).
    #[error("the machine is off")]
    PowerIsOff,
    /// The machine could not be switched (completion code 0xFF).
    #[error("the machine could not be switched: {0}")]
    Failed(String),
}

/// A machine as its BMC sees it.
#[async_trait]
pub trait Chassis: Send + Sync {
    /// Whether it is on.
    async fn power_state(&self) -> PowerState;
    /// Switches it; returns when it has happened (soft-off: when it was asked for).
    async fn power(&self, action: PowerAction) -> Result<(), ChassisError>;
    /// The boot flags in force.
    async fn boot_flags(&self) -> BootFlags;
    /// Replaces the boot flags.
    async fn set_boot_flags(&self, flags: BootFlags) -> Result<(), ChassisError>;
}

/// A machine that is only a memory of what was done to it. Starts switched off.
#[derive(Debug, Default)]
pub struct MemoryChassis {
    inner: Mutex<Memory>,
}

#[derive(Debug, Default)]
struct Memory {
    on: bool,
    flags: BootFlags,
    actions: Vec<PowerAction>,
    boots: Vec<BootDevice>,
}

impl MemoryChassis {
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Every power action so far, refused ones not counted.
    pub fn actions(&self) -> Vec<PowerAction> {
        self.lock().actions.clone()
    }

    /// What each boot so far started from: the override, else the disk.
    pub fn boots(&self) -> Vec<BootDevice> {
        self.lock().boots.clone()
    }
}

impl Memory {
    fn boot(&mut self) {
        self.boots.push(self.flags.device().unwrap_or(BootDevice::Disk));
        self.flags = self.flags.after_boot();
    }
}

#[async_trait]
impl Chassis for MemoryChassis {
    async fn power_state(&self) -> PowerState {
        if self.lock().on {
            PowerState::On
        } else {
            PowerState::Off
        }
    }

    async fn power(&self, action: PowerAction) -> Result<(), ChassisError> {
        let mut memory = self.lock();
        match action {
            PowerAction::On if !memory.on => {
                memory.on = true;
                memory.boot();
            }
            PowerAction::Cycle | PowerAction::Reset if memory.on => memory.boot(),
            PowerAction::Cycle | PowerAction::Reset => return Err(ChassisError::PowerIsOff),
            PowerAction::Off | PowerAction::Soft => memory.on = false,
            PowerAction::On => {}
        }
        memory.actions.push(action);
        Ok(())
    }

    async fn boot_flags(&self) -> BootFlags {
        self.lock().flags
    }

    async fn set_boot_flags(&self, flags: BootFlags) -> Result<(), ChassisError> {
        self.lock().flags = flags;
        Ok(())
    }
}
