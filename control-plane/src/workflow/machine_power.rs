//! Switching a machine that holds no instance, and reading how a machine's BMC is: which is asked for, whether it may be, and
//! the work of its order. Pure.

use serde::{Deserialize, Serialize};
use slipway_protocol::order::{Action, Order};
use utoipa::ToSchema;

use super::machine_job::{self, Frame};

/// What is asked of a machine's BMC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = PowerAsk)]
pub enum Ask {
    /// To switch the machine on.
    On,
    /// To switch it off; its system is given the grace to shut down.
    Off,
    /// To switch it off, likewise, and on again.
    Restart,
    /// To say how it is; nothing is changed.
    Read,
}

impl Ask {
    /// Whether the machine's power changes: what runs on it is lost, so that is the affair of the instance that holds it.
    #[must_use]
    pub fn switches(self) -> bool {
        self != Self::Read
    }

    /// Its word, as callers write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Restart => "restart",
            Self::Read => "read",
        }
    }

    /// What an instance's owner does instead.
    #[must_use]
    pub fn of_instance(self) -> &'static str {
        match self {
            Self::On => "start",
            Self::Off => "stop",
            Self::Restart => "restart",
            Self::Read => "show",
        }
    }
}

/// Compiles the order; a system is given `grace_s` seconds to shut down.
#[must_use]
pub fn compile(frame: Frame, ask: Ask, grace_s: u32) -> Order {
    let off = ("shut-down", Action::DriverShutdown { grace_s });
    let on = ("power-on", Action::DriverPower { on: true });
    let work = match ask {
        Ask::On => vec![on],
        Ask::Off => vec![off],
        Ask::Restart => vec![off, on],
        Ask::Read => vec![("read-bmc", Action::DriverRead)],
    };
    machine_job::compile(frame, work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::{DateTime, Utc};
    use slipway_protocol::{
        ids::{JobId, MachineId},
        inventory::FirmwareKind,
        order::Hardware,
    };
    use std::{collections::BTreeMap, net::Ipv4Addr};
    use uuid::Uuid;

    fn order(ask: Ask, keeps: Option<(Ipv4Addr, String)>) -> Order {
        let frame = Frame {
            machine: MachineId(Uuid::nil()),
            job: JobId(Uuid::nil()),
            deadline: DateTime::<Utc>::MAX_UTC,
            hardware: Hardware {
                macs: vec![],
                firmware: FirmwareKind::Bios,
                bmc: None,
            },
            keeps,
            secrets: BTreeMap::new(),
        };
        compile(frame, ask, 30)
    }

    fn names(order: &Order) -> Vec<String> {
        order.steps.iter().map(|s| s.id.to_string()).collect()
    }

    #[test]
    fn each_switch_does_its_work_in_turn_and_nothing_else() {
        for (ask, work) in [
            (Ask::On, vec!["power-on"]),
            (Ask::Off, vec!["shut-down"]),
            (Ask::Restart, vec!["shut-down", "power-on"]),
            (Ask::Read, vec!["read-bmc"]),
        ] {
            let order = order(ask, None);
            assert_eq!(order.check(), Ok(()));
            assert_eq!(names(&order), work);
            assert_eq!(order.steps[0].needs, [], "{ask:?}");
            assert_eq!(
                serde_json::to_value(ask).unwrap(),
                ask.word(),
                "as callers write it"
            );
        }
        let restart = order(Ask::Restart, None);
        assert_eq!(restart.steps[1].needs, [restart.steps[0].id.clone()]);
    }

    #[test]
    fn a_read_keeps_what_the_instance_needs_and_so_does_one_that_was_called_off() {
        let held = order(Ask::Read, Some((Ipv4Addr::LOCALHOST, "web-1".to_owned())));
        assert_eq!(held.check(), Ok(()));
        assert_eq!(names(&held), ["bind-address", "serve-disk", "read-bmc"]);
        let reads = |o: &Order| o.steps.iter().any(|s| s.action == Action::DriverRead);
        assert!(reads(&held) && !Ask::Read.switches());
        let left = machine_job::called_off(held);
        assert_eq!(names(&left), ["bind-address", "serve-disk"]);
    }
}
