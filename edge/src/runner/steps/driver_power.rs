//! Switch the machine on or off, or have its system shut down, and see that it is.

use std::time::Duration;

use slipway_protocol::report::Failure;

use super::{Teller, driver_boot};
use crate::{
    bmc::{Bmc, BmcError, PowerAction, PowerState},
    context::Context,
};

pub(super) async fn run(context: &Context, on: bool, teller: &Teller) -> Result<(), Failure> {
    let bmc = driver_boot::open(context, teller).await?;
    let switched = switch(&*bmc, on).await;
    let power = driver_boot::close(bmc, switched).await?;
    teller.bmc(context, power, None).await;
    Ok(())
}

/// Asks the system to shut down; whether it does is its own affair, so the power is cut after the grace.
pub(super) async fn shut_down(context: &Context, grace_s: u32, teller: &Teller) -> Result<(), Failure> {
    let bmc = driver_boot::open(context, teller).await?;
    let off = give_grace(&*bmc, Duration::from_secs(grace_s.into()), teller).await;
    let power = driver_boot::close(bmc, off).await?;
    teller.bmc(context, power, None).await;
    Ok(())
}

async fn give_grace(bmc: &dyn Bmc, grace: Duration, teller: &Teller) -> Result<PowerState, BmcError> {
    if bmc.power_state().await? == PowerState::Off {
        return Ok(PowerState::Off);
    }
    let limit = tokio::time::Instant::now() + grace;
    if !grace.is_zero() {
        bmc.power(PowerAction::Soft).await?;
    }
    while tokio::time::Instant::now() < limit {
        if bmc.power_state().await? == PowerState::Off {
            return Ok(PowerState::Off);
        }
        teller.progress(None).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    switch(bmc, false).await
}

/// How long a machine may take to do what its BMC accepted before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(20);
/// How often it is asked.
const ASKED: u32 = 3;

/// Asks, then reads the state back until it is as wanted; asks again of a BMC that accepts and does nothing, and says so after a
/// minute. Returns the state that was read last.
pub(super) async fn switch(bmc: &dyn Bmc, on: bool) -> Result<PowerState, BmcError> {
    let (action, wanted) = if on {
        (PowerAction::On, PowerState::On)
    } else {
        (PowerAction::Off, PowerState::Off)
    };
    if bmc.power_state().await? == wanted {
        return Ok(wanted);
    }
    for _ in 0..ASKED {
        bmc.power(action).await?;
        let again = tokio::time::Instant::now() + ASK_AGAIN;
        while tokio::time::Instant::now() < again {
            if bmc.power_state().await? == wanted {
                return Ok(wanted);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    let operation = if on { "power on" } else { "power off" };
    Err(BmcError::PowerNotTaken { operation })
}
