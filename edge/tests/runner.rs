//! What comes next: the runner's decisions under retries, late words, restarts and any schedule at all.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use slipway_edge::runner::next::{
    self, Side, StepUpdate, advance, agent_reported, agent_said_hello, apply, begin, booted_another_system,
    former_guest_phoned_home, guest_phoned_home,
};
use slipway_protocol::{
    ids::{BootId, Digest, ImageId, JobId, MachineId, StepId},
    inventory::{DiskRule, FirmwareKind},
    order::{Action, BootDevice, Hardware, Order, Step, UnknownAction},
    report::{
        AgentReport, EventSource, Failure, Outcome, Progress, Report, StepReport, StepState, TimelineEvent,
    },
};
use uuid::Uuid;

fn id(name: &str) -> StepId {
    StepId::new(name).unwrap()
}

fn step(name: &str, action: Action, needs: &[&str]) -> Step {
    Step {
        id: id(name),
        role: action.role(),
        action,
        needs: needs.iter().map(|n| id(n)).collect(),
        no_progress_timeout_s: 60,
        retries: 1,
    }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn order() -> Order {
    let image = ImageId::of(b"i");
    Order {
        machine: MachineId(Uuid::nil()),
        job: JobId(Uuid::nil()),
        deadline: at(3600),
        retry: 0,
        settled: None,
        hardware: Hardware {
            macs: vec![],
            firmware: FirmwareKind::Bios,
            bmc: None,
        },
        secrets: std::collections::BTreeMap::new(),
        steps: vec![
            step("image", Action::ImageEnsure { image }, &[]),
            step(
                "boot",
                Action::DriverBoot {
                    device: BootDevice::Pxe,
                },
                &["image"],
            ),
            step("look", Action::AgentInventory, &["boot"]),
            step(
                "choose",
                Action::AgentChooseDisk {
                    rule: DiskRule::default(),
                },
                &["look"],
            ),
            step("write", Action::AgentWriteImage { image }, &["choose"]),
            step("reboot", Action::AgentReboot, &["write"]),
            step(
                "verify",
                Action::GuestVerify {
                    nonce_sha256: Digest::of(b"n"),
                },
                &["reboot"],
            ),
        ],
    }
}

fn boot(n: u128) -> BootId {
    BootId(Uuid::from_u128(n))
}

fn state(report: &Report, name: &str) -> (StepState, u32) {
    let step = report.steps.iter().find(|s| s.id == id(name)).unwrap();
    (step.state, step.attempt)
}

fn failure(transient: bool) -> StepUpdate {
    StepUpdate::Failed(Failure {
        code: "x".into(),
        message: "x".into(),
        transient,
    })
}

/// What an agent says of one step.
fn says(report: &Report, boot_n: u128, name: &str, state: StepState) -> AgentReport {
    let attempt = self::state(report, name).1;
    let step = StepReport {
        state,
        attempt,
        ..StepReport::pending(id(name))
    };
    AgentReport {
        boot: boot(boot_n),
        job: report.job,
        order_revision: 1,
        steps: vec![step],
        disk: None,
    }
}

#[test]
fn a_clock_that_was_set_back_holds_up_no_attempt() {
    let order = order();
    let mut report = begin(&order, 1, None);
    advance(&order, &mut report, at(3000));
    apply(&order, &mut report, &id("image"), failure(true), at(3000));
    let decision = advance(&order, &mut report, at(2));
    assert_eq!(
        decision.wake_at,
        Some(at(3)),
        "the pause begins now, not when the clock has caught up"
    );
    assert_eq!(advance(&order, &mut report, at(3)).wake_at, Some(at(63)));
    assert_eq!(state(&report, "image"), (StepState::Running, 2));
}

#[test]
fn a_clock_that_was_set_back_makes_no_silence_longer() {
    let order = order();
    let mut report = begin(&order, 1, None);
    advance(&order, &mut report, at(3000));
    let decision = advance(&order, &mut report, at(2));
    assert_eq!(decision.wake_at, Some(at(62)));
    advance(&order, &mut report, at(62));
    assert_eq!(
        state(&report, "image"),
        (StepState::Pending, 1),
        "it was silent for too long"
    );
}

#[test]
fn a_job_of_a_disk_that_was_put_back_is_begun_by_people_alone() {
    let order = order();
    let mut old = begin(&order, 1, None);
    advance(&order, &mut old, at(0));
    let mut later = old.clone();
    next::leave_behind(&mut old, &later, at(1));
    assert_eq!(
        old.outcome,
        Outcome::Running,
        "the same job's newer report is gone on from"
    );
    later.job = JobId(Uuid::from_u128(2));
    next::leave_behind(&mut old, &later, at(1));
    let mut again = begin(&order, 9, Some(&old));
    assert!(!advance(&order, &mut again, at(2)).changed);
    assert!(
        matches!(&again.outcome, Outcome::Failed { failure, .. } if failure.code == "disk_put_back"),
        "{again:?}"
    );
    let retried = Order { retry: 1, ..order };
    let mut retry = begin(&retried, 10, Some(&again));
    advance(&retried, &mut retry, at(3));
    assert_eq!(state(&retry, "image"), (StepState::Running, 1));
}

/// A report that has come as far as `write` running under boot 1.
fn at_write(order: &Order) -> Report {
    let mut report = begin(order, 1, None);
    for name in ["image", "boot"] {
        advance(order, &mut report, at(0));
        assert!(apply(order, &mut report, &id(name), StepUpdate::Done, at(0)));
    }
    advance(order, &mut report, at(1));
    agent_said_hello(order, &mut report, boot(1), at(1));
    for name in ["look", "choose"] {
        let said = says(&report, 1, name, StepState::Done);
        assert!(agent_reported(order, &mut report, &said, at(1)));
        advance(order, &mut report, at(2));
    }
    assert_eq!(state(&report, "write"), (StepState::Running, 1));
    report
}

#[test]
fn steps_run_in_their_order_to_a_verified_guest() {
    let order = order();
    let mut report = at_write(&order);
    for name in ["write", "reboot"] {
        let said = says(&report, 1, name, StepState::Done);
        assert!(agent_reported(&order, &mut report, &said, at(3)));
        advance(&order, &mut report, at(3));
    }
    assert_eq!(report.outcome, Outcome::Running, "installed is not assumed");
    guest_phoned_home(&order, &mut report, "web-1".into(), at(9));
    advance(&order, &mut report, at(9));
    assert_eq!(report.outcome, Outcome::Done { at: at(9) });
}

#[test]
fn a_guest_that_is_up_was_rebooted_whoever_missed_it() {
    let order = order();
    let mut report = at_write(&order);
    let said = says(&report, 1, "write", StepState::Done);
    agent_reported(&order, &mut report, &said, at(3));
    advance(&order, &mut report, at(3));
    assert_eq!(state(&report, "reboot").0, StepState::Running);
    guest_phoned_home(&order, &mut report, String::new(), at(9));
    while advance(&order, &mut report, at(9)).changed {}
    assert!(matches!(report.outcome, Outcome::Done { .. }));
}

#[test]
fn what_may_pass_is_tried_again_and_then_fails_by_name() {
    let order = order();
    let mut report = begin(&order, 1, None);
    advance(&order, &mut report, at(0));
    apply(&order, &mut report, &id("image"), failure(true), at(0));
    let decision = advance(&order, &mut report, at(0));
    assert_eq!(state(&report, "image"), (StepState::Pending, 1));
    assert_eq!(decision.wake_at, Some(at(1)), "after a pause");
    advance(&order, &mut report, at(1));
    assert_eq!(state(&report, "image"), (StepState::Running, 2));
    apply(&order, &mut report, &id("image"), failure(true), at(2));
    assert!(
        matches!(&report.outcome, Outcome::Failed { step: Some(s), failure, .. } if *s == id("image") && failure.code == "x")
    );
    let mut report = begin(&order, 1, None);
    advance(&order, &mut report, at(0));
    apply(&order, &mut report, &id("image"), failure(false), at(0));
    assert!(report.outcome.is_final(), "what cannot pass is not tried again");
    assert!(!advance(&order, &mut report, at(5)).changed);
    assert_eq!(
        state(&report, "boot").0,
        StepState::Pending,
        "nothing later begins"
    );
}

#[test]
fn no_progress_the_deadline_and_an_unknown_action_have_names() {
    let order = order();
    let code = |report: &Report| match &report.outcome {
        Outcome::Failed { failure, .. } => failure.code.clone(),
        other => panic!("{other:?}"),
    };
    let mut report = begin(&order, 1, None);
    for second in [0, 60, 61, 62, 122] {
        advance(&order, &mut report, at(second));
    }
    assert_eq!(code(&report), "no_progress");
    let mut report = at_write(&order);
    apply(
        &order,
        &mut report,
        &id("write"),
        StepUpdate::Progress(None),
        at(3599),
    );
    advance(&order, &mut report, at(3600));
    assert_eq!(code(&report), "deadline");
    let mut newer = order.clone();
    newer.steps[0].action = Action::Unknown(UnknownAction {
        name: "polish".into(),
    });
    let mut report = begin(&newer, 1, None);
    advance(&newer, &mut report, at(0));
    assert_eq!(code(&report), "unknown_action");
}

/// A system that was installed before phones home from the machine itself, where the LiveOS is waited for.
#[test]
fn a_machine_whose_former_system_phones_home_is_booted_again() {
    let order = order();
    let mut report = begin(&order, 1, None);
    for name in ["image", "boot"] {
        advance(&order, &mut report, at(0));
        assert!(
            !former_guest_phoned_home(&order, &mut report, at(9)),
            "not yet booted"
        );
        assert!(apply(&order, &mut report, &id(name), StepUpdate::Done, at(10)));
    }
    advance(&order, &mut report, at(10));
    let mut came = report.clone();
    assert!(
        !former_guest_phoned_home(&order, &mut report, at(11)),
        "the last words of the system that the boot ended"
    );
    assert!(former_guest_phoned_home(&order, &mut report, at(40)));
    assert_eq!(state(&report, "boot"), (StepState::Pending, 1));
    assert!(
        !former_guest_phoned_home(&order, &mut report, at(41)),
        "it phones twice"
    );
    came.events.push(TimelineEvent {
        at: at(30),
        source: EventSource::Http,
        code: "script".into(),
        text: String::new(),
    });
    assert!(
        !former_guest_phoned_home(&order, &mut came, at(40)),
        "it has fetched its script since"
    );
}

/// The firmware could not reach the edge, which was being restarted, and went on to the disk.
#[test]
fn a_machine_that_booted_its_disk_is_booted_again_from_the_network() {
    let order = order();
    let mut report = begin(&order, 1, None);
    for name in ["image", "boot"] {
        advance(&order, &mut report, at(0));
        assert!(
            !booted_another_system(&order, &mut report, at(5), at(0)),
            "not yet booted"
        );
        assert!(apply(&order, &mut report, &id(name), StepUpdate::Done, at(0)));
    }
    advance(&order, &mut report, at(1));
    assert_eq!(state(&report, "look"), (StepState::Running, 1));
    // Anybody can ask for an address in the machine's name: to an edge that was there all the while it shows nothing.
    for started in [-100, 0] {
        assert!(!booted_another_system(&order, &mut report, at(started), at(9)));
    }
    let mut came = report.clone();
    came.events.push(TimelineEvent {
        at: at(3),
        source: EventSource::Http,
        code: "script".into(),
        text: String::new(),
    });
    assert!(
        !booted_another_system(&order, &mut came, at(5), at(9)),
        "it has fetched its script since"
    );
    assert!(booted_another_system(&order, &mut report, at(5), at(9)));
    assert_eq!(state(&report, "boot"), (StepState::Pending, 1));
    assert!(
        !booted_another_system(&order, &mut report, at(5), at(9)),
        "it asks twice"
    );
    advance(&order, &mut report, at(10));
    assert_eq!(state(&report, "boot"), (StepState::Running, 2));
    assert_eq!(
        state(&report, "look"),
        (StepState::Pending, 1),
        "which waits for the boot"
    );
    apply(&order, &mut report, &id("boot"), StepUpdate::Done, at(11));
    advance(&order, &mut report, at(11));
    assert_eq!(state(&report, "look"), (StepState::Running, 2));
    assert!(
        !booted_another_system(&order, &mut report, at(5), at(20)),
        "once a start: this boot was ordered after it"
    );
    assert!(booted_another_system(&order, &mut report, at(15), at(20)));
    assert!(
        matches!(&report.outcome, Outcome::Failed { failure, .. } if failure.code == "booted_another_system"),
        "no longer than its retries: {:?}",
        report.outcome
    );
}

/// The machine hangs in the middle: another boot, then the step again; what was done by then is not done twice.
#[test]
fn an_agent_that_fell_silent_is_booted_again_before_its_step_is_tried_again() {
    let order = order();
    let mut report = at_write(&order);
    for second in [62, 63, 64] {
        advance(&order, &mut report, at(second));
    }
    assert_eq!(state(&report, "boot"), (StepState::Running, 2));
    assert_eq!(state(&report, "write"), (StepState::Pending, 1));
    apply(&order, &mut report, &id("boot"), StepUpdate::Done, at(65));
    advance(&order, &mut report, at(65));
    assert_eq!(state(&report, "write"), (StepState::Pending, 1), "no agent yet");
    agent_said_hello(&order, &mut report, boot(2), at(80));
    let said = AgentReport {
        steps: vec![],
        ..says(&report, 2, "look", StepState::Done)
    };
    assert!(!agent_reported(&order, &mut report, &said, at(80)));
    let look = StepReport {
        state: StepState::Done,
        attempt: 2,
        ..StepReport::pending(id("look"))
    };
    assert!(agent_reported(
        &order,
        &mut report,
        &AgentReport {
            steps: vec![look],
            ..said
        },
        at(80)
    ));
    advance(&order, &mut report, at(80));
    assert_eq!(state(&report, "write"), (StepState::Running, 2));
    assert_eq!(
        state(&report, "choose"),
        (StepState::Done, 1),
        "the disk chosen stays chosen"
    );
}

/// An operator has a failed job tried again: what is done stays done, and the agent is booted for the rest.
#[test]
fn a_failed_job_is_taken_up_at_the_step_that_failed() {
    let order = order();
    let mut report = at_write(&order);
    apply(&order, &mut report, &id("write"), failure(false), at(5));
    assert!(report.outcome.is_final());
    let same = begin(&order, 2, Some(&report));
    assert_eq!(
        (&same.outcome, &same.steps),
        (&report.outcome, &report.steps),
        "not by a revision alone"
    );
    let order = Order { retry: 1, ..order };
    let mut again = begin(&order, 2, Some(&report));
    assert_eq!((&again.outcome, again.retry), (&Outcome::Running, 1));
    assert_eq!(state(&again, "write"), (StepState::Pending, 0));
    assert_eq!(
        state(&again, "boot").0,
        StepState::Pending,
        "the agent may be gone"
    );
    assert_eq!(
        (state(&again, "image"), state(&again, "choose").0),
        ((StepState::Done, 1), StepState::Done)
    );
    advance(&order, &mut again, at(7));
    assert_eq!(state(&again, "boot"), (StepState::Running, 2));
    assert_eq!(state(&again, "write"), (StepState::Pending, 0));
    let kept = begin(&order, 3, Some(&again));
    assert_eq!(
        state(&kept, "boot"),
        (StepState::Running, 2),
        "a revision under way changes nothing"
    );
}

#[test]
fn an_edge_that_lost_its_disk_does_not_do_again_what_was_done() {
    let settled = |outcome: Outcome| {
        let mut order = order();
        let bind = Action::DhcpBind {
            address: [192, 0, 2, 9].into(),
            hostname: None,
        };
        order.steps.insert(0, step("bind", bind, &[]));
        order.settled = Some(outcome);
        order
    };
    let done = settled(Outcome::Done { at: at(9) });
    let mut report = begin(&done, 7, None);
    assert!(report.steps.iter().all(|s| s.state == StepState::Done));
    assert!(
        !advance(&done, &mut report, at(10)).changed,
        "nothing is left to do"
    );
    let failed = settled(Outcome::Failed {
        at: at(9),
        step: Some(id("write")),
        failure: Failure {
            code: "disk_write".into(),
            message: "x".into(),
            transient: false,
        },
    });
    let mut report = begin(&failed, 7, None);
    assert!(
        !advance(&failed, &mut report, at(10)).changed,
        "nor is it tried again"
    );
    assert_eq!(state(&report, "bind").0, StepState::Done, "its address stays");
    let taken_up = Order {
        retry: 1,
        settled: None,
        ..failed
    };
    let mut report = begin(&taken_up, 8, Some(&report));
    assert!(advance(&taken_up, &mut report, at(11)).changed);
    assert_eq!(
        state(&report, "image").0,
        StepState::Running,
        "unless somebody says so"
    );
    // Who has a report knows better than the order: the job ran on after it was signed.
    let mut known = at_write(&order());
    known.order_revision = 1;
    let kept = begin(&settled(Outcome::Done { at: at(9) }), 9, Some(&known));
    assert!(!kept.outcome.is_final());
}

#[test]
fn late_and_foreign_words_change_nothing() {
    let order = order();
    let report = at_write(&order);
    let other_boot = says(&report, 2, "write", StepState::Done);
    let mut other_attempt = says(&report, 1, "write", StepState::Done);
    other_attempt.steps[0].attempt = 7;
    let other_job = AgentReport {
        job: JobId(Uuid::from_u128(5)),
        ..says(&report, 1, "write", StepState::Done)
    };
    let not_its_own = says(&report, 1, "image", StepState::Failed);
    let not_its_turn = says(&report, 1, "reboot", StepState::Done);
    for said in [other_boot, other_attempt, other_job, not_its_own, not_its_turn] {
        let mut after = report.clone();
        assert!(!agent_reported(&order, &mut after, &said, at(5)));
        assert_eq!(after, report, "{said:?}");
    }
    let mut after = report.clone();
    let mut said = says(&report, 1, "write", StepState::Running);
    said.steps[0].progress = Some(Progress {
        done_bytes: 1,
        total_bytes: 2,
    });
    agent_reported(&order, &mut after, &said, at(5));
    let once = after.clone();
    agent_reported(&order, &mut after, &said, at(50));
    assert_eq!(after, once, "a repeated word is no progress");
}

#[test]
fn a_machine_that_restarts_has_failed_an_attempt_unless_it_was_told_to() {
    let order = order();
    let mut report = at_write(&order);
    agent_said_hello(&order, &mut report, boot(1), at(3));
    assert_eq!(
        state(&report, "write"),
        (StepState::Running, 1),
        "the same boot, after a reconnect"
    );
    agent_said_hello(&order, &mut report, boot(2), at(4));
    assert_eq!(state(&report, "write"), (StepState::Pending, 1));
    advance(&order, &mut report, at(6));
    assert_eq!(state(&report, "write"), (StepState::Running, 2));
    agent_said_hello(&order, &mut report, boot(3), at(7));
    assert!(matches!(&report.outcome, Outcome::Failed { failure, .. } if failure.code == "agent_restarted"));
}

#[test]
fn a_newer_revision_of_the_same_job_keeps_what_is_done() {
    let order = order();
    let report = at_write(&order);
    let newer = begin(&order, 2, Some(&report));
    assert_eq!(
        (newer.order_revision, state(&newer, "choose").0),
        (2, StepState::Done)
    );
    let other = Order {
        job: JobId(Uuid::from_u128(9)),
        ..order
    };
    assert_eq!(
        state(&begin(&other, 3, Some(&report)), "choose").0,
        StepState::Pending
    );
}

#[derive(Debug, Clone)]
enum Event {
    Time(u16),
    Edge(usize, u8),
    Agent(u8, usize, u8, u32),
    Hello(u8),
    PhoneHome,
    OtherSystem,
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..90_u16).prop_map(Event::Time),
        3 => (0..7_usize, 0..4_u8).prop_map(|(s, u)| Event::Edge(s, u)),
        4 => (1..3_u8, 0..7_usize, 0..4_u8, 0..4_u32).prop_map(|(b, s, st, a)| Event::Agent(b, s, st, a)),
        1 => (1..4_u8).prop_map(Event::Hello),
        1 => Just(Event::PhoneHome),
        1 => Just(Event::OtherSystem),
        2 => Just(Event::Crash),
    ]
}

fn happen(order: &Order, report: &mut Report, event: &Event, now: &mut DateTime<Utc>) {
    match event {
        Event::Time(seconds) => *now += TimeDelta::seconds((*seconds).into()),
        Event::Edge(step, update) => {
            let update = match update {
                0 => StepUpdate::Done,
                1 => StepUpdate::Progress(None),
                other => failure(*other == 2),
            };
            let step = &order.steps[*step];
            if next::running(order, report, Side::Edge)
                .iter()
                .any(|(s, _)| s.id == step.id)
            {
                apply(order, report, &step.id, update, *now);
            }
        }
        Event::Agent(b, step, state, attempt) => {
            let state = [
                StepState::Pending,
                StepState::Running,
                StepState::Done,
                StepState::Failed,
            ][usize::from(*state)];
            let step = StepReport {
                state,
                attempt: *attempt,
                ..StepReport::pending(order.steps[*step].id.clone())
            };
            let said = AgentReport {
                boot: boot((*b).into()),
                job: order.job,
                order_revision: 1,
                steps: vec![step],
                disk: None,
            };
            agent_reported(order, report, &said, *now);
        }
        Event::Hello(b) if !report.outcome.is_final() => {
            agent_said_hello(order, report, boot((*b).into()), *now)
        }
        Event::PhoneHome if !report.outcome.is_final() => {
            guest_phoned_home(order, report, String::new(), *now)
        }
        Event::OtherSystem => {
            // As after a start of the edge at this moment.
            booted_another_system(order, report, *now, *now);
        }
        Event::Crash => *report = serde_json::from_str(&serde_json::to_string(report).unwrap()).unwrap(),
        Event::Hello(_) | Event::PhoneHome => {}
    }
    while advance(order, report, *now).changed {}
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_ends_by_the_deadline_and_goes_only_forward(events in proptest::collection::vec(event(), 0..80)) {
        let order = order();
        let mut report = begin(&order, 1, None);
        let mut now = at(0);
        for event in &events {
            let before = report.clone();
            happen(&order, &mut report, event, &mut now);
            if before.outcome.is_final() {
                prop_assert_eq!(&report.outcome, &before.outcome);
            }
            for (was, is) in before.steps.iter().zip(&report.steps) {
                // Only a boot is ever repeated: once more for each attempt of a step that found no agent.
                let boots = ["boot", "look"].contains(&is.id.as_str());
                prop_assert!(boots || was.state != StepState::Done || is.state == StepState::Done, "{} was undone", is.id);
                let most = if boots { 6 } else { 2 };
                prop_assert!(is.attempt <= most, "{} is tried more often than its retries allow", is.id);
                prop_assert!(is.attempt >= was.attempt);
            }
            for step in &order.steps {
                let runs = state(&report, step.id.as_str()).0 == StepState::Running;
                let ready = step.needs.iter().all(|n| state(&report, n.as_str()).0 == StepState::Done);
                prop_assert!(!runs || ready, "{} runs before what it needs", step.id);
            }
        }
        happen(&order, &mut report, &Event::Time(0), &mut at(3600));
        prop_assert!(report.outcome.is_final(), "no state without an exit");
    }
}
