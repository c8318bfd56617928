//! The edge box as a ready image: flashed, booted, given its token on its page by somebody with a browser; it serves its site,
//! comes back after a power cut, and takes settings and a newer package from its disk. The image itself is nobody's.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::json;
use slipway_lab::{
    commands::{exec::Place, up::Spec},
    state::MachineFirmware,
};
use slipway_tests::{
    appliance::{ADDRESS, Appliance, Router, files, private_keys},
    world::{Parts, SITE, World, wait_for},
};

/// How long a start of the box may take, under software emulation beside another machine.
const START: Duration = Duration::from_secs(240);
const INSTALL: Duration = Duration::from_secs(300);
/// Debian's GnuTLS tests itself with keys that are the same everywhere, and public.
const PUBLIC_KEYS: &str = "libgnutls.so";

/// Where a box keeps what is its own.
const OWN: [&str; 2] = ["etc", "var"];

fn image() -> PathBuf {
    std::env::var_os("SLIPWAY_EDGE_IMAGE")
        .expect("SLIPWAY_EDGE_IMAGE is not set: run this through make, which builds it")
        .into()
}

async fn site_with_router(name: &str) -> (World, Router) {
    let spec = Spec {
        machines: 1,
        firmware: vec![MachineFirmware::Bios],
        ..Spec::default()
    };
    let at = ("127.0.0.1:0".parse().unwrap(), ADDRESS);
    let world = World::without_edge(name, (&spec, 0), Parts::from_environment().unwrap(), at)
        .await
        .unwrap();
    let router = Router::start(&world).unwrap();
    (world, router)
}

/// The box's page as a browser gets it: with `token`, what its form sends. Status and text; nothing if nobody answers.
fn page(world: &World, token: Option<&str>) -> Option<(String, String)> {
    let mut curl = world.command(Place::Site, "curl").unwrap();
    curl.args(["-sS", "-m", "30", "-w", "\n%{http_code}"]);
    if token.is_some() {
        curl.args(["--data-urlencode", "token@-"]);
    }
    let mut child = curl
        .arg(format!("http://{ADDRESS}:8080/"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(token.unwrap_or_default().as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (text, status) = text.rsplit_once('\n')?;
    output
        .status
        .success()
        .then(|| (status.to_owned(), text.to_owned()))
}

/// Waits for the page, and for the console to name it.
async fn set_up_page(world: &World, edge: &Appliance) -> String {
    let (status, text) = wait_for("the set-up page", START, || page(world, None))
        .await
        .unwrap();
    assert_eq!(status, "200", "{text}");
    assert!(!text.contains(">FAIL<"), "the box is not fit: {text}");
    assert!(
        text.contains(&format!("HTTP boot on {ADDRESS}:8081")),
        "it found its address: {text}"
    );
    let line = format!("Slipway edge: not joined. Open http://{ADDRESS}:8080/ and enter the token.");
    on_console(edge, &line).await;
    let console = edge.console();
    assert!(!console.contains("login:"), "nobody logs in: {console}");
    text
}

async fn on_console(edge: &Appliance, line: &str) {
    let told = wait_for(line, START, || edge.console().contains(line).then_some(()));
    told.await.unwrap();
}

async fn online(world: &World) {
    let limit = Instant::now() + START;
    loop {
        let site = world.api.get(&format!("/api/v1/sites/{SITE}")).await.unwrap();
        if site["online"] == true {
            return;
        }
        assert!(Instant::now() < limit, "the site is not online: {site:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn install_tiny(world: &World) {
    world.enrol().await.unwrap();
    world.upload_guest("tiny").await.unwrap();
    let (_, job) = world.install("web-1", "tiny", json!({})).await.unwrap();
    let job = world.api.wait_for_job(&job, INSTALL).await.unwrap();
    assert_eq!(job["state"], "done", "{:#}\n{}", job["failure"], world.console(0));
    let instance = world.api.get("/api/v1/instances/web-1").await.unwrap();
    assert_eq!(instance["state"], "running");
}

/// What must be the box's own is not in what was flashed; and the look does find it where it is.
fn image_is_nobodys(world: &World, joined: &Path) -> String {
    let (fresh, used) = (world.folder.join("fresh"), world.folder.join("used"));
    files(
        &image(),
        &["etc", "home", "opt", "root", "srv", "usr", "var"],
        &fresh,
    )
    .unwrap();
    files(joined, &OWN, &used).unwrap();
    let of_libraries = |path: &PathBuf| path.to_string_lossy().contains(PUBLIC_KEYS);
    let mut keys = private_keys(&fresh).unwrap();
    keys.retain(|path| !of_libraries(path));
    assert_eq!(keys, Vec::<PathBuf>::new(), "the image holds private keys");
    let keys = private_keys(&used).unwrap();
    let identity = used.join("var/lib/slipway/identity.json");
    assert!(keys.contains(&identity), "the look is blind: {keys:?}");
    let read = |root: &Path, path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read(&fresh, "etc/machine-id"), "");
    for absent in [
        "var/lib/slipway/identity.json",
        "var/lib/dbus/machine-id",
        "var/lib/systemd/random-seed",
        "usr/sbin/sshd",
    ] {
        assert!(
            !fresh.join(absent).is_symlink() && !fresh.join(absent).exists(),
            "{absent}"
        );
    }
    for user in read(&fresh, "etc/shadow").lines() {
        let password = user.split(':').nth(1).unwrap();
        assert!(password.starts_with(['!', '*']), "somebody may log in: {user}");
    }
    let machine = read(&used, "etc/machine-id");
    assert_eq!(machine.trim().len(), 32);
    assert!(
        used.join("var/log/journal").join(machine.trim()).is_dir(),
        "the journal outlives a power cut"
    );
    machine
}

/// The installed package as one of a later version.
fn newer_package(world: &World) -> PathBuf {
    let folder = image().parent().unwrap().to_owned();
    let package = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|kind| kind == "deb"))
        .expect("the package lies beside the image");
    let (tree, newer) = (
        world.folder.join("tree"),
        world.folder.join("slipway-edge_99_amd64.deb"),
    );
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("dpkg-deb").arg("-R").args([&package, &tree]));
    let control = tree.join("DEBIAN/control");
    run(Command::new("sed")
        .args(["-i", "s/^Version: .*/Version: 99/"])
        .arg(control));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zgzip", "-z1", "-b"])
        .args([&tree, &newer])
        .stdout(Stdio::null()));
    newer
}

fn answers_at(world: &World, address: &str) -> Option<()> {
    let mut ping = world.command(Place::Site, "ping").unwrap();
    let output = ping.args(["-c", "1", "-W", "1", address]).output().unwrap();
    output.status.success().then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn long_a_flashed_box_joins_by_its_page_serves_and_comes_back() {
    let begin = Instant::now();
    let say = |what: &str| println!("{:6.1} s  {what}", begin.elapsed().as_secs_f32());
    let (world, _router) = site_with_router("t-appliance").await;
    let mut edge = Appliance::new(&world, "edge", MachineFirmware::Bios, &image()).unwrap();
    edge.switch_on(&world).unwrap();
    say("switched on");
    let text = set_up_page(&world, &edge).await;
    assert!(text.contains("GiB free at /var/lib/slipway"), "{text}");
    assert!(
        !text.contains(">0 GiB free"),
        "the root partition has grown: {text}"
    );
    say("set-up page");
    assert_eq!(page(&world, Some("no token")).unwrap().0, "400");
    let token = world.token().await.unwrap();
    let (status, text) = page(&world, Some(&token)).unwrap();
    assert_eq!(status, "200", "{text}");
    assert!(text.contains(&format!("Joined site {SITE}")), "{text}");
    online(&world).await;
    on_console(&edge, &format!("Slipway edge: serves site {SITE} at {ADDRESS}.")).await;
    on_console(&edge, "is reached.").await;
    assert!(page(&world, None).is_none(), "the page is gone");
    say("joined and online");
    install_tiny(&world).await;
    say("a machine installed through it");

    edge.cut_power();
    let machine = image_is_nobodys(&world, &edge.disk());
    say("the image is nobody's");
    edge.put(&newer_package(&world)).unwrap();
    let network = world.folder.join("10-more.network");
    std::fs::write(
        &network,
        "[Match]\nType=ether\n[Network]\nDHCP=ipv4\nAddress=192.0.2.3/24\n",
    )
    .unwrap();
    edge.put(&network).unwrap();
    edge.switch_on(&world).unwrap();
    on_console(&edge, "is reached.").await;
    online(&world).await;
    say("back after a power cut, upgraded");
    let answers = wait_for("the second address", START, || answers_at(&world, "192.0.2.3"));
    answers.await.unwrap();
    assert!(page(&world, None).is_none(), "it is joined still");
    edge.cut_power();
    let after = world.folder.join("after");
    files(&edge.disk(), &OWN, &after).unwrap();
    let status = std::fs::read_to_string(after.join("var/lib/dpkg/status")).unwrap();
    assert!(
        status.contains("Package: slipway-edge\nStatus: install ok installed"),
        "{status}"
    );
    assert!(
        status.contains("\nVersion: 99\n"),
        "the newer package was installed"
    );
    assert_eq!(
        std::fs::read_to_string(after.join("etc/machine-id")).unwrap(),
        machine
    );
    say("done");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_a_flashed_box_starts_by_uefi_too() {
    let (world, _router) = site_with_router("t-appliance-uefi").await;
    let mut edge = Appliance::new(&world, "edge", MachineFirmware::Uefi, &image()).unwrap();
    let begin = Instant::now();
    edge.switch_on(&world).unwrap();
    set_up_page(&world, &edge).await;
    println!("{:6.1} s  set-up page", begin.elapsed().as_secs_f32());
}
