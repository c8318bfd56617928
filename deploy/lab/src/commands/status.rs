//! `status`: what there is, as text or as JSON.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use slipway_edge::bmc::{BootDevice, PowerState};

use crate::commands::down::bmc_mark;
use crate::error::LabError;
use crate::state::{Lab, LabId, Machine};
use crate::{machine, process};

/// A lab and its present state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Name, namespaces, addresses, credentials and the definition of each machine.
    pub lab: Lab,
    /// Whether the BMC process runs.
    pub bmc_running: bool,
    /// State of each machine, in the order of `lab.machines`.
    pub machines: Vec<MachineStatus>,
}

/// Present state of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// Its name.
    pub name: String,
    /// Whether it is on.
    pub power: PowerState,
    /// The boot override in force; `None` = its disk, then the network.
    pub next_boot: Option<BootDevice>,
    /// Whether the override holds for more than one boot.
    pub persistent: bool,
}

/// Reads the state of a lab.
///
/// # Errors
/// [`LabError::NotUp`].
pub fn status(id: &LabId) -> Result<Status, LabError> {
    let lab = Lab::load(id)?;
    let bmc_running = process::running(&id.bmc_pid(), &bmc_mark(id)).is_some();
    let machines = lab.machines.iter().map(state).collect();
    Ok(Status {
        lab,
        bmc_running,
        machines,
    })
}

fn state(machine: &Machine) -> MachineStatus {
    let flags = machine::flags(machine);
    MachineStatus {
        name: machine.name.clone(),
        power: if machine::powered(machine) {
            PowerState::On
        } else {
            PowerState::Off
        },
        next_boot: flags.device(),
        persistent: flags.valid() && flags.persistent(),
    }
}

impl Status {
    /// The state for a person to read.
    pub fn text(&self) -> String {
        let lab = &self.lab;
        let mut text = format!(
            "lab {}   site {} ({})   centre {} ({})\nBMCs {}   user {}   password {}\n\n",
            lab.name,
            lab.site_namespace,
            lab.site_address,
            lab.centre_namespace,
            lab.centre_address,
            if self.bmc_running {
                "answering"
            } else {
                "NOT RUNNING"
            },
            lab.bmc_user,
            lab.bmc_password,
        );
        text.push_str("NAME  POWER  FIRMWARE  MAC                BMC          NEXT BOOT  CONSOLE\n");
        for (machine, state) in lab.machines.iter().zip(&self.machines) {
            let power = format!("{:?}", state.power).to_lowercase();
            let firmware = format!("{:?}", machine.firmware).to_lowercase();
            let boot = state
                .next_boot
                .map_or("-".to_owned(), |boot| format!("{boot:?}").to_lowercase());
            // writing to a String cannot fail
            writeln!(
                text,
                "{:<5} {power:<6} {firmware:<9} {:<18} {:<12} {boot:<10} {}",
                machine.name,
                machine.mac,
                machine.bmc_address,
                machine.console_log.display()
            )
            .ok();
        }
        text
    }
}
