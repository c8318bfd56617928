//! Carries a plan's steps out by the public API, one object at a time.

use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{
    Source,
    kinds::Wanted,
    machines,
    plan::{Change, Difference, Step, overlaid},
    reservations,
};
use crate::client::Client;

/// Puts ids in the place of webhooks' URLs; of those that are there.
pub(super) fn name_webhooks(fields: &mut Map<String, Value>, hooks: &[Value]) {
    let Some(Value::Array(named)) = fields.get_mut("webhooks") else {
        return;
    };
    for name in named {
        if let Some(hook) = hooks.iter().find(|hook| hook["url"] == *name) {
            *name = hook["id"].clone();
        }
    }
}

/// The path of the object itself.
fn own_path(step: &Step) -> String {
    let address = step
        .current
        .as_ref()
        .and_then(|current| current[step.kind.address].as_str());
    format!("{}/{}", step.kind.path, address.unwrap_or(&step.key))
}

/// Carries a step out.
///
/// # Errors
/// What the control plane refuses, or a secret's file that cannot be read.
pub(super) async fn out(client: &Client, source: &Source, step: &Step) -> anyhow::Result<()> {
    let path = own_path(step);
    match (&step.change, &step.wanted) {
        (Change::Create, Some(wanted)) => create(client, source, wanted).await,
        (Change::Update(differences), Some(wanted)) => {
            update(client, source, (step, wanted), differences).await
        }
        (Change::Delete, _) => client.delete(&path).await.map(|_| ()),
        _ => Ok(()),
    }
}

async fn create(client: &Client, source: &Source, wanted: &Wanted) -> anyhow::Result<()> {
    let mut body = wanted.fields.clone();
    let (kind, path) = (wanted.kind, wanted.kind.path);
    match kind.word {
        "roles" => {
            put_role(client, wanted).await?;
        }
        "projects" => {
            let (members, quotas) = (body.remove("members"), body.remove("quotas"));
            client.post(path, body.into()).await?;
            share(client, &wanted.key, [members, quotas]).await?;
        }
        "machines" => machines::create(client, source, wanted).await?,
        "machine_types" => put_type(client, wanted, &json!({})).await?,
        "sites" => {
            let reserved = body.remove("reservations");
            client.post(path, body.into()).await?;
            let reserved = reservations::plain(&reserved.unwrap_or_default());
            reservations::reserve(client, &wanted.key, (&Value::Null, &reserved)).await?;
        }
        "webhooks" => {
            let file = body.remove("secret_file");
            let made = client.post(path, body.into()).await?;
            keep_secret(source, wanted, (file, &made))?;
        }
        "alert_rules" => {
            let hooks = client.all("/api/v1/webhooks", &[]).await?;
            name_webhooks(
                &mut body,
                hooks["items"].as_array().map(Vec::as_slice).unwrap_or_default(),
            );
            client.post(path, body.into()).await?;
        }
        _ => {
            client.post(path, body.into()).await?;
        }
    }
    Ok(())
}

/// A new webhook's secret is told once: into its file, or to whoever looks.
fn keep_secret(
    source: &Source,
    wanted: &Wanted,
    (file, made): (Option<Value>, &Value),
) -> anyhow::Result<()> {
    let secret = made["secret"]
        .as_str()
        .context("the control plane gave no secret")?;
    let Some(file) = file.as_ref().and_then(Value::as_str) else {
        println!("webhook {}: its secret, shown this once: {secret}", wanted.key);
        return Ok(());
    };
    let path = source
        .path
        .parent()
        .unwrap_or(std::path::Path::new(""))
        .join(file);
    let mut options = std::fs::File::options();
    let opened = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path);
    let written = opened.and_then(|mut file| writeln!(file, "{secret}"));
    written.map_err(|e| {
        let what = format!(
            "cannot write {}: {e}; `slipway webhook rotate` gives another secret",
            path.display()
        );
        source.fault(&format!("{}/secret_file", wanted.pointer), what)
    })
}

async fn put_role(client: &Client, wanted: &Wanted) -> anyhow::Result<()> {
    let body = json!({ "permissions": wanted.fields.get("permissions") });
    client
        .put(&format!("{}/{}", wanted.kind.path, wanted.key), body)
        .await?;
    Ok(())
}

/// Makes a machine type, or replaces the one that is there: what the file does not name stays.
async fn put_type(client: &Client, wanted: &Wanted, current: &Value) -> anyhow::Result<()> {
    let mut body = Map::new();
    for field in wanted.kind.fields {
        if let Some(value) = wanted.fields.get(*field).or(current.get(*field)) {
            body.insert((*field).to_owned(), value.clone());
        }
    }
    let path = format!("{}/{}", wanted.kind.path, wanted.key);
    client.put(&path, body.into()).await?;
    Ok(())
}

/// Sets members and quotas of a project.
async fn share(client: &Client, project: &str, [members, quotas]: [Option<Value>; 2]) -> anyhow::Result<()> {
    for (user, role) in members.iter().filter_map(Value::as_object).flatten() {
        let path = format!("/api/v1/projects/{project}/members/{user}");
        client.put(&path, json!({ "role": role })).await?;
    }
    for (kind, machines) in quotas.iter().filter_map(Value::as_object).flatten() {
        let path = format!("/api/v1/projects/{project}/quotas/{kind}");
        client.put(&path, json!({ "machines": machines })).await?;
    }
    Ok(())
}

async fn update(
    client: &Client,
    source: &Source,
    (step, wanted): (&Step, &Wanted),
    differences: &[Difference],
) -> anyhow::Result<()> {
    match step.kind.word {
        "roles" => return put_role(client, wanted).await,
        "machine_types" => {
            return put_type(client, wanted, step.current.as_ref().unwrap_or(&Value::Null)).await;
        }
        _ => {}
    }
    let mut body = Map::new();
    let (mut members, mut quotas, mut reserved) = (None, None, None);
    for Difference { field, before, after } in differences {
        match field.as_str() {
            "members" => members = Some(after.clone()),
            "quotas" => quotas = Some(after.clone()),
            "reservations" => reserved = Some((before, after)),
            _ => {
                body.insert(field.clone(), overlaid(before, after));
            }
        }
    }
    if step.kind.word == "machines" {
        return machines::update(client, source, (wanted, &own_path(step)), body).await;
    }
    // A network goes only when nothing is reserved in it, and something is reserved only in one that is there.
    if let Some(both) = reserved {
        reservations::take_back(client, &step.key, both).await?;
    }
    if step.kind.word == "alert_rules" {
        let hooks = client.all("/api/v1/webhooks", &[]).await?;
        name_webhooks(
            &mut body,
            hooks["items"].as_array().map(Vec::as_slice).unwrap_or_default(),
        );
        // A condition is one of several shapes: none of the former's fields may stay.
        if let Some(condition) = wanted
            .fields
            .get("condition")
            .filter(|_| body.contains_key("condition"))
        {
            body.insert("condition".to_owned(), condition.clone());
        }
    }
    if !body.is_empty() {
        client.patch(&own_path(step), body.into()).await?;
    }
    if let Some(both) = reserved {
        reservations::reserve(client, &step.key, both).await?;
    }
    share(client, &step.key, [members, quotas]).await
}
