//! Set the next boot device and have the machine boot: switch it on, or reset it if it is on.

use slipway_protocol::{
    inventory::FirmwareKind,
    order::{self, BmcAccess, BmcDriver, secret_context},
    report::Failure,
};

use super::{Teller, failure};
use crate::{
    bmc::{
        self, Bmc, BmcError, Firmware, PowerAction, PowerState,
        ipmi::{Credentials, IpmiBmc, Timing},
    },
    context::Context,
    runner::next,
};

pub(super) async fn run(
    context: &Context,
    device: order::BootDevice,
    teller: &Teller,
) -> Result<(), Failure> {
    // An edge that was killed after the reset must not reset a second time: the machine's own boot is the proof.
    let started = teller
        .work
        .report
        .steps
        .iter()
        .find(|s| s.id == teller.work.step.id)
        .and_then(|s| s.started_at);
    let pxe = device == order::BootDevice::Pxe;
    if pxe && started.is_some_and(|at| next::has_booted_since(&teller.work.report, at)) {
        return Ok(());
    }
    let bmc = connect(context, teller)?;
    let result = boot(&bmc, device, firmware(teller), teller).await;
    bmc.close().await;
    result.map_err(bmc_failure)
}

async fn boot(
    bmc: &IpmiBmc,
    device: order::BootDevice,
    firmware: Firmware,
    teller: &Teller,
) -> Result<(), BmcError> {
    let device = match device {
        order::BootDevice::Pxe => bmc::BootDevice::Pxe,
        order::BootDevice::Disk => bmc::BootDevice::Disk,
    };
    bmc.set_next_boot(device, firmware).await?;
    teller.progress(None).await;
    match bmc.power_state().await? {
        PowerState::Off => bmc.power(PowerAction::On).await,
        PowerState::On => match bmc.power(PowerAction::Reset).await {
            // Switched off between the two questions.
            Err(BmcError::PowerIsOff { .. }) => bmc.power(PowerAction::On).await,
            other => other,
        },
    }
}

fn firmware(teller: &Teller) -> Firmware {
    match teller.work.order.hardware.firmware {
        FirmwareKind::Bios => Firmware::Bios,
        FirmwareKind::Uefi => Firmware::Uefi,
    }
}

/// The machine's BMC, with its password opened. Nothing is sent yet.
pub(super) fn connect(context: &Context, teller: &Teller) -> Result<IpmiBmc, Failure> {
    let order = &teller.work.order;
    let access: &BmcAccess = order.hardware.bmc.as_ref().ok_or_else(|| {
        failure(
            "no_bmc",
            "the machine has no BMC on record; delete it and add it anew with `slipway machine create --bmc`",
            false,
        )
    })?;
    let place = secret_context(&context.site, order.machine, order.job, &access.password);
    let sealed = order.secrets.get(&access.password).ok_or_else(|| {
        failure(
            "bmc_password",
            "the order does not carry the BMC's password",
            false,
        )
    })?;
    let password = context
        .opening
        .open(sealed, &place)
        .map_err(|e| failure("bmc_password", e, false))?;
    let credentials = Credentials {
        user: access.username.clone(),
        password: password.reveal().to_owned(),
    };
    match access.driver {
        BmcDriver::Ipmi => Ok(IpmiBmc::new(access.address, credentials, Timing::default())),
    }
}

pub(super) fn bmc_failure(error: BmcError) -> Failure {
    failure(error.code(), &error, error.is_transient())
}
