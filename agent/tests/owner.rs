//! What the owner of a running instance asks for by way of the LiveOS: data disks wiped, a new password, a way in.

mod common;

use std::fs;

use common::{MIB, World, attempt, digest};
use slipway_agent::steps::{self, Outcome};
use slipway_protocol::{order::Action, report::Failure};

#[test]
fn every_disk_but_the_chosen_one_is_wiped() {
    let world = World::new();
    let (kept, data, odd) = (world.disk("A", 16), world.disk("B", 70), world.disk("C", 3));
    let before = digest(&kept);
    let machine = world.machine();
    let (attempt, said) = attempt(&machine, Action::AgentWipeDisks, Some(world.found("A")));
    assert_eq!(steps::run(&machine, &attempt), Ok(Outcome::Done));
    assert_eq!(digest(&kept), before, "the system's disk is left");
    for (path, mib) in [(&data, 70), (&odd, 3)] {
        let bytes = fs::read(path).unwrap();
        assert_eq!(bytes.len() as u64, mib * MIB);
        assert!(bytes.iter().all(|b| *b == 0), "{}", path.display());
    }
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 3, "64 MiB at a time, and each disk's rest: {said:?}");
    assert_eq!(said.last().unwrap().done_bytes, 73 * MIB);
    assert_eq!(said.last().unwrap().total_bytes, 73 * MIB);
}

#[test]
fn nothing_is_wiped_when_one_may_not_be_or_none_was_chosen() {
    let world = World::new();
    world.disk("A", 16);
    let (first, fixed) = (world.disk("B", 2), world.disk("C", 2));
    let before = digest(&first);
    let mut mode = fs::metadata(&fixed).unwrap().permissions();
    mode.set_readonly(true);
    fs::set_permissions(&fixed, mode).unwrap();
    let machine = world.machine();
    let run = |disk: Option<&str>| {
        let disk = disk.map(|name| world.found(name));
        let (attempt, _) = attempt(&machine, Action::AgentWipeDisks, disk);
        steps::run(&machine, &attempt).unwrap_err().code
    };
    assert_eq!(run(Some("A")), "disk_in_use");
    assert_eq!(run(None), "disk_not_chosen");
    assert_eq!(digest(&first), before, "all or none");
}

fn set_password(world: &World, user: &str) -> Result<Outcome, Failure> {
    let machine = world.machine();
    let action = Action::AgentSetPassword {
        user: user.into(),
        password: "nonce".into(),
    };
    let (attempt, _) = attempt(&machine, action, Some(world.found("A")));
    steps::run(&machine, &attempt)
}

#[test]
fn a_password_is_set_for_a_user_who_is_there() {
    let world = World::new();
    world.disk("A", 1);
    assert_eq!(set_password(&world, "ops").unwrap_err().code, "no_system_found");
    let etc = world.dir.path().join("A.root/etc");
    fs::create_dir_all(&etc).unwrap();
    let text = "root:*:19000:0:99999:7:::\nops:!:19000:0:99999:7:::\n";
    fs::write(etc.join("shadow"), text).unwrap();
    assert_eq!(set_password(&world, "nobody").unwrap_err().code, "no_such_user");
    assert_eq!(fs::read_to_string(etc.join("shadow")).unwrap(), text);
    assert_eq!(set_password(&world, "ops"), Ok(Outcome::Done));
    let changed = fs::read_to_string(etc.join("shadow")).unwrap();
    assert!(
        changed.starts_with("root:*:19000:") && changed.contains("\nops:n0nce:2"),
        "{changed}"
    );
}

#[test]
fn only_whole_keys_let_anybody_in() {
    let world = World::new();
    let machine = world.machine();
    let run = |keys: &[&str]| {
        let ssh_keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let (attempt, _) = attempt(&machine, Action::AgentRescue { ssh_keys }, None);
        steps::run(&machine, &attempt).map_err(|failure| failure.code)
    };
    assert_eq!(run(&[]), Err("no_ssh_key".into()));
    assert_eq!(
        run(&["ssh-ed25519 AAAA a\nssh-ed25519 BBBB b"]),
        Err("bad_ssh_key".into())
    );
    let allowed = world.dir.path().join("authorized_keys");
    assert!(!allowed.exists());
    assert_eq!(run(&["ssh-ed25519 AAAA a", "ssh-rsa BBBB b"]), Ok(Outcome::Done));
    assert_eq!(
        fs::read_to_string(allowed).unwrap(),
        "ssh-ed25519 AAAA a\nssh-rsa BBBB b\n"
    );
}
