//! `up`: makes a lab. Whatever fails on the way, nothing is left behind.

use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ring::rand::{SecureRandom, SystemRandom};

use crate::error::LabError;
use crate::state::{
    BMC_USER, Bus, CENTRE_ADDRESS, Disk, Lab, LabId, Machine, MachineFirmware, Nic, SITE_ADDRESS,
    SITE_WAN_ADDRESS, write_json,
};
use crate::{netns, process, qemu};

/// How long the BMC process may take to answer.
const BMC_LIMIT: Duration = Duration::from_secs(20);
/// Machines a lab can have: their BMCs are 192.0.2.101 to .200.
const MACHINES: u8 = 100;

/// What a lab shall be like.
#[derive(Debug, Clone)]
pub struct Spec {
    /// How many machines, 1 to 100.
    pub machines: u8,
    /// Firmware, given to the machines in turn; empty = BIOS.
    pub firmware: Vec<MachineFirmware>,
    /// Disks of each machine, 1 to 8.
    pub disks: u8,
    /// Size of each disk in GiB.
    pub disk_gb: u32,
    /// Memory of each machine in MiB.
    pub memory_mb: u32,
    /// Network card.
    pub nic: Nic,
    /// How disks are attached.
    pub bus: Bus,
    /// The program `slipway-lab`, which serves the BMCs; `None` = the running program.
    pub program: Option<PathBuf>,
}

impl Default for Spec {
    /// One BIOS machine, 512 MiB, one virtio disk of 4 GiB.
    fn default() -> Self {
        Self {
            machines: 1,
            firmware: vec![MachineFirmware::Bios],
            disks: 1,
            disk_gb: 4,
            memory_mb: 512,
            nic: Nic::Virtio,
            bus: Bus::Virtio,
            program: None,
        }
    }
}

/// Makes the lab: namespaces, blank disks, BMCs. All machines are off. Needs root. Disks kept by an earlier
/// `down --keep-disks` are used again when their size fits.
///
/// # Errors
/// [`LabError::AlreadyUp`], [`LabError::Refused`], and what the system says.
pub fn up(id: &LabId, spec: &Spec) -> Result<Lab, LabError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::Refused(
            "network namespaces need root: run as root".to_owned(),
        ));
    }
    if !(1..=MACHINES).contains(&spec.machines) || !(1..=8).contains(&spec.disks) {
        return Err(LabError::Refused(
            "a lab has 1 to 100 machines with 1 to 8 disks each".to_owned(),
        ));
    }
    if id.file().exists() || netns::exists(&id.site()) || netns::exists(&id.centre()) {
        return Err(LabError::AlreadyUp(id.name.clone()));
    }
    make(id, spec).inspect_err(|_| {
        // the first error is the one to tell
        super::down::down(id, super::down::Disks::Remove).ok();
    })
}

fn make(id: &LabId, spec: &Spec) -> Result<Lab, LabError> {
    let machines: Vec<Machine> = (1..=spec.machines).map(|index| define(id, spec, index)).collect();
    for machine in &machines {
        prepare(machine)?;
    }
    netns::create(id, &machines)?;
    let lab = Lab {
        name: id.name.clone(),
        site_namespace: id.site(),
        centre_namespace: id.centre(),
        site_address: SITE_ADDRESS,
        site_wan_address: SITE_WAN_ADDRESS,
        centre_address: CENTRE_ADDRESS,
        bmc_user: BMC_USER.to_owned(),
        bmc_password: password()?,
        machines,
    };
    write_json(&id.file(), &lab)?;
    start_bmcs(id, spec)?;
    Ok(lab)
}

/// The definition of machine number `index`; the same for the same arguments.
fn define(id: &LabId, spec: &Spec, index: u8) -> Machine {
    let name = format!("m{index}");
    let folder = id.folder().join(&name);
    let turn = usize::from(index - 1) % spec.firmware.len().max(1);
    let disks = (1..=spec.disks).map(|disk| Disk {
        serial: format!("DISK-{name}-{disk}"),
        path: folder.join(format!("disk{disk}.raw")),
        size_bytes: u64::from(spec.disk_gb) << 30,
    });
    Machine {
        serial: format!("SN-{name}"),
        uuid: format!("00000000-0000-4000-8000-0000000000{index:02x}"),
        firmware: spec.firmware.get(turn).copied().unwrap_or(MachineFirmware::Bios),
        nic: spec.nic,
        mac: format!("52:54:00:00:00:{index:02x}"),
        tap: format!("tap{index}"),
        bmc_address: Ipv4Addr::new(192, 0, 2, 100 + index),
        memory_mb: spec.memory_mb,
        bus: spec.bus,
        disks: disks.collect(),
        console_log: folder.join("console.log"),
        console_socket: folder.join("console.sock"),
        folder,
        name,
    }
}

/// Makes the machine's folder, its blank disks and its UEFI variables.
fn prepare(machine: &Machine) -> Result<(), LabError> {
    fs::create_dir_all(&machine.folder).map_err(LabError::file("create", &machine.folder))?;
    for disk in &machine.disks {
        if fs::metadata(&disk.path).is_ok_and(|kept| kept.len() == disk.size_bytes) {
            continue;
        }
        let file = File::create(&disk.path).map_err(LabError::file("create", &disk.path))?;
        file.set_len(disk.size_bytes)
            .map_err(LabError::file("size", &disk.path))?;
    }
    if machine.firmware == MachineFirmware::Uefi {
        fs::copy(qemu::OVMF_VARIABLES, machine.variables()).map_err(LabError::file(
            "copy (install ovmf: deploy/install-deps.sh)",
            qemu::OVMF_VARIABLES,
        ))?;
    }
    // so that a follower can open it before the first power-on
    File::create(&machine.console_log).map_err(LabError::file("create", &machine.console_log))?;
    let lab = machine.folder.parent().unwrap_or(&machine.folder);
    fs::set_permissions(lab, fs::Permissions::from_mode(0o700)).map_err(LabError::file("protect", lab))
}

fn password() -> Result<String, LabError> {
    let mut bytes = [0; 8];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| LabError::Refused("no random numbers: check /dev/urandom".to_owned()))?;
    Ok(hex::encode(bytes))
}

fn start_bmcs(id: &LabId, spec: &Spec) -> Result<(), LabError> {
    let program = match &spec.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(LabError::file("find", "the running program"))?,
    };
    let log = OpenOptions::new().create(true).append(true).open(id.bmc_log());
    let log = log.map_err(LabError::file("open", id.bmc_log()))?;
    let errors = log.try_clone().map_err(LabError::file("open", id.bmc_log()))?;
    let child = Command::new(&program)
        .arg("--dir")
        .arg(&id.dir)
        .args(["--name", &id.name, "bmc-serve"])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .spawn()
        .map_err(|source| LabError::Missing {
            command: program.display().to_string(),
            source,
        })?;
    process::remember(&id.bmc_pid(), child.id())?;
    wait_for_bmcs(id, child)
}

fn wait_for_bmcs(id: &LabId, mut child: std::process::Child) -> Result<(), LabError> {
    let end = Instant::now() + BMC_LIMIT;
    while UnixStream::connect(id.control()).is_err() {
        if Instant::now() > end || !matches!(child.try_wait(), Ok(None)) {
            return Err(LabError::Process {
                process: "the BMC process".to_owned(),
                log: id.bmc_log(),
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // reaped when it ends, for callers that live longer than the lab
    std::thread::spawn(move || child.wait());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_deterministic_and_take_firmware_in_turn() {
        let id = LabId::new("/nowhere", "lab").expect("name");
        let firmware = vec![MachineFirmware::Bios, MachineFirmware::Uefi];
        let spec = Spec {
            machines: 3,
            firmware,
            disks: 2,
            ..Spec::default()
        };
        let second = define(&id, &spec, 2);
        assert_eq!(second, define(&id, &spec, 2));
        assert_eq!(
            (second.mac.as_str(), second.firmware),
            ("52:54:00:00:00:02", MachineFirmware::Uefi)
        );
        assert_eq!(second.bmc_address, Ipv4Addr::new(192, 0, 2, 102));
        assert_eq!(second.disks[1].serial, "DISK-m2-2");
        assert_eq!(define(&id, &spec, 3).firmware, MachineFirmware::Bios);
    }
}
