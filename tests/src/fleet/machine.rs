//! A simulated machine between power on and power off: firmware, network boot, the real agent on simulated hardware, the
//! reboot, and the guest that phones home by what it finds on its disk. It knows nothing that a real machine would not
//! know but its edge's address, which DHCP would tell it.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use slipway_agent::{disk::gpt, fetch::Edge, lldp::Neighbours, log::Log, run, steps};
use slipway_edge::bmc::BootDevice;
use slipway_protocol::{boot::BootConfig, inventory::Neighbour, keys::KeyRing, seal::OpeningKey};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    chassis::Flags,
    hardware::{DISK_BYTES, Hardware},
    overlay,
    pace::Pace,
    place::MachinePlace,
};

/// Between two tries of firmware or guest, as long as the edge does not answer.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often the guest tries to phone home (cloud-init's `tries`).
const PHONE_HOME_TRIES: u32 = 20;

/// A machine; clones share its disk.
#[derive(Clone)]
pub(super) struct Machine {
    place: MachinePlace,
    disk: PathBuf,
    pace: Pace,
    http: reqwest::Client,
}

/// What a network boot came to.
enum Booted {
    /// The agent ran and restarted the machine.
    Again,
    /// The edge says: boot the disk.
    Disk,
}

impl Machine {
    /// A machine whose disk is a file in `folder`.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub(super) fn new(place: MachinePlace, folder: &Path, pace: Pace) -> anyhow::Result<Self> {
        // From its own address: its edge gives nobody else what it is to boot.
        let http = reqwest::Client::builder()
            .local_address(std::net::IpAddr::V4(place.address()))
            .timeout(Duration::from_secs(30))
            .build()?;
        let disk = folder.join(format!("{}.disk", place.name()));
        Ok(Self {
            place,
            disk,
            pace,
            http,
        })
    }

    /// Boots, and boots again after each restart, until the power goes.
    pub(super) async fn run(self, flags: Flags, power: CancellationToken) {
        let _ = power.run_until_cancelled(self.boot_for_ever(flags, &power)).await;
    }

    async fn boot_for_ever(&self, flags: Flags, power: &CancellationToken) {
        loop {
            tokio::time::sleep(self.pace.firmware()).await;
            let from_disk = match flags.take() {
                BootDevice::Disk => true,
                BootDevice::Pxe => match self.boot_network(power).await {
                    Ok(Booted::Again) => false,
                    Ok(Booted::Disk) => true,
                    Err(error) => {
                        // As an agent that gives up: it says so on its console and restarts the machine.
                        warn!(
                            machine = self.place.name(),
                            error = format!("{error:#}"),
                            "network boot failed"
                        );
                        false
                    }
                },
            };
            if from_disk {
                self.boot_disk().await;
                // An operating system runs, or firmware says that there is none, until the power goes.
                std::future::pending::<()>().await;
            }
        }
    }

    async fn boot_network(&self, power: &CancellationToken) -> anyhow::Result<Booted> {
        let edge = self.place.site.edge_http();
        let script = format!("http://{edge}/boot/{}.ipxe", self.place.mac().hyphenated());
        let script = self.fetch(&script).await;
        let mut last = None;
        for url in overlay::files(&String::from_utf8_lossy(&script)) {
            last = Some(self.fetch(&url).await);
        }
        let Some(archive) = last else {
            return Ok(Booted::Disk);
        };
        tokio::time::sleep(self.pace.liveos()).await;
        self.run_agent(overlay::boot_config(&archive)?, power).await
    }

    /// Fetches as iPXE in a loop does: until it has the file.
    async fn fetch(&self, url: &str) -> Bytes {
        loop {
            let answer = self
                .http
                .get(url)
                .send()
                .await
                .and_then(reqwest::Response::error_for_status);
            let body = match answer {
                Ok(answer) => answer.bytes().await,
                Err(error) => Err(error),
            };
            match body {
                Ok(body) => return body,
                Err(error) => debug!(url, %error, "not fetched; trying again"),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }

    /// The real agent, until it restarts the machine.
    async fn run_agent(&self, config: BootConfig, power: &CancellationToken) -> anyhow::Result<Booted> {
        let restarted = Arc::new(AtomicBool::new(false));
        self.have_disk()?;
        let hardware = Hardware {
            place: self.place,
            disk: self.disk.clone(),
            pace: self.pace.clone(),
            restarted: Arc::clone(&restarted),
        };
        let (opening, _) = OpeningKey::generate()?;
        let machine = steps::Machine {
            env: Box::new(hardware),
            edge: Edge::new(config.edge, config.http_port),
            keys: KeyRing::new(config.verifying_keys.iter().copied()),
            opening,
            config,
            neighbours: neighbours(self.place),
            // Thousands of agents share this process and its console.
            log: Log::default(),
        };
        // Ends the agent's connection with this boot, however it ends.
        let session = power.child_token();
        let _end = session.clone().drop_guard();
        run::run(machine, session).await?;
        anyhow::ensure!(
            restarted.load(Ordering::Acquire),
            "the agent ended without a restart"
        );
        Ok(Booted::Again)
    }

    /// A blank disk, unless there is one from an earlier boot.
    fn have_disk(&self) -> anyhow::Result<()> {
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.disk);
        let file = file.with_context(|| format!("cannot make the disk {}", self.disk.display()))?;
        Ok(file.set_len(DISK_BYTES)?)
    }

    /// The bytes of the partition that holds the guest's first-boot data.
    fn first_boot_data(&self) -> Option<Vec<u8>> {
        let disk = fs::File::open(&self.disk).ok()?;
        let partitions = gpt::partitions(|offset, bytes| disk.read_exact_at(bytes, offset)).ok()?;
        let seed = partitions.iter().find(|partition| partition.name == "cidata")?;
        let mut bytes = vec![0; usize::try_from(seed.len).ok()?];
        disk.read_exact_at(&mut bytes, seed.offset).ok()?;
        Some(bytes)
    }

    /// The guest: does what its first-boot data says, if there is any.
    async fn boot_disk(&self) {
        tokio::time::sleep(self.pace.guest()).await;
        let Some(url) = self.first_boot_data().as_deref().and_then(phone_home) else {
            return;
        };
        for _ in 0..PHONE_HOME_TRIES {
            let form = format!("hostname={0}&instance_id={0}", self.place.name());
            let request = self
                .http
                .post(&url)
                .header("content-type", "application/x-www-form-urlencoded");
            match request.body(form).send().await {
                Ok(answer) if answer.status().is_success() => return,
                Ok(answer) => {
                    debug!(url, status = %answer.status(), "the guest is not welcome; trying again")
                }
                Err(error) => debug!(url, %error, "the guest cannot phone home; trying again"),
            }
            tokio::time::sleep(AGAIN_AFTER).await;
        }
    }
}

/// The phone-home URL in the first-boot data. It is short enough to lie in one piece.
fn phone_home(seed: &[u8]) -> Option<String> {
    const BEFORE: &[u8] = b"phone_home:\n  url: \"";
    let at = seed.windows(BEFORE.len()).position(|window| window == BEFORE)? + BEFORE.len();
    let len = seed[at..].iter().position(|byte| *byte == b'"')?;
    String::from_utf8(seed[at..at + len].to_vec()).ok()
}

/// A switch per site, each machine at a port of its own.
fn neighbours(place: MachinePlace) -> Neighbours {
    let neighbours = Neighbours::default();
    let switch = Neighbour {
        chassis: "02:51:1b:00:00:fe".to_owned(),
        port: format!("to {}", place.name()),
        description: None,
        system: Some(format!("leaf.{}", place.site.name())),
        vlan: Some(100),
    };
    neighbours.put(place.mac(), switch);
    neighbours
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_finds_its_url_in_the_first_boot_data() {
        let text =
            b"....hostname: x\nphone_home:\n  url: \"http://127.1.1.1:8081/phone-home/m/n0\"\n  tries: 20\n";
        assert_eq!(
            phone_home(text).as_deref(),
            Some("http://127.1.1.1:8081/phone-home/m/n0")
        );
        assert_eq!(phone_home(&[0; 4096]), None, "a blank disk has no system");
    }
}
