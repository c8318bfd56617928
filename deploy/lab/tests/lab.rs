//! A whole lab with a real QEMU machine. Needs root and the packages of `deploy/install-deps.sh`; it says so and
//! fails where they are missing. Names are its own, so it may run beside other labs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use slipway_edge::bmc::{BootDevice, PowerAction, PowerState};
use slipway_lab::commands::bmc_serve::FaultOrder;
use slipway_lab::commands::down::{Disks, down};
use slipway_lab::commands::exec::Place;
use slipway_lab::commands::expose::expose;
use slipway_lab::commands::up::{Spec, up};
use slipway_lab::commands::{disk_hash::disk_hash, fault::fault, power, status::status};
use slipway_lab::state::{CENTRE_ADDRESS, MachineFirmware};
use slipway_lab::{LabError, LabId, netns, wan};

/// A lab that is taken down whatever happens.
struct World {
    id: LabId,
    folder: tempfile::TempDir,
}

impl World {
    fn new(name: &str, spec: Spec) -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let id = LabId::new(folder.path(), &format!("{name}-{}", std::process::id())).expect("name");
        let world = Self { id, folder };
        let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_slipway-lab")));
        up(&world.id, &Spec { program, ..spec }).expect("lab up (root, deploy/install-deps.sh)");
        world
    }

    fn power(&self, machine: usize) -> PowerState {
        status(&self.id).expect("status").machines[machine].power
    }
}

impl Drop for World {
    fn drop(&mut self) {
        down(&self.id, Disks::Remove).ok();
    }
}

#[test]
fn machines_are_switched_by_their_bmcs_and_nothing_is_left() {
    let firmware = vec![MachineFirmware::Bios, MachineFirmware::Uefi];
    let world = World::new(
        "switch",
        Spec {
            machines: 2,
            firmware,
            disk_gb: 1,
            ..Spec::default()
        },
    );
    let id = &world.id;
    assert!(matches!(up(id, &Spec::default()), Err(LabError::AlreadyUp(_))));
    let off = power::power(id, "m1", PowerAction::Reset).expect_err("it is off");
    assert!(off.to_string().contains("the machine is off"), "{off}");
    fault(
        id,
        &FaultOrder {
            machine: "m1".into(),
            drop: Some(1),
            busy: Some(1),
            event: None,
            clear_log: false,
        },
    )
    .expect("fault");
    for machine in ["m1", "m2"] {
        power::boot(id, machine, BootDevice::Pxe).expect("boot device");
        power::power(id, machine, PowerAction::On).expect("on");
    }
    let now = status(id).expect("status");
    assert!(
        now.machines.iter().all(|machine| machine.power == PowerState::On),
        "{now:?}"
    );
    assert!(
        now.machines.iter().all(|machine| machine.next_boot.is_none()),
        "used up: {now:?}"
    );
    power::boot(id, "m1", BootDevice::Pxe).expect("boot device");
    power::power(id, "m1", PowerAction::Reset).expect("reset");
    power::power(id, "m2", PowerAction::Cycle).expect("cycle");
    power::power(id, "m1", PowerAction::Off).expect("off");
    assert_eq!(
        (world.power(0), world.power(1)),
        (PowerState::Off, PowerState::On)
    );
    let zeros = "49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14"; // 1 GiB of them
    assert_eq!(disk_hash(id, "m1", 1).expect("hash"), zeros);
    let (site, centre) = (id.site(), id.centre());
    assert_eq!(down(id, Disks::Remove).expect("down"), Vec::<u32>::new());
    assert!(!netns::exists(&site) && !netns::exists(&centre));
    assert_eq!(std::fs::read_dir(world.folder.path()).expect("folder").count(), 0);
}

#[test]
fn disks_can_be_kept() {
    let world = World::new(
        "keep",
        Spec {
            disk_gb: 1,
            ..Spec::default()
        },
    );
    let lab = status(&world.id).expect("status").lab;
    std::fs::OpenOptions::new()
        .write(true)
        .open(&lab.machines[0].disks[0].path)
        .and_then(|mut disk| disk.write_all(b"kept"))
        .expect("write");
    let hash = disk_hash(&world.id, "m1", 1).expect("hash");
    down(&world.id, Disks::Keep).expect("down");
    let program = Some(PathBuf::from(env!("CARGO_BIN_EXE_slipway-lab")));
    up(
        &world.id,
        &Spec {
            program,
            disk_gb: 1,
            ..Spec::default()
        },
    )
    .expect("up again");
    assert_eq!(disk_hash(&world.id, "m1", 1).expect("hash"), hash);
}

#[test]
fn a_cut_wan_is_a_silent_black_hole_and_heals() {
    let world = World::new(
        "wan",
        Spec {
            disk_gb: 1,
            ..Spec::default()
        },
    );
    let (site, centre) = (world.id.site(), world.id.centre());
    let address = SocketAddr::new(CENTRE_ADDRESS.into(), 9000);
    let listener = netns::within(&centre, || TcpListener::bind(address))
        .expect("enter")
        .expect("bind");
    let connect =
        |limit| netns::within(&site, || TcpStream::connect_timeout(&address, limit)).expect("enter");
    let mut client = connect(Duration::from_secs(5)).expect("before the cut");
    let (mut server, _) = listener.accept().expect("accept");
    wan::cut(&world.id).expect("cut");
    wan::cut(&world.id).expect("cutting twice");
    let started = Instant::now();
    let error = connect(Duration::from_millis(400)).expect_err("cut");
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::TimedOut,
        "silence, not an error: {error}"
    );
    assert!(started.elapsed() >= Duration::from_millis(400));
    client
        .write_all(b"sent during the cut")
        .expect("no error to the sender");
    server.write_all(b"and back").expect("no error to the sender");
    wan::heal(&world.id).expect("heal");
    wan::heal(&world.id).expect("healing twice");
    let mut text = [0; 19];
    server
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("timeout");
    server.read_exact(&mut text).expect("the old connection lives on");
    assert_eq!(&text, b"sent during the cut");
}

#[test]
fn a_port_inside_is_reachable_from_outside_when_exposed() {
    let world = World::new(
        "expose",
        Spec {
            disk_gb: 1,
            ..Spec::default()
        },
    );
    let address = SocketAddr::new(CENTRE_ADDRESS.into(), 9000);
    let inside = netns::within(&world.id.centre(), || TcpListener::bind(address))
        .expect("enter")
        .expect("bind");
    let outside = TcpListener::bind(("127.0.0.1", 0)).expect("loopback");
    let port = outside.local_addr().expect("bound");
    let id = world.id.clone();
    // lives until the test's process ends, as it does in the program
    std::thread::spawn(move || expose(&id, &outside, Place::Centre, address));
    let mut client = TcpStream::connect(port).expect("connect");
    client.write_all(b"ping").expect("write");
    let (mut server, _) = inside.accept().expect("accept");
    let mut text = [0; 4];
    server.read_exact(&mut text).expect("read");
    server.write_all(&text).expect("echo");
    drop(server);
    let mut answer = String::new();
    client
        .read_to_string(&mut answer)
        .expect("until the end of the stream");
    assert_eq!(answer, "ping");
}
