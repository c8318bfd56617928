//! `slipway machine rotate-bmc`: new passwords for BMCs, of machines by name or of all of a site. No password is seen here.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use crate::{
    client::{Client, refused},
    output::{self, Format},
    work,
};

/// Whose BMCs get new passwords.
#[derive(Debug, Args)]
pub(crate) struct Rotation {
    #[arg(required_unless_present = "site", conflicts_with = "site")]
    machines: Vec<String>,
    /// All machines of a site that have a BMC
    #[arg(long)]
    site: Option<String>,
    /// Watch until all have ended
    #[arg(long)]
    wait: bool,
}

const COLUMNS: [(&str, &str); 4] = [
    ("machine", "/machine"),
    ("job", "/job"),
    ("code", "/code"),
    ("detail", "/detail"),
];

/// Begins one after the other; one that is refused does not hold up the others, but the command fails.
pub(crate) async fn run(client: &Client, format: Format, rotation: Rotation) -> anyhow::Result<ExitCode> {
    let machines = match &rotation.site {
        None => rotation.machines,
        Some(site) => {
            let filters = [("site", Some(site.clone()))];
            with_bmc(&client.all("/api/v1/machines", &filters).await?)
        }
    };
    let mut items = Vec::new();
    for machine in machines {
        let path = format!("/api/v1/machines/{machine}/bmc-password");
        items.push(match client.post(&path, json!({})).await {
            Ok(job) => json!({ "machine": machine, "job": job["id"] }),
            Err(error) => match refused(&error) {
                Some((code, detail)) => json!({ "machine": machine, "code": code, "detail": detail }),
                None => return Err(error),
            },
        });
    }
    let all_begun = items.iter().all(|item| item["code"].is_null());
    output::print(format, &json!({ "items": items }), &COLUMNS);
    let all_done = !rotation.wait || work::watch(client, &items, "/job").await?;
    Ok(if all_begun && all_done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The names of those that have a BMC and are in use or may be again.
fn with_bmc(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let may = |m: &&Value| !m["bmc"].is_null() && m["state"] != "retired";
    let names = items.iter().filter(may).filter_map(|m| m["name"].as_str());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_its_machines_that_have_a_bmc() {
        let machine =
            |name: &str, bmc: Value, state: &str| json!({ "name": name, "bmc": bmc, "state": state });
        let list = json!({ "items": [
            machine("m1", json!({}), "allocated"),
            machine("m2", Value::Null, "available"),
            machine("m3", json!({}), "retired"),
        ] });
        assert_eq!(with_bmc(&list), ["m1"]);
    }
}
