//! `slipway alert`: what is wrong now, and the rules that say what is wrong.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
};

/// Alerts and their rules.
#[derive(Debug, Subcommand)]
pub(crate) enum Alert {
    /// List open alerts
    List {
        /// Those that are over, too
        #[arg(long)]
        all: bool,
        #[arg(long)]
        site: Option<String>,
    },
    /// Rules
    #[command(subcommand)]
    Rule(Rule),
}

/// Rules.
#[derive(Debug, Subcommand)]
pub(crate) enum Rule {
    /// Make a rule
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        targets: Targets,
    },
    /// List rules
    List,
    /// Show a rule, by id or name
    Show { rule: String },
    /// Change a rule, by id or name
    Update {
        rule: String,
        #[command(flatten)]
        targets: Targets,
        /// Switch it on or off
        #[arg(long)]
        active: Option<bool>,
    },
    /// Remove a rule with its alerts, by id or name
    Delete { rule: String },
}

/// When a rule holds: exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Condition {
    /// OBJECT:STATE:SECONDS, as in instance:installing:3600
    #[arg(long, value_parser = state)]
    state_older_than: Option<Value>,
    /// A site was not heard for so many seconds
    #[arg(long, value_name = "SECONDS")]
    site_offline: Option<u32>,
    /// An instance's last job failed
    #[arg(long)]
    job_failed: bool,
    /// A machine's last fault is not cleared
    #[arg(long)]
    machine_fault: bool,
    /// Somebody stood for a machine or for a site's edge box within the last hour
    #[arg(long)]
    impostor: bool,
}

/// Who is told.
#[derive(Debug, Args)]
pub(crate) struct Targets {
    /// A webhook's id; may be repeated
    #[arg(long = "webhook")]
    webhooks: Vec<String>,
    /// A mail address; may be repeated
    #[arg(long = "email")]
    emails: Vec<String>,
}

const RULE: [(&str, &str); 6] = [
    ("rule", "/name"),
    ("id", "/id"),
    ("condition", "/condition"),
    ("webhooks", "/webhooks"),
    ("emails", "/emails"),
    ("active", "/active"),
];
const ALERT: [(&str, &str); 4] = [
    ("opened", "/opened_at"),
    ("resolved", "/resolved_at"),
    ("site", "/site"),
    ("alert", "/text"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, alert: Alert) -> anyhow::Result<ExitCode> {
    match alert {
        Alert::List { all, site } => {
            let open = if all { "" } else { "&open=true" };
            let site = site.map(|site| format!("&site={site}")).unwrap_or_default();
            let answer = client
                .get(&format!("/api/v1/alerts?limit=1000{open}{site}"))
                .await?;
            output::print(format, &answer, &ALERT);
        }
        Alert::Rule(Rule::Delete { rule }) => {
            client.delete(&of(&rule)).await?;
        }
        Alert::Rule(rule) => output::print(format, &run_rule(client, rule).await?, &RULE),
    }
    Ok(ExitCode::SUCCESS)
}

fn of(rule: &str) -> String {
    // A rule's name is free text.
    format!(
        "/api/v1/alert-rules/{}",
        rule.replace('%', "%25").replace(' ', "%20").replace('/', "%2F")
    )
}

async fn run_rule(client: &Client, rule: Rule) -> anyhow::Result<Value> {
    match rule {
        Rule::Create {
            name,
            condition,
            targets,
        } => {
            let body = json!({ "name": name, "condition": condition.json(), "webhooks": targets.webhooks,
                "emails": targets.emails });
            client.post("/api/v1/alert-rules", body).await
        }
        Rule::List => client.get("/api/v1/alert-rules?limit=1000").await,
        Rule::Show { rule } | Rule::Delete { rule } => client.get(&of(&rule)).await,
        Rule::Update {
            rule,
            targets,
            active,
        } => {
            let mut change = json!({});
            if !targets.webhooks.is_empty() {
                change["webhooks"] = targets.webhooks.into();
            }
            if !targets.emails.is_empty() {
                change["emails"] = targets.emails.into();
            }
            if let Some(active) = active {
                change["active"] = active.into();
            }
            client.patch(&of(&rule), change).await
        }
    }
}

impl Condition {
    fn json(self) -> Value {
        match (self.state_older_than, self.site_offline) {
            (Some(state), _) => state,
            (None, Some(seconds)) => json!({ "is": "site_offline", "seconds": seconds }),
            (None, None) if self.job_failed => json!({ "is": "job_failed" }),
            (None, None) if self.impostor => json!({ "is": "impostor" }),
            (None, None) => json!({ "is": "machine_fault" }),
        }
    }
}

/// Reads `instance:installing:3600`.
fn state(text: &str) -> Result<Value, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let [object, state, seconds] = parts[..] else {
        return Err("OBJECT:STATE:SECONDS is expected, as in instance:installing:3600".to_owned());
    };
    let seconds: u32 = seconds
        .parse()
        .map_err(|_| format!("`{seconds}` is not a number of seconds"))?;
    Ok(json!({ "is": "state_older_than", "object": object, "state": state, "seconds": seconds }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        alert: Alert,
    }

    fn condition(line: &str) -> Option<Value> {
        let words = std::iter::once("alert").chain(line.split(' '));
        match Line::try_parse_from(words).ok()?.alert {
            Alert::Rule(Rule::Create { condition, .. }) => Some(condition.json()),
            _ => None,
        }
    }

    #[test]
    fn a_rule_has_exactly_one_condition() {
        let old =
            json!({ "is": "state_older_than", "object": "instance", "state": "installing", "seconds": 60 });
        assert_eq!(
            condition("rule create r --state-older-than instance:installing:60"),
            Some(old)
        );
        let silent = json!({ "is": "site_offline", "seconds": 300 });
        assert_eq!(condition("rule create r --site-offline 300"), Some(silent));
        assert_eq!(
            condition("rule create r --job-failed --email a@b.c"),
            Some(json!({ "is": "job_failed" }))
        );
        assert_eq!(
            condition("rule create r --machine-fault"),
            Some(json!({ "is": "machine_fault" }))
        );
        assert_eq!(
            condition("rule create r --impostor"),
            Some(json!({ "is": "impostor" }))
        );
        for bad in [
            "rule create r",
            "rule create r --job-failed --machine-fault",
            "rule create r --state-older-than x",
        ] {
            assert_eq!(condition(bad), None, "{bad}");
        }
    }
}
