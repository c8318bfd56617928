//! Set the next boot device and have the machine boot: switch it on, or reset it if it is on.

use slipway_protocol::{
    inventory::FirmwareKind,
    order::{self, BmcAccess, Order, secret_context},
    report::Failure,
    seal::Secret,
};

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Teller, driver_power, failure};
use crate::{
    bmc::{self, Bmc, BmcError, Firmware, PowerAction, PowerState},
    context::Context,
    runner::{
        ladder::{self, Rung},
        next,
    },
};

/// How long a BMC may take to start anew; slow ones take three minutes.
const BMC_RESTART_LIMIT: Duration = Duration::from_secs(300);
/// How often the power is read after a boot, half a second apart, until the machine is on.
const ON_READS: u32 = 10;

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
    let bmc = open(context, teller).await?;
    if pxe {
        context.boots.boot_ordered(teller.work.order.machine);
    }
    let booted = match boot(&*bmc, device, firmware(teller), teller).await {
        Ok(()) => Ok(seen_on(&*bmc).await),
        Err(error) => Err(error),
    };
    if let Some(power) = close(bmc, booted).await? {
        teller.bmc(context, power, None).await;
    }
    Ok(())
}

/// The power after a boot was asked for; none if it cannot be read, which is no reason to boot again. A BMC takes its time to
/// switch on, and that a machine is still off tells nothing of what it is from now on.
async fn seen_on(bmc: &dyn Bmc) -> Option<PowerState> {
    for _ in 0..ON_READS {
        match bmc.power_state().await {
            Ok(PowerState::On) => return Some(PowerState::On),
            Ok(PowerState::Off) => tokio::time::sleep(Duration::from_millis(500)).await,
            Err(error) => {
                debug!(%error, "cannot read the power after a boot; the job goes on without");
                return None;
            }
        }
    }
    None
}

/// The machine's BMC for a step's work, started anew first if it is time for that. Whoever opens it closes it.
pub(super) async fn open(context: &Context, teller: &Teller) -> Result<Box<dyn Bmc>, Failure> {
    let bmc = connect(context, &teller.work.order)?;
    if let Err(error) = climb(&*bmc, teller).await {
        bmc.close().await;
        return Err(bmc_failure(error));
    }
    Ok(bmc)
}

/// Ends the BMC's session, whatever came of the work.
pub(super) async fn close<T>(bmc: Box<dyn Bmc>, done: Result<T, BmcError>) -> Result<T, Failure> {
    bmc.close().await;
    done.map_err(bmc_failure)
}

/// Starts the BMC anew if it is time for that, and waits until it answers again.
async fn climb(bmc: &dyn Bmc, teller: &Teller) -> Result<(), BmcError> {
    let attempt = teller.work.attempt;
    if ladder::rung(attempt) < Rung::BmcReset {
        return Ok(());
    }
    warn!(machine = %teller.work.order.machine, step = %teller.work.step.id, attempt, "starting the BMC anew");
    match bmc.restart().await {
        Ok(()) => {}
        // It cannot be reset by this user, or at all; the step may succeed all the same.
        Err(BmcError::Completion { .. } | BmcError::Privilege { .. }) => return Ok(()),
        Err(error) => return Err(error),
    }
    let limit = Instant::now() + BMC_RESTART_LIMIT;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        teller.progress(None).await;
        match bmc.device().await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() >= limit => return Err(error),
            Err(_) => {}
        }
    }
}

async fn boot(
    bmc: &dyn Bmc,
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
    if bmc.power_state().await? == PowerState::On {
        if ladder::rung(teller.work.attempt) >= Rung::PowerCycle {
            driver_power::switch(bmc, false).await?;
        } else {
            match bmc.power(PowerAction::Reset).await {
                // Switched off between the two questions.
                Err(BmcError::PowerIsOff { .. }) => {}
                other => return other,
            }
        }
    }
    driver_power::switch(bmc, true).await.map(drop)
}

fn firmware(teller: &Teller) -> Firmware {
    match teller.work.order.hardware.firmware {
        FirmwareKind::Bios => Firmware::Bios,
        FirmwareKind::Uefi => Firmware::Uefi,
    }
}

/// The machine's BMC, with its password opened. Nothing is sent yet.
pub(in crate::runner) fn connect(context: &Context, order: &Order) -> Result<Box<dyn Bmc>, Failure> {
    let access: &BmcAccess = order.hardware.bmc.as_ref().ok_or_else(|| {
        failure(
            "no_bmc",
            "the machine has no BMC on record; delete it and add it anew with `slipway machine create --bmc`",
            false,
        )
    })?;
    let names = std::iter::once(&access.password).chain(&access.other_passwords);
    let passwords: Vec<Secret> = names
        .map(|name| password(context, order, name))
        .collect::<Result<_, _>>()?;
    Ok(context.bmcs.reach(access, &passwords))
}

/// A password of the machine's BMC, opened.
pub(super) fn password(context: &Context, order: &Order, name: &str) -> Result<Secret, Failure> {
    let place = secret_context(&context.site, order.machine, order.job, name);
    let sealed = order.secrets.get(name).ok_or_else(|| {
        failure(
            "bmc_password",
            "the order does not carry the BMC's password",
            false,
        )
    })?;
    let opened = context.opening.open(sealed, &place);
    opened.map_err(|e| failure("bmc_password", e, false))
}

fn bmc_failure(error: BmcError) -> Failure {
    failure(error.code(), &error, error.is_transient())
}
