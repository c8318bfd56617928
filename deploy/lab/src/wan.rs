//! The WAN between site and centre: cut and healed as a silent black hole.
//!
//! Packets are dropped where they arrive (ingress of both ends), so no sender gets an error, no carrier is lost
//! and no route vanishes: what a failure far away looks like. Dropping on output would give `EPERM` to senders.

use crate::error::LabError;
use crate::netns::run;
use crate::state::LabId;

const TABLE: &str = "netdev slipway_wan";

fn ends(id: &LabId) -> [(String, &'static str); 2] {
    [(id.centre(), "wanc"), (id.site(), "wans")]
}

fn nft(namespace: &str, script: &str) -> Result<(), LabError> {
    run("ip", &["netns", "exec", namespace, "nft", "-f", "-"], script)
}

/// Drops everything in both directions. Cutting twice is no error.
///
/// # Errors
/// [`LabError::Command`] with what `nft` said.
pub fn cut(id: &LabId) -> Result<(), LabError> {
    for (namespace, device) in ends(id) {
        let script = format!(
            "add table {TABLE}\nadd chain {TABLE} cut {{ type filter hook ingress device {device} priority 0 ; }}\n\
             flush chain {TABLE} cut\nadd rule {TABLE} cut counter drop\n"
        );
        nft(&namespace, &script)?;
    }
    Ok(())
}

/// Lets everything through again. Healing twice is no error.
///
/// # Errors
/// [`LabError::Command`] with what `nft` said.
pub fn heal(id: &LabId) -> Result<(), LabError> {
    for (namespace, _) in ends(id) {
        nft(&namespace, &format!("add table {TABLE}\ndelete table {TABLE}\n"))?;
    }
    Ok(())
}
