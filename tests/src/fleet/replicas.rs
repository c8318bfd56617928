//! What several control planes need around them: a balancer before their API, and a Mosquitto, configured by the control
//! plane itself, between them and the sites.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, ensure};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{place::Block, process::Process, world::Part};

/// Hands each connection to the next replica that takes it.
pub(super) async fn balance(block: Block, replicas: u8, stop: &CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(block.api()).await?;
    let (next, stop) = (Arc::new(AtomicUsize::new(0)), stop.clone());
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((client, _)) = accepted else { continue };
            let next = Arc::clone(&next);
            tokio::spawn(hand_on(client, block, replicas, next));
        }
    });
    Ok(())
}

async fn hand_on(mut client: TcpStream, block: Block, replicas: u8, next: Arc<AtomicUsize>) {
    for _ in 0..replicas {
        let index = next.fetch_add(1, Ordering::Relaxed) % usize::from(replicas);
        let Ok(index) = u8::try_from(index) else { return };
        if let Ok(mut replica) = TcpStream::connect(block.replica(index)).await {
            // Either end may go away at any time; that is what is tested.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut replica).await;
            return;
        }
    }
}

/// Starts a Mosquitto with the configuration and certificates that `slipway-control-plane mosquitto` makes.
pub(super) fn broker(block: Block, control_plane: &Part, folder: &Path) -> anyhow::Result<Process> {
    let home = folder.join("mosquitto");
    let made = control_plane
        .process()
        .command()
        .arg("mosquitto")
        .arg(&home)
        .args(["--sites", &block.mqtt().to_string()])
        .args(["--replicas", &block.replicas_mqtt().to_string()])
        .args(["--host", &block.mqtt().ip().to_string()])
        .output()?;
    let said = String::from_utf8_lossy(&made.stderr);
    ensure!(made.status.success(), "no configuration for Mosquitto: {said}");
    let configuration = home.join("mosquitto.conf");
    // As root it would change to a user of its own, who may not read its key.
    let text = std::fs::read_to_string(&configuration).context("no mosquitto.conf")?;
    std::fs::write(&configuration, format!("user root\n{text}"))?;
    let configuration = configuration.display().to_string();
    let mut broker = Process::new(
        "/usr/sbin/mosquitto".into(),
        &["-c", &configuration],
        Vec::new(),
        folder.join("broker"),
    );
    broker.start()?;
    Ok(broker)
}
