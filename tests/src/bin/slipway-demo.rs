//! `make demo`: a whole Slipway on one machine. Provisions a blank virtual server over real PXE, IPMI and MQTT, prints how
//! long each phase took, and stays up until Ctrl-C.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::json;
use slipway_lab::{commands::up::Spec, state::MachineFirmware};
use slipway_tests::{
    timeline,
    world::{Parts, World},
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let environment = |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let at: SocketAddr = environment("SLIPWAY_HTTP", "127.0.0.1:8080")
        .parse()
        .context("SLIPWAY_HTTP is not host:port")?;
    let guest = environment("DEMO_GUEST", "debian");
    let firmware = match environment("DEMO_FIRMWARE", "bios").as_str() {
        "uefi" => vec![MachineFirmware::Uefi],
        _ => vec![MachineFirmware::Bios, MachineFirmware::Uefi],
    };
    println!("Starting a lab with two blank machines, a control plane and an edge ...");
    let spec = Spec {
        machines: 2,
        firmware,
        memory_mb: 768,
        ..Spec::default()
    };
    let world = World::start("demo", &spec, Parts::from_environment()?, at).await?;
    let password = serde_json::json!({ "password": PASSWORD });
    world
        .api
        .call(reqwest::Method::PATCH, "/api/v1/users/demo", Some(password))
        .await?;
    let key_file = make_key(&world)?;
    let key = std::fs::read_to_string(key_file.with_extension("pub"))?;
    world.upload_guest(&guest).await?;
    println!("Installing `{guest}` on m1: watch it with `slipway job watch`, or on its console ...");
    let more = json!({ "machine": "m1", "ssh_keys": [key.trim()] });
    let (instance, job) = world.install("web-1", &guest, more).await?;
    let job = world.api.wait_for_job(&job, Duration::from_secs(900)).await?;
    ensure!(
        job["state"] == "done",
        "the install failed: {:#}\n{}",
        job["failure"],
        world.console(0)
    );
    println!(
        "\nInstalled. Seconds after the request:\n{}",
        timeline::table(&job)
    );
    let instance = world
        .api
        .get(&format!(
            "/api/v1/instances/{}",
            instance["id"].as_str().unwrap_or_default()
        ))
        .await?;
    let address = instance["machine"]["address"].as_str().unwrap_or_default();
    tell(&world, address, &key_file);
    println!("\nUp until Ctrl-C.");
    tokio::signal::ctrl_c().await?;
    println!("Stopping.");
    Ok(())
}

/// The password of the demo's administrator, whose control plane listens on loopback and is gone with this program.
const PASSWORD: &str = "look-at-the-demo";

/// Where everything is.
fn tell(world: &World, address: &str, key_file: &std::path::Path) {
    let base = world.api.base();
    println!("web UI    {base}   (sign in as demo, {PASSWORD})");
    println!("API       {base}/docs   (needs the token)");
    println!("token     {}", world.api.token());
    println!(
        "try       SLIPWAY_URL={base} SLIPWAY_TOKEN={} slipway instance list",
        world.api.token()
    );
    println!(
        "log in    ip netns exec {} ssh -i {} debian@{address}",
        world.id.site(),
        key_file.display()
    );
    println!(
        "messages  ip netns exec {} mosquitto_sub -h 127.0.0.1 -v -t 'slipway/#'",
        world.id.site()
    );
    println!("lab       slipway-lab --name demo status");
}

fn make_key(world: &World) -> anyhow::Result<std::path::PathBuf> {
    let path = world.folder.join("id_ed25519");
    let shown = path.display().to_string();
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", &shown])
        .status()?;
    ensure!(made.success(), "ssh-keygen failed");
    Ok(path)
}
