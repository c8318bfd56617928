//! Each step against real sockets and real files, and against each thing that can be wrong.

mod common;

use common::{JOB, MACHINE, MIB, World, attempt, digest, run_tool, site, stamp};
use slipway_agent::{
    disk::gpt,
    steps::{self, Outcome},
};
use slipway_protocol::{
    image::ImageNotice,
    inventory::DiskRule,
    keys::Signer,
    order::{Action, GuestConfig, secret_context},
    report::Failure,
    seal::{self, Secret},
    topic::Topic,
};

fn write(world: &World, serial: &str) -> Result<Outcome, Failure> {
    let machine = world.machine();
    let action = Action::AgentWriteImage { image: world.image };
    let (attempt, _) = attempt(&machine, action, Some(world.found(serial)));
    steps::run(&machine, &attempt)
}

fn choose(world: &World, rule: DiskRule) -> Result<Outcome, Failure> {
    let machine = world.machine();
    let (attempt, _) = attempt(&machine, Action::AgentChooseDisk { rule }, None);
    steps::run(&machine, &attempt)
}

fn guest() -> GuestConfig {
    GuestConfig {
        instance_id: "i-1".into(),
        hostname: "web-1".into(),
        user: "ops".into(),
        ssh_keys: vec!["ssh-ed25519 AAAA ops".into()],
        user_data: Some("data".into()),
        phone_home: "nonce".into(),
    }
}

#[test]
fn an_image_is_written_whole_and_the_rest_of_the_disk_left() {
    let world = World::new();
    let path = world.disk("A", 20);
    let machine = world.machine();
    let action = Action::AgentWriteImage { image: world.image };
    let (attempt, said) = attempt(&machine, action, Some(world.found("A")));
    assert_eq!(steps::run(&machine, &attempt), Ok(Outcome::Done));
    let disk = std::fs::read(&path).unwrap();
    assert!(
        disk[..world.raw.len()] == world.raw,
        "the image stands on the disk"
    );
    assert!(
        disk[world.raw.len()..].iter().all(|b| *b == 0xa5),
        "nothing beyond it was touched"
    );
    let said = said.lock().unwrap().clone();
    let (first, last) = (said.first().unwrap(), said.last().unwrap());
    assert!(first.done_bytes > 0 && first.done_bytes < last.done_bytes);
    assert_eq!(last.done_bytes, last.total_bytes);
    assert!(
        said.windows(2)
            .all(|pair| pair[0].done_bytes < pair[1].done_bytes)
    );
    assert_eq!(
        steps::run(&machine, &attempt),
        Ok(Outcome::Done),
        "it can be repeated"
    );
}

#[test]
fn a_tampered_chunk_does_not_reach_the_disk() {
    let world = World::new();
    let path = world.disk("A", 16);
    let last = *world.chunks.last().unwrap();
    let index = world.raw.len() as u64 / (3 * MIB / 2);
    let evil = zstd::bulk::compress(
        &vec![0x66; (world.raw.len() as u64 - index * (3 * MIB / 2)) as usize],
        3,
    );
    world
        .shelf
        .lock()
        .unwrap()
        .files
        .insert(format!("/chunks/{last}"), evil.unwrap());
    let failure = write(&world, "A").unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.transient),
        ("chunk_corrupt", true)
    );
    let disk = std::fs::read(&path).unwrap();
    let runs = disk.windows(64).any(|bytes| bytes.iter().all(|b| *b == 0x66));
    assert!(!runs, "no byte of it is on the disk");
    for bad in [
        b"not zstd".to_vec(),
        zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap(),
    ] {
        world
            .shelf
            .lock()
            .unwrap()
            .files
            .insert(format!("/chunks/{last}"), bad);
        assert_eq!(write(&world, "A").unwrap_err().code, "chunk_corrupt");
    }
}

#[test]
fn a_tampered_manifest_changes_nothing() {
    let world = World::new();
    let path = world.disk("A", 16);
    let before = digest(&path);
    let name = format!("/images/{}", world.image);
    let good = world.shelf.lock().unwrap().files[&name].clone();
    let text = String::from_utf8(good.clone()).unwrap();
    let stranger = Signer::generate().unwrap().0;
    let resealed = |signer: &Signer, chunk_bytes: u64| {
        let value: serde_json::Value = serde_json::from_slice(&good).unwrap();
        let mut notice: ImageNotice = serde_json::from_value(value["msg"]["body"].clone()).unwrap();
        notice.manifest.chunk_bytes = chunk_bytes;
        signer.seal(&Topic::Image(site(), world.image), stamp(2), &notice)
    };
    let cases = [
        (
            "one number changed",
            text.replace("\"size_bytes\":16777216", "\"size_bytes\":16777217")
                .into_bytes(),
        ),
        ("another's key", resealed(&stranger, 3 * MIB / 2)),
        (
            "another image under this name",
            resealed(&world.signer, 3 * MIB / 2 + 1),
        ),
        ("numbers that do not fit", resealed(&world.signer, 0)),
        ("not JSON", b"<html>".to_vec()),
    ];
    for (what, payload) in cases {
        world.shelf.lock().unwrap().files.insert(name.clone(), payload);
        let failure = write(&world, "A").unwrap_err();
        assert_eq!(
            (failure.code.as_str(), failure.transient),
            ("manifest_refused", false),
            "{what}"
        );
    }
    world.shelf.lock().unwrap().files.remove(&name);
    assert_eq!(write(&world, "A").unwrap_err().code, "image_missing");
    assert_eq!(digest(&path), before, "the disk is as it was");
}

#[test]
fn an_edge_that_is_away_for_a_moment_is_waited_for() {
    let world = World::new();
    let path = world.disk("A", 16);
    {
        let mut shelf = world.shelf.lock().unwrap();
        shelf
            .faults
            .insert(format!("/chunks/{}", world.chunks[0]), vec![503, 503, 500]);
        shelf.faults.insert(format!("/images/{}", world.image), vec![503]);
    }
    assert_eq!(write(&world, "A"), Ok(Outcome::Done));
    assert!(std::fs::read(path).unwrap() == world.raw);
    let always = vec![503; 1000];
    world
        .shelf
        .lock()
        .unwrap()
        .faults
        .insert(format!("/chunks/{}", world.chunks[0]), always);
    let failure = write(&world, "A").unwrap_err();
    assert_eq!((failure.code.as_str(), failure.transient), ("image_fetch", true));
    assert!(failure.message.contains("503"), "{}", failure.message);
}

#[test]
fn a_disk_that_is_too_small_changed_gone_or_not_chosen_is_not_written() {
    let world = World::new();
    let small = world.disk("small", 15);
    let before = digest(&small);
    assert_eq!(write(&world, "small").unwrap_err().code, "disk_too_small");
    assert_eq!(digest(&small), before);

    let machine = world.machine();
    let action = Action::AgentWriteImage { image: world.image };
    let other = world.disk("B", 16);
    let before = digest(&other);
    let bound = world.found("B");
    let mut gone = bound.clone();
    gone.serial = Some("Z".into());
    let mut grown = bound.clone();
    grown.size_bytes += 512;
    for (disk, code) in [
        (Some(gone), "disk_changed"),
        (Some(grown), "disk_changed"),
        (None, "disk_not_chosen"),
    ] {
        let (attempt, _) = attempt(&machine, action.clone(), disk);
        let failure = steps::run(&machine, &attempt).unwrap_err();
        assert_eq!(
            (failure.code.as_str(), failure.transient),
            (code, false),
            "{}",
            failure.message
        );
    }
    assert_eq!(digest(&other), before);
}

#[test]
fn a_step_that_is_taken_back_stops() {
    let world = World::new();
    world.disk("A", 16);
    let machine = world.machine();
    let action = Action::AgentWriteImage { image: world.image };
    let (mut attempt, _) = attempt(&machine, action, Some(world.found("A")));
    let cancel = attempt.cancel.clone();
    attempt.progress = Box::new(move |_| cancel.set());
    assert_eq!(steps::run(&machine, &attempt).unwrap_err().code, "cancelled");
}

#[test]
fn the_right_disk_or_none() {
    let world = World::new();
    let paths = [world.disk("A", 1), world.disk("B", 1), world.disk("C", 2)];
    let before: Vec<_> = paths.iter().map(|p| digest(p)).collect();
    let failure = choose(&world, DiskRule::default()).unwrap_err();
    assert_eq!(
        (failure.code.as_str(), failure.transient),
        ("disk_ambiguous", false)
    );
    for serial in ["serial A", "serial B", "serial C"] {
        assert!(failure.message.contains(serial), "{}", failure.message);
    }
    let serial = |serial: &str| DiskRule {
        serial: Some(serial.into()),
        ..DiskRule::default()
    };
    assert_eq!(choose(&world, serial("Z")).unwrap_err().code, "disk_not_found");
    assert_eq!(choose(&world, serial("B")), Ok(Outcome::Chosen(world.found("B"))));
    let mut permissions = std::fs::metadata(&paths[1]).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&paths[1], permissions).unwrap();
    let failure = choose(&world, serial("B")).unwrap_err();
    assert_eq!(failure.code, "disk_in_use");
    let after: Vec<_> = paths.iter().map(|p| digest(p)).collect();
    assert_eq!(before, after, "choosing writes nothing");
}

#[test]
fn first_boot_data_stands_in_its_partition_and_nowhere_else() {
    let world = World::new();
    let path = world.disk("A", 20);
    assert_eq!(write(&world, "A"), Ok(Outcome::Done));
    let before = std::fs::read(&path).unwrap();
    let machine = world.machine();
    let action = Action::AgentConfigure { guest: guest() };
    let (attempt, _) = attempt(&machine, action, Some(world.found("A")));
    assert_eq!(steps::run(&machine, &attempt), Ok(Outcome::Done));
    let after = std::fs::read(&path).unwrap();
    let (from, to) = (5 * MIB as usize, 6 * MIB as usize);
    assert!(
        before[..from] == after[..from] && before[to..] == after[to..],
        "only the partition changed"
    );

    let name = path.to_str().unwrap();
    // the image's own table: its backup stands at the image's end, so it is judged by the image's size
    let alone = world.dir.path().join("alone");
    std::fs::write(&alone, &after[..world.raw.len()]).unwrap();
    let verdict = run_tool("sgdisk", &["-v", alone.to_str().unwrap()]);
    assert!(verdict.contains("No problems found"), "{verdict}");
    let volume = format!("{name}@@{}", 5 * MIB);
    let listing = run_tool("mdir", &["-i", &volume, "::"]);
    assert!(listing.contains("CIDATA"), "{listing}");
    let meta = run_tool("mtype", &["-i", &volume, "::meta-data"]);
    assert_eq!(meta, "instance-id: \"i-1\"\nlocal-hostname: \"web-1\"\n");
    let user = run_tool("mtype", &["-i", &volume, "::user-data"]);
    // The tenant's, in the message that it is a part of: base64 of `#cloud-config\nruncmd: [date]\n`.
    assert!(
        user.starts_with("Content-Type: multipart/mixed")
            && user.contains("\n\nI2Nsb3VkLWNvbmZpZwpydW5jbWQ6IFtkYXRlXQo=\n"),
        "{user}"
    );
    let vendor = run_tool("mtype", &["-i", &volume, "::vendor-data"]);
    let url = format!("http://127.0.0.1:{}/phone-home/{MACHINE}/n0nce", world.http_port);
    assert!(vendor.contains(&format!("  url: \"{url}\"\n")), "{vendor}");
}

#[test]
fn without_partition_table_or_secret_nothing_is_configured() {
    let world = World::new();
    let path = world.disk("A", 16);
    let machine = world.machine();
    let run = |disk: &str, prepare: &dyn Fn(&mut steps::Attempt)| {
        let action = Action::AgentConfigure { guest: guest() };
        let (mut attempt, _) = attempt(&machine, action, Some(world.found(disk)));
        prepare(&mut attempt);
        steps::run(&machine, &attempt).unwrap_err().code
    };
    assert_eq!(run("A", &|_| {}), "no_partition_table");
    let bare = world.dir.path().join("bare.disk");
    std::fs::write(&bare, vec![0; 8 << 20]).unwrap();
    run_tool("sgdisk", &["-n1:2048:+1M", "-c1:root", bare.to_str().unwrap()]);
    assert_eq!(run("bare", &|_| {}), "no_seed_partition");
    assert_eq!(write(&world, "A"), Ok(Outcome::Done));
    let before = digest(&path);
    assert_eq!(
        run("A", &|a| drop(a.release.secrets.remove("nonce"))),
        "secret_missing"
    );
    let swap = |a: &mut steps::Attempt| {
        let other = a.release.secrets["data"].clone();
        a.release.secrets.insert("nonce".into(), other);
    };
    assert_eq!(run("A", &swap), "secret_refused");
    let evil = |a: &mut steps::Attempt| {
        let place = secret_context(&site(), MACHINE, JOB, "nonce");
        let sealed = seal::seal(machine.opening.sealing_key(), &place, &Secret::new("x\"\nrun: y"));
        a.release.secrets.insert("nonce".into(), sealed.unwrap());
    };
    assert_eq!(run("A", &evil), "bad_guest_config");
    assert_eq!(digest(&path), before, "nothing was written");
    assert!(gpt::partitions(|_, _| Err(std::io::ErrorKind::Other.into())).is_err());
}

#[test]
fn what_is_not_for_an_agent_is_refused_by_name() {
    let world = World::new();
    let machine = world.machine();
    let unknown: Action = serde_json::from_str(r#"{"do":"agent_polish"}"#).unwrap();
    for (action, code) in [(unknown, "unknown_action"), (Action::BootLiveos, "not_for_agent")] {
        let (attempt, _) = attempt(&machine, action, None);
        assert_eq!(steps::run(&machine, &attempt).unwrap_err().code, code);
    }
}
