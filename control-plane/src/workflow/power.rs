//! The orders that switch an installed machine on and off. Each gives the machine its address again and has it boot its
//! disk: a machine does what its newest order says, and what that leaves out is no longer so.

use std::{collections::BTreeMap, net::Ipv4Addr};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{JobId, MachineId},
    order::{Action, Hardware, Order, Step},
    seal::Sealed,
};

use super::install::step_id;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// On.
    Start,
    /// Off, by its own system if that obeys within the grace.
    Stop {
        /// In seconds; 0 cuts the power at once.
        grace_s: u32,
    },
    /// Off, then on.
    Restart {
        /// In seconds; 0 cuts the power at once.
        grace_s: u32,
    },
}

/// A machine with a system on its disk.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The machine.
    pub machine: MachineId,
    /// The job.
    pub job: JobId,
    /// When it fails at the latest.
    pub deadline: DateTime<Utc>,
    /// How it is reached.
    pub hardware: Hardware,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its name.
    pub hostname: String,
    /// The secrets, sealed to the site.
    pub secrets: BTreeMap<String, Sealed>,
}

/// Compiles the order.
#[must_use]
pub fn compile(installed: Installed, switch: Switch) -> Order {
    let bind = Action::DhcpBind {
        address: installed.address,
        hostname: Some(installed.hostname),
    };
    let mut steps = vec![
        step("bind-address", bind, &[], 60),
        step("serve-disk", Action::BootLocal, &["bind-address"], 60),
    ];
    let off = |grace_s| {
        step(
            "shut-down",
            Action::DriverShutdown { grace_s },
            &["serve-disk"],
            120,
        )
    };
    let on = |after: &[&str]| step("power-on", Action::DriverPower { on: true }, after, 120);
    match switch {
        Switch::Start => steps.push(on(&["serve-disk"])),
        Switch::Stop { grace_s } => steps.push(off(grace_s)),
        Switch::Restart { grace_s } => {
            steps.push(off(grace_s));
            steps.push(on(&["shut-down"]));
        }
    }
    Order {
        machine: installed.machine,
        job: installed.job,
        deadline: installed.deadline,
        retry: 0,
        settled: None,
        hardware: installed.hardware,
        secrets: installed.secrets,
        steps,
    }
}

fn step(id: &str, action: Action, needs: &[&str], no_progress_timeout_s: u32) -> Step {
    Step {
        id: step_id(id),
        role: action.role(),
        needs: needs.iter().map(|need| step_id(need)).collect(),
        action,
        no_progress_timeout_s,
        retries: 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_protocol::inventory::FirmwareKind;
    use uuid::Uuid;

    #[test]
    fn every_switch_keeps_the_address_and_none_resets_by_chance() {
        let installed = Installed {
            machine: MachineId(Uuid::nil()),
            job: JobId(Uuid::nil()),
            deadline: DateTime::<Utc>::MAX_UTC,
            hardware: Hardware {
                macs: vec![],
                firmware: FirmwareKind::Bios,
                bmc: None,
            },
            address: Ipv4Addr::LOCALHOST,
            hostname: "web-1".into(),
            secrets: BTreeMap::new(),
        };
        for switch in [
            Switch::Start,
            Switch::Stop { grace_s: 30 },
            Switch::Restart { grace_s: 0 },
        ] {
            let order = compile(installed.clone(), switch);
            assert_eq!(order.check(), Ok(()));
            assert!(matches!(order.steps[0].action, Action::DhcpBind { .. }));
            assert!(
                !order
                    .steps
                    .iter()
                    .any(|s| matches!(s.action, Action::DriverBoot { .. }))
            );
        }
    }
}
