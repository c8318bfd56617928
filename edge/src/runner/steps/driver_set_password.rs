//! Give the user of the BMC a new password. The machine itself is not touched, and its BMC not started anew, however often this
//! fails.

use slipway_protocol::report::Failure;

use super::{Teller, driver_boot};
use crate::context::Context;

/// `name` is that of the order's secret. A repeat finds what an earlier attempt did: the driver asks the BMC first which password
/// it has.
pub(super) async fn run(context: &Context, name: &str, teller: &Teller) -> Result<(), Failure> {
    let order = &teller.work.order;
    let new = driver_boot::password(context, order, name)?;
    let bmc = driver_boot::connect(context, order)?;
    let changed = bmc.change_password(&new).await;
    driver_boot::close(bmc, changed).await
}
