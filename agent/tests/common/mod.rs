//! A site in small: a control plane's key, an image, an HTTP server on a real socket, and disks that are files.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    reason = "each test binary uses its part of this module"
)]

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
};

use chrono::{DateTime, Utc};
use slipway_agent::{
    env::Files,
    fetch::Edge,
    lldp::Neighbours,
    log::Log,
    steps::{Attempt, Cancel, Machine},
};
use slipway_protocol::{
    boot::{BootConfig, BootToken},
    ids::{BootId, Digest, ImageId, JobId, MacAddr, MachineId, SiteId, StepId},
    image::{Chunk, ImageNotice, Manifest},
    inventory::Disk,
    keys::{KeyRing, Signer, Stamp},
    order::{Action, Step, secret_context},
    report::{Progress, Release},
    seal::{self, OpeningKey, Secret},
    topic::Topic,
};
use uuid::Uuid;

pub const MIB: u64 = 1 << 20;
pub const JOB: JobId = JobId(Uuid::from_u128(77));
pub const BOOT: BootId = BootId(Uuid::from_u128(78));
pub const MACHINE: MachineId = MachineId(Uuid::from_u128(79));

pub fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

pub fn stamp(revision: u64) -> Stamp {
    let now = Utc::now();
    Stamp {
        revision,
        issued_at: now,
        expires_at: now + chrono::Duration::days(1),
    }
}

/// What the HTTP server has, and the statuses it is to answer first.
#[derive(Default)]
pub struct Shelf {
    pub files: HashMap<String, Vec<u8>>,
    pub faults: HashMap<String, Vec<u16>>,
    pub asked: Vec<String>,
}

/// Serves a shelf on a port of its own; the thread ends with the test's process.
pub fn serve() -> (u16, Arc<Mutex<Shelf>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let shelf = Arc::<Mutex<Shelf>>::default();
    let shared = Arc::clone(&shelf);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let shelf = Arc::clone(&shared);
            std::thread::spawn(move || answer_all(&stream, &shelf));
        }
    });
    (port, shelf)
}

fn answer_all(stream: &TcpStream, shelf: &Mutex<Shelf>) {
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        while lines.next().is_some_and(|line| line.is_ok_and(|l| !l.is_empty())) {}
        let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
        let (status, body) = {
            let mut shelf = shelf.lock().unwrap();
            shelf.asked.push(path.clone());
            let fault = shelf.faults.get_mut(&path).and_then(Vec::pop);
            match (fault, shelf.files.get(&path)) {
                (Some(status), _) => (status, Vec::new()),
                (None, Some(bytes)) => (200, bytes.clone()),
                (None, None) => (404, Vec::new()),
            }
        };
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
        let mut stream = stream;
        if stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&body))
            .is_err()
        {
            return;
        }
    }
}

/// An image of 16 MiB with a partition table, a `cidata` partition, data and holes.
pub fn image() -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(16 * MIB).unwrap();
    let made = Command::new("sgdisk")
        .args([
            "-n1:2048:+4M",
            "-c1:ESP",
            "-n2:0:+1M",
            "-c2:cidata",
            "-n3:0:0",
            "-c3:root",
        ])
        .arg(file.path())
        .output()
        .expect("sgdisk is installed (Debian package gdisk)");
    assert!(made.status.success(), "{made:?}");
    let mut bytes = std::fs::read(file.path()).unwrap();
    let mut state = 1_u32;
    for byte in &mut bytes[(8 * MIB) as usize..(10 * MIB + 777) as usize] {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    bytes
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub shelf: Arc<Mutex<Shelf>>,
    pub http_port: u16,
    pub signer: Signer,
    pub edge_signer: Signer,
    pub raw: Vec<u8>,
    pub image: ImageId,
    pub chunks: Vec<Digest>,
}

impl World {
    pub fn new() -> Self {
        let (http_port, shelf) = serve();
        let raw = image();
        let mut world = Self {
            dir: tempfile::tempdir().unwrap(),
            shelf,
            http_port,
            signer: Signer::generate().unwrap().0,
            edge_signer: Signer::generate().unwrap().0,
            image: Digest::of(b""),
            chunks: Vec::new(),
            raw,
        };
        world.publish_image();
        world
    }

    fn publish_image(&mut self) {
        // not a whole number of chunks, so that the last one is short
        let chunk_bytes = 3 * MIB / 2;
        let mut chunks = Vec::new();
        let mut shelf = self.shelf.lock().unwrap();
        for raw in self.raw.chunks(chunk_bytes as usize) {
            if raw.iter().all(|b| *b == 0) {
                chunks.push(Chunk::Zero);
                continue;
            }
            let (sha256, stored) = (Digest::of(raw), zstd::bulk::compress(raw, 3).unwrap());
            chunks.push(Chunk::Data {
                sha256,
                stored_bytes: stored.len() as u64,
            });
            shelf.files.insert(format!("/chunks/{sha256}"), stored);
        }
        let manifest = Manifest {
            size_bytes: self.raw.len() as u64,
            chunk_bytes,
            chunks,
        };
        assert!(manifest.chunks.contains(&Chunk::Zero), "the test image has holes");
        self.image = manifest.id();
        self.chunks = manifest.digests().collect();
        let notice = ImageNotice {
            name: "test".into(),
            manifest,
            pinned: false,
        };
        let topic = Topic::Image(site(), self.image);
        let payload = self.signer.seal(&topic, stamp(1), &notice);
        shelf.files.insert(format!("/images/{}", self.image), payload);
    }

    /// A disk full of old bytes.
    pub fn disk(&self, serial: &str, mib: u64) -> PathBuf {
        let path = self.dir.path().join(format!("{serial}.disk"));
        std::fs::write(&path, vec![0xa5; (mib * MIB) as usize]).unwrap();
        path
    }

    pub fn found(&self, serial: &str) -> Disk {
        use slipway_agent::env::Env as _;
        let files = Files {
            root: self.dir.path().into(),
        };
        let disks = files.disks().into_iter().map(|f| f.disk);
        disks
            .into_iter()
            .find(|d| d.serial.as_deref() == Some(serial))
            .unwrap()
    }

    pub fn config(&self, mqtt_port: u16, ca: String, token: BootToken) -> BootConfig {
        BootConfig {
            site: site(),
            machine: MACHINE,
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            address: Ipv4Addr::LOCALHOST,
            prefix: 8,
            gateway: None,
            edge: Ipv4Addr::LOCALHOST,
            mqtt_port,
            http_port: self.http_port,
            ca,
            verifying_keys: vec![self.signer.verifying_key()],
            edge_key: self.edge_signer.verifying_key(),
            token,
            edge_time_s: Utc::now().timestamp(),
        }
    }

    pub fn machine(&self) -> Machine {
        let (opening, _) = OpeningKey::generate().unwrap();
        Machine {
            env: Box::new(Files {
                root: self.dir.path().into(),
            }),
            edge: Edge::new(Ipv4Addr::LOCALHOST, self.http_port)
                .with_patience(std::time::Duration::from_secs(3)),
            config: self.config(1, String::new(), BootToken::from_bytes([7; 32])),
            keys: KeyRing::new([self.signer.verifying_key()]),
            opening,
            neighbours: Neighbours::default(),
            log: Log::default(),
        }
    }
}

pub fn step(name: &str, action: Action) -> Step {
    Step {
        id: StepId::new(name).unwrap(),
        role: action.role(),
        action,
        needs: Vec::new(),
        no_progress_timeout_s: 60,
        retries: 0,
    }
}

/// An attempt whose progress is written down.
pub fn attempt(
    machine: &Machine,
    action: Action,
    disk: Option<Disk>,
) -> (Attempt, Arc<Mutex<Vec<Progress>>>) {
    let said = Arc::<Mutex<Vec<Progress>>>::default();
    let heard = Arc::clone(&said);
    let mut secrets = BTreeMap::new();
    for (name, text) in [("nonce", "n0nce"), ("data", "#cloud-config\nruncmd: [date]\n")] {
        let place = secret_context(&site(), MACHINE, JOB, name);
        let sealed = seal::seal(machine.opening.sealing_key(), &place, &Secret::new(text)).unwrap();
        secrets.insert(name.to_owned(), sealed);
    }
    let attempt = Attempt {
        job: JOB,
        step: step("step", action),
        release: Release {
            boot: BOOT,
            job: JOB,
            order_revision: 1,
            run: Vec::new(),
            disk: None,
            secrets,
        },
        disk,
        cancel: Cancel::default(),
        progress: Box::new(move |progress| heard.lock().unwrap().push(progress)),
    };
    (attempt, said)
}

pub fn digest(path: &Path) -> Digest {
    Digest::of(&std::fs::read(path).unwrap())
}

pub fn run_tool(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}; see the packages gdisk and mtools"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{program}: {text}");
    text
}

pub fn far() -> DateTime<Utc> {
    Utc::now() + chrono::Duration::days(1)
}
