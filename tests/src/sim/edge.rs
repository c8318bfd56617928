//! One life of an edge's process: the real uplink, runner and agents' door on a runtime of their own, whose clock is
//! virtual. To drop the runtime is to kill the process: every task ends at the await it is at. What is left is the disk.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, Mutex, RwLock, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use slipway_bus::Event as BusEvent;
use slipway_edge::{
    agents,
    boot::BootTable,
    boots::Boots,
    context::{Context, Outbox},
    images::{ImageCache, Source},
    job_log::JobLogs,
    ledger::Ledger,
    link::Link,
    runner::actor::{Input, Runner},
    store::{Store, StoreError},
    uplink::{self, KEYS_SETTING, Uplink, Word},
};
use slipway_protocol::{
    ids::{Digest, MachineId},
    keys::{Signer, VerifyingKey},
    topic::Topic,
};
use tokio::{runtime::Runtime, sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    agenda::{Agenda, Event},
    bmc::Bmcs,
    clock,
    defect::Defect,
    disk::Disk,
    gate::{Died, Gate},
    judge::Judge,
    machine::{Happens, Machine},
    site::Site,
    wire::{EdgeEnd, Nobody, Wire},
};

/// What a life is made of.
pub struct Parts<'a> {
    /// Who is who.
    pub site: &'a Site,
    /// What is on disk.
    pub disk: &'a Disk,
    /// The link.
    pub wire: &'a Wire,
    /// The machines.
    pub machines: &'a [Arc<Mutex<Machine>>],
    /// What is to come.
    pub agenda: &'a Agenda,
    /// Who watches.
    pub judge: &'a Judge,
    /// A planted defect.
    pub defect: Option<Defect>,
}

/// A life.
pub struct Edge {
    runtime: Option<Runtime>,
    origin: Instant,
    begun_ms: u64,
    /// How it dies.
    pub gate: Gate,
    /// Its handles.
    pub context: Arc<Context>,
    /// Its store, unwatched.
    pub plain: Store,
    runner: Runner,
    link: mpsc::Sender<BusEvent>,
    local: mpsc::Sender<BusEvent>,
    agenda: Agenda,
}

/// No chunk is ever fetched.
struct NoSource;

#[async_trait]
impl Source for NoSource {
    async fn fetch(&self, _digest: Digest) -> Result<Bytes, String> {
        Err("the image is all zeros".to_owned())
    }
}

/// Words of the runner, as the product's own outbox takes them.
struct Words {
    uplink: mpsc::Sender<Word>,
    agenda: Agenda,
    gate: Gate,
}

impl Outbox for Words {
    fn report_changed(&self, machine: MachineId) {
        let _ = self.uplink.try_send(Word::Report(machine));
    }

    fn to_agent(&self, topic: &Topic, payload: Vec<u8>) {
        self.gate.point();
        if let Topic::AgentOrder(_, machine) | Topic::AgentRelease(_, machine) = topic {
            self.agenda
                .after(2, Event::ToAgent(*machine, topic.clone(), payload));
        }
        self.gate.point();
    }
}

impl Edge {
    /// Starts it. `None` when it died or ended before it was up.
    #[must_use]
    pub fn start(parts: &Parts<'_>, counts_polls: bool) -> Option<Self> {
        let gate = Gate::new(parts.agenda.clone());
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true);
        if counts_polls {
            builder.event_interval(1);
        }
        let runtime = builder.build().expect("a runtime without I/O needs nothing");
        let begun_ms = clock::now_ms();
        let up = catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                clock::run();
                let up = Self::set_up(parts, &gate);
                clock::stand();
                up.map(|up| (Instant::now(), up))
            })
        }));
        let up = match up {
            Ok(up) => up,
            Err(died) => {
                clock::break_off();
                if !died.is::<Died>() {
                    resume_unwind(died);
                }
                return None;
            }
        };
        let (origin, up) = match up {
            Ok(up) => up,
            Err(error) => {
                parts.judge.trace(|| format!("the edge cannot start: {error}"));
                return None;
            }
        };
        Some(Self {
            runtime: Some(runtime),
            origin,
            begun_ms,
            gate,
            context: up.context,
            plain: up.plain,
            runner: up.runner,
            link: up.link,
            local: up.local,
            agenda: parts.agenda.clone(),
        })
    }

    fn set_up(parts: &Parts<'_>, gate: &Gate) -> Result<Up, StoreError> {
        let plain = Store::open(&parts.disk.path())?;
        let store = parts.disk.watched(&plain, gate, parts.judge);
        let (words, words_receiver) = mpsc::channel(4096);
        let outbox = Words {
            uplink: words,
            agenda: parts.agenda.clone(),
            gate: gate.clone(),
        };
        let context = Arc::new(context(parts, (store, &plain), outbox, gate)?);
        uplink::fill_ledger(&context)?;
        if let Some(held) = uplink::held_config(&context)? {
            context.table.set_site(&held.subnets, held.discover);
        }
        let stop = CancellationToken::new();
        let (runner, runs) = Runner::start(Arc::clone(&context), stop.clone())?;
        let table = Arc::clone(&context.table);
        let uplink = Uplink {
            context: Arc::clone(&context),
            runner: runner.clone(),
            central: Arc::new(EdgeEnd {
                wire: parts.wire.clone(),
                gate: gate.clone(),
            }),
            mirror: Arc::new(Nobody),
            starting: AtomicBool::new(true),
            link: Arc::new(Link::down_since((context.now)())),
            on_config: Box::new(move |config| table.set_site(&config.subnets, config.discover)),
            run: slipway_protocol::ids::EdgeRunId(uuid::Uuid::new_v4()),
            proof: std::sync::Mutex::default(),
            retirement: slipway_edge::retirement::Retirement::of(tokio_util::sync::CancellationToken::new()),
        };
        let (link, link_receiver) = mpsc::channel(1024);
        let (local, local_receiver) = mpsc::channel(1024);
        let (unknown, _nobody) = mpsc::channel(16);
        let (ends, link_runs) = (gate.clone(), uplink.run(link_receiver, words_receiver, stop));
        // A task that ends ends the process.
        tokio::spawn(async move {
            let _ended = link_runs.await;
            ends.end();
        });
        let ends = gate.clone();
        tokio::spawn(async move {
            let _ended = runs.await;
            ends.end();
        });
        let listens = agents::listen(Arc::clone(&context), runner.clone(), local_receiver, unknown);
        let ends = gate.clone();
        tokio::spawn(async move {
            let _ended = listens.await;
            ends.end();
        });
        Ok(Up {
            context,
            plain,
            runner,
            link,
            local,
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is taken when this is dropped")
    }

    /// Lets it live until a time, or until something was put on the agenda, or until it is over.
    pub fn live_until(&self, ms: u64) {
        let until = self.origin + Duration::from_millis(ms.saturating_sub(self.begun_ms));
        self.block(async {
            tokio::select! {
                biased;
                () = self.agenda.stirred() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        });
    }

    /// Lets its tasks be polled so many times, and kills it.
    pub fn die_after_polls(&self, polls: u32) {
        self.block(async {
            for _ in 0..polls {
                tokio::task::yield_now().await;
            }
        });
        self.gate.kill();
    }

    fn block(&self, work: impl Future<Output = ()>) {
        let lived = catch_unwind(AssertUnwindSafe(|| {
            self.runtime().block_on(async {
                clock::run_from(self.origin, self.begun_ms);
                work.await;
                clock::stand();
            });
        }));
        if let Err(died) = lived {
            clock::break_off();
            if !died.is::<Died>() {
                resume_unwind(died);
            }
        }
    }

    /// A message or news of the link.
    pub fn hears(&self, event: BusEvent) {
        // A full queue drops, as the product's client does.
        let _ = self.link.try_send(event);
    }

    /// A message of an agent.
    pub fn hears_agent(&self, topic: String, payload: Vec<u8>) {
        let _ = self.local.try_send(BusEvent::Message {
            topic,
            payload: payload.into(),
        });
    }

    /// Something for the runner.
    pub fn tell(&self, input: Input) {
        let runner = self.runner.clone();
        self.runtime().spawn(async move { runner.tell(input).await });
    }

    /// A guest phones home; when it is believed, it hears so.
    pub fn phone_home(&self, machine: MachineId, nonce: String, (index, boot): (usize, u32)) {
        let (runner, agenda) = (self.runner.clone(), self.agenda.clone());
        self.runtime().spawn(async move {
            let (accepted, answer) = tokio::sync::oneshot::channel();
            let text = "up".to_owned();
            runner
                .tell(Input::PhoneHome {
                    itself: false,
                    machine,
                    nonce,
                    text,
                    accepted,
                })
                .await;
            if answer.await == Ok(true) {
                agenda.after(1, Event::Machine(index, boot, Happens::PhoneHomeTaken));
            }
        });
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        self.gate.kill();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Up {
    context: Arc<Context>,
    plain: Store,
    runner: Runner,
    link: mpsc::Sender<BusEvent>,
    local: mpsc::Sender<BusEvent>,
}

fn context(
    parts: &Parts<'_>,
    (store, plain): (Store, &Store),
    outbox: Words,
    gate: &Gate,
) -> Result<Context, StoreError> {
    let mut keys: Vec<VerifyingKey> = match store.setting(KEYS_SETTING)? {
        Some(text) => serde_json::from_str(&text).unwrap_or_default(),
        None => vec![parts.site.centre.verifying_key()],
    };
    if parts.defect == Some(Defect::EdgeTrustsAnyone) {
        keys.push(parts.site.stranger.verifying_key());
    }
    Ok(Context {
        site: parts.site.id.clone(),
        boots: Boots::load(store.clone())?,
        store,
        ledger: Ledger::default(),
        logs: JobLogs::default(),
        table: Arc::new(BootTable::default()),
        images: ImageCache::new(parts.disk.chunks(), Arc::new(NoSource)),
        signer: Signer::from_seed(&[2; 32]).expect("the seed is 32 bytes long"),
        opening: parts.site.opening(),
        outbox: Arc::new(outbox),
        bmcs: Arc::new(Bmcs {
            machines: parts.machines.to_vec(),
            gate: gate.clone(),
            store: plain.clone(),
            judge: parts.judge.clone(),
        }),
        now: clock::edge,
        keys: RwLock::new(keys),
    })
}
