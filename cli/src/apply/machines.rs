//! Machines of a file: what the API takes of one when it is made, and what only afterwards.

use serde_json::{Map, Value, json};

use super::{Source, kinds::Wanted};
use crate::client::Client;

/// Whether a machine is only enrolled, given to nobody.
pub(super) fn shelved(current: &Value) -> Value {
    (current["state"] == "enrolled").into()
}

/// The type an operator gave a machine; none if rules say it.
pub(super) fn pinned(current: &Value) -> Value {
    if current["type_pinned"] == true {
        current["machine_type"].clone()
    } else {
        Value::Null
    }
}

/// Puts the BMC's password in the place of the name of its file.
///
/// # Errors
/// When the file cannot be read; with the line that names it.
pub(super) fn with_password(source: &Source, wanted: &Wanted, bmc: &mut Value) -> anyhow::Result<()> {
    let file = wanted
        .fields
        .get("bmc")
        .and_then(|bmc| bmc["password_file"].as_str());
    if let (Some(file), Value::Object(bmc)) = (file, bmc) {
        let password = source.secret(&format!("{}/bmc/password_file", wanted.pointer), file)?;
        bmc.remove("password_file");
        bmc.insert("password".to_owned(), password.into());
    }
    Ok(())
}

/// Adds a machine; its type is given by hand after it is there.
///
/// # Errors
/// What the control plane refuses, or a password's file that cannot be read.
pub(super) async fn create(client: &Client, source: &Source, wanted: &Wanted) -> anyhow::Result<()> {
    let mut body = wanted.fields.clone();
    let machine_type = body.remove("machine_type").filter(|name| !name.is_null());
    if let Some(bmc) = body.get_mut("bmc") {
        with_password(source, wanted, bmc)?;
    }
    if let Some(Value::Object(labels)) = body.get_mut("labels") {
        // A label that a file takes away is not there yet.
        labels.retain(|_, value| !value.is_null());
    }
    let made = client.post(wanted.kind.path, body.into()).await?;
    if let (Some(name), Some(id)) = (machine_type, made["id"].as_str()) {
        let path = format!("{}/{id}", wanted.kind.path);
        client.patch(&path, json!({ "machine_type": name })).await?;
    }
    Ok(())
}

/// Changes the machine at `path`: its fields first, so that it is as it should be before it is given out.
///
/// # Errors
/// What the control plane refuses, or a password's file that cannot be read.
pub(super) async fn update(
    client: &Client,
    source: &Source,
    (wanted, path): (&Wanted, &str),
    mut body: Map<String, Value>,
) -> anyhow::Result<()> {
    let shelved = body.remove("shelved");
    if let Some(bmc) = body.get_mut("bmc") {
        with_password(source, wanted, bmc)?;
    }
    if !body.is_empty() {
        client.patch(path, body.into()).await?;
    }
    if let Some(shelved) = shelved {
        let how = if shelved == true { "shelve" } else { "unshelve" };
        client.post(&format!("{path}/{how}"), json!({})).await?;
    }
    Ok(())
}
