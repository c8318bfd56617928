//! Who is who: the site, the keys of all parties, the image, and the orders that the real workflows compile. Secrets are
//! sealed once a thread, for sealing them costs more than the rest of a run.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use slipway_control_plane::workflow::{
    install::{self, BMC_PASSWORD, Install, PHONE_HOME},
    power::{self, Installed, Switch},
    release,
};
use slipway_protocol::{
    ids::{Digest, JobId, MachineId, SiteId},
    image::{CHUNK_BYTES, Chunk, Manifest},
    inventory::{DiskRule, FirmwareKind},
    keys::{KeyError, Signer},
    order::{BmcAccess, BmcDriver, Hardware, Order, secret_context},
    seal::{self, OpeningKey, Sealed, Secret},
    site::SiteConfig,
};
use uuid::Uuid;

use super::{
    bmc,
    machine::{mac, machine_id},
    schedule::Work,
};

/// One site and whoever it deals with.
pub struct Site {
    /// Its name.
    pub id: SiteId,
    /// The control plane's key.
    pub centre: Arc<Signer>,
    /// The edge's key.
    pub edge: Signer,
    /// A key that nobody trusts.
    pub stranger: Signer,
    opening: [u8; 32],
}

type Place = (MachineId, JobId, &'static str);

thread_local! {
    static SEALED: RefCell<HashMap<Place, Rc<Sealed>>> = RefCell::default();
}

/// The id of the n-th job of a run.
#[must_use]
pub fn job_id(n: usize) -> JobId {
    JobId(Uuid::from_u128(1 + n as u128))
}

/// What a guest that a job installed proves itself with.
#[must_use]
pub fn nonce(job: JobId) -> String {
    format!("nonce-{job}")
}

/// The image: all zeros, so that nothing has to be fetched.
#[must_use]
pub fn manifest() -> Manifest {
    Manifest {
        size_bytes: CHUNK_BYTES,
        chunk_bytes: CHUNK_BYTES,
        chunks: vec![Chunk::Zero],
    }
}

impl Site {
    /// The same site with the same keys, each time.
    ///
    /// # Errors
    /// Never with these seeds.
    pub fn new() -> Result<Self, KeyError> {
        Ok(Self {
            id: SiteId::new("sim-1").expect("the name is one"),
            centre: Arc::new(Signer::from_seed(&[1; 32])?),
            edge: Signer::from_seed(&[2; 32])?,
            stranger: Signer::from_seed(&[3; 32])?,
            opening: [4; 32],
        })
    }

    /// What opens the site's secrets.
    #[must_use]
    pub fn opening(&self) -> OpeningKey {
        OpeningKey::from_bytes(self.opening)
    }

    /// The site's configuration.
    #[must_use]
    pub fn config(&self) -> SiteConfig {
        SiteConfig {
            subnets: Vec::new(),
            verifying_keys: vec![self.centre.verifying_key()],
            discover: false,
            dhcp_relays: vec![],
            emergency_code: None,
        }
    }

    fn sealed(&self, place: Place, secret: &Secret) -> Sealed {
        let sealed = SEALED.with_borrow_mut(|all| {
            let make = || {
                let (machine, job, name) = place;
                let context = secret_context(&self.id, machine, job, name);
                let sealed = seal::seal(self.opening().sealing_key(), &context, secret);
                Rc::new(sealed.expect("the system has random numbers"))
            };
            Rc::clone(all.entry(place).or_insert_with(make))
        });
        (*sealed).clone()
    }

    /// The order of a job, as the product compiles it.
    #[must_use]
    pub fn order(&self, index: usize, job: JobId, work: Work, deadline: DateTime<Utc>) -> Order {
        let machine = machine_id(index);
        let bmc = BmcAccess {
            driver: BmcDriver::Ipmi,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(index).unwrap_or(0))),
            username: "sim".to_owned(),
            password: BMC_PASSWORD.to_owned(),
            other_passwords: Vec::new(),
        };
        let hardware = Hardware {
            macs: vec![mac(index)],
            firmware: FirmwareKind::Bios,
            bmc: Some(bmc),
        };
        let password = self.sealed((machine, job, BMC_PASSWORD), &bmc::password(job));
        let mut secrets = BTreeMap::from([(BMC_PASSWORD.to_owned(), password)]);
        let address = Ipv4Addr::new(192, 0, 2, u8::try_from(10 + index).unwrap_or(0));
        let hostname = format!("host-{index}");
        let switch = match work {
            Work::Release => return release::compile(machine, job, deadline, hardware, secrets),
            Work::Install => {
                let secret = self.sealed((machine, job, PHONE_HOME), &Secret::new(nonce(job)));
                secrets.insert(PHONE_HOME.to_owned(), secret);
                return install::compile(Install {
                    machine,
                    job,
                    deadline,
                    hardware,
                    address,
                    image: manifest().id(),
                    disk: DiskRule::default(),
                    wipe_data_disks: false,
                    instance_id: "i".to_owned(),
                    hostname,
                    user: "u".to_owned(),
                    ssh_keys: Vec::new(),
                    nonce_sha256: Digest::of(nonce(job).as_bytes()),
                    secrets,
                });
            }
            Work::Start => Switch::Start,
            Work::Stop => Switch::Stop { grace_s: 2 },
            Work::Restart => Switch::Restart { grace_s: 2 },
        };
        let installed = Installed {
            machine,
            job,
            deadline,
            hardware,
            address,
            hostname,
            secrets,
        };
        power::compile(installed, switch)
    }
}
