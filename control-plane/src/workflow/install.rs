//! The order that installs a machine (design section 4).

use std::{collections::BTreeMap, net::Ipv4Addr};

use chrono::{DateTime, Utc};
use slipway_protocol::{
    ids::{Digest, ImageId, JobId, MachineId, StepId},
    inventory::DiskRule,
    order::{Action, BootDevice, GuestConfig, Hardware, Order, Step},
    seal::Sealed,
};

/// Name of the secret that is the BMC's password.
pub const BMC_PASSWORD: &str = "bmc-password";
/// Name of the secret that the guest proves itself with.
pub const PHONE_HOME: &str = "phone-home";
/// Name of the secret that is the tenant's user-data.
pub const USER_DATA: &str = "user-data";

/// What an install is made of.
#[derive(Debug, Clone)]
pub struct Install {
    /// The machine.
    pub machine: MachineId,
    /// The job.
    pub job: JobId,
    /// When it fails at the latest.
    pub deadline: DateTime<Utc>,
    /// How the machine is reached.
    pub hardware: Hardware,
    /// The address it is given.
    pub address: Ipv4Addr,
    /// The image.
    pub image: ImageId,
    /// Which disk.
    pub disk: DiskRule,
    /// Whether all other disks are made to read as zeros.
    pub wipe_data_disks: bool,
    /// Instance id for cloud-init.
    pub instance_id: String,
    /// Host name.
    pub hostname: String,
    /// The user to make.
    pub user: String,
    /// Its public keys.
    pub ssh_keys: Vec<String>,
    /// SHA-256 of the nonce in [`PHONE_HOME`].
    pub nonce_sha256: Digest,
    /// The secrets, sealed to the site.
    pub secrets: BTreeMap<String, Sealed>,
}

/// The data disks are wiped first: what fails then leaves the system as it was.
fn wipe_before_write(steps: &mut Vec<Step>) {
    let wipe = step(
        "wipe-data-disks",
        Action::AgentWipeDisks,
        &["choose-disk"],
        Limits(600, 1),
    );
    if let Some(at) = steps.iter().position(|s| s.id.as_str() == "write-image") {
        steps[at].needs.push(wipe.id.clone());
        steps.insert(at, wipe);
    }
}

/// Time without progress after which an attempt has failed, in seconds, and how often it is tried again.
pub(super) struct Limits(pub(super) u32, pub(super) u32);

/// Compiles the order.
#[must_use]
pub fn compile(install: Install) -> Order {
    let user_data = install
        .secrets
        .contains_key(USER_DATA)
        .then(|| USER_DATA.to_owned());
    let guest = GuestConfig {
        instance_id: install.instance_id,
        hostname: install.hostname.clone(),
        user: install.user,
        ssh_keys: install.ssh_keys,
        user_data,
        phone_home: PHONE_HOME.to_owned(),
    };
    let image = install.image;
    let bind = Action::DhcpBind {
        address: install.address,
        hostname: Some(install.hostname),
    };
    let mut steps = steps(bind, image, install.disk, guest, install.nonce_sha256);
    if install.wipe_data_disks {
        wipe_before_write(&mut steps);
    }
    Order {
        machine: install.machine,
        job: install.job,
        deadline: install.deadline,
        retry: 0,
        settled: None,
        hardware: install.hardware,
        secrets: install.secrets,
        steps,
    }
}

/// The steps, in their order; `needs` lets the site fetch the image while it prepares the boot.
fn steps(
    bind: Action,
    image: ImageId,
    disk: DiskRule,
    guest: GuestConfig,
    nonce_sha256: Digest,
) -> Vec<Step> {
    vec![
        step("ensure-image", Action::ImageEnsure { image }, &[], Limits(300, 5)),
        step("bind-address", bind, &[], Limits(60, 1)),
        step(
            "serve-liveos",
            Action::BootLiveos,
            &["bind-address"],
            Limits(60, 1),
        ),
        step(
            "boot-network",
            Action::DriverBoot {
                device: BootDevice::Pxe,
            },
            &["ensure-image", "serve-liveos"],
            Limits(120, 3),
        ),
        // The first word of the agent: the time limit covers firmware, network boot and LiveOS.
        step(
            "inventory",
            Action::AgentInventory,
            &["boot-network"],
            Limits(600, 3),
        ),
        step(
            "choose-disk",
            Action::AgentChooseDisk { rule: disk },
            &["inventory"],
            Limits(60, 1),
        ),
        step(
            "write-image",
            Action::AgentWriteImage { image },
            &["choose-disk"],
            Limits(180, 2),
        ),
        step(
            "configure",
            Action::AgentConfigure { guest },
            &["write-image"],
            Limits(60, 1),
        ),
        step("serve-disk", Action::BootLocal, &["configure"], Limits(60, 1)),
        step("reboot", Action::AgentReboot, &["serve-disk"], Limits(300, 1)),
        step(
            "verify-guest",
            Action::GuestVerify { nonce_sha256 },
            &["reboot"],
            Limits(900, 0),
        ),
    ]
}

pub(super) fn step(
    id: &str,
    action: Action,
    needs: &[&str],
    Limits(no_progress_timeout_s, retries): Limits,
) -> Step {
    Step {
        id: step_id(id),
        role: action.role(),
        needs: needs.iter().map(|need| step_id(need)).collect(),
        action,
        no_progress_timeout_s,
        retries,
    }
}

pub(super) fn step_id(id: &str) -> StepId {
    StepId::new(id).expect("step ids in workflows are names")
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_protocol::{
        inventory::FirmwareKind,
        seal::{self, OpeningKey, Secret},
    };
    use uuid::Uuid;

    fn install() -> Install {
        let (key, _) = OpeningKey::generate().unwrap();
        let sealed = seal::seal(key.sealing_key(), "x", &Secret::new("s")).unwrap();
        Install {
            machine: MachineId(Uuid::nil()),
            job: JobId(Uuid::nil()),
            deadline: DateTime::<Utc>::MAX_UTC,
            hardware: Hardware {
                macs: vec![],
                firmware: FirmwareKind::Bios,
                bmc: None,
            },
            address: Ipv4Addr::LOCALHOST,
            image: ImageId::of(b"i"),
            disk: DiskRule::default(),
            wipe_data_disks: false,
            instance_id: "i-1".into(),
            hostname: "web-1".into(),
            user: "debian".into(),
            ssh_keys: vec![],
            nonce_sha256: Digest::of(b"n"),
            secrets: BTreeMap::from([(PHONE_HOME.to_owned(), sealed)]),
        }
    }

    #[test]
    fn the_order_makes_sense_and_chooses_a_disk_before_it_writes() {
        let order = compile(install());
        assert_eq!(order.check(), Ok(()));
        let ids: Vec<&str> = order.steps.iter().map(|s| s.id.as_str()).collect();
        let at = |id: &str| ids.iter().position(|other| *other == id).unwrap();
        assert!(at("choose-disk") < at("write-image") && at("serve-disk") < at("reboot"));
        assert_eq!(ids.last(), Some(&"verify-guest"), "installed is never assumed");
    }

    #[test]
    fn data_disks_are_wiped_after_the_choice_and_before_the_image() {
        let order = compile(Install {
            wipe_data_disks: true,
            ..install()
        });
        assert_eq!(order.check(), Ok(()));
        let ids: Vec<&str> = order.steps.iter().map(|s| s.id.as_str()).collect();
        let wipe = ids.iter().position(|id| *id == "wipe-data-disks").unwrap();
        assert_eq!((ids[wipe - 1], ids[wipe + 1]), ("choose-disk", "write-image"));
        let write = &order.steps[wipe + 1];
        assert!(write.needs.iter().any(|need| need.as_str() == "wipe-data-disks"));
    }

    #[test]
    fn a_missing_secret_is_found_before_it_is_sent() {
        let order = compile(Install {
            secrets: BTreeMap::new(),
            ..install()
        });
        assert!(order.check().is_err());
    }
}
