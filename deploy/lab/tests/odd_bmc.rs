//! The product's IPMI client against BMCs with the ways of odd firmware: each one does its work all the same, or says plainly what is
//! wrong.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use slipway_edge::bmc::{
    Bmc, BmcError, BootDevice, Firmware, PowerAction, PowerState,
    ipmi::{Credentials, IpmiBmc, Reached, Timing, crypto::Suite, rakp::Privilege},
};
use slipway_lab::bmc::{self, BootFlags, Chassis, Faults, MemoryChassis, Oddities, User, Users};
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

async fn world(oddities: Oddities) -> World {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let (chassis, faults) = (Arc::new(MemoryChassis::default()), Arc::new(Faults::default()));
    faults.oddities(oddities);
    let user = |name: &str, privilege| User {
        name: name.into(),
        password: "secret12".into(),
        privilege,
    };
    let users = Users::new(vec![
        user("admin", Privilege::Administrator),
        user("operator", Privilege::Operator),
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

/// Quick, since everything is on loopback; patient for a second.
const TIMING: Timing = Timing {
    first_wait: Duration::from_millis(60),
    tries: 4,
    busy_pause: Duration::from_millis(10),
    busy_tries: 6,
    idle: Duration::from_secs(1),
    idle_pause: Duration::from_millis(50),
};

impl World {
    fn client(&self, user: &str) -> IpmiBmc {
        IpmiBmc::new(self.address, Credentials::new(user, "secret12"), TIMING)
    }

    /// All that an install asks of a BMC.
    async fn does_its_work(&self, bmc: &IpmiBmc) -> Result<(), BmcError> {
        assert_eq!(bmc.power_state().await?, PowerState::Off);
        bmc.set_next_boot(BootDevice::Pxe, Firmware::Uefi).await?;
        let BootFlags([valid, device, ..]) = self.chassis.boot_flags().await;
        assert_eq!((valid, device), (0xa0, 0x04));
        bmc.power(PowerAction::On).await?;
        assert_eq!(bmc.power_state().await?, PowerState::On);
        bmc.device().await?;
        bmc.close().await;
        assert_eq!(self.chassis.actions(), [PowerAction::On]);
        Ok(())
    }
}

/// A BMC with these ways.
fn odd(ways: impl FnOnce(&mut Oddities)) -> Oddities {
    let mut oddities = Oddities::default();
    ways(&mut oddities);
    oddities
}

#[tokio::test]
async fn firmware_of_many_ways_does_its_work() {
    for (ways, oddities) in [
        ("none", odd(|_| {})),
        ("tag 0", odd(|o| o.tag = Some(0))),
        ("tag 0x5a", odd(|o| o.tag = Some(0x5a))),
        ("4 bytes behind", odd(|o| o.trailing = 4)),
        ("17 bytes behind", odd(|o| o.trailing = 17)),
        ("checksums", odd(|o| o.wrong_checksums = true)),
        ("network function", odd(|o| o.netfn_echoed = true)),
        ("one empty answer", odd(|o| o.empty = 1)),
        ("two empty answers", odd(|o| o.empty = 2)),
        (
            "boot options not readable, 0xC1",
            odd(|o| o.boot_read = Some(0xc1)),
        ),
        (
            "boot options not readable, 0x80",
            odd(|o| o.boot_read = Some(0x80)),
        ),
        (
            "boot options not readable, 0xD4",
            odd(|o| o.boot_read = Some(0xd4)),
        ),
        ("no word about progress", odd(|o| o.mute_about = vec![0])),
        ("no word about courtesies", odd(|o| o.mute_about = vec![0, 3, 4])),
        ("full for a while", odd(|o| o.full = 5)),
    ] {
        let world = world(oddities).await;
        let done = world.does_its_work(&world.client("admin")).await;
        assert!(done.is_ok(), "{ways}: {done:?}");
    }
}

/// Packets of a session with bytes behind them fit whatever the padding is, and both suites.
#[tokio::test]
async fn each_suite_is_found_by_itself() {
    for (silent, says) in [
        (None, "cipher suite 17"),
        (Some(Suite::Seventeen), "cipher suite 3"),
        (Some(Suite::Three), "cipher suite 17"),
    ] {
        let world = world(Oddities {
            silent_about: silent,
            ..Oddities::default()
        })
        .await;
        let bmc = world.client("admin");
        assert_eq!(bmc.device().await.unwrap().security, says, "{silent:?}");
        bmc.close().await;
    }
}

#[tokio::test]
async fn an_operator_is_enough_for_power_and_boot() {
    let world = world(Oddities::default()).await;
    let bmc = world.client("operator");
    world.does_its_work(&bmc).await.unwrap();
    let info = bmc.device().await.unwrap();
    assert_eq!(info.security, "cipher suite 17, privilege OPERATOR");
    let refused = bmc.restart().await.unwrap_err();
    assert!(matches!(refused, BmcError::Privilege { .. }), "{refused}");
    assert!(refused.to_string().contains("ADMINISTRATOR"), "{refused}");
    let reader = world.client("reader");
    let refused = reader.power(PowerAction::On).await.unwrap_err();
    assert!(matches!(refused, BmcError::Privilege { .. }), "{refused}");
    assert!(refused.to_string().contains("OPERATOR"), "{refused}");
    assert_eq!(
        world.faults.failed_logins(),
        0,
        "nothing counts as a failed login"
    );
}

#[tokio::test]
async fn a_full_bmc_is_waited_for_and_told_of_in_the_end() {
    let world = world(Oddities {
        full: u32::MAX,
        ..Oddities::default()
    })
    .await;
    let bmc = world.client("admin");
    let began = tokio::time::Instant::now();
    let error = bmc.power_state().await.unwrap_err();
    assert!(matches!(error, BmcError::NoFreeSession { .. }), "{error}");
    assert!(
        began.elapsed() >= Duration::from_millis(900),
        "asked for its idle time"
    );
    assert!(error.is_transient());
}

/// A BMC that answered before and fell silent is waited for; one that nobody ever heard is told of at once.
#[tokio::test]
async fn silence_is_waited_for_where_there_was_a_voice() {
    let world = world(Oddities::default()).await;
    let reached = Arc::new(Reached::default());
    let known = world.client("admin").with(reached.clone());
    known.power_state().await.unwrap();
    known.close().await;
    // All that one attempt sends, by both suites, and a little more.
    world.faults.drop_packets(9);
    let patient = Timing {
        idle: Duration::from_secs(20),
        ..TIMING
    };
    let credentials = Credentials::new("admin", "secret12");
    let again = IpmiBmc::new(world.address, credentials, patient).with(reached);
    assert_eq!(again.power_state().await.unwrap(), PowerState::Off);
    again.close().await;
    world.faults.drop_packets(u32::MAX);
    let error = world.client("admin").power_state().await.unwrap_err();
    assert!(matches!(error, BmcError::Timeout { heard: false, .. }), "{error}");
    assert!(error.to_string().contains("cabling"), "{error}");
}

#[tokio::test]
async fn errors_say_what_was_refused() {
    let short = Oddities {
        short_refusals: true,
        ..Oddities::default()
    };
    for oddities in [Oddities::default(), short] {
        let world = world(oddities).await;
        let error = world.client("nobody").power_state().await.unwrap_err();
        assert_eq!(error.code(), "bmc_credentials", "{error}");
        assert!(error.to_string().contains("unknown user name"), "{error}");
    }
    let world = world(Oddities {
        silent_about_names: true,
        ..Oddities::default()
    })
    .await;
    let error = world.client("nobody").power_state().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("user name") && !text.contains("cabling"), "{text}");
}

/// Codes of a BMC that has no time now are waited out, whichever it likes.
#[tokio::test]
async fn busy_has_many_codes() {
    for code in [0xc0, 0xc3, 0xc4, 0xce, 0xd2] {
        let world = world(Oddities {
            busy_code: Some(code),
            ..Oddities::default()
        })
        .await;
        let bmc = world.client("admin");
        world.faults.busy(3);
        world.does_its_work(&bmc).await.unwrap();
        world.faults.busy(99);
        let error = bmc.power_state().await.unwrap_err();
        assert!(matches!(error, BmcError::Busy { .. }), "{code:#x}: {error}");
    }
}

/// Power that is as wanted already is no error, whatever the BMC calls it.
#[tokio::test]
async fn forgotten_power_shows() {
    let world = world(Oddities {
        power_forgotten: 1,
        ..Oddities::default()
    })
    .await;
    let bmc = world.client("admin");
    bmc.power(PowerAction::On).await.unwrap();
    assert_eq!(
        bmc.power_state().await.unwrap(),
        PowerState::Off,
        "read back, not believed"
    );
    bmc.power(PowerAction::On).await.unwrap();
    assert_eq!(bmc.power_state().await.unwrap(), PowerState::On);
    bmc.close().await;
}
