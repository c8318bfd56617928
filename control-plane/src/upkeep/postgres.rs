//! PostgreSQL's own tools for dumps. The password goes by the environment: command lines are seen by everybody.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use reqwest::Url;

/// A tool with the database it is to use.
fn tool(program: &str, url: &str) -> anyhow::Result<Command> {
    let mut url = Url::parse(url).context("SLIPWAY_DATABASE_URL is no URL")?;
    let mut password = url.password().map(decoded).transpose()?;
    // libpq takes one from the query too, where it would be seen all the same.
    let (secret, plain): (Vec<_>, Vec<_>) = url
        .query_pairs()
        .into_owned()
        .partition(|(name, _)| name.ends_with("password"));
    if let Some((name, _)) = secret.iter().find(|(name, _)| name != "password") {
        bail!(
            "SLIPWAY_DATABASE_URL has `{name}`, which cannot be kept off a command line: use a key without one"
        );
    }
    if let Some((_, given)) = secret.into_iter().next_back() {
        password = Some(given);
        url.query_pairs_mut().clear().extend_pairs(plain);
    }
    let mut command = Command::new(program);
    if let Some(password) = password {
        // The scheme has a host, so a password can be taken out.
        let _ = url.set_password(None);
        command.env("PGPASSWORD", password);
    }
    command.arg("--dbname").arg(url.as_str());
    Ok(command)
}

/// Without the URL's percent signs.
fn decoded(text: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [a, b, tail @ ..]) => {
                let hex = [*a, *b];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&hex)?, 16)?);
                tail
            }
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    Ok(String::from_utf8(bytes)?)
}

fn run(mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot run {program} (Debian package postgresql-client)"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Writes a consistent dump of a database in use. Blocking.
pub(super) fn dump(url: &str, to: &Path) -> anyhow::Result<()> {
    let mut command = tool("pg_dump", url)?;
    command.args(["--format=custom", "--no-owner", "--no-privileges", "--file"]);
    run({
        command.arg(to);
        command
    })
}

/// Puts a dump into a database, all of it or nothing; tables that are there are replaced. Blocking.
pub(super) fn restore(url: &str, from: &Path) -> anyhow::Result<()> {
    let mut command = tool("pg_restore", url)?;
    command.args([
        "--clean",
        "--if-exists",
        "--no-owner",
        "--no-privileges",
        "--single-transaction",
    ]);
    command.arg("--exit-on-error").arg(from);
    run(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_stands_on_a_command_line() {
        let command = tool(
            "pg_dump",
            "postgres://ann:p%40ss@%2Frun%2Fpg/slipway?sslmode=require",
        )
        .unwrap();
        let arguments: Vec<_> = command
            .get_args()
            .map(|a| a.to_string_lossy().into_owned())
            .collect();
        assert_eq!(
            arguments,
            ["--dbname", "postgres://ann@%2Frun%2Fpg/slipway?sslmode=require"]
        );
        let password = command
            .get_envs()
            .find(|(name, _)| *name == "PGPASSWORD")
            .unwrap();
        assert_eq!(password.1.unwrap(), "p@ss");
    }

    #[test]
    fn a_password_in_the_query_does_not_either() {
        let command = tool(
            "pg_dump",
            "postgres://ann@db/slipway?password=s3cr%20t&sslmode=require",
        )
        .unwrap();
        let line: Vec<String> = command
            .get_args()
            .map(|a| a.to_string_lossy().into_owned())
            .collect();
        assert!(
            !line.join(" ").contains("s3cr") && line[1].contains("sslmode=require"),
            "{line:?}"
        );
        let told = command.get_envs().find(|(name, _)| *name == "PGPASSWORD");
        assert_eq!(told.unwrap().1.unwrap(), "s3cr t");
        assert!(tool("pg_dump", "postgres://db/slipway?sslpassword=x").is_err());
    }
}
