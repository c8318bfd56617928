//! `slipway machine`: machines, from being added until they are retired.

use std::{
    io::{IsTerminal as _, Read as _},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::{
    client::Client,
    labels::{self, Pair},
    machine_power::{self, Power},
    ordering::Ordering,
    output::{self, Format},
    rotation::{self, Rotation},
    terminal,
};

/// Machines.
#[derive(Debug, Subcommand)]
pub(crate) enum Machine {
    /// Add a machine
    Create(Box<NewMachine>),
    /// Change a machine; what is not given stays
    Set(Box<Changes>),
    /// Add or change many machines from a file: all of them or none
    Import {
        /// CSV with a header, or a JSON array; `-` is standard input
        file: PathBuf,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// Change machines that are there already and differ
        #[arg(long)]
        update: bool,
    },
    /// Give machines' BMCs new passwords, which nobody is shown
    RotateBmc(Rotation),
    /// Switch a machine that holds no instance, or read how its BMC is
    Power(Power),
    /// Keep machines and give them to nobody
    Shelve(Move),
    /// Give machines out
    Unshelve(Move),
    /// Keep machines out of use for work on them
    Maintenance(Move),
    /// Keep machines out of use because something is wrong with them; from the release of their instance, if one holds them
    Quarantine(Move),
    /// Give machines out again after maintenance or quarantine
    Return(Move),
    /// Keep machines' history only
    Retire(Move),
    /// List machines
    List(Filters),
    /// Show a machine
    Show { machine: String },
    /// Remove a machine that is free
    Delete { machine: String },
    /// Show the order in force
    Order { machine: String },
    /// Show the last report
    Report { machine: String },
    /// Show what happened to it
    History { machine: String },
    /// List machines that were seen and not enrolled
    Discovered,
}

/// Which machines to list.
#[derive(Debug, Args)]
pub(crate) struct Filters {
    /// At one site
    #[arg(long)]
    site: Option<String>,
    /// In one state
    #[arg(long)]
    state: Option<String>,
    /// Of one type
    #[arg(long = "type", value_name = "TYPE")]
    machine_type: Option<String>,
    /// With this label, as NAME=VALUE; may be repeated: all are meant
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = labels::pair)]
    labels: Vec<Pair>,
    #[command(flatten)]
    ordering: Ordering,
}

impl Filters {
    /// As the API is asked.
    fn asked(self) -> Vec<(&'static str, Option<String>)> {
        let one = [
            ("site", self.site),
            ("state", self.state),
            ("machine_type", self.machine_type),
        ];
        let labels = self.labels.into_iter();
        let labels = labels.map(|(name, value)| ("label", Some(format!("{name}={value}"))));
        let ordering = self.ordering.asked();
        one.into_iter().chain(labels).chain(ordering).collect()
    }
}

/// A machine to be added.
#[derive(Debug, Args)]
pub(crate) struct NewMachine {
    /// Its name
    name: String,
    #[arg(long)]
    site: String,
    /// A port it may boot from; may be repeated
    #[arg(long = "mac", required = true)]
    macs: Vec<String>,
    /// bios or uefi
    #[arg(long, default_value = "uefi")]
    firmware: String,
    /// The address it is given
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// ADDRESS:PORT of its BMC
    #[arg(long)]
    bmc: Option<String>,
    /// User at its BMC
    #[arg(long, default_value = "admin")]
    bmc_user: String,
    /// File with the BMC's password; `-` is standard input
    #[arg(long, requires = "bmc")]
    bmc_password_file: Option<PathBuf>,
    /// A label, as NAME=VALUE; may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = labels::pair)]
    labels: Vec<Pair>,
    /// Enrol it only: it is given to nobody until it is unshelved
    #[arg(long)]
    enrolled: bool,
}

/// Machines to be moved.
#[derive(Debug, Args)]
pub(crate) struct Move {
    #[arg(required = true)]
    machines: Vec<String>,
    /// Why, in one line
    #[arg(long)]
    reason: Option<String>,
}

/// What is to be changed of a machine.
#[derive(Debug, Args)]
pub(crate) struct Changes {
    machine: String,
    /// A new name
    #[arg(long)]
    name: Option<String>,
    /// A label to be set, as NAME=VALUE; may be repeated; the others stay
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = labels::pair)]
    labels: Vec<Pair>,
    /// A label to be removed; may be repeated
    #[arg(long = "remove-label", value_name = "NAME")]
    remove_labels: Vec<String>,
    /// bios or uefi
    #[arg(long)]
    firmware: Option<String>,
    /// The address it is given
    #[arg(long)]
    address: Option<Ipv4Addr>,
    /// A port it may boot from; may be repeated; they take the place of all there were
    #[arg(long = "mac")]
    macs: Vec<String>,
    /// ADDRESS:PORT of its BMC
    #[arg(long)]
    bmc: Option<String>,
    /// User at its BMC
    #[arg(long)]
    bmc_user: Option<String>,
    /// File with the BMC's password; `-` is standard input
    #[arg(long)]
    bmc_password_file: Option<PathBuf>,
    /// It has no BMC any more
    #[arg(long, conflicts_with_all = ["bmc", "bmc_user", "bmc_password_file"])]
    no_bmc: bool,
    /// Its type, whatever rules say
    #[arg(long = "type", value_name = "TYPE")]
    machine_type: Option<String>,
    /// Leave its type to rules again
    #[arg(long, conflicts_with = "machine_type")]
    auto_type: bool,
}

const COLUMNS: [(&str, &str); 9] = [
    ("machine", "/name"),
    ("site", "/site"),
    ("state", "/state"),
    ("reason", "/reason"),
    ("type", "/machine_type"),
    ("address", "/address"),
    ("macs", "/macs"),
    ("firmware", "/firmware"),
    ("labels", "/labels"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, machine: Machine) -> anyhow::Result<ExitCode> {
    let of = |machine: &str, what: &str| format!("/api/v1/machines/{machine}{what}");
    let (answer, columns): (Value, &[(&str, &str)]) = match machine {
        Machine::Create(new) => (
            client.post("/api/v1/machines", new_machine(*new)?).await?,
            &COLUMNS,
        ),
        Machine::Import {
            file,
            dry_run,
            update,
        } => return import(client, format, &file, (dry_run, update)).await,
        Machine::Set(changes) => {
            let path = of(&changes.machine, "");
            (client.patch(&path, change(*changes)?).await?, &COLUMNS)
        }
        Machine::Power(what) => return machine_power::run(client, format, what).await,
        Machine::RotateBmc(what) => return rotation::run(client, format, what).await,
        Machine::Shelve(what) => (moved(client, "shelve", what).await?, &COLUMNS),
        Machine::Unshelve(what) => (moved(client, "unshelve", what).await?, &COLUMNS),
        Machine::Maintenance(what) => (moved(client, "maintenance", what).await?, &COLUMNS),
        Machine::Quarantine(what) => (moved(client, "quarantine", what).await?, &COLUMNS),
        Machine::Return(what) => (moved(client, "return", what).await?, &COLUMNS),
        Machine::Retire(what) => (moved(client, "retire", what).await?, &COLUMNS),
        Machine::List(filters) => (client.all("/api/v1/machines", &filters.asked()).await?, &COLUMNS),
        Machine::Show { machine } => {
            let shown = client.get(&of(&machine, "")).await?;
            return Ok(show(format, shown));
        }
        Machine::Delete { machine } => {
            client.delete(&of(&machine, "")).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Machine::Order { machine } => (client.get(&of(&machine, "/order")).await?, &[]),
        Machine::Report { machine } => (client.get(&of(&machine, "/report")).await?, &[]),
        Machine::History { machine } => (
            client.get(&of(&machine, "/history")).await?,
            &[("at", "/at"), ("what", "/what"), ("detail", "/detail")],
        ),
        Machine::Discovered => {
            let columns = &[
                ("mac", "/mac"),
                ("site", "/site"),
                ("address", "/address"),
                ("seen", "/at"),
                ("product", "/inventory/product"),
            ];
            (client.get("/api/v1/discovered").await?, columns)
        }
    };
    output::print(format, &answer, columns);
    Ok(ExitCode::SUCCESS)
}

/// Prints one machine, for people with its BMC in words; programs get what the API answered.
fn show(format: Format, mut machine: Value) -> ExitCode {
    let mut columns = COLUMNS.to_vec();
    if format == Format::Table
        && let Some(words) = machine_power::words(&machine, chrono::Utc::now())
    {
        machine["bmc"] = words.into();
        columns.push(("bmc", "/bmc"));
    }
    output::print(format, &machine, &columns);
    ExitCode::SUCCESS
}

const LINES: [(&str, &str); 4] = [
    ("row", "/row"),
    ("machine", "/name"),
    ("action", "/action"),
    ("errors", "/errors"),
];

/// Prints what becomes of each row, wrong ones too, and fails if any is wrong.
async fn import(
    client: &Client,
    format: Format,
    file: &Path,
    (dry_run, update): (bool, bool),
) -> anyhow::Result<ExitCode> {
    let text = read(file)?;
    let kind = if text.trim_start().starts_with('[') {
        "application/json"
    } else {
        "text/csv"
    };
    let path = format!("/api/v1/machines/import?dry_run={dry_run}&update={update}");
    let answer = lines(client.post_text(&path, kind, text).await?);
    let shown = if format == Format::Json {
        answer.clone()
    } else {
        worded(answer.clone())
    };
    output::print(format, &shown, &LINES);
    let wrong = answer["items"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|line| line["action"] == "error");
    Ok(if wrong {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// A refusal holds the rows under another name.
fn lines(mut answer: Value) -> Value {
    if answer["items"].is_null() {
        answer["items"] = answer["rows"].take();
    }
    answer
}

/// In a table, what is wrong with a row becomes text.
fn worded(mut answer: Value) -> Value {
    let word = |e: &Value| {
        Some(format!(
            "{}: {} ({})",
            e["field"].as_str()?,
            e["detail"].as_str()?,
            e["code"].as_str()?
        ))
    };
    for line in answer["items"].as_array_mut().into_iter().flatten() {
        let errors = line["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        let words: Vec<String> = errors.iter().filter_map(word).collect();
        line["errors"] = words.join("; ").into();
    }
    answer
}

/// Moves one machine after the other; the first that is refused ends it.
async fn moved(client: &Client, how: &str, what: Move) -> anyhow::Result<Value> {
    let mut items = Vec::new();
    for machine in &what.machines {
        let path = format!("/api/v1/machines/{machine}/{how}");
        items.push(client.post(&path, json!({ "reason": what.reason })).await?);
    }
    Ok(json!({ "items": items }))
}

fn new_machine(new: NewMachine) -> anyhow::Result<Value> {
    let mut body = json!({
        "name": new.name, "site": new.site, "macs": new.macs, "firmware": new.firmware, "address": new.address,
        "labels": labels::object(new.labels), "shelved": new.enrolled,
    });
    if let Some(bmc) = new.bmc {
        let file = new.bmc_password_file.context("--bmc needs --bmc-password-file")?;
        let password = secret(&file)?;
        body["bmc"] =
            json!({ "driver": "ipmi", "address": bmc, "username": new.bmc_user, "password": password });
    }
    Ok(body)
}

/// What is not given is not said, and so stays.
fn change(changes: Changes) -> anyhow::Result<Value> {
    let mut labels: Map<String, Value> = changes
        .labels
        .into_iter()
        .map(|(name, value)| (name, value.into()))
        .collect();
    labels.extend(changes.remove_labels.into_iter().map(|name| (name, Value::Null)));
    let password = changes.bmc_password_file.as_deref().map(secret).transpose()?;
    let driver = changes.bmc.is_some().then(|| Value::from("ipmi"));
    let bmc = object([
        ("driver", driver),
        ("address", changes.bmc.map(Value::from)),
        ("username", changes.bmc_user.map(Value::from)),
        ("password", password.map(Value::from)),
    ]);
    let bmc = if changes.no_bmc {
        Some(Value::Null)
    } else {
        (bmc != json!({})).then_some(bmc)
    };
    let machine_type = changes.machine_type.map(Value::from);
    Ok(object([
        ("name", changes.name.map(Value::from)),
        ("labels", (!labels.is_empty()).then_some(Value::Object(labels))),
        ("firmware", changes.firmware.map(Value::from)),
        (
            "address",
            changes.address.map(|address| address.to_string().into()),
        ),
        ("macs", (!changes.macs.is_empty()).then(|| changes.macs.into())),
        ("bmc", bmc),
        (
            "machine_type",
            machine_type.or(changes.auto_type.then_some(Value::Null)),
        ),
    ]))
}

/// An object of what is given.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect())
}

/// The BMC's password from a file or standard input, unseen at a terminal; never from the command line, where others can read it.
fn secret(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") && std::io::stdin().is_terminal() {
        return terminal::secret("Password of the BMC");
    }
    Ok(read(file)?.trim_end_matches(['\r', '\n']).to_owned())
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        changes: Changes,
    }

    #[test]
    fn wrong_rows_are_told_in_a_table() {
        let error = json!({ "field": "macs", "detail": "`x` is no MAC", "code": "mac" });
        let refusal =
            json!({ "code": "import", "rows": [{ "row": 1, "action": "error", "errors": [error, error] }] });
        let shown = worded(lines(refusal));
        assert_eq!(
            shown["items"][0]["errors"],
            "macs: `x` is no MAC (mac); macs: `x` is no MAC (mac)"
        );
        let done = json!({ "items": [{ "row": 1, "action": "create", "errors": [] }] });
        assert_eq!(worded(lines(done))["items"][0]["errors"], "");
    }

    #[test]
    fn a_change_says_what_is_given_and_no_more() {
        for (line, expected) in [
            ("m1", json!({})),
            (
                "m1 --label rack=a1 --remove-label old --type big",
                json!({ "labels": { "rack": "a1", "old": null }, "machine_type": "big" }),
            ),
            (
                "m1 --auto-type --no-bmc",
                json!({ "machine_type": null, "bmc": null }),
            ),
            (
                "m1 --bmc-user root --mac 02:00:00:00:00:01 --address 192.0.2.9",
                json!({ "bmc": { "username": "root" }, "macs": ["02:00:00:00:00:01"], "address": "192.0.2.9" }),
            ),
        ] {
            let changes = Line::parse_from(["x"].into_iter().chain(line.split(' '))).changes;
            assert_eq!(change(changes).unwrap(), expected, "{line}");
        }
    }
}
