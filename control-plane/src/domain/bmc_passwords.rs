//! Rotation of BMC passwords: begun by operators, ended by what edges report. A password is forgotten here only when the BMC has
//! proved another one since; nothing here may show one.

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::{JobId, MachineId},
    order::Order,
    report::{Failure, Report},
    seal::{SealingKey, Secret},
};
use uuid::Uuid;

use super::{
    instances::rotation_order,
    machines::{self as domain_machines, bmc_place},
};
use crate::{
    access::{Actor, Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        audit::{self, Change},
        bmc_passwords::{self, BmcCandidate},
        events::{self, NewEvent},
        instances::{self, Instance},
        jobs::{self, Job},
        machines::{self, Machine},
        orders, sites, traces,
    },
    vault::{self, VaultError},
    workflow::{
        bmc_password::{self, LIFE, MOST_CANDIDATES, Proof, Refusal, password_of},
        state::{JobKind, JobState, MachineState},
    },
};

/// A machine with the instance that holds it.
type Seen = (Machine, Option<Instance>);

/// Begins to give a machine's BMC a new password; it is made here and shown to nobody.
///
/// # Errors
/// When there is no such machine, it has no BMC, its site is away, or it cannot be worked on now.
pub async fn rotate(app: &App, caller: &Caller, key: String) -> Result<Job, ApiError> {
    let machine = domain_machines::get(app, caller, key).await?;
    caller.require(Permission::MachinesWrite, Target::site(machine.site.as_str()))?;
    let read = app.store.read(move |db| standing(db, machine));
    let ((machine, instance), to) = read.await?;
    let (now, job) = ((app.now)(), JobId(Uuid::now_v7()));
    let place = bmc_place(machine.id);
    let encrypt = || {
        let password = generate(vault::random)?;
        app.vault.encrypt(&place, &password)
    };
    let bmc_candidates = with_next(&machine.bmc_candidates, (job, to), encrypt)?;
    let seen = (machine.clone(), instance);
    let machine = Machine {
        bmc_candidates,
        ..machine
    };
    let order = rotation_order(app, (seen.1.as_ref(), &machine), (job, to), now)?;
    order.check().map_err(|e| ApiError::Internal(e.into()))?;
    let (by, site) = (caller.actor.clone(), machine.site.clone());
    let begin = app
        .store
        .transaction(move |db| begin(db, (&seen, &machine.bmc_candidates), &order, (&by, now)));
    let job = begin.await?;
    app.poke_site(site.as_str());
    Ok(job)
}

/// A password that every BMC takes, of random bytes.
fn generate(
    mut random: impl FnMut() -> Result<[u8; bmc_password::LENGTH], VaultError>,
) -> Result<Secret, VaultError> {
    loop {
        if let Some(password) = password_of(&random()?) {
            return Ok(password);
        }
    }
}

/// The candidates of a rotation, its own last. What an earlier one left open is tried again, so that their number does not
/// grow; not if it was sealed to another edge, which may be in somebody else's hands.
fn with_next(
    kept: &[BmcCandidate],
    (job, to): (JobId, SealingKey),
    encrypt: impl FnOnce() -> Result<String, VaultError>,
) -> Result<Vec<BmcCandidate>, VaultError> {
    let to = to.to_string();
    let mut candidates = kept.to_vec();
    let ours = |c: &BmcCandidate| c.sealed_to.as_ref() == Some(&to);
    let password = match candidates.iter().rposition(ours) {
        Some(at) => candidates.remove(at).password,
        None => encrypt()?,
    };
    candidates.push(BmcCandidate {
        password,
        job: Some(job),
        sealed_to: Some(to),
    });
    Ok(newest(candidates))
}

/// What a machine's candidates are after an operator changed it. The former password is kept: it may be a file of old passwords
/// that was read in. Those of another BMC, or another user, are of no use.
pub(super) fn after_change(former: &Machine, next: &Machine) -> Vec<BmcCandidate> {
    if former.details.bmc != next.details.bmc {
        return Vec::new();
    }
    let mut candidates = former.bmc_candidates.clone();
    if let Some(password) = former.bmc_password.clone()
        && former.bmc_password != next.bmc_password
    {
        candidates.push(BmcCandidate {
            password,
            job: None,
            sealed_to: None,
        });
    }
    newest(candidates)
}

/// The last of them: no more are tried.
fn newest(mut candidates: Vec<BmcCandidate>) -> Vec<BmcCandidate> {
    let too_many = candidates.len().saturating_sub(MOST_CANDIDATES);
    candidates.split_off(too_many)
}

/// Whether a machine's BMC is being given a new password right now.
pub(super) fn is_rotating(machine: &Machine) -> bool {
    let works = |c: &BmcCandidate| c.job.is_some() && c.job == machine.live_job;
    machine.bmc_candidates.iter().any(works)
}

/// The machine with its instance and its site's key, if a rotation may begin.
fn standing(db: &mut Database, machine: Machine) -> Result<(Seen, SealingKey), ApiError> {
    let conflict = |code, detail: String| Err(ApiError::Conflict(code, detail));
    let instance = instances::on_machine(db, &machine.site, machine.id)?;
    let state = instance.as_ref().map(|instance| instance.state);
    let name = &machine.name;
    if let Err(refusal) = bmc_password::may_begin(machine.state, machine.live_job, state) {
        let code = match refusal {
            Refusal::Busy => "machine_busy",
            Refusal::Retired => "machine_retired",
            Refusal::Unsettled => "instance_unsettled",
        };
        return conflict(code, format!("machine `{name}` {refusal}"));
    }
    if machine.details.bmc.is_none() || machine.bmc_password.is_none() {
        let how = "give it with `slipway machine set`";
        return conflict(
            "no_bmc",
            format!("machine `{name}` has no BMC with a password: {how}"),
        );
    }
    let site = sites::get(db, machine.site.as_str())?;
    let Some((site, to)) = site.and_then(|site| Some((site.online, site.sealing_key?))) else {
        let detail = format!("no edge has joined site {}", machine.site);
        return conflict("site_not_joined", detail);
    };
    if !site {
        let detail = format!("site {} is cut off: rotate when it is back", machine.site);
        return conflict("site_offline", detail);
    }
    Ok(((machine, instance), to))
}

fn begin(
    db: &mut Database,
    ((machine, instance), candidates): (&Seen, &[BmcCandidate]),
    order: &Order,
    (by, now): (&Actor, DateTime<Utc>),
) -> Result<Job, ApiError> {
    let changed = || {
        let detail = format!(
            "machine `{}` was changed or taken just now: try again",
            machine.name
        );
        Err(ApiError::Conflict("machine_busy", detail))
    };
    if !bmc_passwords::begin(db, machine, order.job, candidates)? {
        return changed();
    }
    // The machine is this job's from here on; what was seen before must still be so.
    let held = instances::on_machine(db, &machine.site, machine.id)?;
    let stands = |i: &Instance| (i.id, i.state, i.name.clone());
    let found = machines::get(db, &machine.id.to_string())?;
    let same = found.is_some_and(|found| found.state == machine.state);
    if !same || held.as_ref().map(stands) != instance.as_ref().map(stands) {
        return changed();
    }
    let job = Job {
        id: order.job,
        instance: None,
        site: machine.site.clone(),
        machine: Some(machine.id),
        kind: JobKind::RotateBmcPassword,
        priority: 0,
        waiting: None,
        state: JobState::Queued,
        failure: None,
        deadline: now + LIFE,
        created_at: now,
        finished_at: None,
    };
    jobs::insert(db, &job)?;
    jobs::start(db, job.id, machine.id)?;
    let revision = orders::put(db, &machine.site, order)?;
    traces::ordered(db, &job, now)?;
    let job = Job {
        state: JobState::Running,
        ..job
    };
    let event = |kind| NewEvent::new(kind, now).on(&job);
    events::append(db, &event("job.running").entered(&job.state)?)?;
    let told = event("machine.order").text(format!("job {} order {revision}", job.id));
    events::append(db, &told.data(json!({ "revision": revision })))?;
    let after = Some(json!({ "job": job.id }));
    let object = format!("machine/{}", machine.name);
    let change = Change::new("machine.rotate_bmc_password", object, None, after);
    audit::done(db, by, now, change)?;
    Ok(job)
}

/// A rotation has ended: the machine is free for other work again, and what is known of its password by now is kept.
///
/// # Errors
/// When the store fails.
pub(super) fn ended(
    db: &mut Database,
    job: &Job,
    (end, failure): (JobState, Option<&Failure>),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let Some(id) = job.machine else { return Ok(()) };
    // First, so that nobody else changes the row until this is over.
    let left = bmc_passwords::leave(db, id, job.id)?;
    let Some(machine) = machines::get(db, &id.to_string())? else {
        return Ok(());
    };
    settle(db, &machine, (job, bmc_password::proof(end, failure)), now)?;
    let held = [MachineState::Allocated, MachineState::Erasing].contains(&machine.state);
    if left && machine.hold.quarantine && !held {
        let reason = machine.hold.reason.unwrap_or_default();
        domain_machines::quarantine(db, id, &reason, now)?;
    }
    Ok(())
}

/// A report came on a rotation that had ended before, without anybody knowing how: it may tell.
///
/// # Errors
/// When the store fails.
pub(super) fn told_late(
    db: &mut Database,
    job: &Job,
    report: &Report,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    if job.kind != JobKind::RotateBmcPassword || !bmc_password::is_set(report) {
        return Ok(());
    }
    match machines::get(db, &report.machine.to_string())? {
        Some(machine) => settle(db, &machine, (job, Proof::New), now),
        None => Ok(()),
    }
}

/// Keeps what a rotation has proved. Nothing changes if its password is not one of the candidates any more.
fn settle(
    db: &mut Database,
    machine: &Machine,
    (job, proof): (&Job, Proof),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let of_job = |c: &&BmcCandidate| c.job == Some(job.id);
    let Some(candidate) = machine.bmc_candidates.iter().find(of_job) else {
        return Ok(());
    };
    let (password, candidates) = match proof {
        Proof::None => return Ok(()),
        Proof::New => (Some(&candidate.password), Vec::new()),
        Proof::Refused => {
            let others = machine.bmc_candidates.iter().filter(|c| !of_job(c));
            (machine.bmc_password.as_ref(), others.cloned().collect())
        }
    };
    let kept = (password.map(String::as_str), &candidates[..]);
    if bmc_passwords::settle(db, machine, kept)? && proof == Proof::New {
        let event = NewEvent::new("machine.bmc_password_rotated", now).on(job);
        events::append(db, &event.machine(machine.id).text(&machine.name))?;
    }
    Ok(())
}

/// What a failed rotation leaves to be done, for people.
#[must_use]
pub fn advice(machine: Option<MachineId>) -> String {
    let machine = machine.map_or_else(|| "MACHINE".to_owned(), |machine| machine.to_string());
    format!("rotate again with `slipway machine rotate-bmc {machine}`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_protocol::seal::OpeningKey;

    fn job(n: u128) -> JobId {
        JobId(Uuid::from_u128(n))
    }

    #[test]
    fn what_was_left_open_is_tried_again_unless_another_edge_may_know_it() {
        let [edge, other] = [[1; 32], [2; 32]].map(|bytes| OpeningKey::from_bytes(bytes).sealing_key());
        let first = with_next(&[], (job(1), edge), || Ok("b".to_owned())).unwrap();
        assert_eq!((first.len(), first[0].job), (1, Some(job(1))));
        let again = with_next(&first, (job(2), edge), || panic!("there is one")).unwrap();
        assert_eq!(
            (again.len(), &*again[0].password, again[0].job),
            (1, "b", Some(job(2)))
        );
        let anew = with_next(&again, (job(3), other), || Ok("c".to_owned())).unwrap();
        let passwords: Vec<&str> = anew.iter().map(|c| &*c.password).collect();
        assert_eq!(passwords, ["b", "c"], "its own last, and nothing forgotten");
    }

    #[test]
    fn a_password_is_made_of_the_first_bytes_that_will_do() {
        let mut drawn = 0_u8;
        let password = generate(|| {
            drawn += 1;
            let good = *b"\x00\x1a\x34\x3e\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c";
            Ok(if drawn < 3 { [0; 16] } else { good })
        });
        assert_eq!((password.unwrap().reveal(), drawn), ("aA0-bcdefghijklm", 3));
        assert!(generate(|| Err(VaultError::Random)).is_err());
    }
}
