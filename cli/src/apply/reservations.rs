//! Reserved addresses of a file's sites: a list that is meant whole. What is there stands with the site's addresses, not with
//! the site.

use serde_json::{Value, json};

use crate::client::Client;

/// Reservations as they are compared: first and last address and note of each, in order.
pub(super) fn plain(list: &Value) -> Value {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let plain = |item: &Value| {
        let last = item["last"].as_str().or(item["first"].as_str());
        json!({ "first": item["first"], "last": last, "note": item["note"].as_str().unwrap_or_default() })
    };
    let mut plain: Vec<Value> = items.iter().map(plain).collect();
    plain.sort_by_key(Value::to_string);
    plain.into()
}

/// What is reserved at a site.
///
/// # Errors
/// What the control plane refuses.
pub(super) async fn at(client: &Client, site: &str) -> anyhow::Result<Value> {
    let path = format!("/api/v1/sites/{site}/addresses");
    let subnets = client.all(&path, &[]).await?;
    let subnets = subnets["items"].as_array().into_iter().flatten();
    let all = subnets
        .filter_map(|subnet| subnet["reservations"].as_array())
        .flatten();
    Ok(plain(&all.cloned().collect()))
}

/// The items of one list that are not in the other.
fn without<'a>(list: &'a Value, other: &'a Value) -> impl Iterator<Item = &'a Value> {
    let others = other.as_array().map(Vec::as_slice).unwrap_or_default();
    let items = list.as_array().into_iter().flatten();
    items.filter(|item| !others.contains(item))
}

/// Takes back what is in `before` and not in `after`; both as [`plain`] has them.
///
/// # Errors
/// What the control plane refuses.
pub(super) async fn take_back(
    client: &Client,
    site: &str,
    (before, after): (&Value, &Value),
) -> anyhow::Result<()> {
    for gone in without(before, after) {
        let first = gone["first"].as_str().unwrap_or_default();
        let path = format!("/api/v1/sites/{site}/reservations/{first}");
        client.delete(&path).await?;
    }
    Ok(())
}

/// Reserves what is in `after` and not in `before`; both as [`plain`] has them.
///
/// # Errors
/// What the control plane refuses.
pub(super) async fn reserve(
    client: &Client,
    site: &str,
    (before, after): (&Value, &Value),
) -> anyhow::Result<()> {
    for new in without(after, before) {
        let path = format!("/api/v1/sites/{site}/reservations");
        client.post(&path, new.clone()).await?;
    }
    Ok(())
}
