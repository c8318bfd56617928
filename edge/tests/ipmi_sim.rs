//! The IPMI client against OpenIPMI's `ipmi_sim`, a BMC written by others: real RMCP+ over loopback.
//! Needs the package `openipmi` (`deploy/install-deps.sh`).

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use slipway_edge::bmc::event_log::{Bounds, News};
use slipway_edge::bmc::ipmi::{Credentials, IpmiBmc, Timing};
use slipway_edge::bmc::{Bmc, BmcError, BootDevice, Firmware, PowerAction, PowerState};
use slipway_protocol::seal::Secret;

/// A running `ipmi_sim` whose chassis is a shell script and a folder of files.
struct Simulator {
    process: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

const CHASSIS: &str = r#"#!/bin/sh
cd "$(dirname "$0")"; op=$2; shift 2
case $op in
 get) while [ $# -gt 0 ]; do case $1 in
   power) echo power:$(cat power);;
   boot) echo boot:$(cat boot);;
  esac; shift; done;;
 set) while [ $# -gt 0 ]; do echo "$2" > "$1"; echo "$1=$2" >> log; shift 2; done;;
esac
"#;

impl Simulator {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("temporary folder");
        let free = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let address = free.local_addr().expect("bound");
        drop(free);
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("chassis"), CHASSIS).expect("write");
        std::fs::set_permissions(path("chassis"), std::fs::Permissions::from_mode(0o755)).expect("chmod");
        std::fs::write(path("power"), "0\n").expect("write");
        std::fs::write(path("boot"), "none\n").expect("write");
        let lan = format!(
            "name \"m\"\nset_working_mc 0x20\n startlan 1\n  addr 127.0.0.1 {}\n  priv_limit admin\n  \
             allowed_auths_admin none md2 md5 straight\n  guid 0123456789abcdef0123456789abcdef\n endlan\n \
             chassis_control \"{} m\"\n user 1 false \"\" \"\" user 10 none md2 md5 straight\n \
             user 2 true \"admin\" \"secret12\" admin 10 none md2 md5 straight\n",
            address.port(),
            path("chassis").display()
        );
        std::fs::write(path("lan.conf"), lan).expect("write");
        let emulator = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nsel_enable 0x20 1000 0x0a\n\
             sel_add 0x20 0x02 0 0 0 0 0x20 0 4 0x0c 0x10 0x6f 0x31 0xff 0x05\nmc_enable 0x20\n";
        std::fs::write(path("sim.emu"), emulator).expect("write");
        std::fs::create_dir(path("state")).expect("mkdir");
        let process = Command::new("ipmi_sim")
            .args(["-n", "-c"])
            .arg(path("lan.conf"))
            .arg("-f")
            .arg(path("sim.emu"))
            .arg("-s")
            .arg(path("state"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("ipmi_sim is installed (deploy/install-deps.sh)");
        Self {
            process,
            folder,
            address,
        }
    }

    fn bmc(&self, password: &str) -> IpmiBmc {
        let credentials = Credentials::new("admin", password);
        // many short tries: the simulator may still be starting
        let timing = Timing {
            first_wait: Duration::from_millis(150),
            tries: 9,
            ..Timing::default()
        };
        IpmiBmc::new(self.address, credentials, timing)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

#[tokio::test]
async fn power_and_boot_device_reach_the_chassis() {
    let simulator = Simulator::start();
    let bmc = simulator.bmc("secret12");
    assert_eq!(bmc.power_state().await.expect("state"), PowerState::Off);
    let info = bmc.device().await.expect("device id");
    assert_eq!((info.manufacturer, info.product), (0x1291, 0xf02));
    assert_eq!(info.security, "cipher suite 3", "the simulator has no suite 17");
    bmc.set_next_boot(BootDevice::Pxe, Firmware::Uefi)
        .await
        .expect("boot device");
    bmc.power(PowerAction::On).await.expect("on");
    assert_eq!(bmc.power_state().await.expect("state"), PowerState::On);
    bmc.power(PowerAction::Reset).await.expect("reset");
    bmc.power(PowerAction::Off).await.expect("off");
    assert_eq!(bmc.power_state().await.expect("state"), PowerState::Off);
    assert_eq!(simulator.log(), "boot=pxe\npower=1\nreset=1\npower=0\n");
    bmc.close().await;
    assert_eq!(bmc.power_state().await.expect("a new session"), PowerState::Off);
    bmc.close().await;
}

#[tokio::test]
async fn a_wrong_password_is_told_apart() {
    let simulator = Simulator::start();
    let error = simulator.bmc("wrong").power_state().await.expect_err("refused");
    assert!(matches!(error, BmcError::Credentials { .. }), "{error}");
    assert_eq!(error.code(), "bmc_credentials");
    assert!(!error.is_transient());
}

#[tokio::test]
async fn sessions_are_closed_so_that_slots_do_not_run_out() {
    let simulator = Simulator::start();
    for _ in 0..80 {
        let bmc = simulator.bmc("secret12");
        bmc.power_state().await.expect("state");
        bmc.close().await;
    }
    for _ in 0..80 {
        drop({
            let bmc = simulator.bmc("secret12");
            bmc.power_state().await.expect("state");
            bmc // dropped without close
        });
    }
}

#[tokio::test]
async fn its_event_log_is_read_and_what_is_new_in_it() {
    let simulator = Simulator::start();
    let bmc = simulator.bmc("secret12");
    let log = bmc.event_log(None, Bounds::default()).await.expect("read");
    let log = log.expect("it keeps a log");
    let [entry] = log.entries.as_slice() else {
        panic!("{log:?}");
    };
    let News::Fault { kind, text, .. } = &entry.news else {
        panic!("{entry:?}");
    };
    assert_eq!(*kind, "memory");
    assert_eq!(text, "memory: uncorrectable ECC error (sensor 0x10, module 5)");
    assert!(log.clock.is_some() && log.complete, "{log:?}");
    let again = bmc
        .event_log(Some(&log.mark), Bounds::default())
        .await
        .expect("read");
    let again = again.expect("it keeps a log");
    assert_eq!((again.entries, again.mark), (vec![], log.mark));
    bmc.close().await;
}

/// A BMC written by others stores what it was told, and a repeat finds it.
#[tokio::test]
async fn its_user_gets_a_new_password() {
    let simulator = Simulator::start();
    let new = Secret::new("Sixteen-letters1");
    for _ in 0..2 {
        let bmc = simulator.bmc("secret12");
        bmc.change_password(&new).await.expect("changed");
    }
    let error = simulator
        .bmc("secret12")
        .power_state()
        .await
        .expect_err("refused");
    assert!(matches!(error, BmcError::Credentials { .. }), "{error}");
    let bmc = simulator.bmc(new.reveal());
    assert_eq!(bmc.power_state().await.expect("state"), PowerState::Off);
    bmc.close().await;
}
