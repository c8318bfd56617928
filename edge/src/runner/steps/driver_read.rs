//! Read whether the machine is on and what its BMC says about itself. Nothing is changed, and the BMC is not started anew, however
//! often this fails.

use slipway_protocol::report::Failure;

use super::{Teller, driver_boot};
use crate::{
    bmc::{Bmc, BmcError, BmcInfo, PowerState},
    context::Context,
};

pub(super) async fn run(context: &Context, teller: &Teller) -> Result<(), Failure> {
    let bmc = driver_boot::connect(context, &teller.work.order)?;
    let seen = read(&*bmc).await;
    let (power, info) = driver_boot::close(bmc, seen).await?;
    teller.bmc(context, power, Some(info)).await;
    Ok(())
}

async fn read(bmc: &dyn Bmc) -> Result<(PowerState, BmcInfo), BmcError> {
    let info = bmc.device().await?;
    Ok((bmc.power_state().await?, info))
}
