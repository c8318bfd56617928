//! The QEMU command line of a machine. Pure. Always software emulation (TCG): `/dev/kvm` may open and still not
//! be able to boot Linux.

use slipway_edge::bmc::BootDevice;

use crate::state::{Bus, Machine, MachineFirmware, Nic};

/// The program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// UEFI code, read only.
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// UEFI variables to copy for each machine.
pub const OVMF_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// `bootindex` of network card and first disk.
pub fn boot_indexes(first: BootDevice) -> (i32, i32) {
    match first {
        BootDevice::Pxe => (0, 1),
        BootDevice::Disk => (1, 0),
    }
}

/// What is in the command line of this machine's QEMU and in no other.
pub fn mark(machine: &Machine) -> String {
    format!(
        "{PROGRAM} -name {},debug-threads=on -pidfile {}",
        machine.name,
        machine.pid().display()
    )
}

/// The arguments to boot `machine` from `first`.
pub fn arguments(machine: &Machine, first: BootDevice) -> Vec<String> {
    let mut line = base(machine);
    line.extend(console(machine));
    line.extend(network(machine, boot_indexes(first).0));
    for (number, disk) in machine.disks.iter().enumerate() {
        let model = match machine.bus {
            Bus::Virtio => "virtio-blk-pci",
            Bus::Nvme => "nvme",
            Bus::Sata => "ide-hd",
        };
        let boot = if number == 0 {
            format!(",bootindex={}", boot_indexes(first).1)
        } else {
            String::new()
        };
        let file = format!(
            "if=none,id=d{number},file={},format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap",
            disk.path.display()
        );
        let device = format!(
            "{model},id=disk{number},drive=d{number},serial={}{boot}",
            disk.serial
        );
        line.extend(["-drive".to_owned(), file, "-device".to_owned(), device]);
    }
    line.extend(firmware(machine));
    line
}

fn base(machine: &Machine) -> Vec<String> {
    let Machine {
        name,
        uuid,
        serial,
        memory_mb,
        ..
    } = machine;
    let pid = machine.pid();
    let text = [
        "-name",
        &format!("{name},debug-threads=on"),
        "-pidfile",
        &pid.display().to_string(),
        "-machine",
        "q35",
        "-accel",
        "tcg,tb-size=128",
        "-cpu",
        "max",
        "-smp",
        "1",
        "-m",
        &memory_mb.to_string(),
        "-nodefaults",
        "-display",
        "none",
        "-uuid",
        uuid,
        "-smbios",
        &format!("type=1,manufacturer=Slipway,product=lab-server,serial={serial},uuid={uuid}"),
        "-smbios",
        &format!("type=3,serial={serial}"),
        "-device",
        "virtio-rng-pci",
    ];
    text.map(str::to_owned).to_vec()
}

fn console(machine: &Machine) -> Vec<String> {
    let serial = format!(
        "socket,id=ser0,path={},server=on,wait=off,logfile={},logappend=on",
        machine.console_socket.display(),
        machine.console_log.display()
    );
    let monitor = format!("unix:{},server=on,wait=off", machine.monitor().display());
    vec![
        "-chardev".into(),
        serial,
        "-serial".into(),
        "chardev:ser0".into(),
        "-qmp".into(),
        monitor,
    ]
}

fn network(machine: &Machine, index: i32) -> Vec<String> {
    let model = match machine.nic {
        Nic::Virtio => "virtio-net-pci",
        Nic::E1000e => "e1000e",
    };
    // OVMF has its own virtio driver and PXE client: without the card's ROM its real TFTP path is used.
    // It has no Intel driver: there the ROM is needed.
    let rom = match (machine.firmware, machine.nic) {
        (MachineFirmware::Uefi, Nic::Virtio) => ",romfile=",
        _ => "",
    };
    let netdev = format!("tap,id=n0,ifname={},script=no,downscript=no", machine.tap);
    let device = format!(
        "{model},id=net0,netdev=n0,mac={},bootindex={index}{rom}",
        machine.mac
    );
    vec!["-netdev".into(), netdev, "-device".into(), device]
}

fn firmware(machine: &Machine) -> Vec<String> {
    match machine.firmware {
        MachineFirmware::Bios => vec!["-boot".into(), "menu=off,strict=on".into()],
        MachineFirmware::Uefi => vec![
            "-drive".into(),
            format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"),
            "-drive".into(),
            format!(
                "if=pflash,unit=1,format=raw,file={}",
                machine.variables().display()
            ),
        ],
    }
}
