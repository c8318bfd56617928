//! `slipway machine-type`: types of machines, by rules on what machines are.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::{
    client::Client,
    labels::{self, Pair},
    output::{self, Format},
};

/// Machine types.
#[derive(Debug, Subcommand)]
pub(crate) enum MachineType {
    /// List machine types
    List,
    /// Show a machine type
    Show { name: String },
    /// Make a machine type or replace it; machines get their types by it at once
    Set {
        /// Its name: 1 to 63 of a-z, 0-9 and '-'
        name: String,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        /// Of the types that fit a machine the one of the highest priority is its type, -1000 to 1000
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i64,
        #[command(flatten)]
        rules: Box<Rules>,
    },
    /// Remove a machine type; its machines get the next one that fits
    Delete { name: String },
    /// Show which machines a type fits, or would fit with other rules
    Preview {
        name: String,
        /// The rank to try the rules with
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i64,
        #[command(flatten)]
        rules: Box<Rules>,
    },
}

/// What machines of a type are like; all that is given must hold.
#[derive(Debug, Default, Args)]
pub(crate) struct Rules {
    /// Manufacturer, `*` and `?` stand for anything
    #[arg(long, value_name = "PATTERN")]
    manufacturer: Option<String>,
    /// Product name, likewise
    #[arg(long, value_name = "PATTERN")]
    product: Option<String>,
    /// CPU model, likewise
    #[arg(long, value_name = "PATTERN")]
    cpu: Option<String>,
    /// Logical processors, as in 64, 32-64 or 64-
    #[arg(long, value_name = "RANGE", value_parser = range)]
    threads: Option<Value>,
    /// Memory in GB as the kernel sees it, as in 250-
    #[arg(long, value_name = "RANGE", value_parser = gigabytes)]
    memory_gb: Option<Value>,
    /// Disks, as in ssd, kind=nvme,count=2,gb=900-1000; may be repeated
    #[arg(long = "disk", value_name = "DISKS", value_parser = disks)]
    disks: Vec<Value>,
    /// Network ports, as in 2-
    #[arg(long, value_name = "RANGE", value_parser = range)]
    nics: Option<Value>,
    /// bios or uefi
    #[arg(long)]
    firmware: Option<String>,
    /// A label that machines must have, as NAME=VALUE; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = labels::pair)]
    labels: Vec<Pair>,
    /// File with rules as JSON, in place of all others
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
}

const COLUMNS: [(&str, &str); 5] = [
    ("type", "/name"),
    ("priority", "/priority"),
    ("machines", "/machines"),
    ("rules", "/rules"),
    ("description", "/description"),
];
const FITTING: [(&str, &str); 6] = [
    ("machine", "/machine"),
    ("site", "/site"),
    ("type", "/machine_type"),
    ("pinned", "/pinned"),
    ("becomes", "/becomes"),
    ("reason", "/reason"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, what: MachineType) -> anyhow::Result<ExitCode> {
    let of = |name: &str, what: &str| format!("/api/v1/machine-types/{name}{what}");
    let answer = match what {
        MachineType::List => client.get("/api/v1/machine-types").await?,
        MachineType::Show { name } => client.get(&of(&name, "")).await?,
        MachineType::Set {
            name,
            description,
            priority,
            rules,
        } => {
            let body = json!({ "description": description, "priority": priority, "rules": body(*rules)? });
            client.put(&of(&name, ""), body).await?
        }
        MachineType::Delete { name } => {
            client.delete(&of(&name, "")).await?;
            return Ok(ExitCode::SUCCESS);
        }
        MachineType::Preview {
            name,
            priority,
            rules,
        } => {
            let rules = body(*rules)?;
            let rules = (rules != json!({})).then_some(rules);
            let tried = json!({ "rules": rules, "priority": priority });
            let answer = client.post(&of(&name, "/preview"), tried).await?;
            output::print(format, &answer, &FITTING);
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::print(format, &answer, &COLUMNS);
    Ok(ExitCode::SUCCESS)
}

/// The rules as the API reads them.
fn body(rules: Rules) -> anyhow::Result<Value> {
    if let Some(file) = rules.rules {
        let text =
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        return serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()));
    }
    let given = [
        ("manufacturer", rules.manufacturer.map(Value::from)),
        ("product", rules.product.map(Value::from)),
        ("cpu", rules.cpu.map(Value::from)),
        ("threads", rules.threads),
        ("memory_bytes", rules.memory_gb),
        ("disks", (!rules.disks.is_empty()).then(|| rules.disks.into())),
        ("nics", rules.nics),
        ("firmware", rules.firmware.map(Value::from)),
        (
            "labels",
            (!rules.labels.is_empty()).then(|| labels::object(rules.labels)),
        ),
    ];
    let given = given
        .into_iter()
        .filter_map(|(name, rule)| Some((name.to_owned(), rule?)));
    Ok(Value::Object(given.collect::<Map<_, _>>()))
}

/// Reads `64`, `32-64`, `64-` or `-64`.
fn range(text: &str) -> Result<Value, String> {
    scaled(text, 1)
}

/// The same in GB; the API counts bytes.
fn gigabytes(text: &str) -> Result<Value, String> {
    scaled(text, 1_000_000_000)
}

fn scaled(text: &str, unit: u64) -> Result<Value, String> {
    let bad = || format!("`{text}` is not a range such as 64, 32-64, 64- or -64");
    let number = |part: &str| match part.trim() {
        "" => Ok(None),
        part => part
            .parse::<u64>()
            .map(|n| Some(n.saturating_mul(unit)))
            .map_err(|_| bad()),
    };
    let (min, max) = match text.split_once('-') {
        Some((min, max)) => (number(min)?, number(max)?),
        None => (number(text)?, number(text)?),
    };
    let ends = [("min", min), ("max", max)];
    let ends: Map<String, Value> = ends
        .into_iter()
        .filter_map(|(name, n)| Some((name.to_owned(), n?.into())))
        .collect();
    if ends.is_empty() {
        return Err(bad());
    }
    Ok(Value::Object(ends))
}

/// Reads `ssd` or `kind=nvme,count=2,gb=900-1000`.
fn disks(text: &str) -> Result<Value, String> {
    let mut disks = json!({});
    for part in text.split(',') {
        match part.split_once('=').unwrap_or(("kind", part)) {
            ("kind", kind) => disks["kind"] = kind.into(),
            ("count", count) => disks["count"] = range(count)?,
            ("gb", size) => disks["bytes"] = gigabytes(size)?,
            (other, _) => return Err(format!("`{other}` is not known: kind, count and gb are")),
        }
    }
    Ok(disks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        rules: Rules,
    }

    #[test]
    fn rules_are_read() {
        let line = "x --product R6* --threads 64- --memory-gb 250-300 --disk ssd --disk kind=nvme,count=2,gb=900- \
                    --nics 2 --label rack=a1";
        let rules = Line::parse_from(line.split_whitespace()).rules;
        let expected = json!({
            "product": "R6*", "threads": { "min": 64 },
            "memory_bytes": { "min": 250_000_000_000_u64, "max": 300_000_000_000_u64 },
            "disks": [{ "kind": "ssd" }, { "kind": "nvme", "count": { "min": 2, "max": 2 }, "bytes": { "min": 900_000_000_000_u64 } }],
            "nics": { "min": 2, "max": 2 }, "labels": { "rack": "a1" },
        });
        assert_eq!(body(rules).unwrap(), expected);
        assert_eq!(body(Rules::default()).unwrap(), json!({}));
        assert!(range("x").is_err() && range("-").is_err() && disks("colour=red").is_err());
    }
}
