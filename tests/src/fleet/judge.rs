//! Whether a run kept its promises, from what the API says of its jobs: pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// Whether a job is at its end.
#[must_use]
pub fn has_ended(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("done" | "failed" | "cancelled"))
}

/// How many jobs are in each state; failed ones by their code.
#[must_use]
pub fn states(jobs: &[Value]) -> BTreeMap<String, usize> {
    let mut states = BTreeMap::new();
    for job in jobs {
        let state = job["state"].as_str().unwrap_or("unknown");
        let name = match job["failure"]["code"].as_str() {
            Some(code) => format!("{state} ({code})"),
            None => state.to_owned(),
        };
        *states.entry(name).or_default() += 1;
    }
    states
}

/// Every promise that was broken, in words; none if all is well. `asked` is how many installs were asked for, and `jobs`
/// are all jobs with their steps.
#[must_use]
pub fn faults(asked: usize, jobs: &[Value]) -> Vec<String> {
    let mut faults = Vec::new();
    if jobs.len() != asked {
        faults.push(format!(
            "{asked} installs were asked for, but there are {} jobs",
            jobs.len()
        ));
    }
    let live = jobs.iter().filter(|job| !has_ended(job));
    faults.extend(live.map(stuck));
    faults.extend(overlaps(jobs));
    faults
}

/// Where a job stands that did not end.
fn stuck(job: &Value) -> String {
    let steps = job["steps"].as_array().into_iter().flatten();
    let open: Vec<String> = steps
        .filter(|step| step["state"] == "running")
        .map(|step| format!("{} attempt {}", step["id"], step["attempt"]))
        .collect();
    let (id, site, state) = (&job["id"], &job["site"], &job["state"]);
    format!(
        "job {id} at {site} did not end: {state}, report {}, steps {open:?}",
        job["revision"]
    )
}

/// Machines that, at one moment in the jobs' lists, have more than one job that runs.
#[must_use]
pub fn shared_machines(running: &[Value]) -> Vec<String> {
    let mut by_machine: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for job in running {
        if let Some(machine) = job["machine"].as_str() {
            by_machine.entry(machine).or_default().push(&job["id"]);
        }
    }
    let shared = by_machine.into_iter().filter(|(_, jobs)| jobs.len() > 1);
    shared
        .map(|(machine, jobs)| format!("machine {machine} has several live jobs: {jobs:?}"))
        .collect()
}

/// Machines on which a job's steps began before those of the job before had ended, by the edge's own times.
fn overlaps(jobs: &[Value]) -> Vec<String> {
    let mut spans: BTreeMap<&str, Vec<Span>> = BTreeMap::new();
    for job in jobs {
        if let (Some(machine), Some(span)) = (job["machine"].as_str(), span(job)) {
            spans.entry(machine).or_default().push(span);
        }
    }
    let mut found = Vec::new();
    for (machine, mut jobs) in spans {
        jobs.sort_by_key(|span| span.begun);
        for pair in jobs.windows(2) {
            if let [before, after] = pair
                && after.begun < before.ended
            {
                let (first, second) = (before.job, after.job);
                found.push(format!(
                    "machine {machine} had two live orders: jobs {first} and {second}"
                ));
            }
        }
    }
    found
}

/// When a job's first step began and its last thing happened.
struct Span<'a> {
    job: &'a Value,
    begun: DateTime<Utc>,
    ended: DateTime<Utc>,
}

fn span(job: &Value) -> Option<Span<'_>> {
    let times = |name: &'static str| {
        let steps = job["steps"].as_array().into_iter().flatten();
        steps.filter_map(move |step| step[name].as_str()?.parse::<DateTime<Utc>>().ok())
    };
    Some(Span {
        job: &job["id"],
        begun: times("started_at").min()?,
        ended: times("finished_at").max()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(id: &str, machine: &str, seconds: (u32, u32)) -> Value {
        let at = |s: u32| format!("2026-11-21T12:00:{s:02}Z");
        let (begun, ended) = seconds;
        json!({ "id": id, "machine": machine, "state": "done", "failure": null,
            "steps": [{ "started_at": at(begun), "finished_at": at(begun + 1) }, { "finished_at": at(ended) }] })
    }

    #[test]
    fn two_jobs_of_a_machine_may_follow_but_not_overlap() {
        let good = [
            job("a", "m1", (0, 10)),
            job("b", "m1", (10, 20)),
            job("c", "m2", (5, 15)),
        ];
        assert_eq!(faults(3, &good), Vec::<String>::new());
        let bad = [job("b", "m1", (9, 20)), job("a", "m1", (0, 10))];
        assert!(matches!(&faults(2, &bad)[..], [one] if one.contains("two live orders")));
        assert_eq!(shared_machines(&good).len(), 1, "a and b at one moment");
        assert!(shared_machines(&good[1..]).is_empty());
    }

    #[test]
    fn a_job_too_many_and_one_that_did_not_end_are_told() {
        let mut open = job("a", "m1", (0, 10));
        open["state"] = "running".into();
        let found = faults(2, &[open.clone()]);
        assert_eq!(found.len(), 2, "{found:?}");
        let failed = json!({ "state": "failed", "failure": { "code": "bmc_timeout" } });
        let states = states(&[open, failed]);
        assert_eq!((states["running"], states["failed (bmc_timeout)"]), (1, 1));
    }
}
