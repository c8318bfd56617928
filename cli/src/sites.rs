//! `slipway site`: sites, their subnets and the tokens by which edges join.

use std::{net::Ipv4Addr, process::ExitCode};

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
        /// A DHCP relay that is believed although it is on none of the subnets; may be repeated
        #[arg(long = "dhcp-relay")]
        dhcp_relays: Vec<Ipv4Addr>,
    },
    /// List sites
    List,
    /// Show a site
    Show { id: String },
    /// Change a site; what is not given stays
    Update {
        id: String,
        /// For people
        #[arg(long)]
        description: Option<String>,
        /// Its subnets, as for create; may be repeated; they take the place of all there were
        #[arg(long = "subnet", value_parser = subnet)]
        subnets: Vec<Value>,
        /// Its DHCP relays outside its subnets; may be repeated; they take the place of all there were
        #[arg(long = "dhcp-relay")]
        dhcp_relays: Vec<Ipv4Addr>,
        /// Believe no relay outside the subnets any more
        #[arg(long, conflicts_with = "dhcp_relays")]
        no_dhcp_relays: bool,
    },
    /// Show who holds which address, what is reserved, and how many are free
    Addresses {
        id: String,
        /// Only count
        #[arg(long)]
        brief: bool,
    },
    /// Reserve addresses: no machine is given them
    Reserve {
        id: String,
        /// ADDRESS or FIRST-LAST
        addresses: String,
        /// What for
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Take a reservation back, by its first address or its id
    Unreserve { id: String, reservation: String },
    /// Switch the look at unknown machines on or off
    Discover {
        id: String,
        #[arg(action = clap::ArgAction::Set)]
        on: bool,
    },
    /// Set what may be done at the site while it is cut off from the control plane, and for how long
    Offline {
        id: String,
        /// Operations: restart, power-off, power-on, rescue, release; may be repeated or joined by commas
        #[arg(long, value_delimiter = ',', required_unless_present = "none")]
        allow: Vec<String>,
        /// For how many hours after it was last told, 1 to 168
        #[arg(long, default_value_t = 24)]
        hours: u32,
        /// Nothing
        #[arg(long, conflicts_with_all = ["allow", "hours"])]
        none: bool,
    },
    /// Make the code that operations at the site ask for while it is cut off; it is shown this once
    EmergencyCode {
        id: String,
        /// Take the code back instead
        #[arg(long)]
        revoke: bool,
    },
    /// Remove a site without machines
    Delete { id: String },
    /// Make a one-time join token for its edge
    Token { id: String },
    /// Take the rights of a lost edge back; its jobs fail, its machines are kept out of use
    Revoke {
        id: String,
        /// Why: for the audit log, and for whoever finds the machines out of use
        #[arg(long)]
        reason: String,
    },
}

const COLUMNS: [(&str, &str); 5] = [
    ("site", "/id"),
    ("online", "/online"),
    ("joined", "/joined"),
    ("last seen", "/last_seen"),
    ("description", "/description"),
];

const SUBNETS: [(&str, &str); 6] = [
    ("subnet", "/subnet/network"),
    ("server", "/subnet/server"),
    ("gateway", "/subnet/gateway"),
    ("pool", "/subnet/pool"),
    ("used", "/used"),
    ("free", "/free"),
];
const HOLDERS: [(&str, &str); 3] = [
    ("address", "/address"),
    ("machine", "/machine"),
    ("reserved", "/note"),
];
const RESERVATION: [(&str, &str); 4] = [
    ("first", "/first"),
    ("last", "/last"),
    ("note", "/note"),
    ("id", "/id"),
];

/// Who holds an address and what is reserved, of all subnets in one table.
fn holders(answer: &Value) -> Value {
    let lists = |name: &str| {
        let subnets = answer["items"].as_array().into_iter().flatten();
        let rows: Vec<Value> = subnets
            .flat_map(|s| s[name].as_array().cloned().unwrap_or_default())
            .collect();
        rows
    };
    let mut rows = lists("holders");
    for reserved in lists("reservations") {
        let (first, last) = (&reserved["first"], &reserved["last"]);
        let range = [first, last].map(|a| a.as_str().unwrap_or_default());
        let address = if first == last {
            range[0].to_owned()
        } else {
            range.join("-")
        };
        rows.push(json!({ "address": address, "note": reserved["note"] }));
    }
    json!({ "items": rows })
}

async fn addresses(client: &Client, format: Format, id: &str, brief: bool) -> anyhow::Result<ExitCode> {
    let answer = client.get(&format!("/api/v1/sites/{id}/addresses")).await?;
    output::print(format, &answer, &SUBNETS);
    if format == Format::Table && !brief {
        println!();
        output::print(format, &holders(&answer), &HOLDERS);
    }
    Ok(ExitCode::SUCCESS)
}

async fn reserve(
    client: &Client,
    format: Format,
    id: &str,
    (addresses, note): (&str, &str),
) -> anyhow::Result<ExitCode> {
    let (first, last) = addresses.split_once('-').unwrap_or((addresses, addresses));
    let body = json!({ "first": first, "last": last, "note": note });
    let answer = client
        .post(&format!("/api/v1/sites/{id}/reservations"), body)
        .await?;
    output::print(format, &answer, &RESERVATION);
    Ok(ExitCode::SUCCESS)
}

/// The list of relays, if there is one, or if there is to be none: an older control plane knows of no list.
fn relays(given: &[Ipv4Addr], none: bool) -> Value {
    if given.is_empty() && !none {
        return json!({});
    }
    json!({ "dhcp_relays": given })
}

/// What is not given is not said, and so stays.
fn change(description: Option<String>, subnets: Vec<Value>, mut body: Value) -> Value {
    if let Some(description) = description {
        body["description"] = description.into();
    }
    if !subnets.is_empty() {
        body["subnets"] = subnets.into();
    }
    body
}

/// What may be done offline; `none` given means an empty list.
fn offline(allow: &[String], hours: u32) -> Value {
    let operations: Vec<String> = allow.iter().map(|name| name.replace('-', "_")).collect();
    json!({ "offline": { "hours": hours, "operations": operations } })
}

async fn token(client: &Client, format: Format, id: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/sites/{id}/tokens");
    let answer = client.post(&path, json!({})).await?;
    let columns = [("token", "/token"), ("good until", "/expires_at")];
    output::print(format, &answer, &columns);
    Ok(ExitCode::SUCCESS)
}

async fn emergency_code(client: &Client, format: Format, id: &str, revoke: bool) -> anyhow::Result<ExitCode> {
    let path = format!("/api/v1/sites/{id}/emergency-code");
    if revoke {
        client.delete(&path).await?;
    } else {
        let answer = client.post(&path, json!({})).await?;
        output::print(format, &answer, &[("emergency code", "/code")]);
    }
    Ok(ExitCode::SUCCESS)
}

/// Carries a command out.
pub(crate) async fn run(client: &Client, format: Format, site: Site) -> anyhow::Result<ExitCode> {
    let answer = match site {
        Site::Create {
            id,
            description,
            discover,
            subnets,
            dhcp_relays,
        } => {
            let mut body = relays(&dhcp_relays, false);
            body["id"] = id.into();
            body["description"] = description.into();
            body["discover"] = discover.into();
            body["subnets"] = subnets.into();
            client.post("/api/v1/sites", body).await?
        }
        Site::List => client.get("/api/v1/sites?limit=1000").await?,
        Site::Show { id } => client.get(&format!("/api/v1/sites/{id}")).await?,
        Site::Update {
            id,
            description,
            subnets,
            dhcp_relays,
            no_dhcp_relays,
        } => {
            let body = change(description, subnets, relays(&dhcp_relays, no_dhcp_relays));
            client.patch(&format!("/api/v1/sites/{id}"), body).await?
        }
        Site::Addresses { id, brief } => return addresses(client, format, &id, brief).await,
        Site::Reserve { id, addresses, note } => {
            return reserve(client, format, &id, (&addresses, &note)).await;
        }
        Site::Unreserve { id, reservation } => {
            let path = format!("/api/v1/sites/{id}/reservations/{reservation}");
            client.delete(&path).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Site::Discover { id, on } => {
            client
                .patch(&format!("/api/v1/sites/{id}"), json!({ "discover": on }))
                .await?
        }
        Site::Offline { id, allow, hours, .. } => {
            let body = offline(&allow, hours);
            client.patch(&format!("/api/v1/sites/{id}"), body).await?
        }
        Site::EmergencyCode { id, revoke } => return emergency_code(client, format, &id, revoke).await,
        Site::Delete { id } => {
            client.delete(&format!("/api/v1/sites/{id}")).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Site::Revoke { id, reason } => {
            let path = format!("/api/v1/sites/{id}/revoke");
            client.post(&path, json!({ "reason": reason })).await?
        }
        Site::Token { id } => return token(client, format, &id).await,
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
    fn holders_and_reservations_are_one_table() {
        let answer = json!({ "items": [{
            "holders": [{ "address": "192.0.2.2", "machine": "m1" }],
            "reservations": [{ "first": "192.0.2.3", "last": "192.0.2.9", "note": "switches" }],
        }] });
        let expected = json!([
            { "address": "192.0.2.2", "machine": "m1" },
            { "address": "192.0.2.3-192.0.2.9", "note": "switches" },
        ]);
        assert_eq!(holders(&answer)["items"], expected);
        assert_eq!(change(None, vec![], relays(&[], false)), json!({}));
        let relay = Ipv4Addr::new(203, 0, 113, 9);
        assert_eq!(
            change(None, vec![], relays(&[relay], false)),
            json!({ "dhcp_relays": ["203.0.113.9"] })
        );
        assert_eq!(relays(&[], true), json!({ "dhcp_relays": [] }), "none any more");
        assert_eq!(
            change(Some("d".into()), vec![json!(1)], json!({})),
            json!({ "description": "d", "subnets": [1] })
        );
    }

    #[test]
    fn operations_are_said_as_the_api_names_them() {
        let said = offline(&["power-off".into(), "restart".into()], 12);
        let expected = json!({ "offline": { "hours": 12, "operations": ["power_off", "restart"] } });
        assert_eq!(said, expected);
        assert_eq!(offline(&[], 24)["offline"]["operations"], json!([]));
    }

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
