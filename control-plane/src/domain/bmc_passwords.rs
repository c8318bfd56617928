//! Rotation of BMC passwords: begun by operators, ended by what edges report. A password is forgotten here only when the BMC has
//! proved another one since; nothing here may show one.

use chrono::{DateTime, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::JobId,
    report::{Failure, Report},
    seal::{SealingKey, Secret},
};
use uuid::Uuid;

use super::{
    instances::rotation_order,
    machine_jobs::{self, Beginning},
    machines::{self as domain_machines, bmc_place},
};
use crate::{
    access::{Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database, StoreResult,
        bmc_passwords::{self, BmcCandidate},
        events::{self, NewEvent},
        jobs::Job,
        machines::{self, Machine},
    },
    vault::{self, VaultError},
    workflow::{
        bmc_password::{self, MOST_CANDIDATES, Proof, password_of},
        machine_job::LIFE,
        state::{JobKind, JobState},
    },
};

/// Begins to give a machine's BMC a new password; it is made here and shown to nobody.
///
/// # Errors
/// When there is no such machine, it has no BMC, its site is away, or it cannot be worked on now.
pub async fn rotate(app: &App, caller: &Caller, key: String) -> Result<Job, ApiError> {
    let machine = domain_machines::get(app, caller, key).await?;
    caller.require(Permission::MachinesWrite, Target::site(machine.site.as_str()))?;
    let read = app.store.read(move |db| machine_jobs::standing(db, machine));
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
    let order = rotation_order(app, (seen.1.as_ref(), &machine), (job, to), now + LIFE)?;
    order.check().map_err(|e| ApiError::Internal(e.into()))?;
    let beginning = Beginning {
        kind: JobKind::RotateBmcPassword,
        action: "machine.rotate_bmc_password",
        told: json!({}),
        candidates: machine.bmc_candidates,
    };
    let (by, site) = (caller.actor.clone(), machine.site);
    let begin = app
        .store
        .transaction(move |db| machine_jobs::begin(db, &seen, beginning, &order, (&by, now)));
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

/// A rotation has ended: what is known of its password by now is kept.
///
/// # Errors
/// When the store fails.
pub(super) fn ended(
    db: &mut Database,
    machine: &Machine,
    (job, end, failure): (&Job, JobState, Option<&Failure>),
    now: DateTime<Utc>,
) -> StoreResult<()> {
    settle(db, machine, (job, bmc_password::proof(end, failure)), now)
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
