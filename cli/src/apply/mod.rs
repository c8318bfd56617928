//! `slipway apply -f FILE`: makes the control plane as a file says. Reads what is there, plans, shows, and only then calls. Nothing
//! is removed but of the kinds named by `--prune`; secrets come from files beside the file.

mod carry;
mod kinds;
mod machines;
mod plan;
mod reservations;
mod yaml;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde_json::Value;

use self::{
    kinds::{KINDS, Kind, Wanted},
    plan::{Change, Step},
    yaml::Document,
};
use crate::{
    client::Client,
    output::{self, Format},
};

/// What to apply, and how.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// The file, YAML
    #[arg(long, short)]
    file: PathBuf,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Remove what is there and not in the file, of these kinds: roles, machine_types, sites, machines, projects, webhooks, alert_rules
    #[arg(long, value_delimiter = ',', value_parser = KINDS.map(|kind| kind.word))]
    prune: Vec<String>,
}

/// A file and what it says.
struct Source {
    path: PathBuf,
    document: Document,
}

impl Source {
    fn read(path: &Path) -> anyhow::Result<(Self, Vec<Wanted>)> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let told = |fault: yaml::Fault| anyhow!("{}:{fault}", path.display());
        let document = yaml::read(&text).map_err(told)?;
        let wanted = kinds::wanted(&document).map_err(told)?;
        let path = path.to_owned();
        Ok((Self { path, document }, wanted))
    }

    /// What is wrong at a place of the file.
    fn fault(&self, pointer: &str, what: impl Into<String>) -> anyhow::Error {
        anyhow!("{}:{}", self.path.display(), self.document.fault(pointer, what))
    }

    /// A secret from a file beside this one.
    fn secret(&self, pointer: &str, file: &str) -> anyhow::Result<String> {
        let path = self.path.parent().unwrap_or(Path::new("")).join(file);
        let text = std::fs::read_to_string(&path)
            .map_err(|e| self.fault(pointer, format!("cannot read {}: {e}", path.display())))?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Applies a file.
pub(crate) async fn run(client: &Client, format: Format, apply: Apply) -> anyhow::Result<ExitCode> {
    let steps = planned(client, &apply).await?;
    if format == Format::Json {
        output::print(format, &plan::as_json(&steps.1), &[]);
    } else {
        print!("{}", plan::text(&steps.1));
    }
    if !apply.dry_run {
        carry_out(client, &steps.0, steps.1).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the file and what is there.
async fn planned(client: &Client, apply: &Apply) -> anyhow::Result<(Source, Vec<Step>)> {
    let (source, mut wanted) = Source::read(&apply.file)?;
    let has = |kind: Kind| source.document.value.get(kind.word).is_some();
    for kind in KINDS
        .iter()
        .filter(|kind| apply.prune.iter().any(|word| word == kind.word))
    {
        if !has(*kind) {
            let what = "--prune would remove all of them: write an empty list if that is meant";
            bail!("{}: it has no `{}`; {what}", apply.file.display(), kind.word);
        }
    }
    let mut there: Vec<(Kind, Vec<Value>)> = Vec::new();
    for kind in KINDS {
        // Rules name webhooks by URL.
        if has(kind) || (kind.word == "webhooks" && wanted.iter().any(|one| one.kind.word == "alert_rules")) {
            let Value::Array(items) = client.all(kind.path, &[]).await?["items"].take() else {
                bail!("the control plane gave no list of {}", kind.word);
            };
            there.push((kind, items));
        }
    }
    let hooks = there.iter().find(|(kind, _)| kind.word == "webhooks");
    let hooks = hooks.map(|(_, items)| items.as_slice()).unwrap_or_default();
    for one in wanted.iter_mut().filter(|one| one.kind.word == "alert_rules") {
        carry::name_webhooks(&mut one.fields, hooks);
    }
    for one in wanted
        .iter()
        .filter(|one| one.fields.contains_key("reservations"))
    {
        let items = there.iter_mut().find(|(kind, _)| *kind == one.kind);
        let site = items.and_then(|(_, items)| items.iter_mut().find(|site| site["id"] == one.key.as_str()));
        if let Some(site) = site {
            site["reservations"] = reservations::at(client, &one.key).await?;
        }
    }
    let steps = plan::plan(&wanted, &there, &apply.prune);
    for step in steps.iter().filter(|step| step.kind.word == "machines") {
        check_machine(&source, step)?;
    }
    Ok((source, steps))
}

/// What would be refused of a machine is told before anything is done, not half-way.
fn check_machine(source: &Source, step: &Step) -> anyhow::Result<()> {
    let Some(wanted) = &step.wanted else { return Ok(()) };
    let differences = match &step.change {
        Change::Update(differences) => differences.as_slice(),
        Change::Create => &[],
        _ => return Ok(()),
    };
    if let Some(site) = differences.iter().find(|d| d.field == "site") {
        let what = format!(
            "it stands at {} there, and machines do not change sites: remove it there first, or correct the file",
            site.before
        );
        return Err(source.fault(&format!("{}/site", wanted.pointer), what));
    }
    let sent = differences.is_empty() || differences.iter().any(|d| d.field == "bmc");
    if let Some(bmc) = wanted.fields.get("bmc").filter(|_| sent) {
        machines::with_password(source, wanted, &mut bmc.clone())?;
    }
    Ok(())
}

async fn carry_out(client: &Client, source: &Source, steps: Vec<Step>) -> anyhow::Result<()> {
    for step in steps {
        let done = carry::out(client, source, &step).await;
        done.map_err(|error| match &step.wanted {
            // It says where already.
            _ if error.to_string().starts_with(&source.path.display().to_string()) => error,
            Some(wanted) => source.fault(
                &wanted.pointer,
                format!("{} `{}`: {error:#}", step.kind.one, step.key),
            ),
            None => anyhow!("{} `{}`: {error:#}", step.kind.one, step.key),
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
