//! Images: names and manifests. The bytes are elsewhere.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{ids::ImageId, image::Manifest};

use super::{Database, StoreResult, from_json, micros, parse, schema::images, time, to_json};

/// What operators say of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edition {
    /// The family it is a version of.
    pub family: Option<String>,
    /// Its version; there with a family only.
    pub version: Option<String>,
    /// Whether its family's name no longer means it.
    pub deprecated: bool,
    /// The types of machines it may be installed on; of all if empty.
    pub machine_types: Vec<String>,
}

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id: the digest of its manifest.
    pub id: ImageId,
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub manifest: Manifest,
    /// What operators say of it.
    pub edition: Edition,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

type Row = (
    String,
    String,
    String,
    i64,
    Option<String>,
    Option<String>,
    bool,
    String,
);

fn image(row: Row) -> StoreResult<Image> {
    let (id, name, manifest, created_at, family, version, deprecated, machine_types) = row;
    Ok(Image {
        id: parse(&id)?,
        name,
        manifest: from_json(&manifest)?,
        edition: Edition {
            family,
            version,
            deprecated,
            machine_types: from_json(&machine_types)?,
        },
        created_at: time(created_at),
    })
}

/// Adds an image.
///
/// # Errors
/// [`super::StoreError::Taken`] when its name or content is there already.
pub fn insert(connection: &mut Database, image: &Image) -> StoreResult<()> {
    use images::dsl;
    let row = (
        dsl::id.eq(image.id.to_string()),
        dsl::name.eq(&image.name),
        dsl::manifest.eq(to_json(&image.manifest)?),
        dsl::created_at.eq(micros(image.created_at)),
        dsl::family.eq(&image.edition.family),
        dsl::version.eq(&image.edition.version),
        dsl::deprecated.eq(image.edition.deprecated),
        dsl::machine_types.eq(to_json(&image.edition.machine_types)?),
    );
    diesel::insert_into(dsl::images).values(row).execute(connection)?;
    Ok(())
}

/// One image, by id, else by name.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id_or_name: &str) -> StoreResult<Option<Image>> {
    use images::dsl;
    let by_id = dsl::images.find(id_or_name).first::<Row>(connection).optional()?;
    let row = match by_id {
        Some(row) => Some(row),
        None => dsl::images
            .filter(dsl::name.eq(id_or_name))
            .first::<Row>(connection)
            .optional()?,
    };
    row.map(image).transpose()
}

/// Sets what operators say of an image.
///
/// # Errors
/// [`super::StoreError::Taken`] when its name, or its version in its family, is there already.
pub fn update(connection: &mut Database, image: &Image) -> StoreResult<()> {
    use images::dsl;
    let change = (
        dsl::name.eq(&image.name),
        dsl::family.eq(&image.edition.family),
        dsl::version.eq(&image.edition.version),
        dsl::deprecated.eq(image.edition.deprecated),
        dsl::machine_types.eq(to_json(&image.edition.machine_types)?),
    );
    diesel::update(dsl::images.find(image.id.to_string()))
        .set(change)
        .execute(connection)?;
    Ok(())
}

/// All versions of a family.
///
/// # Errors
/// When the database fails.
pub fn of_family(connection: &mut Database, family: &str) -> StoreResult<Vec<Image>> {
    let rows = images::table
        .filter(images::family.eq(family))
        .load::<Row>(connection)?;
    rows.into_iter().map(image).collect()
}

/// Whether there is a family of that name.
///
/// # Errors
/// When the database fails.
pub fn has_family(connection: &mut Database, family: &str) -> StoreResult<bool> {
    let rows = images::table.filter(images::family.eq(family));
    Ok(rows.count().get_result::<i64>(connection)? > 0)
}

/// The name of an image that is bound to a machine type, if there is one.
///
/// # Errors
/// When the database fails.
pub fn bound_to(connection: &mut Database, machine_type: &str) -> StoreResult<Option<String>> {
    use images::dsl;
    let rows: Vec<(String, String)> = dsl::images
        .filter(dsl::machine_types.ne("[]"))
        .select((dsl::name, dsl::machine_types))
        .load(connection)?;
    for (name, types) in rows {
        if from_json::<Vec<String>>(&types)?
            .iter()
            .any(|bound| bound == machine_type)
        {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The machine types an image is bound to; none if it is for all, or gone.
///
/// # Errors
/// When the database fails.
pub fn types_of(connection: &mut Database, id: ImageId) -> StoreResult<Vec<String>> {
    let types: Option<String> = images::table
        .find(id.to_string())
        .select(images::machine_types)
        .first(connection)
        .optional()?;
    types.map_or_else(|| Ok(Vec::new()), |text| from_json(&text))
}

/// Those of `ids` that are there.
///
/// # Errors
/// When the database fails.
pub fn existing(connection: &mut Database, ids: &BTreeSet<ImageId>) -> StoreResult<Vec<ImageId>> {
    use images::dsl;
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let found: Vec<String> = dsl::images
        .filter(dsl::id.eq_any(names))
        .select(dsl::id)
        .load(connection)?;
    found.iter().map(|id| parse(id)).collect()
}

/// Up to `limit` images whose name comes after `after`, by name, of one family if it is given.
///
/// # Errors
/// When the database fails.
pub fn list(
    connection: &mut Database,
    family: Option<String>,
    after: &str,
    limit: i64,
) -> StoreResult<Vec<Image>> {
    use images::dsl;
    let mut query = dsl::images
        .filter(dsl::name.gt(after))
        .order(dsl::name)
        .limit(limit)
        .into_boxed();
    if let Some(family) = family {
        query = query.filter(dsl::family.eq(family));
    }
    let rows = query.load::<Row>(connection)?;
    rows.into_iter().map(image).collect()
}

/// Removes an image. Its chunks stay: others may share them.
///
/// # Errors
/// When the database fails.
pub fn delete(connection: &mut Database, id: ImageId) -> StoreResult<bool> {
    Ok(diesel::delete(images::table.find(id.to_string())).execute(connection)? == 1)
}

/// Names of images by their ids.
///
/// # Errors
/// When the database fails.
pub fn names(
    connection: &mut Database,
    ids: Vec<String>,
) -> StoreResult<std::collections::BTreeMap<String, String>> {
    use images::dsl;
    let rows = dsl::images
        .filter(dsl::id.eq_any(ids))
        .select((dsl::id, dsl::name));
    Ok(rows.load::<(String, String)>(connection)?.into_iter().collect())
}
