//! What an install would do, asked for before it is. Must never begin one.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
};

const COLUMNS: [(&str, &str); 14] = [
    ("instance", "/name"),
    ("machine", "/machine/name"),
    ("address", "/machine/address"),
    ("waiting", "/waiting"),
    ("image", "/image/name"),
    ("serial", "/disk/serial"),
    ("wwn", "/disk/wwn"),
    ("model", "/disk/model"),
    ("bytes", "/disk/size_bytes"),
    ("no disk", "/no_disk/detail"),
    ("held", "/held/instance"),
    ("of image", "/held/image"),
    ("written", "/held/at"),
    ("steps", "/steps"),
];

/// Prints what a new instance would do.
pub(crate) async fn create(client: &Client, format: Format, new: Value) -> anyhow::Result<ExitCode> {
    let plan = client.post("/api/v1/instances/plan", new).await?;
    Ok(print(format, vec![plan]))
}

/// Prints what installing instances anew would do, all of them the same way.
pub(crate) async fn reinstall(
    client: &Client,
    format: Format,
    instances: &[String],
    anew: &Value,
) -> anyhow::Result<ExitCode> {
    let mut plans = Vec::new();
    for instance in instances {
        let path = format!("/api/v1/instances/{instance}/reinstall/plan");
        plans.push(client.post(&path, anew.clone()).await?);
    }
    Ok(print(format, plans))
}

fn print(format: Format, mut plans: Vec<Value>) -> ExitCode {
    if format == Format::Table {
        plans.iter_mut().for_each(name_steps);
    }
    let answer = match &mut plans[..] {
        [one] => one.take(),
        many => json!({ "items": many }),
    };
    output::print(format, &answer, &COLUMNS);
    ExitCode::SUCCESS
}

/// People want to know which steps; who takes them and what they wait for is for programs.
fn name_steps(plan: &mut Value) {
    for step in plan["steps"].as_array_mut().into_iter().flatten() {
        *step = step["id"].take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_its_steps() {
        let mut plan =
            json!({ "steps": [{ "id": "boot", "role": "driver", "needs": [] }, { "id": "write" }] });
        name_steps(&mut plan);
        assert_eq!(plan, json!({ "steps": ["boot", "write"] }));
        let mut none = json!({ "waiting": "no machine is free" });
        name_steps(&mut none);
        assert_eq!(none["waiting"], "no machine is free");
    }
}
