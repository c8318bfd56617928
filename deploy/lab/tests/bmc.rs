//! The lab's BMC against two clients: Debian's `ipmitool` (written by others) and the product's own.
//! Needs the package `ipmitool` (`deploy/install-deps.sh`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use slipway_edge::bmc::ipmi::rakp::Privilege;
use slipway_edge::bmc::ipmi::{Credentials, IpmiBmc, Timing};
use slipway_edge::bmc::{Bmc, BmcError, BootDevice, Firmware, PowerAction, PowerState};
use slipway_lab::bmc::{self, Chassis, Faults, MemoryChassis, User, Users};
use tokio::net::UdpSocket;

struct World {
    chassis: Arc<MemoryChassis>,
    faults: Arc<Faults>,
    address: SocketAddr,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn world() -> World {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback");
    let address = socket.local_addr().expect("bound");
    let (chassis, faults) = (Arc::new(MemoryChassis::default()), Arc::new(Faults::default()));
    let user = |name: &str, privilege| User {
        name: name.into(),
        password: "secret12".into(),
        privilege,
    };
    let users = Users::new(vec![
        user("admin", Privilege::Administrator),
        user("reader", Privilege::User),
    ]);
    let server = bmc::serve_with_faults(socket, users, chassis.clone(), faults.clone());
    World {
        chassis,
        faults,
        address,
        server: tokio::spawn(server),
    }
}

impl World {
    fn client(&self, user: &str, password: &str) -> IpmiBmc {
        let credentials = Credentials::new(user, password);
        let timing = Timing {
            first_wait: Duration::from_millis(100),
            busy_pause: Duration::from_millis(10),
            ..Timing::default()
        };
        IpmiBmc::new(self.address, credentials, timing)
    }

    /// Runs `ipmitool`; gives whether it succeeded and all it printed.
    async fn ipmitool(&self, suite: &str, arguments: &str) -> (bool, String) {
        let port = self.address.port().to_string();
        let fixed = [
            "-I",
            "lanplus",
            "-H",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "admin",
            "-P",
            "secret12",
        ];
        let output = tokio::process::Command::new("ipmitool")
            .args(fixed)
            .args(["-C", suite, "-N", "1", "-R", "3"])
            .args(arguments.split(' '))
            .output()
            .await
            .expect("ipmitool is installed (deploy/install-deps.sh)");
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    async fn expect(&self, suite: &str, arguments: &str, wanted: &str) {
        let (ok, text) = self.ipmitool(suite, arguments).await;
        assert!(
            ok && text.contains(wanted),
            "ipmitool -C {suite} {arguments}: {text}"
        );
    }
}

#[tokio::test]
async fn ipmitool_does_every_chassis_command_with_both_suites() {
    for suite in ["3", "17"] {
        let world = world().await;
        world
            .expect(suite, "mc info", "IPMI Version              : 2.0")
            .await;
        world
            .expect(suite, "chassis status", "System Power         : off")
            .await;
        let (ok, text) = world.ipmitool(suite, "chassis power cycle").await;
        assert!(!ok && text.contains("not supported in present state"), "{text}");
        world
            .expect(
                suite,
                "chassis bootdev pxe options=efiboot",
                "Set Boot Device to pxe",
            )
            .await;
        world.expect(suite, "chassis bootparam get 5", "Force PXE").await;
        world
            .expect(suite, "chassis bootparam get 5", "BIOS EFI boot")
            .await;
        world
            .expect(suite, "chassis bootparam get 5", "Boot Flag Valid")
            .await;
        world.expect(suite, "chassis power on", "Up/On").await;
        world.expect(suite, "chassis power status", "is on").await;
        world
            .expect(suite, "chassis bootparam get 5", "Boot Flag Invalid")
            .await;
        world
            .expect(
                suite,
                "chassis bootdev disk options=persistent",
                "Set Boot Device to disk",
            )
            .await;
        world.expect(suite, "chassis power cycle", "Cycle").await;
        world
            .expect(suite, "chassis bootparam get 5", "apply to all future boots")
            .await;
        world.expect(suite, "chassis power reset", "Reset").await;
        world.expect(suite, "chassis power soft", "Soft").await;
        world.expect(suite, "chassis power off", "Down/Off").await;
        world.expect(suite, "chassis policy always-on", "always-on").await;
        world.expect(suite, "user list 1", "admin").await;
        let actions = world.chassis.actions();
        use PowerAction::{Cycle, Off, On, Reset, Soft};
        assert_eq!(actions, [On, Cycle, Reset, Soft, Off], "suite {suite}");
        assert_eq!(
            world.chassis.boots(),
            [BootDevice::Pxe, BootDevice::Disk, BootDevice::Disk]
        );
    }
}

#[tokio::test]
async fn ipmitool_sets_a_password() {
    let world = world().await;
    let set = "Set User Password command successful (user 2)";
    world.expect("17", "user set password 2 another12", set).await;
    let former = world.client("admin", "secret12").power_state().await;
    assert!(matches!(former, Err(BmcError::Credentials { .. })), "{former:?}");
    let new = world.client("admin", "another12").power_state().await;
    assert_eq!(new.unwrap(), PowerState::Off);
}

#[tokio::test]
async fn our_client_uses_suite_17_and_every_action_arrives() {
    let world = world().await;
    let bmc = world.client("admin", "secret12");
    assert_eq!(bmc.power_state().await.expect("state"), PowerState::Off);
    assert_eq!(bmc.device().await.expect("device").security, "cipher suite 17");
    let error = bmc.power(PowerAction::Cycle).await.expect_err("it is off");
    assert!(matches!(error, BmcError::PowerIsOff { .. }), "{error}");
    bmc.set_next_boot(BootDevice::Pxe, Firmware::Uefi)
        .await
        .expect("boot device");
    assert!(world.chassis.boot_flags().await.efi());
    assert_eq!(bmc.next_boot().await.expect("read"), Some(BootDevice::Pxe));
    for action in [
        PowerAction::On,
        PowerAction::Reset,
        PowerAction::Cycle,
        PowerAction::Soft,
    ] {
        bmc.power(action).await.expect("done");
    }
    assert_eq!(bmc.next_boot().await.expect("read"), None, "used up by the boot");
    assert_eq!(
        world.chassis.boots(),
        [BootDevice::Pxe, BootDevice::Disk, BootDevice::Disk]
    );
    bmc.close().await;
}

#[tokio::test]
async fn lost_packets_and_a_busy_bmc_are_survived_and_nothing_is_done_twice() {
    let world = world().await;
    world.faults.drop_packets(2);
    let bmc = world.client("admin", "secret12");
    bmc.power(PowerAction::On).await.expect("after two lost packets");
    world.faults.busy(3);
    bmc.power(PowerAction::Reset)
        .await
        .expect("after three times busy");
    assert_eq!(world.chassis.actions(), [PowerAction::On, PowerAction::Reset]);
    world.faults.busy(100);
    let error = bmc
        .power(PowerAction::Reset)
        .await
        .expect_err("busy for too long");
    assert_eq!((error.code(), error.is_transient()), ("bmc_busy", true));
    world.faults.busy(0);
    world.faults.drop_packets(100);
    let error = world
        .client("admin", "secret12")
        .power_state()
        .await
        .expect_err("silence");
    assert_eq!((error.code(), error.is_transient()), ("bmc_timeout", true));
    bmc.close().await;
}

#[tokio::test]
async fn a_restarted_bmc_gets_a_new_session() {
    let world = world().await;
    let bmc = world.client("admin", "secret12");
    bmc.power_state().await.expect("state");
    world.expect("17", "mc reset cold", "Sent cold reset").await;
    // silent for two seconds, all sessions forgotten: the same call must still succeed
    bmc.power_state().await.expect("a new session by itself");
    bmc.close().await;
}

#[tokio::test]
async fn a_bmc_starts_anew_and_leaves_the_machine_alone() {
    let world = world().await;
    let bmc = world.client("admin", "secret12");
    bmc.power(PowerAction::On).await.expect("on");
    bmc.restart().await.expect("it is asked");
    let back = async {
        loop {
            // Silent for two seconds, which is more than this client's patience.
            if let Ok(state) = bmc.power_state().await {
                return state;
            }
        }
    };
    let state = tokio::time::timeout(std::time::Duration::from_secs(20), back).await;
    assert_eq!(state.expect("it answers again"), PowerState::On);
    assert_eq!(
        world.chassis.actions(),
        [PowerAction::On],
        "nothing was done to the machine"
    );
    bmc.close().await;
}

#[tokio::test]
async fn wrong_users_are_told_apart() {
    let world = world().await;
    for (user, password, code) in [
        ("admin", "wrong", "bmc_credentials"),
        ("nobody", "secret12", "bmc_credentials"),
        ("reader", "secret12", "bmc_privilege"),
    ] {
        let error = world
            .client(user, password)
            .power_state()
            .await
            .expect_err("refused");
        assert_eq!(
            (error.code(), error.is_transient()),
            (code, false),
            "{user}: {error}"
        );
    }
}

#[tokio::test]
async fn forty_consoles_one_after_the_other_find_a_slot() {
    let world = world().await;
    for _ in 0..40 {
        let bmc = world.client("admin", "secret12");
        bmc.power_state().await.expect("a free session");
        bmc.close().await;
    }
}
