//! Simulated machines of one site, in the site's namespace of a lab: their BMCs, their boots and their agents run on threads
//! that were born there. All is over when it is dropped.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use slipway_lab::{
    bmc::{self, Users},
    netns,
};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::{
    chassis::{Deeds, SimulatedChassis},
    machine::Machine,
    pace::Pace,
    place::{Block, MachinePlace, SitePlace},
};

const BMC_USER: &str = "rack";
const BMC_PASSWORD: &str = "simulated";
/// The block of loopback addresses; a namespace has them for itself.
const BLOCK: Block = Block(16);

/// The machines of a site.
pub struct Rack {
    machines: Vec<MachinePlace>,
    deeds: BTreeMap<String, Arc<Deeds>>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
    _disks: tempfile::TempDir,
}

impl Rack {
    /// Where the edge serves them.
    #[must_use]
    pub fn place() -> SitePlace {
        BLOCK.site(0)
    }

    /// So many machines, switched off, with blank disks. `seed` is of their times.
    ///
    /// # Errors
    /// When the namespace cannot be entered or a BMC has no port there.
    pub fn start(namespace: &str, machines: u8, seed: u64) -> anyhow::Result<Self> {
        let disks = tempfile::Builder::new().prefix("slipway-rack-").tempdir()?;
        let mut rack = Self {
            machines: (0..machines).map(|index| Self::place().machine(index)).collect(),
            deeds: BTreeMap::new(),
            stop: CancellationToken::new(),
            thread: None,
            _disks: disks,
        };
        let mut chassis = Vec::new();
        for place in &rack.machines {
            let pace = Pace::new(seed, place.number());
            let machine = Machine::new(*place, rack._disks.path(), pace)?;
            let made = SimulatedChassis::new(machine, rack.stop.clone());
            rack.deeds.insert(place.name(), made.deeds());
            chassis.push((*place, made));
        }
        let (ready, is_ready) = mpsc::channel();
        let (namespace, stop) = (namespace.to_owned(), rack.stop.clone());
        rack.thread = Some(std::thread::spawn(move || {
            let up = netns::enter(&namespace).map_err(anyhow::Error::from);
            let up = up.and_then(|()| {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                let runtime = builder.worker_threads(2).enable_all().build()?;
                runtime.block_on(serve(chassis))?;
                Ok(runtime)
            });
            match up {
                Ok(runtime) => {
                    // Whoever waited for this may have given up; then the stop follows at once.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(stop.cancelled());
                    runtime.shutdown_background();
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        }));
        is_ready.recv().context("the rack's thread ended")??;
        Ok(rack)
    }

    /// What to post to `/api/v1/machines`, for each.
    #[must_use]
    pub fn enrolments(&self, site: &str) -> Vec<Value> {
        let body = |place: &MachinePlace| {
            json!({ "name": place.name(), "site": site, "macs": [place.mac()], "firmware": "bios",
                "address": place.address(),
                "bmc": { "driver": "ipmi", "address": place.bmc(), "username": BMC_USER, "password": BMC_PASSWORD } })
        };
        self.machines.iter().map(body).collect()
    }

    /// What was done to each machine, by its name.
    #[must_use]
    pub fn deeds(&self) -> &BTreeMap<String, Arc<Deeds>> {
        &self.deeds
    }
}

impl Drop for Rack {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

async fn serve(machines: Vec<(MachinePlace, SimulatedChassis)>) -> anyhow::Result<()> {
    for (place, chassis) in machines {
        let socket = UdpSocket::bind(place.bmc()).await;
        let socket = socket.with_context(|| format!("cannot serve a BMC on {}", place.bmc()))?;
        let users = Users::administrator(BMC_USER, BMC_PASSWORD);
        // It ends with the runtime.
        tokio::spawn(bmc::serve(socket, users, Arc::new(chassis)));
    }
    Ok(())
}
