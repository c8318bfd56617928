//! Frozen bytes of version 1. If this fails, do not change the files: a message that peers in the field send would no
//! longer be read, or would be written otherwise.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeMap, path::PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use slipway_protocol::{
    bmc::{BmcState, Power},
    ids::{BootId, Digest, EdgeRunId, ImageId, JobId, MacAddr, MachineId, SiteId, StepId},
    image::{Chunk, ImageNotice, Manifest},
    inventory::{Disk, DiskKind, DiskRule, FirmwareKind},
    keys::{Expect, KeyRing, Signer, Stamp},
    lease::{Lease, LocalUse, Offer, Operation},
    limits::Body,
    log::{LogHeld, LogTold},
    order::{Action, BmcAccess, BmcDriver, BootDevice, GuestConfig, Hardware, Order, Step},
    report::{
        EventSource, Failure, FaultSeverity, HardwareFault, LogChunk, Outcome, Progress, Release,
        ReleasedStep, Report, StepReport, StepState, TimelineEvent,
    },
    seal::Sealed,
    site::{EdgeStanding, SiteConfig, Standing, SubnetConfig},
    sync::{Held, Hello, Lists, SyncRequest},
    topic::{Kind, Topic},
};
use uuid::Uuid;

fn signer() -> Signer {
    Signer::from_seed(&[1; 32]).unwrap()
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000 + seconds, 0).unwrap()
}

fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

fn machine() -> MachineId {
    MachineId(Uuid::from_u128(1))
}

fn sealed() -> Sealed {
    Sealed {
        ephemeral: "AAAA".into(),
        ciphertext: "BBBB".into(),
    }
}

/// Writes what is frozen and reads it back: both must hold.
fn frozen<T: Serialize + Body + PartialEq + std::fmt::Debug>(name: &str, topic: &Topic, body: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/v1")
        .join(name);
    let stamp = Stamp {
        revision: 7,
        issued_at: at(0),
        expires_at: at(0) + TimeDelta::hours(1),
    };
    let written = String::from_utf8(signer().seal(topic, stamp, body)).unwrap();
    let golden = std::fs::read_to_string(&path)
        .unwrap_or_else(|_| panic!("{name} is missing; it would be\n{written}"));
    let golden = golden.trim_end();
    let ring = KeyRing::new([signer().verifying_key()]);
    let read = ring
        .open::<T>(
            topic,
            golden.as_bytes(),
            Expect {
                now: at(1),
                held: None,
            },
        )
        .unwrap();
    assert_eq!(read.body(), body, "{name} is read as it was meant");
    assert_eq!(written, golden, "{name} is written as it was");
}

fn step(id: &str, action: Action, needs: &[&str]) -> Step {
    Step {
        id: StepId::new(id).unwrap(),
        role: action.role(),
        action,
        needs: needs.iter().map(|need| StepId::new(*need).unwrap()).collect(),
        no_progress_timeout_s: 60,
        retries: 1,
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one of each action")]
fn order() {
    let image = ImageId::of(b"image");
    let guest = GuestConfig {
        instance_id: "i-1".into(),
        hostname: "web-1".into(),
        user: "debian".into(),
        ssh_keys: vec!["ssh-ed25519 AAAA me".into()],
        user_data: Some("user-data".into()),
        phone_home: "phone-home".into(),
    };
    let rule = DiskRule {
        serial: Some("S1".into()),
        kind: Some(DiskKind::Nvme),
        ..DiskRule::default()
    };
    let bind = Action::DhcpBind {
        address: [192, 0, 2, 10].into(),
        hostname: Some("web-1".into()),
    };
    let order = Order {
        machine: machine(),
        job: JobId(Uuid::from_u128(2)),
        deadline: at(7200),
        retry: 0,
        settled: None,
        hardware: Hardware {
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            firmware: FirmwareKind::Uefi,
            bmc: Some(BmcAccess {
                driver: BmcDriver::Ipmi,
                address: "192.0.2.101:623".parse().unwrap(),
                username: "admin".into(),
                password: "bmc-password".into(),
                other_passwords: vec![],
            }),
        },
        secrets: BTreeMap::from([("bmc-password".to_owned(), sealed())]),
        steps: vec![
            step("a", Action::ImageEnsure { image }, &[]),
            step("b", bind, &[]),
            step("c", Action::BootLiveos, &["b"]),
            step(
                "d",
                Action::DriverBoot {
                    device: BootDevice::Pxe,
                },
                &["a", "c"],
            ),
            step("e", Action::AgentInventory, &["d"]),
            step("f", Action::AgentChooseDisk { rule }, &["e"]),
            step("g", Action::AgentWriteImage { image }, &["f"]),
            step("h", Action::AgentConfigure { guest }, &["g"]),
            step("i", Action::BootLocal, &["h"]),
            step("j", Action::AgentReboot, &["i"]),
            step(
                "k",
                Action::GuestVerify {
                    nonce_sha256: Digest::of(b"n"),
                },
                &["j"],
            ),
            step("l", Action::DriverPower { on: false }, &["k"]),
        ],
    };
    frozen("order.json", &Topic::Order(site(), machine()), &order);
}

/// The BMC is given a new password; until its end is known, each order carries both.
#[test]
fn order_bmc_password() {
    let (new, old) = ("new-bmc-password", "bmc-password");
    let set = Action::DriverSetPassword { password: new.into() };
    let order = Order {
        machine: machine(),
        job: JobId(Uuid::from_u128(2)),
        deadline: at(7200),
        retry: 0,
        settled: None,
        hardware: Hardware {
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            firmware: FirmwareKind::Uefi,
            bmc: Some(BmcAccess {
                driver: BmcDriver::Ipmi,
                address: "192.0.2.101:623".parse().unwrap(),
                username: "admin".into(),
                password: old.into(),
                other_passwords: vec![new.into()],
            }),
        },
        secrets: [old, new].map(|name| (name.to_owned(), sealed())).into(),
        steps: vec![step("a", set, &[])],
    };
    order.check().unwrap();
    frozen(
        "order_bmc_password.json",
        &Topic::Order(site(), machine()),
        &order,
    );
}

/// How the BMC is was read, and what the report says of it then.
#[test]
fn order_and_report_of_a_bmc_read() {
    let order = Order {
        machine: machine(),
        job: JobId(Uuid::from_u128(2)),
        deadline: at(7200),
        retry: 0,
        settled: None,
        hardware: Hardware {
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            firmware: FirmwareKind::Uefi,
            bmc: None,
        },
        secrets: BTreeMap::new(),
        steps: vec![step("a", Action::DriverRead, &[])],
    };
    order.check().unwrap();
    let topic = Topic::Order(site(), machine());
    frozen("order_bmc_read.json", &topic, &order);
    let report = Report {
        machine: machine(),
        job: JobId(Uuid::from_u128(2)),
        order_revision: 7,
        retry: 0,
        outcome: Outcome::Done { at: at(3) },
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: vec![],
        bmc: Some(BmcState {
            power: Power::On,
            seen_at: at(2),
            manufacturer: Some(674),
            product: Some(256),
            firmware: Some("2.81".into()),
            security: Some("cipher suite 17".into()),
        }),
    };
    let topic = Topic::Report(site(), machine());
    frozen("report_bmc.json", &topic, &report);
    let former = report.bmc.unwrap();
    let later = BmcState::of_power(Power::Off, at(9)).completed_by(&former);
    assert_eq!((later.power, later.seen_at), (Power::Off, at(9)));
    assert_eq!(
        later.firmware, former.firmware,
        "what was not asked is still known"
    );
    let next: Power = serde_json::from_str("\"cycling\"").unwrap();
    assert_eq!(next, Power::Unknown, "a later version's word");
}

#[test]
fn report() {
    let failure = Failure {
        code: "no_progress".into(),
        message: "none".into(),
        transient: true,
    };
    let running = StepReport {
        state: StepState::Running,
        attempt: 2,
        started_at: Some(at(1)),
        progressed_at: Some(at(2)),
        progress: Some(Progress {
            done_bytes: 1,
            total_bytes: 2,
        }),
        failure: Some(failure.clone()),
        ..StepReport::pending(StepId::new("a").unwrap())
    };
    let report = Report {
        machine: machine(),
        job: JobId(Uuid::from_u128(2)),
        order_revision: 7,
        retry: 0,
        outcome: Outcome::Failed {
            at: at(3),
            step: Some(StepId::new("a").unwrap()),
            failure,
        },
        steps: vec![running, StepReport::pending(StepId::new("b").unwrap())],
        disk: Some(Disk {
            serial: Some("S1".into()),
            wwn: None,
            model: None,
            size_bytes: 10,
            kind: DiskKind::Ssd,
        }),
        inventory: None,
        agent: Some(BootId(Uuid::from_u128(3))),
        events: vec![TimelineEvent {
            at: at(1),
            source: EventSource::Dhcp,
            code: "offer".into(),
            text: "x".into(),
        }],
        hardware_faults: vec![],
        local: vec![],
        bmc: None,
    };
    frozen("report.json", &Topic::Report(site(), machine()), &report);
}

#[test]
fn report_with_hardware_faults() {
    let fault = |record, severity| HardwareFault {
        record,
        bmc_time: 1_795_000_000,
        seen_at: at(2),
        kind: "power_supply".into(),
        severity,
        text: "power supply: failure detected (sensor 0x52)".into(),
        raw: format!("{record:02x}0002c086fd6a20000408526f01ffff"),
    };
    let report = Report {
        machine: machine(),
        job: JobId(Uuid::from_u128(2)),
        order_revision: 7,
        retry: 0,
        outcome: Outcome::Done { at: at(3) },
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![
            fault(1, FaultSeverity::Critical),
            fault(2, FaultSeverity::Warning),
        ],
        local: vec![],
        bmc: None,
    };
    let topic = Topic::Report(site(), machine());
    frozen("report_hardware_faults.json", &topic, &report);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one of each message")]
fn config_image_release_hello_and_sync() {
    let subnet = SubnetConfig {
        network: "192.0.2.0/24".parse().unwrap(),
        server: [192, 0, 2, 1].into(),
        gateway: None,
        dns: vec![[192, 0, 2, 53].into()],
        pool: Some(([192, 0, 2, 200].into(), [192, 0, 2, 250].into())),
        lease_seconds: 600,
    };
    let config = SiteConfig {
        subnets: vec![subnet],
        verifying_keys: vec![signer().verifying_key()],
        discover: true,
        dhcp_relays: vec![],
        emergency_code: None,
    };
    frozen("config.json", &Topic::Config(site()), &config);
    let chunks = vec![
        Chunk::Zero,
        Chunk::Data {
            sha256: Digest::of(b"x"),
            stored_bytes: 5,
        },
    ];
    let manifest = Manifest {
        size_bytes: 5,
        chunk_bytes: 4,
        chunks,
    };
    let topic = Topic::Image(site(), manifest.id());
    frozen(
        "image.json",
        &topic,
        &ImageNotice {
            name: "debian".into(),
            manifest,
            pinned: false,
        },
    );
    let release = Release {
        boot: BootId(Uuid::from_u128(3)),
        job: JobId(Uuid::from_u128(2)),
        order_revision: 7,
        run: vec![ReleasedStep {
            id: StepId::new("a").unwrap(),
            attempt: 1,
        }],
        disk: None,
        secrets: BTreeMap::from([("phone-home".to_owned(), sealed())]),
    };
    frozen("release.json", &Topic::AgentRelease(site(), machine()), &release);
    let hello = Hello {
        version: "0.1.0".into(),
        wire: (1, 1),
        actions: vec!["image_ensure".into()],
        commands: Digest::of(b"c"),
        reports: Digest::of(b"r"),
        starting: false,
        leases: None,
        lists: None,
        logs: vec![],
        run: None,
        proof: None,
    };
    frozen("hello.json", &Topic::Hello(site()), &hello);
    frozen(
        "sync.json",
        &Topic::Sync(site()),
        &SyncRequest::Reports {
            subjects: vec!["m".into()],
        },
    );
    let starting = Hello {
        starting: true,
        ..hello
    };
    frozen("hello_starting.json", &Topic::Hello(site()), &starting);
    frozen("sync_nothing.json", &Topic::Sync(site()), &SyncRequest::Nothing);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one of each message")]
fn a_lease_and_what_an_edge_tells_of_its_use() {
    let offer = |operation, job, revision| Offer {
        operation,
        job: JobId(Uuid::from_u128(job)),
        revision,
        order: sealed(),
    };
    let lease = Lease {
        name: "node-7".into(),
        instance: Some("web-1".into()),
        until: at(3600),
        offers: vec![offer(Operation::Restart, 4, 8), offer(Operation::PowerOff, 5, 9)],
    };
    frozen("lease.json", &Topic::Lease(site(), machine()), &lease);
    let used = |job, revision, outcome| LocalUse {
        at: at(1),
        operation: Operation::Restart,
        job: JobId(Uuid::from_u128(job)),
        revision,
        uid: 0,
        outcome,
    };
    let report = Report {
        machine: machine(),
        job: JobId(Uuid::from_u128(5)),
        order_revision: 9,
        retry: 0,
        outcome: Outcome::Running,
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: vec![used(4, 8, Some(Outcome::Done { at: at(2) })), used(5, 9, None)],
        bmc: None,
    };
    frozen("report_local.json", &Topic::Report(site(), machine()), &report);
    let held = |kind, revision| Held {
        kind,
        subject: machine().to_string(),
        revision,
    };
    let hello = Hello {
        version: "0.1.0".into(),
        wire: (1, 1),
        actions: vec![],
        commands: Digest::of(b"c"),
        reports: Digest::of(b"r"),
        starting: false,
        leases: Some(Digest::of(b"l")),
        lists: Some(Lists {
            commands: vec![held(Kind::Order, 9)],
            reports: vec![held(Kind::Report, 3)],
            leases: vec![held(Kind::Lease, 2)],
        }),
        logs: vec![],
        run: None,
        proof: None,
    };
    frozen("hello_leases.json", &Topic::Hello(site()), &hello);
    let config = SiteConfig {
        subnets: vec![],
        verifying_keys: vec![signer().verifying_key()],
        discover: false,
        dhcp_relays: vec![],
        emergency_code: Some("$argon2id$x".into()),
    };
    frozen("config_emergency_code.json", &Topic::Config(site()), &config);
}

#[test]
fn a_log_and_what_both_sides_say_of_it() {
    let job = JobId(Uuid::from_u128(5));
    let chunk = LogChunk {
        job,
        boot: None,
        offset: 9,
        text: "edge 2026-11-21T00:00:00.000Z  INFO step done\n".into(),
    };
    frozen("log.json", &Topic::Log(site(), machine()), &chunk);
    let of_agent = LogChunk {
        boot: Some(BootId(Uuid::from_u128(6))),
        ..chunk
    };
    frozen("log_agent.json", &Topic::AgentLog(site(), machine()), &of_agent);
    let hello = Hello {
        version: "0.1.0".into(),
        wire: (1, 1),
        actions: vec![],
        commands: Digest::of(b"c"),
        reports: Digest::of(b"r"),
        starting: false,
        leases: None,
        lists: None,
        logs: vec![LogTold {
            job,
            start: 3,
            sent: 9,
        }],
        run: None,
        proof: None,
    };
    frozen("hello_logs.json", &Topic::Hello(site()), &hello);
    let held = vec![LogHeld { job, end: 7 }];
    frozen(
        "sync_logs.json",
        &Topic::Sync(site()),
        &SyncRequest::Logs { held },
    );
}

#[test]
fn what_tells_two_boxes_with_one_identity_apart() {
    let run = EdgeRunId(Uuid::from_u128(11));
    let challenge = "00112233445566778899aabbccddeeff".to_owned();
    let hello = Hello {
        version: "0.1.0".into(),
        wire: (1, 1),
        actions: vec![],
        commands: Digest::of(b"c"),
        reports: Digest::of(b"r"),
        starting: false,
        leases: None,
        lists: None,
        logs: vec![],
        run: Some(run),
        proof: Some(challenge.clone()),
    };
    frozen("hello_run.json", &Topic::Hello(site()), &hello);
    let prove = SyncRequest::Prove { run, challenge };
    frozen("sync_prove.json", &Topic::Sync(site()), &prove);
    let stand_by = SyncRequest::StandBy { run };
    frozen("sync_stand_by.json", &Topic::Sync(site()), &stand_by);
    let standing = EdgeStanding {
        report_key: signer().verifying_key(),
        standing: Standing::Revoked,
    };
    frozen("standing.json", &Topic::Standing(site()), &standing);
}
