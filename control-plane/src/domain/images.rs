//! Images: found by name or as a version of a family, and bound to machine types. Which version is the newest is pure.

use std::cmp::Ordering;

use serde_json::{Value, json};
use slipway_protocol::ids::{MachineId, SiteId};

use super::names;
use crate::{
    access::{Caller, Permission, Target},
    app::App,
    error::ApiError,
    store::{
        Database,
        audit::{self, Change},
        images::{self, Edition, Image},
        machine_types, machines,
    },
};

/// What is to be changed of an image; what is left out stays.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Its name.
    pub name: Option<String>,
    /// Its family and version; `Some(None)` takes it out of its family.
    pub version: Option<Option<(String, String)>>,
    /// Whether it is no longer the newest of its family.
    pub deprecated: Option<bool>,
    /// The types of machines it may be installed on; of all if empty.
    pub machine_types: Option<Vec<String>>,
}

/// An image as the audit log keeps it.
#[must_use]
pub fn told(image: &Image) -> Value {
    let Edition {
        family,
        version,
        deprecated,
        machine_types,
    } = &image.edition;
    json!({
        "id": image.id.to_string(), "name": image.name, "family": family, "version": version,
        "deprecated": deprecated, "machine_types": machine_types,
    })
}

/// Whether an image may have its name and edition beside those that are there.
///
/// # Errors
/// When a text will not do, a name and a family would be the same word, or a machine type is not there.
pub fn check(db: &mut Database, image: &Image) -> Result<(), ApiError> {
    let bad = |code, detail: String| Err(ApiError::Bad(code, detail));
    names::check(&image.name)?;
    if images::has_family(db, &image.name)? {
        let detail = format!(
            "`{}` is a family of images; an image cannot have that name too",
            image.name
        );
        return Err(ApiError::Conflict("image_name", detail));
    }
    match (&image.edition.family, &image.edition.version) {
        (None, None) => {}
        (Some(family), Some(version)) => {
            family
                .parse::<SiteId>()
                .map_err(|e| ApiError::Bad("family", e.to_string()))?;
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '~');
            if version.is_empty() || version.len() > 63 || !version.chars().all(plain) {
                let detail = format!(
                    "`{version}` is not a version: use 1 to 63 letters, digits, '.', '_', '-', '+', '~'"
                );
                return bad("version", detail);
            }
            if *family == image.name || images::get(db, family)?.is_some() {
                let detail = format!(
                    "`{family}` is the name of an image; rename that first, or choose another family"
                );
                return Err(ApiError::Conflict("image_name", detail));
            }
        }
        _ => {
            return bad(
                "version",
                "an image has a family and a version, or neither".to_owned(),
            );
        }
    }
    for name in &image.edition.machine_types {
        machine_types::get(db, name)?.ok_or_else(|| ApiError::NotFound("machine type", name.clone()))?;
    }
    Ok(())
}

/// Changes what is said of an image; what it is made of never changes.
///
/// # Errors
/// When there is none, a text will not do, or a name or version is taken.
pub async fn update(app: &App, caller: &Caller, key: String, wanted: Update) -> Result<Image, ApiError> {
    caller.require(Permission::ImagesWrite, Target::GLOBAL)?;
    let (by, now) = (caller.actor.clone(), (app.now)());
    app.store
        .transaction(move |db| {
            let former = exactly(db, &key)?.ok_or_else(|| ApiError::NotFound("image", key))?;
            let mut next = former.clone();
            next.name = wanted.name.unwrap_or(next.name);
            if let Some(version) = wanted.version {
                (next.edition.family, next.edition.version) = version.unzip();
            }
            next.edition.deprecated = wanted.deprecated.unwrap_or(next.edition.deprecated);
            if let Some(mut types) = wanted.machine_types {
                types.sort();
                types.dedup();
                next.edition.machine_types = types;
            }
            check(db, &next)?;
            images::update(db, &next)?;
            let change = Change {
                action: "image.update",
                object: format!("image/{}", next.name),
                before: Some(told(&former)),
                after: Some(told(&next)),
            };
            audit::done(db, &by, now, change)?;
            Ok(next)
        })
        .await
}

/// One image: by id or name, or as `family:version`.
fn exactly(db: &mut Database, key: &str) -> Result<Option<Image>, ApiError> {
    match key.split_once(':') {
        Some((family, version)) => {
            let all = images::of_family(db, family)?;
            Ok(all
                .into_iter()
                .find(|i| i.edition.version.as_deref() == Some(version)))
        }
        None => Ok(images::get(db, key)?),
    }
}

/// The image that is meant: by id or name, as `family:version`, or as a family, which means its newest version that is not
/// deprecated.
///
/// # Errors
/// When there is none.
pub fn find(db: &mut Database, key: &str) -> Result<Image, ApiError> {
    if let Some(image) = exactly(db, key)? {
        return Ok(image);
    }
    let all = images::of_family(db, key)?;
    newest(all).ok_or_else(|| ApiError::NotFound("image", key.to_owned()))
}

fn newest(family: Vec<Image>) -> Option<Image> {
    let version = |image: &Image| image.edition.version.clone().unwrap_or_default();
    let usable = family.into_iter().filter(|image| !image.edition.deprecated);
    usable.max_by(|a, b| compare(&version(a), &version(b)))
}

/// Compares versions as people do: numbers by value, the rest as text, and `13` before `13.1`.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.is_empty(), b.is_empty()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        let (part, rest) = part(a);
        let (other, other_rest) = self::part(b);
        let number = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        let order = if number(part) && number(other) {
            // Of any length: without leading zeros the longer one is greater.
            let (x, y) = (part.trim_start_matches('0'), other.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            part.cmp(other)
        };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest, other_rest);
    }
}

/// The first run of digits or of anything else, and the rest.
fn part(text: &str) -> (&str, &str) {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text
        .find(|c: char| c.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Whether an image may be installed on machines of a type, or on those of none.
///
/// # Errors
/// When it is bound to other types.
pub fn check_type(image: &Image, machine_type: Option<&str>) -> Result<(), ApiError> {
    let bound = &image.edition.machine_types;
    if bound.is_empty() || machine_type.is_some_and(|name| bound.iter().any(|b| b == name)) {
        return Ok(());
    }
    let detail = format!(
        "image `{}` is for machines of type {} only, and not for {}",
        image.name,
        bound.join(", "),
        machine_type.map_or_else(|| "one without a type".to_owned(), |name| format!("type {name}")),
    );
    Err(ApiError::Conflict("image_type", detail))
}

/// The image that is meant for an instance that has its machine.
///
/// # Errors
/// When there is none, or it is bound to other types.
pub fn find_for(db: &mut Database, key: &str, machine: Option<MachineId>) -> Result<Image, ApiError> {
    let image = find(db, key)?;
    if let Some(id) = machine
        && let Some(machine) = machines::get(db, &id.to_string())?
    {
        check_type(&image, machine.class.machine_type.as_deref())?;
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_people_do() {
        let ascending = [
            "9",
            "10",
            "12.9",
            "13",
            "13.1",
            "13.2",
            "13.10",
            "13.10-rc",
            "20261121",
            "99999999999999999999999999",
        ];
        for pair in ascending.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
            assert_eq!(compare(pair[1], pair[0]), Ordering::Greater, "{pair:?}");
        }
        assert_eq!(compare("13.02", "13.2"), Ordering::Equal);
        assert_eq!(compare("bookworm", "trixie"), Ordering::Less);
    }
}
