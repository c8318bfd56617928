//! Passwords of BMCs as they change: the one on record, and those that may be it instead. All are encrypted. Every change grows
//! the machine's version, so that what was decided on an older one is refused.

use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use slipway_protocol::ids::{JobId, MachineId};

use super::{Database, StoreResult, machines::Machine, schema::machines, to_json};

/// A password that a machine's BMC may have instead of the one on record: of a rotation whose end is not known, or the one that
/// was on record before an operator gave another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BmcCandidate {
    /// The password, encrypted.
    pub password: String,
    /// The job that sets it, or was the last to try.
    #[serde(default)]
    pub job: Option<JobId>,
    /// The key of the edge it was sealed to: whoever has that edge's disk may know it.
    #[serde(default)]
    pub sealed_to: Option<String>,
}

pub(super) fn candidates_to_json(candidates: &[BmcCandidate]) -> StoreResult<Option<String>> {
    let some = (!candidates.is_empty()).then_some(candidates);
    some.map(|some| to_json(&some)).transpose()
}

/// Gives a machine to a job that changes its BMC's password, with what that may be from now on, if the machine is as it was
/// seen and no job works on it; `false` otherwise. Its state stays.
///
/// # Errors
/// When the database fails.
pub fn begin(
    connection: &mut Database,
    seen: &Machine,
    job: JobId,
    candidates: &[BmcCandidate],
) -> StoreResult<bool> {
    use machines::dsl;
    let version = seen.version.cast_signed();
    let row = dsl::machines
        .find(seen.id.to_string())
        .filter(dsl::version.eq(version))
        .filter(dsl::live_job.is_null());
    let change = (
        dsl::live_job.eq(Some(job.to_string())),
        dsl::bmc_candidates.eq(candidates_to_json(candidates)?),
        dsl::version.eq(version.saturating_add(1)),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Keeps what is known of a password by now, if the machine is as it was seen; `false` otherwise.
///
/// # Errors
/// When the database fails.
pub fn settle(
    connection: &mut Database,
    seen: &Machine,
    (password, candidates): (Option<&str>, &[BmcCandidate]),
) -> StoreResult<bool> {
    use machines::dsl;
    let version = seen.version.cast_signed();
    let row = dsl::machines
        .find(seen.id.to_string())
        .filter(dsl::version.eq(version));
    let change = (
        dsl::bmc_password.eq(password),
        dsl::bmc_candidates.eq(candidates_to_json(candidates)?),
        dsl::version.eq(version.saturating_add(1)),
    );
    Ok(diesel::update(row).set(change).execute(connection)? == 1)
}

/// Ends a job's work on a machine, which stays in its state; `false` if the job does not work on it.
///
/// # Errors
/// When the database fails.
pub fn leave(connection: &mut Database, id: MachineId, job: JobId) -> StoreResult<bool> {
    use machines::dsl;
    let row = dsl::machines
        .find(id.to_string())
        .filter(dsl::live_job.eq(job.to_string()));
    Ok(diesel::update(row)
        .set(dsl::live_job.eq(None::<String>))
        .execute(connection)?
        == 1)
}
