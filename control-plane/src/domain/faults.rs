//! Faults of machines, as jobs show them and as BMCs log them: told as events; and machines kept out of use when the ladder
//! of retries is used up. The last rung is for one machine: where many fail at once, the site is to blame and not its
//! machines.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;
use slipway_protocol::{
    ids::{SiteId, StepId},
    report::{Failure, HardwareFault, MAX_HARDWARE_FAULTS, Report},
};

use crate::{
    domain::machines,
    store::{
        Database, StoreResult,
        events::{self, NewEvent},
        hardware_faults,
        jobs::{self, Job},
        sites,
    },
    workflow::state::{JobKind, JobState},
};

/// A machine's BMC has logged a fault.
pub const LOGGED: &str = "fault.sel";

/// Longest line of an edge that is taken over.
const MAX_TEXT: usize = 300;

/// Tells what a report says of its machine's hardware by the word of its BMC, each entry once. Reports are repeated, and
/// carry what was told before. The caller has stored the report in the same transaction.
///
/// # Errors
/// When the store fails.
pub fn logged(
    db: &mut Database,
    (site, job): (&SiteId, Option<&Job>),
    report: &Report,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    for fault in report.hardware_faults.iter().take(MAX_HARDWARE_FAULTS) {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let readable = !fault.raw.is_empty() && fault.raw.len() <= MAX_TEXT && fault.raw.bytes().all(hex);
        if !readable || !hardware_faults::tell(db, report.machine, &fault.raw, now)? {
            continue;
        }
        let event = NewEvent::new(LOGGED, fault.seen_at)
            .site(site)
            .machine(report.machine)
            .job(report.job);
        let data = json!({ "kind": line(&fault.kind), "severity": fault.severity, "record": fault.record,
            "bmc_time": fault.bmc_time, "raw": fault.raw });
        let event = event.text(told(fault)).data(data);
        events::append(db, &job.into_iter().fold(event, NewEvent::on))?;
    }
    Ok(())
}

/// What a person reads. The BMC's clock is often wrong, and says so by small numbers if it was never set.
fn told(fault: &HardwareFault) -> String {
    let text = line(&fault.text);
    let time = DateTime::from_timestamp(fault.bmc_time.into(), 0);
    match time.filter(|_| (CLOCK_WAS_SET..u32::MAX).contains(&fault.bmc_time)) {
        Some(time) => format!(
            "{text}; logged at {} by the BMC's clock",
            time.to_rfc3339_opts(SecondsFormat::Secs, true)
        ),
        None => format!("{text}; the BMC does not know when"),
    }
}

/// Below it a BMC's time counts from the BMC's start.
const CLOCK_WAS_SET: u32 = 0x2000_0000;

fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect()
}

/// What of a machine a failure speaks against, as the kind of an event; none if it is somebody else's.
#[must_use]
pub fn blamed(failure: &Failure, step: Option<&StepId>) -> Option<&'static str> {
    match failure.code.as_str() {
        "disk_open" | "disk_read" | "disk_write" | "disk_verify" => Some("fault.disk"),
        "bmc_timeout"
        | "bmc_unreachable"
        | "bmc_no_session"
        | "bmc_busy"
        | "bmc_session_lost"
        | "bmc_completion_code"
        | "bmc_malformed_answer"
        | "bmc_power_not_taken"
        | "bmc_boot_device_not_taken" => Some("fault.bmc"),
        "agent_restarted" | "booted_another_system" => Some("fault.machine"),
        // A guest that does not come up may be the image's fault; a machine that does not boot the LiveOS is its own.
        "no_progress" => step
            .filter(|step| ["boot-network", "inventory", "power-on", "power-off"].contains(&step.as_str()))
            .map(|_| "fault.machine"),
        _ => None,
    }
}

/// Tells what a job that has just ended says of its machine, and keeps it out of use if it is to blame.
///
/// # Errors
/// When the store fails.
pub fn judge(
    db: &mut Database,
    job: &Job,
    end: JobState,
    failure: Option<(&Failure, Option<&StepId>)>,
    now: DateTime<Utc>,
) -> StoreResult<()> {
    let Some(machine) = job.machine else { return Ok(()) };
    let installs = [JobKind::Install, JobKind::Reinstall].contains(&job.kind);
    if end == JobState::Done && installs && events::has_fault(db, machine)? {
        // An install needs one power supply of two: what the BMC has logged is for a person to look after.
        if events::since_cleared(db, machine, LOGGED)? {
            return Ok(());
        }
        let text = "an install went well";
        return events::append(
            db,
            &NewEvent::new(events::FAULT_CLEARED, now)
                .on(job)
                .machine(machine)
                .text(text),
        );
    }
    let Some((failure, step)) = failure else {
        return Ok(());
    };
    let Some(kind) = blamed(failure, step) else {
        return Ok(());
    };
    let limits = sites::get(db, job.site.as_str())?
        .map(|site| site.settings.limits)
        .unwrap_or_default();
    let failed = jobs::failed_at(db, &job.site, now - sites::FAILURES_COUNT_FOR)?;
    let spread = failed >= i64::from(limits.max_failures);
    let reason = format!("job {}: {}: {}", job.id, failure.code, failure.message);
    let kept = installs && !spread && machines::quarantine(db, machine, &reason, now)?;
    let more = match (kept, spread) {
        (true, _) => "; the machine is kept out of use from its release on".to_owned(),
        (false, true) => {
            format!("; {failed} jobs failed at the site within 30 minutes, so the site is looked at first")
        }
        (false, false) => String::new(),
    };
    let text = format!("{}{more}", failure.message);
    let data = json!({ "code": failure.code, "step": step, "quarantined": kept });
    events::append(
        db,
        &NewEvent::new(kind, now)
            .on(job)
            .machine(machine)
            .text(text)
            .data(data),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_blamed_for_its_own_faults_only() {
        let blame = |code: &str, step: &str| {
            let failure = Failure {
                code: code.into(),
                message: String::new(),
                transient: true,
            };
            blamed(&failure, StepId::new(step).ok().as_ref())
        };
        assert_eq!(blame("disk_verify", "write-image"), Some("fault.disk"));
        assert_eq!(blame("bmc_timeout", "boot-network"), Some("fault.bmc"));
        assert_eq!(blame("no_progress", "inventory"), Some("fault.machine"));
        for (code, step) in [
            ("no_progress", "verify-guest"),
            ("no_progress", "ensure-image"),
            ("bmc_credentials", "boot-network"),
            ("disk_ambiguous", "choose-disk"),
            ("cancelled", "write-image"),
        ] {
            assert_eq!(blame(code, step), None, "{code}");
        }
    }
}
