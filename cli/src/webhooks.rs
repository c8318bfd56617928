//! `slipway webhook`: addresses that get events.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
};

/// Webhooks.
#[derive(Debug, Subcommand)]
pub(crate) enum Webhook {
    /// Make a webhook; its secret is shown this once
    Create {
        // Not named `url`: that is the control plane's, everywhere.
        /// Where events are sent
        #[arg(value_name = "URL")]
        address: String,
        /// Only this kind and those below it; may be repeated
        #[arg(long = "kind", conflicts_with = "alerts_only")]
        kinds: Vec<String>,
        /// Only events of this site; may be repeated
        #[arg(long = "site")]
        sites: Vec<String>,
        /// Only alerts of rules that name it
        #[arg(long)]
        alerts_only: bool,
    },
    /// List webhooks
    List,
    /// Show a webhook
    Show { webhook: String },
    /// Change a webhook
    Update {
        webhook: String,
        /// Where events are sent
        #[arg(long, value_name = "URL")]
        address: Option<String>,
        /// Only this kind and those below it; may be repeated; `all` is all
        #[arg(long = "kind")]
        kinds: Vec<String>,
        /// Only events of this site; may be repeated; `all` is all
        #[arg(long = "site")]
        sites: Vec<String>,
        /// Switch it on or off; what happens while it is off is not sent
        #[arg(long)]
        active: Option<bool>,
    },
    /// Remove a webhook with its deliveries
    Delete { webhook: String },
    /// Send it a test now
    Test { webhook: String },
    /// Give it a new secret, shown this once; the former one signs as well for a while
    Rotate {
        webhook: String,
        /// For so many hours both sign; 0 to 168
        #[arg(long, default_value_t = 24)]
        overlap_hours: u32,
    },
    /// Show what was sent to it, newest first
    Deliveries {
        webhook: String,
        /// waiting, delivered or dead
        #[arg(long)]
        state: Option<String>,
    },
}

const COLUMNS: [(&str, &str); 6] = [
    ("webhook", "/id"),
    ("url", "/url"),
    ("kinds", "/kinds"),
    ("sites", "/sites"),
    ("active", "/active"),
    ("secret", "/secret"),
];
const DELIVERY: [(&str, &str); 7] = [
    ("seq", "/seq"),
    ("kind", "/kind"),
    ("state", "/state"),
    ("attempts", "/attempts"),
    ("status", "/status"),
    ("next", "/next_at"),
    ("error", "/error"),
];

/// Carries a command out.
#[expect(clippy::too_many_lines, reason = "one arm a command")]
pub(crate) async fn run(client: &Client, format: Format, webhook: Webhook) -> anyhow::Result<ExitCode> {
    let of = |id: &str, what: &str| format!("/api/v1/webhooks/{id}{what}");
    let answer = match webhook {
        Webhook::Create {
            address,
            kinds,
            sites,
            alerts_only,
        } => {
            let kinds = if alerts_only { json!([]) } else { some(kinds) };
            let body = json!({ "url": address, "kinds": kinds, "sites": some(sites) });
            client.post("/api/v1/webhooks", body).await?
        }
        Webhook::List => client.get("/api/v1/webhooks?limit=1000").await?,
        Webhook::Show { webhook } => client.get(&of(&webhook, "")).await?,
        Webhook::Update {
            webhook,
            address,
            kinds,
            sites,
            active,
        } => {
            client
                .patch(&of(&webhook, ""), change(address, kinds, sites, active))
                .await?
        }
        Webhook::Rotate {
            webhook,
            overlap_hours,
        } => {
            let body = json!({ "overlap_hours": overlap_hours });
            let answer = client.post(&of(&webhook, "/secret"), body).await?;
            let columns = [
                ("webhook", "/id"),
                ("secret", "/secret"),
                ("former signs until", "/former_until"),
            ];
            output::print(format, &answer, &columns);
            return Ok(ExitCode::SUCCESS);
        }
        Webhook::Delete { webhook } => {
            client.delete(&of(&webhook, "")).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Webhook::Test { webhook } => {
            let answer = client.post(&of(&webhook, "/test"), json!({})).await?;
            let columns = [
                ("delivered", "/delivered"),
                ("status", "/status"),
                ("error", "/error"),
            ];
            output::print(format, &answer, &columns);
            let delivered = answer["delivered"] == true;
            return Ok(if delivered {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
        Webhook::Deliveries { webhook, state } => {
            let filter = state.map(|state| format!("&state={state}")).unwrap_or_default();
            let path = of(&webhook, &format!("/deliveries?limit=100{filter}"));
            output::print(format, &client.get(&path).await?, &DELIVERY);
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::print(format, &answer, &COLUMNS);
    Ok(ExitCode::SUCCESS)
}

/// A list, or all if it is empty.
fn some(words: Vec<String>) -> Value {
    if words.is_empty() {
        Value::Null
    } else {
        words.into()
    }
}

/// What an update says: what is not given is not said.
fn change(address: Option<String>, kinds: Vec<String>, sites: Vec<String>, active: Option<bool>) -> Value {
    let mut change = json!({});
    if let Some(address) = address {
        change["url"] = address.into();
    }
    for (name, words) in [("kinds", kinds), ("sites", sites)] {
        if words == ["all"] {
            change[name] = Value::Null;
        } else if !words.is_empty() {
            change[name] = words.into();
        }
    }
    if let Some(active) = active {
        change["active"] = active.into();
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_says_what_is_given_and_no_more() {
        assert_eq!(change(None, vec![], vec![], None), json!({}));
        let said = change(None, vec!["all".into()], vec!["bj-1".into()], Some(false));
        assert_eq!(said, json!({ "kinds": null, "sites": ["bj-1"], "active": false }));
    }
}
