//! `slipway me`, `slipway key`, `slipway ssh-key`: the caller's own account; and `slipway audit`: who did what.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{
    client::Client,
    output::{self, Format},
    terminal::{self, FromStdin},
};

/// The caller.
#[derive(Debug, Subcommand)]
pub(crate) enum Me {
    /// Change your own password; your sessions end, your keys stay
    SetPassword {
        /// There is no password yet
        #[arg(long)]
        first: bool,
        /// Standard input is the present password on one line (none with --first) and the new one on the next
        #[command(flatten)]
        from_stdin: FromStdin,
    },
}

/// API keys of the caller's.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// List your API keys
    List,
    /// Make an API key; it is shown this once
    Create {
        /// Its name: 1 to 63 of a-z, 0-9 and '-'
        name: String,
        /// Narrow it to this permission; may be repeated; without any it may all you may
        #[arg(long = "permission")]
        permissions: Vec<String>,
        /// It ends after so many days; never otherwise
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        expires_days: Option<u32>,
    },
    /// Remove an API key, by id or name
    Delete { key: String },
}

/// SSH keys of the caller's.
#[derive(Debug, Subcommand)]
pub(crate) enum SshKey {
    /// List your SSH keys
    List,
    /// Add an SSH key, to be named with `slipway instance create --ssh-key NAME`
    Add {
        /// File with a public SSH key
        file: PathBuf,
        /// Its name [default: the file's]
        #[arg(long)]
        name: Option<String>,
    },
    /// Remove an SSH key, by id or name
    Delete { key: String },
}

/// Shows the last lines of the audit log, newest last.
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Of one user
    #[arg(long)]
    pub(crate) actor: Option<String>,
    /// Whose action begins so: `instance` is `instance.create` too
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// On one object, as in site/bj-1
    #[arg(long)]
    pub(crate) object: Option<String>,
    /// `done`, or the code of a refusal, as in forbidden
    #[arg(long)]
    pub(crate) outcome: Option<String>,
    /// At most so many; with --follow, so many before what comes
    #[arg(long, default_value_t = 50)]
    pub(crate) limit: u32,
    /// From the beginning of the log
    #[arg(long, conflicts_with = "follow")]
    pub(crate) oldest_first: bool,
    /// Go on with what comes, oldest first, until stopped
    #[arg(long, short)]
    pub(crate) follow: bool,
}

const KEY: [(&str, &str); 6] = [
    ("key", "/name"),
    ("permissions", "/permissions"),
    ("created", "/created_at"),
    ("expires", "/expires_at"),
    ("id", "/id"),
    ("secret", "/key"),
];
const SSH_KEY: [(&str, &str); 3] = [
    ("key", "/name"),
    ("added", "/created_at"),
    ("public key", "/public_key"),
];
/// Shows who the caller is and what they may do where, or changes their password.
pub(crate) async fn run_me(client: &Client, format: Format, me: Option<Me>) -> anyhow::Result<ExitCode> {
    if let Some(Me::SetPassword { first, from_stdin }) = me {
        let former = if first {
            String::new()
        } else {
            terminal::password("Present password", from_stdin)?
        };
        let new = terminal::new_password("New password", from_stdin)?;
        let body = json!({ "password": former, "new_password": new });
        client.patch("/api/v1/me", body).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let answer = client.get("/api/v1/me").await?;
    if format == Format::Json {
        output::print(format, &answer, &[]);
        return Ok(ExitCode::SUCCESS);
    }
    output::print(format, &answer, &[("user", "/name"), ("email", "/email")]);
    let held = json!({ "items": answer["held"] });
    output::print(
        format,
        &held,
        &[("scope", "/scope"), ("permissions", "/permissions")],
    );
    Ok(ExitCode::SUCCESS)
}

/// Carries out what is asked about API keys; `now` is when a key's days begin.
pub(crate) async fn run_key(
    client: &Client,
    format: Format,
    key: Key,
    now: DateTime<Utc>,
) -> anyhow::Result<ExitCode> {
    let answer = match key {
        Key::List => client.get("/api/v1/me/keys").await?,
        Key::Create {
            name,
            permissions,
            expires_days,
        } => {
            client
                .post("/api/v1/me/keys", new_key(&name, permissions, expires_days, now))
                .await?
        }
        Key::Delete { key } => {
            client.delete(&format!("/api/v1/me/keys/{key}")).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    // Only the answer that makes a key holds its secret.
    let columns = if answer["key"].is_string() {
        &KEY[..]
    } else {
        &KEY[..KEY.len() - 1]
    };
    output::print(format, &answer, columns);
    Ok(ExitCode::SUCCESS)
}

fn new_key(name: &str, permissions: Vec<String>, days: Option<u32>, now: DateTime<Utc>) -> Value {
    let mut key = json!({ "name": name });
    if !permissions.is_empty() {
        key["permissions"] = permissions.into();
    }
    if let Some(days) = days {
        key["expires_at"] = (now + TimeDelta::days(i64::from(days))).to_rfc3339().into();
    }
    key
}

/// Carries out what is asked about SSH keys.
pub(crate) async fn run_ssh_key(client: &Client, format: Format, key: SshKey) -> anyhow::Result<ExitCode> {
    let answer = match key {
        SshKey::List => client.get("/api/v1/me/ssh-keys").await?,
        SshKey::Add { file, name } => {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = name.unwrap_or_else(|| name_of(&file));
            let body = json!({ "name": name, "public_key": text.trim() });
            client.post("/api/v1/me/ssh-keys", body).await?
        }
        SshKey::Delete { key } => {
            client.delete(&format!("/api/v1/me/ssh-keys/{key}")).await?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    output::print(format, &answer, &SSH_KEY);
    Ok(ExitCode::SUCCESS)
}

/// A key's name by its file's: names hold a-z, 0-9 and '-' alone.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let usable = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    stem.chars().map(usable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_is_narrowed_to_and_when_it_ends() {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        assert_eq!(new_key("ci", vec![], None, now), json!({ "name": "ci" }));
        let narrow = new_key("ci", vec!["jobs.read".into()], Some(30), now);
        let expected =
            json!({ "name": "ci", "permissions": ["jobs.read"], "expires_at": "2026-12-21T12:00:00+00:00" });
        assert_eq!(narrow, expected);
    }

    #[test]
    fn an_ssh_key_is_named_after_its_file() {
        assert_eq!(name_of(Path::new("/home/ann/.ssh/id_ed25519.pub")), "id-ed25519");
    }
}
