//! `slipway site`: sites, their subnets and the tokens by which edges join.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
};

/// Sites.
#[derive(Debug, Subcommand)]
pub(crate) enum Site {
    /// Add a site
    Create {
        /// Its name
        id: String,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        /// Boot unknown machines to look at them
        #[arg(long)]
        discover: bool,
        /// NETWORK,server=ADDRESS[,gateway=ADDRESS][,pool=FIRST-LAST][,dns=ADDRESS]; may be repeated
        #[arg(long = "subnet", value_parser = subnet)]
        subnets: Vec<Value>,
    },
    /// List sites
    List,
    /// Show a site
    Show { id: String },
    /// Switch the look at unknown machines on or off
    Discover {
        id: String,
        #[arg(action = clap::ArgAction::Set)]
        on: bool,
    },
    /// Remove a site without machines
    Delete { id: String },
    /// Make a one-time join token for its edge
    Token { id: String },
}

const COLUMNS: [(&str, &str); 5] = [
    ("site", "/id"),
    ("online", "/online"),
    ("joined", "/joined"),
    ("last seen", "/last_seen"),
    ("description", "/description"),
];

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, site: Site) -> anyhow::Result<ExitCode> {
    let answer = match site {
        Site::Create {
            id,
            description,
            discover,
            subnets,
        } => {
            let body =
                json!({ "id": id, "description": description, "discover": discover, "subnets": subnets });
            client.post("/api/v1/sites", body).await?
        }
        Site::List => client.get("/api/v1/sites?limit=1000").await?,
        Site::Show { id } => client.get(&format!("/api/v1/sites/{id}")).await?,
        Site::Discover { id, on } => {
            client
                .patch(&format!("/api/v1/sites/{id}"), json!({ "discover": on }))
                .await?
        }
        Site::Delete { id } => {
            client.delete(&format!("/api/v1/sites/{id}")).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Site::Token { id } => {
            let answer = client
                .post(&format!("/api/v1/sites/{id}/tokens"), json!({}))
                .await?;
            output::print(
                format,
                &answer,
                &[("token", "/token"), ("good until", "/expires_at")],
            );
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::print(format, &answer, &COLUMNS);
    Ok(ExitCode::SUCCESS)
}

/// Reads `192.0.2.0/24,server=192.0.2.1,pool=192.0.2.200-192.0.2.250`.
fn subnet(text: &str) -> Result<Value, String> {
    let mut parts = text.split(',');
    let mut subnet = json!({ "network": parts.next().unwrap_or_default() });
    for part in parts {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is not NAME=VALUE"))?;
        match name {
            "server" | "gateway" => subnet[name] = value.into(),
            "dns" => subnet[name] = value.split('+').collect::<Vec<_>>().into(),
            "pool" => {
                let (first, last) = value.split_once('-').ok_or("a pool is FIRST-LAST")?;
                subnet[name] = json!([first, last]);
            }
            other => {
                return Err(format!(
                    "`{other}` is not known: server, gateway, dns and pool are"
                ));
            }
        }
    }
    Ok(subnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_read() {
        let read =
            subnet("192.0.2.0/24,server=192.0.2.1,pool=192.0.2.200-192.0.2.250,dns=192.0.2.1+192.0.2.2")
                .unwrap();
        let expected = json!({ "network": "192.0.2.0/24", "server": "192.0.2.1", "pool": ["192.0.2.200", "192.0.2.250"],
            "dns": ["192.0.2.1", "192.0.2.2"] });
        assert_eq!(read, expected);
        assert!(subnet("192.0.2.0/24,pool=x").is_err() && subnet("192.0.2.0/24,color=red").is_err());
    }
}
