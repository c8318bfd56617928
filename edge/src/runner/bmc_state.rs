//! How a machine's BMC was when a driver's step last asked it: what the steps read, and where the runner keeps it. It is told
//! beside the job: nothing here may delay or fail a step that did its work.

use chrono::{DateTime, Utc};
use slipway_protocol::{
    bmc::{BmcState, Power},
    report::Report,
};

use crate::bmc::{BmcInfo, PowerState};

/// What is told of a machine whose power was read, and its BMC's own words if it was asked for them.
#[must_use]
pub fn state(power: PowerState, info: Option<BmcInfo>, now: DateTime<Utc>) -> BmcState {
    let power = match power {
        PowerState::On => Power::On,
        PowerState::Off => Power::Off,
    };
    let told = |text: String| (!text.is_empty()).then_some(text);
    let mut state = BmcState::of_power(power, now);
    if let Some(info) = info {
        // 0 is how a driver says that the BMC does not tell.
        state.manufacturer = (info.manufacturer != 0).then_some(info.manufacturer);
        state.product = (info.product != 0).then_some(info.product);
        state.firmware = told(info.firmware);
        state.security = told(info.security);
    }
    state
}

/// Keeps in a report what was read last; answers whether that is news. Of two readings the later one holds: a step that was
/// stopped may still be heard.
pub fn keep(report: &mut Report, state: BmcState) -> bool {
    if report
        .bmc
        .as_ref()
        .is_some_and(|held| held.seen_at >= state.seen_at)
    {
        return false;
    }
    report.bmc = Some(state);
    true
}
