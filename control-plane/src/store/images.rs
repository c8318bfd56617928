//! Images: names and manifests. The bytes are elsewhere.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use slipway_protocol::{ids::ImageId, image::Manifest};

use super::{Database, StoreResult, from_json, micros, parse, schema::images, time, to_json};

/// An image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id: the digest of its manifest.
    pub id: ImageId,
    /// Its name.
    pub name: String,
    /// What it is made of.
    pub manifest: Manifest,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

type Row = (String, String, String, i64);

fn image((id, name, manifest, created_at): Row) -> StoreResult<Image> {
    Ok(Image {
        id: parse(&id)?,
        name,
        manifest: from_json(&manifest)?,
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
    );
    diesel::insert_into(dsl::images).values(row).execute(connection)?;
    Ok(())
}

/// One image, by id or name.
///
/// # Errors
/// When the database fails.
pub fn get(connection: &mut Database, id_or_name: &str) -> StoreResult<Option<Image>> {
    use images::dsl;
    let row = dsl::images.filter(dsl::id.eq(id_or_name).or(dsl::name.eq(id_or_name)));
    row.first::<Row>(connection).optional()?.map(image).transpose()
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

/// Up to `limit` images whose name comes after `after`, by name.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &mut Database, after: &str, limit: i64) -> StoreResult<Vec<Image>> {
    use images::dsl;
    let rows = dsl::images
        .filter(dsl::name.gt(after))
        .order(dsl::name)
        .limit(limit)
        .load::<Row>(connection)?;
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
