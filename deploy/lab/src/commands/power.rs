//! `power` and `boot`: asked of the machine's BMC by real IPMI from inside the site, as the edge would.

use std::net::SocketAddr;

use slipway_edge::bmc::ipmi::{Credentials, IpmiBmc, Timing};
use slipway_edge::bmc::{Bmc, BootDevice, Firmware, PowerAction};

use crate::error::LabError;
use crate::netns;
use crate::state::{Lab, LabId, Machine, MachineFirmware};

/// A driver for the BMC of `machine`. Use it inside the site's namespace ([`netns::within`]).
pub fn driver(lab: &Lab, machine: &Machine) -> IpmiBmc {
    let credentials = Credentials::new(lab.bmc_user.clone(), lab.bmc_password.clone());
    IpmiBmc::new(
        SocketAddr::new(machine.bmc_address.into(), 623),
        credentials,
        Timing::default(),
    )
}

/// Switches a machine. Returns when its BMC has done it.
///
/// # Errors
/// [`LabError::Bmc`] with what the BMC says.
pub fn power(id: &LabId, machine: &str, action: PowerAction) -> Result<(), LabError> {
    ask(id, machine, async |_, bmc| {
        bmc.power(action).await.map_err(LabError::from)
    })
}

/// Sets what a machine boots from, once.
///
/// # Errors
/// [`LabError::Bmc`] with what the BMC says.
pub fn boot(id: &LabId, machine: &str, device: BootDevice) -> Result<(), LabError> {
    ask(id, machine, async |machine, bmc| {
        let firmware = match machine.firmware {
            MachineFirmware::Bios => Firmware::Bios,
            MachineFirmware::Uefi => Firmware::Uefi,
        };
        bmc.set_next_boot(device, firmware).await.map_err(LabError::from)
    })
}

fn ask(
    id: &LabId,
    machine: &str,
    question: impl AsyncFnOnce(&Machine, &IpmiBmc) -> Result<(), LabError> + Send,
) -> Result<(), LabError> {
    let lab = Lab::load(id)?;
    let machine = lab.machine(machine)?;
    netns::within(&id.site(), || {
        super::runtime()?.block_on(async {
            let bmc = driver(&lab, machine);
            let answer = question(machine, &bmc).await;
            bmc.close().await;
            answer
        })
    })?
}
