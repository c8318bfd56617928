//! `agent_rescue`: an SSH server in the LiveOS for the holders of the order's keys. Touches no disk.

use slipway_protocol::{guest, report::Failure};
use tracing::info;

use super::{Machine, Outcome, lasting, passing};

pub(super) fn run(machine: &Machine, ssh_keys: &[String]) -> Result<Outcome, Failure> {
    if ssh_keys.is_empty() {
        return Err(lasting("no_ssh_key", "the order names no key to let in"));
    }
    // A line break in a key would add a line, which may carry options.
    if !ssh_keys.iter().all(|key| guest::is_one_line(key)) {
        return Err(lasting(
            "bad_ssh_key",
            "a key has characters that no key may have",
        ));
    }
    let told = machine.env.let_in(ssh_keys);
    let fingerprint =
        told.map_err(|e| passing("no_ssh_server", format!("cannot let anybody in by SSH: {e}")))?;
    info!(
        host_key = fingerprint,
        "the holders of the order's keys may log in as root"
    );
    Ok(Outcome::Done)
}
