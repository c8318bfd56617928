//! Logs of jobs from the wire to who reads them: pieces that come twice, late or never, what is not a site's to say, who may
//! read, how much is kept and for how long. On both databases.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use metrics_exporter_prometheus::PrometheusBuilder;
use slipway_bus::{Event, Publish, PublishError};
use slipway_control_plane::{
    access::{Actor, Caller, Permission, Scope, Via, caller::Held},
    app::App,
    config::Given,
    domain::job_logs::{self, Part},
    error::ApiError,
    gateway::Gateway,
    store::{Store, StoreError, jobs, machines, sites},
    workflow::state::{JobState, MachineState},
};
use slipway_protocol::{
    ids::{Digest, JobId, MachineId},
    keys::{Expect, KeyRing, Signer, Stamp},
    log::{LogHeld, LogTold, MAX_CHUNK_BYTES, MAX_JOB_BYTES, Piece},
    report::{LogChunk, Presence},
    seal::OpeningKey,
    sync::{Hello, SyncRequest},
    topic::Topic,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    common::on_each_database,
    scheduler::{ask, make_machine, make_site, site},
};

/// By how much the clock is ahead, in seconds; each test is a process of its own.
static AHEAD: AtomicI64 = AtomicI64::new(0);

/// How many times from now on the clock fails: a fault of the program in the midst of a message.
static FAULTS: AtomicI64 = AtomicI64::new(0);

fn now() -> DateTime<Utc> {
    let faulty = FAULTS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        (left > 0).then(|| left - 1)
    });
    assert!(faulty.is_err(), "a fault in the handling of a message");
    (Utc::now() + TimeDelta::seconds(AHEAD.load(Ordering::Relaxed))).trunc_subsecs(6)
}

fn machine() -> MachineId {
    MachineId(Uuid::from_u128(1))
}

/// A topic, and what was said on it.
type Message = (String, Vec<u8>);

/// What the control plane says to sites.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<Message>>>);

impl Publish for Said {
    fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<(), PublishError> {
        self.0.lock().unwrap().push((topic.to_owned(), payload));
        Ok(())
    }
}

struct World {
    app: Arc<App>,
    gateway: Gateway,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    said: Said,
    job: JobId,
    _dir: tempfile::TempDir,
}

fn signer(name: &str) -> Signer {
    Signer::from_seed(&Digest::of(name.as_bytes()).0).unwrap()
}

impl World {
    /// Two sites; the job of instance `i1` in project `default` runs on the first one's machine.
    async fn new(store: Store) -> Self {
        AHEAD.store(0, Ordering::Relaxed);
        let made = store.transaction(|db| {
            for name in ["bj-1", "bj-2"] {
                make_site(db, name)?;
                let key = signer(name).verifying_key();
                let sealing = OpeningKey::from_bytes([7; 32]).sealing_key();
                sites::set_keys(db, &site(name), key, sealing, ("-", &key.id()))?;
            }
            make_machine(db, "bj-1")?;
            let job = ask(db, (1, "bj-1"), None, now())?;
            machines::take(db, machine(), MachineState::Available, job)?;
            jobs::start(db, job, machine())?;
            Ok::<_, StoreError>(job)
        });
        let job = made.await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let given = Given {
            data_dir: Some(dir.path().into()),
            ..Given::default()
        };
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let mut app = App::new(given.resolve().unwrap(), store, metrics).unwrap();
        Arc::get_mut(&mut app).unwrap().now = now;
        let said = Said::default();
        let (_, pokes) = tokio::sync::broadcast::channel(1);
        Self {
            gateway: Gateway::new(Arc::clone(&app) as _, Arc::new(said.clone()), pokes),
            app,
            events: mpsc::channel(64),
            said,
            job,
            _dir: dir,
        }
    }

    /// A message as a site's broker brings it, signed by `by`.
    fn message<T: serde::Serialize>(by: &str, topic: &Topic, body: &T) -> Event {
        let stamp = Stamp {
            revision: 1,
            issued_at: now(),
            expires_at: now() + TimeDelta::days(1),
        };
        Event::Message {
            topic: topic.to_string(),
            payload: signer(by).seal(topic, stamp, body).into(),
        }
    }

    async fn arrive(&mut self, messages: Vec<Event>) {
        let mut messages = messages.into_iter();
        let Some(first) = messages.next() else { return };
        for message in messages {
            self.events.0.send(message).await.unwrap();
        }
        self.gateway.take_batch(first, &mut self.events.1).await;
    }

    fn chunk(&self, at: &str, by: &str, (offset, text): (u64, &str)) -> Event {
        let chunk = LogChunk {
            job: self.job,
            boot: None,
            offset,
            text: text.to_owned(),
        };
        Self::message(by, &Topic::Log(site(at), machine()), &chunk)
    }

    async fn send(&mut self, pieces: &[(u64, &str)]) {
        let messages = pieces
            .iter()
            .map(|piece| self.chunk("bj-1", "bj-1", *piece))
            .collect();
        self.arrive(messages).await;
    }

    async fn read_as(&self, caller: &Caller, after: u64) -> Result<Part, ApiError> {
        job_logs::read(&self.app, caller, self.job.to_string(), after).await
    }

    async fn read(&self, after: u64) -> (u64, String, u64) {
        let part = self.read_as(&caller(Scope::Global), after).await.unwrap();
        (part.piece.offset, part.piece.text, part.missing)
    }

    /// What the control plane answers a site that tells of its logs.
    async fn hello(&mut self, at: &str, logs: Vec<LogTold>) -> Vec<LogHeld> {
        let hello = Hello {
            version: "1".into(),
            wire: (1, 1),
            actions: vec![],
            commands: Digest::of(b"c"),
            reports: Digest::of(b"r"),
            starting: false,
            leases: None,
            lists: None,
            logs,
            run: None,
            proof: None,
        };
        self.said.0.lock().unwrap().clear();
        self.arrive(vec![Self::message(at, &Topic::Hello(site(at)), &hello)])
            .await;
        let ring = KeyRing::new([self.app.signing.of_site(&site(at)).signer.verifying_key()]);
        let expect = Expect {
            now: now(),
            held: None,
        };
        let topic = Topic::Sync(site(at));
        let said = self.said.0.lock().unwrap();
        let asked = said.iter().filter(|(on, _)| *on == topic.to_string());
        let answers = asked.filter_map(|(_, payload)| {
            match ring
                .open::<SyncRequest>(&topic, payload, expect)
                .unwrap()
                .into_body()
            {
                SyncRequest::Logs { held } => Some(held),
                _ => None,
            }
        });
        answers.flatten().collect()
    }

    fn told(&self, start: u64, sent: u64) -> Vec<LogTold> {
        vec![LogTold {
            job: self.job,
            start,
            sent,
        }]
    }

    async fn end_the_job(&self) {
        let (job, at) = (self.job, now());
        let ended = self
            .app
            .store
            .transaction(move |db| jobs::finish(db, job, JobState::Done, None, at));
        assert!(ended.await.unwrap());
    }
}

fn caller(scope: Scope) -> Caller {
    let held = Held {
        scope,
        permissions: [Permission::JobsRead].into_iter().collect(),
    };
    Caller {
        user: "ann".into(),
        actor: Actor {
            name: "ann".into(),
            via: Via::Key,
            address: "192.0.2.1".into(),
        },
        held: Arc::from([held]),
        narrowed: false,
        credential: slipway_control_plane::access::caller::Credential::None,
    }
}

#[tokio::test]
async fn pieces_that_come_twice_late_and_never_are_one_log() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        assert_eq!(world.read(0).await, (0, String::new(), 0));
        world.send(&[(0, "one\n"), (4, "two\n"), (0, "one\ntwo\n")]).await;
        assert_eq!(world.read(0).await, (0, "one\ntwo\n".into(), 0));
        assert_eq!(world.read(4).await, (4, "two\n".into(), 0));
        assert_eq!(world.read(8).await, (8, String::new(), 0));
        world.send(&[(14, "four\u{1b}[2J\n")]).await;
        assert_eq!(
            world.read(0).await,
            (0, "one\ntwo\n".into(), 0),
            "up to the gap, which is told next"
        );
        assert_eq!(world.read(8).await, (14, "four?[2J\n".into(), 6));
        // The edge says how far it sent, hears what arrived, and sends what is missing.
        assert_eq!(world.hello("bj-1", world.told(0, 23)).await[0].end, 8);
        assert_eq!(world.hello("bj-1", world.told(10, 23)).await[0].end, 10);
        assert!(
            world.hello("bj-2", world.told(0, 23)).await.is_empty(),
            "not its job"
        );
        world.send(&[(8, "three\nfour")]).await;
        let all = "one\ntwo\nthree\nfour?[2J\n";
        assert_eq!(world.read(0).await, (0, all.into(), 0));
        assert_eq!(world.hello("bj-1", world.told(0, 23)).await[0].end, 23);
        assert!(
            world.hello("bj-1", vec![]).await.is_empty(),
            "nothing is said of nothing"
        );
    })
    .await;
}

#[tokio::test]
async fn a_site_speaks_of_its_own_jobs_alone_and_in_chunks() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        let too_long = "x".repeat(MAX_CHUNK_BYTES + 1);
        let other_machine = Topic::Log(site("bj-1"), MachineId(Uuid::from_u128(2)));
        let chunk = |job: JobId| LogChunk {
            job,
            boot: None,
            offset: 0,
            text: "evil\n".into(),
        };
        let messages = vec![
            world.chunk("bj-2", "bj-2", (0, "of another site\n")),
            world.chunk("bj-1", "bj-2", (0, "signed by another site\n")),
            world.chunk("bj-1", "bj-1", (0, &too_long)),
            world.chunk("bj-1", "bj-1", (1 << 60, "too far\n")),
            World::message("bj-1", &other_machine, &chunk(world.job)),
            World::message(
                "bj-1",
                &Topic::Log(site("bj-1"), machine()),
                &chunk(JobId(Uuid::from_u128(99))),
            ),
            world.chunk("bj-1", "bj-1", (0, "good\n")),
        ];
        world.arrive(messages).await;
        assert_eq!(world.read(0).await, (0, "good\n".into(), 0));
        assert_eq!(world.read(5).await, (5, String::new(), 0));
    })
    .await;
}

#[tokio::test]
async fn who_may_see_the_job_may_read_its_log() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        world.send(&[(0, "one\n")]).await;
        for scope in [
            Scope::Global,
            Scope::Site("bj-1".into()),
            Scope::Project("default".into()),
        ] {
            let part = world.read_as(&caller(scope), 0).await.unwrap();
            assert_eq!(part.piece.text, "one\n");
        }
        for scope in [Scope::Site("bj-2".into()), Scope::Project("other".into())] {
            let refused = world.read_as(&caller(scope), 0).await;
            assert!(
                matches!(refused, Err(ApiError::NotFound("job", _))),
                "{refused:?}"
            );
        }
    })
    .await;
}

#[tokio::test]
async fn the_newest_of_a_log_is_kept_until_some_time_after_its_jobs_end() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        let chunk = "é".repeat(MAX_CHUNK_BYTES / 2);
        let bytes = chunk.len() as u64;
        for n in 0..40 {
            world.send(&[(n * bytes, &chunk)]).await;
        }
        let (offset, text, missing) = world.read(0).await;
        assert_eq!(offset, 40 * bytes - MAX_JOB_BYTES as u64, "the newest 256 KiB");
        assert_eq!(missing, offset);
        assert_eq!(text.len(), job_logs_read_bytes(), "a part of it at once");
        assert!(world.read_as(&caller(Scope::Global), 1).await.is_ok());
        // One of many gaps is kept in a bounded number of pieces.
        let far = 40 * bytes;
        let gaps: Vec<(u64, &str)> = (0..300).map(|n| (far + 10 * n, "x")).collect();
        for some in gaps.chunks(60) {
            world.send(some).await;
        }
        let job = world.job;
        let held = world
            .app
            .store
            .read(move |db| slipway_control_plane::store::job_logs::held(db, job));
        assert_eq!(held.await.unwrap().len(), 128);
        world.end_the_job().await;
        AHEAD.store(29 * 24 * 3600, Ordering::Relaxed);
        job_logs::prune(&world.app).await;
        assert!(!world.read(0).await.1.is_empty(), "still there");
        AHEAD.store(31 * 24 * 3600, Ordering::Relaxed);
        job_logs::prune(&world.app).await;
        assert_eq!(world.read(0).await, (0, String::new(), 0));
        world.send(&[(0, "late\n")]).await;
        assert_eq!(
            world.read(0).await,
            (0, String::new(), 0),
            "it does not come back"
        );
        assert_eq!(
            world.hello("bj-1", world.told(0, 5)).await[0].end,
            5,
            "and its edge need not try again"
        );
    })
    .await;
}

fn job_logs_read_bytes() -> usize {
    slipway_control_plane::store::job_logs::MAX_READ_BYTES
}

#[tokio::test]
async fn who_follows_a_log_is_woken_by_it_and_by_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.db").display().to_string();
    let mut world = World::new(Store::open(&path).await.unwrap()).await;
    let long = Duration::from_secs(60);
    let begun = std::time::Instant::now();
    let follow = |world: &World, after| {
        let (app, job) = (Arc::clone(&world.app), world.job.to_string());
        tokio::spawn(async move {
            let caller = caller(Scope::Global);
            job_logs::follow(&app, &caller, job, after, long).await.unwrap()
        })
    };
    let waiting = follow(&world, 0);
    world.send(&[(0, "one\n")]).await;
    let part = waiting.await.unwrap();
    let piece = Piece {
        offset: 0,
        text: "one\n".into(),
    };
    assert_eq!((part.piece, part.missing, part.ended), (piece, 0, false));
    world.end_the_job().await;
    let waiting = follow(&world, 4);
    world.send(&[(4, "two\n")]).await;
    let part = waiting.await.unwrap();
    assert_eq!(
        (part.piece.text.as_str(), part.ended),
        ("two\n", false),
        "the last lines come late"
    );
    AHEAD.store(11, Ordering::Relaxed);
    let part = follow(&world, 8).await.unwrap();
    assert_eq!((part.piece.text.as_str(), part.ended), ("", true));
    assert!(begun.elapsed() < long, "nobody waited for the time to run out");
}

#[tokio::test]
async fn a_message_whose_handling_fails_by_a_fault_ends_nothing_and_loses_no_other() {
    on_each_database(|store| async move {
        let mut world = World::new(store).await;
        let pieces = [(0, "one "), (4, "two "), (8, "three")];
        let messages: Vec<Event> = pieces
            .iter()
            .map(|piece| world.chunk("bj-1", "bj-1", *piece))
            .collect();
        // The first time together, the second time the first of them alone.
        FAULTS.store(2, Ordering::Relaxed);
        world.arrive(messages).await;
        assert_eq!(FAULTS.load(Ordering::Relaxed), 0);
        assert_eq!(world.read(0).await, (4, "two three".to_owned(), 4));

        let presence = || {
            let topic = Topic::Presence(site("bj-1"));
            World::message("bj-1", &topic, &Presence { online: true })
        };
        let message = presence();
        FAULTS.store(1, Ordering::Relaxed);
        world.arrive(vec![message]).await;
        assert!(!is_online(&world).await, "the message is dropped");
        let message = presence();
        world.arrive(vec![message]).await;
        assert!(is_online(&world).await, "the next one is heard");
    })
    .await;
}

async fn is_online(world: &World) -> bool {
    let name = site("bj-1");
    let site = world
        .app
        .store
        .read(move |db| sites::get(db, name.as_str()))
        .await;
    site.unwrap().unwrap().online
}
