//! A QEMU machine as the chassis behind a BMC. Its boot flags live in a file, its power is its process: nothing
//! else is remembered, so a restarted BMC process finds everything as it is.

use std::fs::{self, OpenOptions};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use slipway_edge::bmc::{BootDevice, PowerAction, PowerState};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::bmc::{BootFlags, Chassis, ChassisError};
use crate::error::LabError;
use crate::qmp::{Monitor, MonitorError};
use crate::state::{Machine, read_json, write_json};
use crate::{process, qemu};

/// Pause between off and on of a power cycle (a real machine takes seconds).
const CYCLE_PAUSE: Duration = Duration::from_millis(500);
/// How long QEMU may take until its monitor answers.
const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// One machine of the lab, switched by its QEMU process.
pub struct QemuChassis {
    machine: Machine,
    switching: Mutex<()>,
}

impl QemuChassis {
    /// The chassis of `machine`; starts nothing.
    pub fn new(machine: Machine) -> Self {
        Self {
            machine,
            switching: Mutex::new(()),
        }
    }

    fn on(&self) -> bool {
        powered(&self.machine)
    }

    fn first(&self) -> BootDevice {
        flags(&self.machine).device().unwrap_or(BootDevice::Disk)
    }

    fn monitor_error(&self, error: &MonitorError) -> LabError {
        LabError::Monitor {
            machine: self.machine.name.clone(),
            detail: error.to_string(),
        }
    }

    async fn monitor(&self) -> Result<Monitor, LabError> {
        Monitor::connect(&self.machine.monitor())
            .await
            .map_err(|error| self.monitor_error(&error))
    }

    /// Starts QEMU with the boot order of the flags, then puts back the order for the boots after this one.
    async fn start(&self) -> Result<(), LabError> {
        let machine = &self.machine;
        let died = || LabError::Process {
            process: format!("QEMU of {}", machine.name),
            log: machine.qemu_log(),
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(machine.qemu_log());
        let log = log.map_err(LabError::file("open", machine.qemu_log()))?;
        let errors = log
            .try_clone()
            .map_err(LabError::file("open", machine.qemu_log()))?;
        fs::remove_file(machine.monitor()).ok(); // left by a killed one
        let mut child = Command::new(qemu::PROGRAM)
            .args(qemu::arguments(machine, self.first()))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| LabError::Missing {
                command: qemu::PROGRAM.to_owned(),
                source,
            })?;
        let end = Instant::now() + START_LIMIT;
        let mut monitor = loop {
            if let Ok(monitor) = Monitor::connect(&machine.monitor()).await {
                break monitor;
            }
            if Instant::now() > end || !matches!(child.try_wait(), Ok(None)) {
                child.kill().await.ok(); // it may be dead already
                return Err(died());
            }
            sleep(POLL).await;
        };
        tokio::spawn(async move { child.wait().await }); // reaps it whenever it ends
        self.use_up_flags(&mut monitor).await
    }

    async fn use_up_flags(&self, monitor: &mut Monitor) -> Result<(), LabError> {
        set_flags(&self.machine, flags(&self.machine).after_boot())?;
        monitor
            .boot_order(self.first())
            .await
            .map_err(|error| self.monitor_error(&error))
    }

    async fn stop(&self) -> Result<(), LabError> {
        let (file, mark) = (self.machine.pid(), qemu::mark(&self.machine));
        tokio::task::spawn_blocking(move || process::stop(&file, &mark))
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// QEMU anew. Its own reset would do for UEFI, but SeaBIOS resets once more by itself when it finds that it has run
    /// before, and reads the boot order only then: by that time the one-time choice is used up.
    async fn reset(&self) -> Result<(), LabError> {
        self.stop().await?;
        self.start().await
    }

    async fn switch(&self, action: PowerAction) -> Result<(), LabError> {
        match action {
            PowerAction::On if self.on() => Ok(()),
            PowerAction::On => self.start().await,
            PowerAction::Off => self.stop().await,
            PowerAction::Cycle => {
                self.stop().await?;
                sleep(CYCLE_PAUSE).await;
                self.start().await
            }
            PowerAction::Reset => self.reset().await,
            PowerAction::Soft if !self.on() => Ok(()),
            PowerAction::Soft => {
                let mut monitor = self.monitor().await?;
                let done = monitor.execute("system_powerdown", json!({})).await;
                done.map(drop).map_err(|error| self.monitor_error(&error))
            }
        }
    }
}

/// Whether the machine's QEMU process runs.
pub fn powered(machine: &Machine) -> bool {
    process::running(&machine.pid(), &qemu::mark(machine)).is_some()
}

/// The machine's boot flags; none when there is no file yet.
pub fn flags(machine: &Machine) -> BootFlags {
    read_json(&machine.boot_flags()).unwrap_or_default()
}

fn set_flags(machine: &Machine, flags: BootFlags) -> Result<(), LabError> {
    write_json(&machine.boot_flags(), &flags)
}

#[async_trait]
impl Chassis for QemuChassis {
    async fn power_state(&self) -> PowerState {
        if self.on() {
            PowerState::On
        } else {
            PowerState::Off
        }
    }

    async fn power(&self, action: PowerAction) -> Result<(), ChassisError> {
        let _alone = self.switching.lock().await;
        if matches!(action, PowerAction::Cycle | PowerAction::Reset) && !self.on() {
            return Err(ChassisError::PowerIsOff);
        }
        tracing::info!(machine = self.machine.name, ?action, first = ?self.first(), "power");
        // a machine that hangs must not hang its BMC
        match timeout(START_LIMIT * 2, self.switch(action)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ChassisError::Failed(error.to_string())),
            Err(_) => Err(ChassisError::Failed("timed out".to_owned())),
        }
    }

    async fn boot_flags(&self) -> BootFlags {
        flags(&self.machine)
    }

    async fn set_boot_flags(&self, new: BootFlags) -> Result<(), ChassisError> {
        let _alone = self.switching.lock().await;
        tracing::info!(machine = self.machine.name, flags = ?new, "boot flags");
        set_flags(&self.machine, new).map_err(|error| ChassisError::Failed(error.to_string()))?;
        // a running guest's own reboot follows a persistent choice too; a one-time choice waits for the BMC
        if new.persistent() && self.on() {
            let mut monitor = self
                .monitor()
                .await
                .map_err(|error| ChassisError::Failed(error.to_string()))?;
            let done = monitor.boot_order(self.first()).await;
            done.map_err(|error| ChassisError::Failed(error.to_string()))?;
        }
        Ok(())
    }
}
