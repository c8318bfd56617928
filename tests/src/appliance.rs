//! An edge box started from the ready image: a machine on the site's bridge, and the router that gives it its address and the
//! way to the centre. Nothing in here knows what is inside the image but its partitions.

use std::{
    fs::File,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use slipway_lab::{
    commands::exec::Place,
    qemu::{OVMF_CODE, OVMF_VARIABLES, PROGRAM},
    state::{MachineFirmware, SITE_WAN_ADDRESS},
};

use crate::world::World;

/// The address that the site's router keeps for the box.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The box's disk, in bytes: larger than the image, so that it has to grow.
pub const DISK_BYTES: u64 = 4 << 30;
const MAC: &str = "52:54:00:00:ed:01";
const TAP: &str = "tapedge";
/// Where the image's partitions begin, in bytes.
const BOOT_OFFSET: u64 = 1 << 20;
const ROOT_OFFSET: u64 = 65 << 20;

/// The site's router: one reserved address, and the way to the centre. Ends when it is dropped.
pub struct Router(Child);

impl Router {
    /// Starts it in the world's site.
    ///
    /// # Errors
    /// When a command of it fails.
    pub fn start(world: &World) -> anyhow::Result<Self> {
        let centre_route = format!("192.0.2.0/24 via {SITE_WAN_ADDRESS}");
        for (place, line) in [
            (Place::Site, "sysctl -qw net.ipv4.ip_forward=1".to_owned()),
            (Place::Site, format!("ip tuntap add dev {TAP} mode tap")),
            (
                Place::Site,
                format!("ip link set {TAP} addrgenmode none master br0 up"),
            ),
            (Place::Centre, format!("ip route add {centre_route}")),
        ] {
            let mut words = line.split_whitespace();
            let program = words.next().context("an empty line")?;
            run(world.command(place, program)?.args(words))?;
        }
        let folder = &world.folder;
        let lines = [
            "interface br0".to_owned(),
            // This range has room for the reserved one alone: machines get nothing from here.
            format!("start {ADDRESS}\nend {ADDRESS}\nstatic_lease {MAC} {ADDRESS}"),
            format!(
                "option subnet 255.255.255.0\noption router {}\noption lease 600",
                world.lab.site_address
            ),
            format!(
                "lease_file {}\npidfile {}\n",
                at(folder, "router.leases"),
                at(folder, "router.pid")
            ),
        ];
        let settings = folder.join("router.conf");
        std::fs::write(&settings, lines.join("\n"))?;
        let log = File::create(folder.join("router.log"))?;
        let mut command = world.command(Place::Site, "busybox")?;
        command.args(["udhcpd", "-f"]).arg(&settings);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// The box. Its power is cut when it is dropped.
pub struct Appliance {
    name: String,
    firmware: MachineFirmware,
    folder: PathBuf,
    running: Option<Child>,
}

impl Appliance {
    /// A box called `name` with a fresh copy of `image` on its disk; off.
    ///
    /// # Errors
    /// When the disk cannot be made.
    pub fn new(world: &World, name: &str, firmware: MachineFirmware, image: &Path) -> anyhow::Result<Self> {
        let appliance = Self {
            name: name.to_owned(),
            firmware,
            folder: world.folder.clone(),
            running: None,
        };
        let disk = appliance.disk();
        run(Command::new("cp").arg("--sparse=always").arg(image).arg(&disk))?;
        File::options().write(true).open(&disk)?.set_len(DISK_BYTES)?;
        std::fs::copy(OVMF_VARIABLES, appliance.file("variables"))?;
        Ok(appliance)
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}.{kind}", self.name))
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> PathBuf {
        self.file("raw")
    }

    /// What it wrote to its serial console since it was switched on.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.file("console")).unwrap_or_default()).into_owned()
    }

    /// Switches it on.
    ///
    /// # Errors
    /// When QEMU cannot be started.
    pub fn switch_on(&mut self, world: &World) -> anyhow::Result<()> {
        let console = self.file("console");
        File::create(&console)?;
        let log = File::create(self.file("log"))?;
        let mut command = world.command(Place::Site, PROGRAM)?;
        // Software emulation, as for all of the lab's machines.
        command.args([
            "-name",
            &self.name,
            "-machine",
            "q35",
            "-accel",
            "tcg,tb-size=256",
            "-cpu",
            "max",
        ]);
        command.args([
            "-smp",
            "2",
            "-m",
            "1024",
            "-nodefaults",
            "-display",
            "none",
            "-device",
            "virtio-rng-pci",
        ]);
        command.args([
            "-chardev",
            &format!("file,id=s,path={}", console.display()),
            "-serial",
            "chardev:s",
        ]);
        command.args([
            "-netdev",
            &format!("tap,id=n,ifname={TAP},script=no,downscript=no"),
        ]);
        command.args(["-device", &format!("virtio-net-pci,netdev=n,mac={MAC}")]);
        let disk = format!(
            "if=none,id=d,file={},format=raw,cache=unsafe,discard=unmap",
            self.disk().display()
        );
        command.args(["-drive", &disk, "-device", "virtio-blk-pci,drive=d,bootindex=0"]);
        if self.firmware == MachineFirmware::Uefi {
            command.args([
                "-drive",
                &format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}"),
            ]);
            let variables = self.file("variables");
            command.args([
                "-drive",
                &format!("if=pflash,unit=1,format=raw,file={}", variables.display()),
            ]);
        }
        self.running = Some(
            command
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()?,
        );
        Ok(())
    }

    /// Cuts its power.
    pub fn cut_power(&mut self) {
        self.running.take().as_mut().map(end);
    }

    /// Copies a file into the folder `slipway` of the disk's FAT partition, as a person would with the disk in their computer.
    ///
    /// # Errors
    /// When it is no such disk.
    pub fn put(&self, file: &Path) -> anyhow::Result<()> {
        let partition = format!("{}@@{BOOT_OFFSET}", self.disk().display());
        run(Command::new("mcopy")
            .env("MTOOLS_SKIP_CHECK", "1")
            .args(["-o", "-i", &partition])
            .arg(file)
            .arg("::/slipway/"))
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- console of {}\n{}", self.name, self.console());
        }
        self.cut_power();
    }
}

/// The files below `folders` of the root partition of a disk made from the image, copied out into `to`. A disk whose power was
/// cut is mended by its journal on the way, in a copy.
///
/// # Errors
/// When the disk has no such partition.
pub fn files(disk: &Path, folders: &[&str], to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    // Neither of the two programs below replays a journal within a larger file.
    let copy = to.join("partition");
    let partition = [format!("if={}", disk.display()), format!("of={}", copy.display())];
    let blocks = [
        format!("skip={}", ROOT_OFFSET >> 20),
        "bs=1M".into(),
        "conv=sparse".into(),
    ];
    run(Command::new("dd").args(partition).args(blocks))?;
    let mended = Command::new("e2fsck").arg("-fy").arg(&copy).output()?;
    let text = String::from_utf8_lossy(&mended.stdout);
    // 1: it had to be mended, as after every power cut.
    ensure!(
        mended.status.code().is_some_and(|code| code <= 1),
        "e2fsck: {text}"
    );
    for folder in folders {
        let copied = format!("rdump /{folder} {}", to.display());
        run(Command::new("debugfs").args(["-R", &copied]).arg(&copy))?;
    }
    Ok(std::fs::remove_file(&copy)?)
}

/// Files below `folder` that hold a private key in PEM, as such or within JSON.
///
/// # Errors
/// When they cannot be read.
pub fn private_keys(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    const KEY: &str = r"PRIVATE KEY-----(\\n|\r?\n)[A-Za-z0-9+/]{40}";
    let output = Command::new("grep").args(["-rlzP", KEY]).arg(folder).output()?;
    ensure!(
        output.status.code() < Some(2),
        "grep: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(PathBuf::from).collect())
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}");
    Ok(())
}

fn end(child: &mut Child) {
    // It may be gone already; either way it is waited for.
    let _ = child.kill();
    let _ = child.wait();
}
