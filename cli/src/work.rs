//! Work on instances: on one, whose job can be watched, or on many by one call.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    client::Client,
    jobs,
    output::{self, Format},
};

/// What is to be done.
pub(crate) struct Work {
    /// With which instances.
    pub(crate) instances: Vec<String>,
    /// `start`, `stop`, `restart`, `reinstall` or `release`.
    pub(crate) verb: &'static str,
    /// Seconds each system is given to shut down.
    pub(crate) grace_s: Option<u32>,
    /// What each is installed anew with.
    pub(crate) anew: Option<Value>,
    /// Whether to stay until all is done.
    pub(crate) wait: bool,
}

const ACCEPTED: [(&str, &str); 4] = [
    ("instance", "/instance/name"),
    ("state", "/instance/state"),
    ("job", "/job/id"),
    ("waiting", "/job/waiting"),
];
const ITEMS: [(&str, &str); 5] = [
    ("instance", "/instance"),
    ("status", "/status"),
    ("job", "/job"),
    ("code", "/code"),
    ("detail", "/detail"),
];

/// Begins the work; with several instances the one that is refused does not hold up the others, but the command fails.
pub(crate) async fn begin(client: &Client, format: Format, work: Work) -> anyhow::Result<ExitCode> {
    if let [one] = &work.instances[..] {
        let accepted = alone(client, one, &work).await?;
        return accepted_one(client, format, &accepted, work.wait).await;
    }
    let mut body = json!({ "instances": work.instances });
    if let Some(seconds) = work.grace_s {
        body["grace_s"] = seconds.into();
    }
    if let Some(anew) = &work.anew {
        body["reinstall"] = anew.clone();
    }
    let answer = client
        .post(&format!("/api/v1/instances/batch/{}", work.verb), body)
        .await?;
    output::print(format, &answer, &ITEMS);
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all_begun = items.iter().all(|item| item["code"].is_null());
    let all_done = if work.wait {
        watch(client, items, "/job").await?
    } else {
        true
    };
    Ok(if all_begun && all_done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn alone(client: &Client, instance: &str, work: &Work) -> anyhow::Result<Value> {
    let path = format!("/api/v1/instances/{instance}");
    if work.verb == "release" {
        return client.delete(&path).await;
    }
    let grace = work.grace_s.map(|s| format!("?grace_s={s}")).unwrap_or_default();
    let body = work.anew.clone().unwrap_or_else(|| json!({}));
    client.post(&format!("{path}/{}{grace}", work.verb), body).await
}

/// Prints what was accepted, or watches its job.
pub(crate) async fn accepted_one(
    client: &Client,
    format: Format,
    accepted: &Value,
    wait: bool,
) -> anyhow::Result<ExitCode> {
    // Nothing is left to be watched of an instance that never had a machine: it is gone at once.
    let watched = wait && accepted["instance"]["state"] != "released";
    // A password is shown once, so also to who waits.
    let password = accepted.get("password").map(|_| ("password", "/password"));
    if !watched || password.is_some() {
        let columns: Vec<_> = ACCEPTED.into_iter().chain(password).collect();
        output::print(format, accepted, &columns);
    }
    if !watched {
        return Ok(ExitCode::SUCCESS);
    }
    let job = accepted["job"]["id"].as_str();
    jobs::follow(client, job.context("the control plane named no job")?).await
}

/// Prints the many that were accepted, and watches their jobs.
pub(crate) async fn accepted_many(
    client: &Client,
    format: Format,
    answer: &Value,
    wait: bool,
) -> anyhow::Result<ExitCode> {
    output::print(format, answer, &ACCEPTED);
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let done = !wait || watch(client, items, "/job/id").await?;
    Ok(if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Watches jobs one after the other; whether all of them ended well.
pub(crate) async fn watch(client: &Client, items: &[Value], job: &str) -> anyhow::Result<bool> {
    let mut all = true;
    for id in items.iter().filter_map(|item| item.pointer(job)?.as_str()) {
        // Exit codes can be compared by their text alone.
        let ended = jobs::follow(client, id).await?;
        all &= format!("{ended:?}") == format!("{:?}", ExitCode::SUCCESS);
    }
    Ok(all)
}
