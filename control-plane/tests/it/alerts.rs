//! Alert rules: what holds opens an alert once and resolves by itself, on SQLite and on PostgreSQL.

use std::collections::BTreeMap;

use crate::common::on_each_database;
use chrono::{DateTime, Utc};
use slipway_control_plane::{
    domain,
    store::{
        Store, StoreError,
        alerts::{self, Alert, Condition, Filter, Rule, StateOf},
        events::{self, NewEvent},
        instances::{self, Instance, Wish},
        jobs::{self, Job},
        machines::{self, Machine, MachineDetails},
        sites::{self, SiteSettings},
    },
    workflow::state::{InstanceState, JobKind, JobState, MachineState},
};
use slipway_protocol::{
    ids::{ImageId, InstanceId, JobId, MacAddr, MachineId, SiteId},
    inventory::{DiskRule, FirmwareKind},
    report::{Failure, Outcome, Report},
};
use uuid::Uuid;

pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

pub(crate) fn site() -> SiteId {
    SiteId::new("bj-1").unwrap()
}

pub(crate) const MACHINE: MachineId = MachineId(Uuid::from_u128(1));
const INSTANCE: InstanceId = InstanceId(Uuid::from_u128(2));

pub(crate) fn job(n: u8, created_at: DateTime<Utc>) -> Job {
    Job {
        id: JobId(Uuid::from_u128(100 + u128::from(n))),
        instance: Some(INSTANCE),
        site: site(),
        machine: Some(MACHINE),
        kind: JobKind::Install,
        priority: 0,
        waiting: None,
        state: JobState::Queued,
        failure: None,
        deadline: at(100_000),
        created_at,
        finished_at: None,
    }
}

fn machine() -> Machine {
    Machine {
        id: MACHINE,
        name: "m1".into(),
        site: site(),
        state: MachineState::Available,
        address: [192, 0, 2, 9].into(),
        details: MachineDetails {
            macs: vec![MacAddr([2, 0, 0, 0, 0, 1])],
            firmware: FirmwareKind::Bios,
            bmc: None,
            labels: BTreeMap::new(),
            inventory: None,
        },
        bmc_password: None,
        bmc_candidates: Vec::new(),
        bmc_state: None,
        class: machines::Class::default(),
        hold: machines::Hold::default(),
        live_job: None,
        version: 1,
        created_at: at(0),
    }
}

fn instance() -> Instance {
    Instance {
        id: INSTANCE,
        name: "web-1".into(),
        site: site(),
        machine: Some(MACHINE),
        image: ImageId::of(b"i"),
        state: InstanceState::Installing,
        job: job(1, at(0)).id,
        wish: Wish {
            machine: None,
            disk: DiskRule::default(),
            user: "u".into(),
            ssh_keys: vec![],
            user_data: None,
            ..Wish::default()
        },
        project: "default".into(),
        locked: false,
        created_at: at(0),
    }
}

fn failed(at: DateTime<Utc>) -> Report {
    let failure = Failure {
        code: "disk_ambiguous".into(),
        message: "two disks".into(),
        transient: false,
    };
    Report {
        machine: MACHINE,
        job: job(1, at).id,
        order_revision: 1,
        retry: 0,
        outcome: Outcome::Failed {
            at,
            step: None,
            failure,
        },
        steps: vec![],
        disk: None,
        inventory: None,
        agent: None,
        events: vec![],
        hardware_faults: vec![],
        local: Vec::new(),
        bmc: None,
    }
}

/// A site that was heard at 0, with a machine, an instance and its job, all begun at 0.
pub(crate) async fn begin(store: &Store) {
    let begun = store.transaction(|db| {
        let settings = SiteSettings {
            dhcp_relays: vec![],
            description: String::new(),
            discover: false,
            subnets: vec![],
            limits: Default::default(),
            offline: Default::default(),
        };
        sites::insert(db, &site(), &settings, at(0))?;
        domain::sites::heard(db, &site(), true, at(0))?;
        machines::insert(db, &machine())?;
        instances::insert(db, &instance())?;
        let event = NewEvent::new("instance.installing", at(0)).instance(INSTANCE);
        events::append(db, &event.entered(&InstanceState::Installing)?)?;
        jobs::insert(db, &job(1, at(0)))?;
        jobs::start(db, job(1, at(0)).id, MACHINE)
    });
    begun.await.unwrap();
}

pub(crate) async fn with_rule(store: &Store, condition: Condition) {
    let rule = Rule {
        id: "r".into(),
        name: "rule".into(),
        condition,
        webhooks: vec!["w".into()],
        emails: vec!["ops@example.com".into()],
        active: true,
        created_at: at(0),
    };
    store
        .transaction(move |db| alerts::put_rule(db, &rule))
        .await
        .unwrap();
}

/// Looks at the rules at a time, twice: the second look must change nothing. Gives back what is open.
pub(crate) async fn look(store: &Store, now: i64) -> Vec<Alert> {
    let look = || {
        store.transaction(move |db| {
            assert!(domain::alerts::evaluate(db, "me", at(now))?);
            alerts::list(
                db,
                &Filter {
                    open: Some(true),
                    ..Filter::default()
                },
                "",
                100,
            )
        })
    };
    let open = look().await.unwrap();
    assert_eq!(look().await.unwrap(), open, "looking changes nothing");
    open
}

fn objects(open: &[Alert]) -> Vec<&str> {
    open.iter().map(|alert| alert.object.as_str()).collect()
}

/// Kinds of all alert events, with their texts.
async fn told(store: &Store) -> Vec<(String, String)> {
    let all = events::Filter {
        kind: Some("alert".into()),
        ..events::Filter::default()
    };
    let told = store.transaction(move |db| {
        events::number(db)?;
        events::list(db, &all, events::Order::Oldest, 100)
    });
    told.await
        .unwrap()
        .into_iter()
        .map(|event| (event.kind, event.text))
        .collect()
}

#[tokio::test]
async fn a_state_that_lasts_too_long() {
    on_each_database(|store| async move {
        begin(&store).await;
        let condition = Condition::StateOlderThan {
            object: StateOf::Instance,
            state: "installing".into(),
            seconds: 60,
        };
        with_rule(&store, condition).await;
        assert!(look(&store, 60).await.is_empty());
        let open = look(&store, 61).await;
        assert_eq!(objects(&open), [format!("instance/{INSTANCE}")]);
        let text = "instance web-1 at bj-1 is installing since 2027-01-15T08:00:00Z";
        assert_eq!(
            (open[0].text.as_str(), open[0].site.as_deref()),
            (text, Some("bj-1"))
        );
        let claimed = store.transaction(|db| domain::alerts::evaluate(db, "other", at(62)));
        assert!(!claimed.await.unwrap(), "one replica at a time");
        let moved = |from, to, now| {
            store.transaction(move |db| {
                assert!(instances::advance(db, INSTANCE, from, to)?);
                let event = NewEvent::new("instance.moved", at(now)).instance(INSTANCE);
                events::append(db, &event.entered(&to)?)
            })
        };
        moved(InstanceState::Installing, InstanceState::Running, 70)
            .await
            .unwrap();
        assert!(look(&store, 71).await.is_empty());
        moved(InstanceState::Running, InstanceState::Installing, 80)
            .await
            .unwrap();
        assert!(look(&store, 140).await.is_empty(), "counted anew");
        assert_eq!(look(&store, 141).await.len(), 1);
        let kinds: Vec<String> = told(&store).await.into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(
            kinds,
            ["alert.opened", "alert.resolved", "alert.opened"],
            "each told once"
        );
    })
    .await;
}

#[tokio::test]
async fn a_site_that_is_silent() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::SiteOffline { seconds: 30 }).await;
        assert!(
            look(&store, 89).await.is_empty(),
            "connected: three hellos may be missed"
        );
        assert_eq!(objects(&look(&store, 90).await), ["site/bj-1"]);
        let seen_by = async |site: &str| {
            let filter = Filter {
                visible_sites: Some([site.to_owned()].into()),
                ..Filter::default()
            };
            let seen = store.transaction(move |db| alerts::list(db, &filter, "", 100));
            seen.await.unwrap().len()
        };
        assert_eq!((seen_by("bj-1").await, seen_by("bj-2").await), (1, 0));
        let heard =
            |online, now| store.transaction(move |db| domain::sites::heard(db, &site(), online, at(now)));
        heard(true, 100).await.unwrap();
        assert!(look(&store, 101).await.is_empty());
        heard(false, 110).await.unwrap();
        assert!(look(&store, 129).await.is_empty());
        assert_eq!(
            look(&store, 130).await[0].text,
            "site bj-1 was last heard at 2027-01-15T08:01:40Z"
        );
    })
    .await;
}

#[tokio::test]
async fn a_job_that_failed_until_another_one_works() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::JobFailed).await;
        assert!(look(&store, 1).await.is_empty());
        let report = failed(at(2));
        let take = store.transaction(move |db| domain::jobs::take_report(db, &site(), 1, &report, at(2)));
        assert!(take.await.unwrap());
        let open = look(&store, 3).await;
        assert_eq!(objects(&open), [format!("instance/{INSTANCE}")]);
        assert!(
            open[0].text.ends_with("failed: two disks (disk_ambiguous)"),
            "{}",
            open[0].text
        );
        let again = store.transaction(|db| {
            jobs::insert(db, &job(2, at(4)))?;
            instances::set_job(db, INSTANCE, job(2, at(4)).id)
        });
        again.await.unwrap();
        assert!(look(&store, 5).await.is_empty());
        let mails = store.transaction(|db| {
            let mut subjects = Vec::new();
            while let Some(mail) = slipway_control_plane::store::mails::take(db, at(6), at(7))? {
                subjects.push(mail.subject);
            }
            Ok::<_, StoreError>(subjects)
        });
        assert_eq!(
            mails.await.unwrap(),
            ["[Slipway] Alert: rule", "[Slipway] Resolved: rule"]
        );
    })
    .await;
}

#[tokio::test]
async fn a_fault_until_it_is_cleared_and_a_rule_that_is_switched_off() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::MachineFault).await;
        let fault = async |kind: &'static str| {
            let event = NewEvent::new(kind, at(1))
                .machine(MACHINE)
                .text("fan 3 stands still");
            let append = store.transaction(move |db| {
                events::append(db, &event)?;
                events::number(db)
            });
            append.await.unwrap();
        };
        fault("fault.fan").await;
        let open = look(&store, 2).await;
        assert_eq!(open[0].text, "machine m1 at bj-1: fan 3 stands still (fault.fan)");
        fault("fault.cleared").await;
        assert!(look(&store, 3).await.is_empty());
        fault("fault.fan").await;
        assert_eq!(look(&store, 4).await.len(), 1);
        let off = store.transaction(|db| {
            let rule = alerts::get_rule(db, "rule")?.unwrap();
            alerts::put_rule(
                db,
                &Rule {
                    active: false,
                    ..rule
                },
            )
        });
        off.await.unwrap();
        assert!(look(&store, 5).await.is_empty());
        assert_eq!(told(&store).await.len(), 4);
    })
    .await;
}

#[tokio::test]
async fn an_impostor_is_told_for_an_hour() {
    on_each_database(|store| async move {
        begin(&store).await;
        with_rule(&store, Condition::Impostor).await;
        assert!(look(&store, 1).await.is_empty());
        let happens = async |kind: &'static str, when: i64| {
            let event = NewEvent::new(kind, at(when)).machine(MACHINE).text("seen");
            let append = store.transaction(move |db| {
                events::append(db, &event)?;
                events::number(db)
            });
            append.await.unwrap();
        };
        happens("http.script", 2).await;
        assert!(look(&store, 3).await.is_empty(), "a boot is none");
        for (kind, when) in [
            ("http.not_the_machine", 10),
            ("http.overlay_again", 20),
            ("http.agent_at_work", 30),
        ] {
            happens(kind, when).await;
            let open = look(&store, when + 1).await;
            assert_eq!(open.len(), 1, "{kind}: one for each machine");
        }
        let open = look(&store, 40).await;
        assert!(
            open[0].text.starts_with("machine m1 at bj-1: seen"),
            "{}",
            open[0].text
        );
        assert_eq!(look(&store, 30 + 3599).await.len(), 1);
        assert!(
            look(&store, 30 + 3601).await.is_empty(),
            "an hour after the last one"
        );
    })
    .await;
}
