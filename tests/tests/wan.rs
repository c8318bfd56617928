//! A rollout on one real and twenty simulated machines of a site, whose WAN is cut, bad, or without its broker from the
//! fifth second on: all are installed, everything is told once, nothing is done twice.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::VecDeque, iter, sync::atomic::Ordering::Relaxed, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use slipway_lab::{
    commands::up::Spec,
    impaired_wan::{ImpairedWan, Impairment},
    wan,
};
use slipway_protocol::report::{Report, StepState};
use slipway_tests::{
    fleet::{image, listener::Listener},
    world::{Parts, World, wait_for},
};
use tokio::time::{Instant, sleep_until};

const SIMULATED: u8 = 20;
const ALL: usize = SIMULATED as usize + 1;
/// How many are asked for at the beginning and right before each kill, where the broker is killed.
const FIRST_WAVE: usize = ALL - 2 * WAVE;
const WAVE: usize = 5;
/// How long the site may take, and how long the truth may take to the control plane afterwards.
const SITE_LIMIT: Duration = Duration::from_secs(300);
const TRUTH_LIMIT: Duration = Duration::from_secs(300);
/// When the WAN goes.
const GOES_AT: Duration = Duration::from_secs(5);
/// How often the broker is killed.
const KILLED_EVERY: Duration = Duration::from_secs(10);

/// A rollout under way.
struct Rollout {
    world: World,
    /// The machines that no install was asked for yet.
    waiting: VecDeque<String>,
    jobs: Vec<String>,
    listener: Listener,
    begun: Instant,
}

impl Rollout {
    /// Asked for on so many machines, and under way at the site: its orders and images are there.
    async fn begin(name: &str, first: usize) -> Self {
        let (parts, at) = (Parts::from_environment().unwrap(), "127.0.0.1:0".parse().unwrap());
        let spec = Spec::default();
        let world = World::start_with_rack(name, (&spec, SIMULATED), parts, at);
        let world = world.await.unwrap();
        world.upload_guest("tiny").await.unwrap();
        let guest = image::guest(&world.folder).unwrap();
        world.api.upload("guest", &guest).await.unwrap();
        let listener = Listener::start(&world.api);
        let simulated = world.rack.as_ref().unwrap().deeds().keys().cloned();
        let mut rollout = Self {
            waiting: iter::once("m1".to_owned()).chain(simulated).collect(),
            world,
            jobs: Vec::new(),
            listener,
            begun: Instant::now(),
        };
        rollout.ask(first).await;
        sleep_until(rollout.begun + GOES_AT).await;
        let has_image = |report: &Report| {
            report
                .steps
                .iter()
                .any(|s| s.id.as_str() == "ensure-image" && s.state == StepState::Done)
        };
        let under_way = || {
            let reports = rollout.world.site_reports().unwrap();
            (reports.iter().filter(|report| has_image(report)).count() == first).then_some(())
        };
        let under_way = wait_for(
            "all orders and images at the site",
            Duration::from_secs(60),
            under_way,
        );
        under_way.await.unwrap();
        println!(
            "under way at the site after {:.1} s",
            rollout.begun.elapsed().as_secs_f64()
        );
        rollout
    }

    /// Asks for an install on the next of the machines that wait for one.
    async fn ask(&mut self, count: usize) {
        for machine in self.waiting.drain(..count.min(self.waiting.len())) {
            let image = if machine == "m1" { "tiny" } else { "guest" };
            let name = format!("on-{machine}");
            let asked = self.world.install(&name, image, json!({ "machine": machine }));
            self.jobs.push(asked.await.unwrap().1);
        }
    }

    /// Whether the site has come to the end of everything, by what is on its disk.
    fn is_site_done(&self) -> bool {
        let reports = self.world.site_reports().unwrap();
        reports.len() == ALL && reports.iter().all(|report| report.outcome.is_final())
    }

    async fn site_done(&self) {
        let done = || self.is_site_done().then_some(());
        wait_for("the site's end of the rollout", SITE_LIMIT, done)
            .await
            .unwrap();
        println!(
            "the site was done after {:.1} s",
            self.begun.elapsed().as_secs_f64()
        );
    }

    /// How many jobs the control plane takes for done.
    async fn known(&self) -> usize {
        let page = self
            .world
            .api
            .get("/api/v1/jobs?state=done&limit=100")
            .await
            .unwrap();
        page["items"].as_array().unwrap().len()
    }

    /// All is told, once, and was done once.
    async fn ends_well(self) {
        let mut jobs = Vec::new();
        for job in &self.jobs {
            jobs.push(self.world.api.wait_for_job(job, TRUTH_LIMIT).await.unwrap());
        }
        println!(
            "the control plane knew after {:.1} s",
            self.begun.elapsed().as_secs_f64()
        );
        for job in &jobs {
            assert_eq!(job["state"], "done", "{:#}", job["failure"]);
            for step in job["steps"].as_array().unwrap() {
                assert_eq!(step["attempt"], 1, "{step:#}");
            }
        }
        for (name, deeds) in self.world.rack.as_ref().unwrap().deeds() {
            let done = [&deeds.starts, &deeds.cuts, &deeds.network_boots].map(|count| count.load(Relaxed));
            assert_eq!(
                done,
                [1, 0, 1],
                "{name}: switched on, cut off, booted from the network"
            );
        }
        let booted = self.world.console(0).matches("GUESTOS-UP").count();
        assert_eq!(booted, 1, "the real machine's guest was booted once");
        let (events, broken) = self.listener.stop(ALL).await.unwrap();
        assert_eq!(broken, Vec::<String>::new());
        println!("{events} events, no gap");
    }
}

fn finished(job: &Value) -> impl Iterator<Item = DateTime<Utc>> {
    let steps = job["steps"].as_array().unwrap().iter();
    steps.map(|step| step["finished_at"].as_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_goes_on_with_the_wan_cut_and_is_told_once_it_is_healed() {
    let rollout = Rollout::begin("t-wan", ALL).await;
    wan::cut(&rollout.world.id).unwrap();
    let cut = rollout.known().await;
    rollout.site_done().await;
    assert_eq!(rollout.known().await, cut, "the control plane cannot know yet");
    assert!(cut < ALL, "something was left to do when the WAN was cut");
    let healed_at = Utc::now();
    wan::heal(&rollout.world.id).unwrap();
    let real = rollout
        .world
        .api
        .wait_for_job(&rollout.jobs[0], TRUTH_LIMIT)
        .await
        .unwrap();
    assert!(
        finished(&real).all(|at| at < healed_at),
        "the times are the site's, not those of the telling: {real:#}"
    );
    rollout.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_a_rollout_goes_on_over_a_wan_that_loses_a_third_and_is_slow() {
    let rollout = Rollout::begin("t-wan-bad", ALL).await;
    let impairment = Impairment {
        delay: Duration::from_millis(300),
        loss_percent: 30,
        seed: 1,
    };
    let bad = ImpairedWan::start(&rollout.world.id, impairment).unwrap();
    rollout.site_done().await;
    println!(
        "the control plane knew of {} of {ALL} by then",
        rollout.known().await
    );
    for job in &rollout.jobs {
        rollout.world.api.wait_for_job(job, TRUTH_LIMIT).await.unwrap();
    }
    println!(
        "the truth came over it after {:.1} s",
        rollout.begun.elapsed().as_secs_f64()
    );
    let (passed, lost) = bad.counts();
    println!("{passed} packets passed on, {lost} lost");
    assert!(passed > 0 && lost > 0, "the WAN was used, and bad");
    drop(bad);
    rollout.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_a_rollout_goes_on_with_the_broker_killed_each_ten_seconds() {
    let mut rollout = Rollout::begin("t-wan-kill", FIRST_WAVE).await;
    let mut kills = 0;
    while !rollout.is_site_done() {
        // Taken on, and hardly told to the site.
        rollout.ask(WAVE).await;
        rollout.world.kill_control_plane();
        rollout.world.start_control_plane().unwrap();
        kills += 1;
        sleep_until(rollout.begun + GOES_AT + kills * KILLED_EVERY).await;
        assert!(
            rollout.begun.elapsed() < SITE_LIMIT,
            "the site's end of the rollout"
        );
    }
    println!(
        "the broker was killed {kills} times until the site was done, the last time after {:.1} s",
        (GOES_AT + (kills - 1) * KILLED_EVERY).as_secs_f64()
    );
    assert!(kills > 1, "the broker was killed more than once");
    rollout.ends_well().await;
}
