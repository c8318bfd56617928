//! What a failed install says of its machine: a fault is told and the machine kept out of use from its release on; where
//! many fail, the site is looked at first; and an install that goes well clears the fault.

use chrono::{DateTime, TimeDelta, Utc};
use slipway_control_plane::{
    domain,
    store::{
        Database, StoreResult, events, instances,
        jobs::{self, Job},
        machines,
    },
    workflow::state::{JobKind, JobState, MachineState},
};
use slipway_protocol::{
    ids::{JobId, MachineId, StepId},
    report::Failure,
};
use uuid::Uuid;

use crate::{
    common::on_each_database,
    scheduler::{ask, make_machine, make_site},
};

const MACHINE: MachineId = MachineId(Uuid::from_u128(1));

fn failure(code: &str) -> Failure {
    Failure {
        code: code.into(),
        message: "as the test has it".into(),
        transient: true,
    }
}

/// A job that has failed on the machine.
fn failed(db: &mut Database, n: u128, now: DateTime<Utc>) -> StoreResult<Job> {
    let first = jobs::get(db, &JobId(Uuid::from_u128(1)).to_string())?.unwrap();
    let job = Job {
        id: JobId(Uuid::from_u128(n)),
        machine: Some(MACHINE),
        kind: JobKind::Install,
        state: JobState::Queued,
        ..first
    };
    if n > 1 {
        jobs::insert(db, &job)?;
    } else {
        jobs::start(db, job.id, MACHINE)?;
        machines::take(db, MACHINE, MachineState::Available, job.id)?;
        instances::set_machine(db, job.instance.unwrap(), MACHINE)?;
    }
    jobs::finish(db, job.id, JobState::Failed, Some(&failure("disk_verify")), now)?;
    Ok(job)
}

#[tokio::test]
async fn a_machine_that_is_to_blame_is_kept_out_of_use_unless_its_whole_site_fails() {
    on_each_database(|store| async move {
        let now = Utc::now();
        let story = store.transaction(move |db| {
            make_site(db, "bj-1")?;
            make_machine(db, "bj-1")?;
            ask(db, (1, "bj-1"), None, now)?;
            let job = failed(db, 1, now)?;
            let step = StepId::new("write-image").unwrap();
            let judge = |db: &mut Database, job: &Job, code: Option<&str>, now| {
                let failure = code.map(failure);
                let end = code.map_or(JobState::Done, |_| JobState::Failed);
                domain::faults::judge(db, job, end, failure.as_ref().map(|f| (f, Some(&step))), now)
            };
            let marked =
                |db: &mut Database| StoreResult::Ok(machines::get(db, "m1")?.unwrap().hold.quarantine);
            judge(db, &job, Some("disk_ambiguous"), now)?;
            assert!(
                !events::has_fault(db, MACHINE)? && !marked(db)?,
                "the wish is to blame"
            );
            judge(db, &job, Some("disk_verify"), now)?;
            assert!(events::has_fault(db, MACHINE)? && marked(db)?);
            judge(db, &job, None, now)?;
            assert!(
                !events::has_fault(db, MACHINE)?,
                "an install that goes well clears it"
            );
            assert!(marked(db)?, "but a person returns it to use");

            // An hour later ten of the site's installs fail at once.
            let later = now + TimeDelta::hours(1);
            slipway_control_plane::store::holds::hold(db, MACHINE, &machines::Hold::default())?;
            for n in 2..=11 {
                failed(db, n, later)?;
            }
            judge(db, &job, Some("bmc_timeout"), later)?;
            assert!(events::has_fault(db, MACHINE)?, "it is told all the same");
            assert!(!marked(db)?, "the site is looked at first");
            StoreResult::Ok(())
        });
        story.await.unwrap();
    })
    .await;
}
