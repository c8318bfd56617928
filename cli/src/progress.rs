//! A job's progress as lines. Pure: what stands in a job's JSON and nothing else.

use serde_json::Value;

/// One line a step, and the failure if there is one.
pub(crate) fn lines(job: &Value) -> Vec<String> {
    let steps = job["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines: Vec<String> = steps.iter().map(step_line).collect();
    if let (Some(code), Some(message)) = (
        job["failure"]["code"].as_str(),
        job["failure"]["message"].as_str(),
    ) {
        lines.push(format!("failed: {message} ({code})"));
    } else if lines.is_empty() {
        let why = job["waiting"].as_str();
        lines.push(format!(
            "{}: {}",
            job["state"].as_str().unwrap_or("?"),
            why.unwrap_or("waiting for a machine or the site's first word")
        ));
    }
    lines
}

fn step_line(step: &Value) -> String {
    let mark = match step["state"].as_str() {
        Some("done") => "✓",
        Some("running") => "▸",
        Some("failed") => "✗",
        _ => "·",
    };
    let id = step["id"].as_str().unwrap_or("?");
    let mut line = format!("{mark} {id:<14}");
    if let Some(seconds) = seconds(step) {
        line.push_str(&format!(" {seconds:>7.1} s"));
    }
    if let (Some(done), Some(total)) = (
        step["progress"]["done_bytes"].as_u64(),
        step["progress"]["total_bytes"].as_u64(),
    ) {
        line.push_str(&format!("  {}/{} MB", done / 1_000_000, total / 1_000_000));
        if let Some(seconds) = seconds(step).filter(|s| *s > 0.0) {
            line.push_str(&format!("  {:.1} MB/s", done as f64 / 1e6 / seconds));
        }
    }
    if step["attempt"].as_u64().is_some_and(|attempt| attempt > 1) {
        line.push_str(&format!("  attempt {}", step["attempt"]));
    }
    if let Some(message) = step["failure"]["message"].as_str() {
        line.push_str(&format!("  {message}"));
    }
    line
}

fn seconds(step: &Value) -> Option<f64> {
    let time = |name: &str| step[name].as_str()?.parse::<chrono::DateTime<chrono::Utc>>().ok();
    let end = time("finished_at").or_else(|| time("progressed_at"))?;
    Some((end - time("started_at")?).num_milliseconds() as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_shows_time_bytes_and_rate() {
        let job = serde_json::json!({ "state": "running", "steps": [
            { "id": "ensure-image", "state": "done", "attempt": 1, "started_at": "2026-11-21T12:00:00Z",
              "finished_at": "2026-11-21T12:00:02Z", "progress": { "done_bytes": 30_000_000, "total_bytes": 30_000_000 } },
            { "id": "write-image", "state": "running", "attempt": 2, "started_at": "2026-11-21T12:00:00Z",
              "progressed_at": "2026-11-21T12:00:01Z", "progress": { "done_bytes": 5_000_000, "total_bytes": 10_000_000 } },
            { "id": "reboot", "state": "pending", "attempt": 0 },
        ]});
        assert_eq!(
            lines(&job),
            [
                "✓ ensure-image       2.0 s  30/30 MB  15.0 MB/s",
                "▸ write-image        1.0 s  5/10 MB  5.0 MB/s  attempt 2",
                "· reboot        ",
            ]
        );
    }

    #[test]
    fn a_job_that_waits_says_why() {
        let job = serde_json::json!({ "state": "queued", "waiting": "quota: 3 of 3 in use" });
        assert_eq!(lines(&job), ["queued: quota: 3 of 3 in use"]);
    }

    #[test]
    fn a_failure_is_told_by_name() {
        let job = serde_json::json!({ "state": "failed", "failure": { "code": "disk_ambiguous", "message": "two disks" } });
        assert_eq!(lines(&job), ["failed: two disks (disk_ambiguous)"]);
    }
}
