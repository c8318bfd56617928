//! A BMC's event log, written by `ipmitool` and by hand, read by the product's own client: only what is new, newest first
//! counts, and no lie makes it fall. Needs the package `ipmitool` (`deploy/install-deps.sh`).

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use slipway_edge::bmc::{
    Bmc as _, BmcError,
    event_log::{Bounds, EventLog, News},
    ipmi::{Credentials, IpmiBmc, Timing},
};
use slipway_lab::bmc::{self, Faults, MemoryChassis, Users};
use tokio::{net::UdpSocket, task::JoinHandle};

/// A power supply's input is lost, and is back.
const LOST: [u8; 6] = [0x08, 0x52, 0x6f, 0x03, 0xff, 0xff];
const BACK: [u8; 6] = [0x08, 0x52, 0xef, 0x03, 0xff, 0xff];
/// A server was switched on: no fault.
const BOOT: [u8; 6] = [0x12, 0x01, 0x6f, 0x01, 0xff, 0xff];

struct World {
    faults: Arc<Faults>,
    bmc: IpmiBmc,
    address: SocketAddr,
    server: JoinHandle<std::io::Result<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn world() -> World {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    let (chassis, faults) = (Arc::new(MemoryChassis::default()), Arc::new(Faults::default()));
    let users = Users::administrator("admin", "secret12");
    let server = tokio::spawn(bmc::serve_with_faults(socket, users, chassis, faults.clone()));
    let credentials = Credentials::new("admin", "secret12");
    let timing = Timing {
        first_wait: Duration::from_millis(100),
        busy_pause: Duration::from_millis(10),
        ..Timing::default()
    };
    World {
        faults,
        bmc: IpmiBmc::new(address, credentials, timing),
        address,
        server,
    }
}

impl World {
    async fn read(&self, former: Option<&EventLog>) -> EventLog {
        self.bounded(former, Bounds::default()).await
    }

    async fn bounded(&self, former: Option<&EventLog>, bounds: Bounds) -> EventLog {
        let since = former.map(|log| &log.mark);
        self.bmc.event_log(since, bounds).await.unwrap().unwrap()
    }

    async fn ipmitool(&self, arguments: &str) -> String {
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
        let mut command = tokio::process::Command::new("ipmitool");
        let output = command
            .args(fixed)
            .args(["-C", "17"])
            .args(arguments.split(' '))
            .output();
        let output = output.await.unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "ipmitool {arguments}: {text}");
        text
    }
}

fn numbers(log: &EventLog) -> Vec<u16> {
    log.entries.iter().map(|entry| entry.record).collect()
}

fn faults(log: &EventLog) -> Vec<&str> {
    let faults = log.entries.iter().filter_map(|entry| match &entry.news {
        News::Fault { text, .. } => Some(text.as_str()),
        News::Over { .. } | News::Other => None,
    });
    faults.collect()
}

#[tokio::test]
async fn what_others_log_is_read_and_what_we_log_they_read() {
    let world = world().await;
    world.ipmitool("sel clear").await;
    // Add SEL Entry: an uncorrectable ECC error.
    world
        .ipmitool("raw 0x0a 0x44 0 0 2 0 0 0 0 0x20 0 4 0x0c 0x10 0x6f 0x31 0xff 0x05")
        .await;
    world.faults.log().add(BOOT);
    world.faults.log().add(LOST);
    let listed = world.ipmitool("sel list").await;
    for words in ["Uncorrectable ECC", "Power Supply AC lost"] {
        assert!(listed.contains(words), "{listed}");
    }
    let log = world.read(None).await;
    assert_eq!((numbers(&log), log.complete), (vec![1, 2, 3], true));
    let told = [
        "memory: uncorrectable ECC error (sensor 0x10, module 5)",
        "power supply: input is lost (sensor 0x52)",
    ];
    assert_eq!(faults(&log), told);
    let age = log.clock.unwrap() - log.entries[0].time.unwrap();
    assert!(age < 60, "{age}");
    world.bmc.close().await;
}

#[tokio::test]
async fn only_what_is_new_is_read() {
    let world = world().await;
    let empty = world.read(None).await;
    assert_eq!((numbers(&empty), empty.mark.raw.as_str()), (vec![], ""));
    world.faults.log().add(LOST);
    let first = world.read(Some(&empty)).await;
    assert_eq!(numbers(&first), [1]);
    let again = world.read(Some(&first)).await;
    assert_eq!((numbers(&again), &again.mark), (vec![], &first.mark));
    world.faults.log().add(BACK);
    world.faults.log().add(BOOT);
    let second = world.read(Some(&again)).await;
    assert_eq!(numbers(&second), [2, 3]);
    assert!(matches!(second.entries[0].news, News::Over { .. }));
    world.bmc.close().await;
}

#[tokio::test]
async fn a_log_that_was_cleared_or_began_anew_is_read_from_its_beginning() {
    let world = world().await;
    let log = world.faults.log();
    for time in 0..3 {
        log.add_at(BOOT, 1_700_000_000 + time);
    }
    let former = world.read(None).await;
    assert_eq!(former.mark.record, 3);
    log.clear();
    for time in 0..4 {
        log.add_at(LOST, 1_700_000_100 + time);
    }
    let cleared = world.read(Some(&former)).await;
    assert_eq!(numbers(&cleared), [1, 2, 3, 4], "record 3 is another one now");
    log.clear();
    let empty = world.read(Some(&cleared)).await;
    assert_eq!((numbers(&empty), empty.mark.raw.as_str()), (vec![], ""));

    log.count_from(0xfffc);
    log.add(LOST);
    let before = world.read(Some(&empty)).await;
    assert_eq!(before.mark.record, 0xfffd);
    log.add(BOOT);
    log.add(LOST);
    let wrapped = world.read(Some(&before)).await;
    assert_eq!(numbers(&wrapped), [0xfffe, 1], "0xffff is no number");
    world.bmc.close().await;
}

#[tokio::test]
async fn of_a_long_log_the_newest_entries_are_read_within_bounds() {
    let world = world().await;
    for _ in 0..40 {
        world.faults.log().add(BOOT);
    }
    let few = Bounds {
        entries: 8,
        ..Bounds::default()
    };
    let newest = world.bounded(None, few).await;
    assert_eq!((numbers(&newest), newest.complete), ((33..=40).collect(), true));
    for _ in 0..6 {
        world.faults.log().add(LOST);
    }
    let next = world.bounded(Some(&newest), few).await;
    assert_eq!(numbers(&next), (41..=46).collect::<Vec<_>>());
    let no_time = Bounds {
        time: Duration::ZERO,
        ..Bounds::default()
    };
    let cut = world.bounded(None, no_time).await;
    assert_eq!((numbers(&cut), cut.complete), (vec![1], false));
    let rest = world.read(Some(&cut)).await;
    assert_eq!(
        (rest.entries.len(), rest.complete),
        (45, true),
        "it goes on from there"
    );
    world.bmc.close().await;
}

#[tokio::test]
async fn a_bmc_without_a_log_has_none() {
    let world = world().await;
    for code in [0xc1, 0xd6] {
        world.faults.log().lie(0x40, Some((code, vec![])));
        let log = world.bmc.event_log(None, Bounds::default()).await.unwrap();
        assert_eq!(log, None, "{code:02x}");
    }
    world.bmc.close().await;
}

/// A log is read without the BMC's clock, if that cannot be read.
#[tokio::test]
async fn a_clock_that_cannot_be_read_is_none() {
    let world = world().await;
    world.faults.log().add(LOST);
    for answer in [(0x00, vec![]), (0x00, vec![1; 3]), (0xc1, vec![]), (0xcb, vec![])] {
        world.faults.log().lie(0x48, Some(answer.clone()));
        let log = world.read(None).await;
        assert_eq!((log.clock, log.entries.len()), (None, 1), "{answer:?}");
    }
    world.bmc.close().await;
}

#[tokio::test]
async fn no_lie_makes_it_fall() {
    let world = world().await;
    let log = world.faults.log();
    log.add(LOST);
    let code = async || match world.bmc.event_log(None, Bounds::default()).await {
        Ok(log) => panic!("{log:?}"),
        Err(error @ BmcError::Malformed { .. }) => error.code(),
        Err(other) => panic!("{other}"),
    };
    for (command, lengths) in [(0x40, 0..14), (0x43, 0..18), (0x43, 19..30)] {
        for length in lengths {
            log.lie(command, Some((0x00, vec![0x01; length])));
            assert_eq!(code().await, "bmc_malformed_answer", "{command:02x} {length}");
        }
        log.lie(command, None);
    }
    // An entry that says that it follows itself, for ever.
    let mut itself = vec![1, 0, 1, 0, 2];
    itself.resize(18, 0);
    log.lie(0x43, Some((0x00, itself)));
    assert_eq!(code().await, "bmc_malformed_answer");
    // Parts are asked for, and are never there; a reservation is never good enough.
    for refusal in [0xca, 0xc5] {
        log.lie(0x43, Some((refusal, vec![])));
        let error = world.bmc.event_log(None, Bounds::default()).await.unwrap_err();
        assert!(
            ["bmc_completion_code", "bmc_busy"].contains(&error.code()),
            "{error}"
        );
    }
    log.lie(0x43, None);
    log.lie(0x48, Some((0xc1, vec![])));
    let read = world.read(None).await;
    assert_eq!((read.clock, read.entries.len()), (None, 1), "no clock is no lie");
    world.bmc.close().await;
}
