//! The orders that take an installed machine through the LiveOS and leave its system in place: a way in for its owner,
//! and a new password.

use std::net::Ipv4Addr;

use slipway_protocol::{
    inventory::DiskRule,
    order::{Action, BootDevice, Order, Step},
};

use super::{
    install::{Limits, step},
    power::Installed,
};

/// Name of the secret that is a user's password, as `/etc/shadow` has it.
pub const PASSWORD: &str = "password";

/// Boots the LiveOS and lets the holders of the keys in. It stays there until another order says otherwise.
#[must_use]
pub fn rescue(installed: Installed, ssh_keys: Vec<String>) -> Order {
    let mut steps = boot_liveos(installed.address, installed.hostname.clone());
    let let_in = Action::AgentRescue { ssh_keys };
    steps.push(step("let-in", let_in, &["inventory"], Limits(60, 2)));
    order(installed, steps)
}

/// Boots the LiveOS, changes the password, and boots the disk again. The disk is chosen as it was for the install.
#[must_use]
pub fn reset_password(installed: Installed, user: String, disk: DiskRule) -> Order {
    let mut steps = boot_liveos(installed.address, installed.hostname.clone());
    let set = Action::AgentSetPassword {
        user,
        password: PASSWORD.to_owned(),
    };
    let choose = Action::AgentChooseDisk { rule: disk };
    steps.extend([
        step("choose-disk", choose, &["inventory"], Limits(60, 1)),
        step("set-password", set, &["choose-disk"], Limits(60, 1)),
        step("serve-disk", Action::BootLocal, &["set-password"], Limits(60, 1)),
        step("reboot", Action::AgentReboot, &["serve-disk"], Limits(300, 1)),
    ]);
    order(installed, steps)
}

fn boot_liveos(address: Ipv4Addr, hostname: String) -> Vec<Step> {
    let bind = Action::DhcpBind {
        address,
        hostname: Some(hostname),
    };
    let boot = Action::DriverBoot {
        device: BootDevice::Pxe,
    };
    vec![
        step("bind-address", bind, &[], Limits(60, 1)),
        step(
            "serve-liveos",
            Action::BootLiveos,
            &["bind-address"],
            Limits(60, 1),
        ),
        step("boot-network", boot, &["serve-liveos"], Limits(120, 3)),
        step(
            "inventory",
            Action::AgentInventory,
            &["boot-network"],
            Limits(600, 3),
        ),
    ]
}

fn order(installed: Installed, steps: Vec<Step>) -> Order {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{DateTime, Utc};
    use slipway_protocol::{
        ids::{JobId, MachineId},
        inventory::FirmwareKind,
        order::Hardware,
        seal::{self, OpeningKey, Secret},
    };
    use uuid::Uuid;

    use super::*;

    fn installed(secrets: &[&str]) -> Installed {
        let (key, _) = OpeningKey::generate().unwrap();
        let sealed = seal::seal(key.sealing_key(), "x", &Secret::new("s")).unwrap();
        Installed {
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
            secrets: secrets
                .iter()
                .map(|name| ((*name).to_owned(), sealed.clone()))
                .collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn neither_order_writes_an_image_and_only_the_password_boots_the_disk_again() {
        let rescue = rescue(installed(&[]), vec!["k".into()]);
        let password = reset_password(installed(&[PASSWORD]), "ops".into(), DiskRule::default());
        for order in [&rescue, &password] {
            assert_eq!(order.check(), Ok(()));
            assert!(
                !order
                    .steps
                    .iter()
                    .any(|s| matches!(s.action, Action::AgentWriteImage { .. }))
            );
        }
        let boots_disk = |order: &Order| order.steps.iter().any(|s| s.action == Action::BootLocal);
        assert!(!boots_disk(&rescue) && boots_disk(&password));
        let bare = reset_password(installed(&[]), "ops".into(), DiskRule::default());
        assert!(
            bare.check().is_err(),
            "a password that is not there is found before it is sent"
        );
    }
}
