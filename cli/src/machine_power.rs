//! `slipway machine power`: a machine is switched, or its BMC read; and what is known of a BMC, in words. No instance's power is
//! switched here.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::{
    client::Client,
    jobs,
    output::{self, Format},
};

/// What is asked of a machine's BMC.
#[derive(Debug, Args)]
pub(crate) struct Power {
    machine: String,
    /// What to do
    #[arg(value_enum)]
    ask: Ask,
    /// Seconds its system is given to shut down, 0 to 3600; 0 cuts the power at once
    #[arg(long, visible_alias = "grace", value_name = "SECONDS", default_value_t = 30,
        value_parser = clap::value_parser!(u32).range(0..=3600))]
    grace_s: u32,
    /// Watch until it is done
    #[arg(long)]
    wait: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Ask {
    /// Switch it on
    On,
    /// Switch it off
    Off,
    /// Switch it off and on
    Restart,
    /// Ask its BMC how it is, and change nothing
    Read,
}

impl Ask {
    fn word(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Restart => "restart",
            Self::Read => "read",
        }
    }
}

const COLUMNS: [(&str, &str); 3] = [("machine", "/machine"), ("job", "/id"), ("state", "/state")];

/// Has a machine switched, or read.
pub(crate) async fn run(client: &Client, format: Format, power: Power) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/machines/{}/power", power.machine);
    let body = json!({ "do": power.ask.word(), "grace_s": power.grace_s });
    let job = client.post(&path, body).await?;
    if !power.wait {
        output::print(format, &job, &COLUMNS);
        return Ok(ExitCode::SUCCESS);
    }
    let id = job["id"].as_str().context("the control plane named no job")?;
    jobs::follow(client, id).await
}

/// What is known of a machine's BMC: whether the machine was on and how long ago that was read, and what it said of itself.
pub(crate) fn words(machine: &Value, now: DateTime<Utc>) -> Option<String> {
    let bmc = machine["bmc"].as_object()?;
    let text = |name: &str| bmc.get(name).and_then(Value::as_str).unwrap_or("?");
    let place = format!("{} {}", text("driver"), text("address"));
    let state = &machine["bmc_state"];
    let seen = state["seen_at"]
        .as_str()
        .and_then(|at| at.parse::<DateTime<Utc>>().ok());
    let (Some(power), Some(seen)) = (state["power"].as_str(), seen) else {
        return Some(format!("{place}, never read"));
    };
    let told = |label: &str, name: &str| match &state[name] {
        Value::Null => String::new(),
        Value::String(text) => format!(", {label} {text}"),
        other => format!(", {label} {other}"),
    };
    let rest = [
        told("vendor", "manufacturer"),
        told("product", "product"),
        told("firmware", "firmware"),
    ];
    Some(format!(
        "{place}, power {power} {} ago{}",
        span((now - seen).num_seconds()),
        rest.concat()
    ))
}

/// A time in its greatest unit.
fn span(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_a_bmc_is_said_with_its_age() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let mut machine = json!({ "bmc": null, "bmc_state": null });
        assert_eq!(words(&machine, now), None);
        machine["bmc"] = json!({ "driver": "ipmi", "address": "192.0.2.101:623", "username": "admin" });
        let never = words(&machine, now).unwrap();
        assert_eq!(never, "ipmi 192.0.2.101:623, never read");
        let seen_at = now - chrono::TimeDelta::minutes(5);
        machine["bmc_state"] =
            json!({ "power": "on", "seen_at": seen_at, "manufacturer": 674, "firmware": "2.81" });
        assert_eq!(
            words(&machine, now).unwrap(),
            "ipmi 192.0.2.101:623, power on 5 min ago, vendor 674, firmware 2.81"
        );
        let spans = [-5, 119, 120, 7200, 172_800].map(span);
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "2 days"]);
    }
}
