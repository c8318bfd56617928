//! Views of lists that users saved for themselves.

use chrono::{DateTime, Utc};
use diesel::prelude::*;

use super::{Database, StoreResult, from_json, micros, schema::saved_views, time, to_json};

/// A saved view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedView {
    /// Its name, its user's own.
    pub name: String,
    /// The page it is of.
    pub page: String,
    /// What the page's list is asked for, as after `?`.
    pub query: String,
    /// The columns that are shown, in their order; the page's own choice if there are none.
    pub columns: Option<Vec<String>>,
    /// When it was saved last.
    pub saved_at: DateTime<Utc>,
}

type Row = (String, String, String, String, Option<String>, i64);

fn view((_, name, page, query, columns, saved_at): Row) -> StoreResult<SavedView> {
    Ok(SavedView {
        name,
        page,
        query,
        columns: columns.map(|text| from_json(&text)).transpose()?,
        saved_at: time(saved_at),
    })
}

/// The views of a user, by name.
///
/// # Errors
/// When the database fails.
pub fn of(db: &mut Database, holder: &str) -> StoreResult<Vec<SavedView>> {
    let rows = saved_views::table
        .filter(saved_views::holder.eq(holder))
        .order(saved_views::name)
        .load::<Row>(db)?;
    rows.into_iter().map(view).collect()
}

/// One view of a user.
///
/// # Errors
/// When the database fails.
pub fn get(db: &mut Database, holder: &str, name: &str) -> StoreResult<Option<SavedView>> {
    let row = saved_views::table.find((holder, name)).first::<Row>(db);
    row.optional()?.map(view).transpose()
}

/// How many views a user has.
///
/// # Errors
/// When the database fails.
pub fn count(db: &mut Database, holder: &str) -> StoreResult<i64> {
    let theirs = saved_views::table.filter(saved_views::holder.eq(holder));
    Ok(theirs.count().get_result(db)?)
}

/// Saves a view of a user, in place of the one of that name.
///
/// # Errors
/// When the database fails.
pub fn put(db: &mut Database, holder: &str, view: &SavedView) -> StoreResult<()> {
    let row = (
        saved_views::holder.eq(holder),
        saved_views::name.eq(&view.name),
        saved_views::page.eq(&view.page),
        saved_views::query.eq(&view.query),
        saved_views::shown.eq(view.columns.as_ref().map(to_json).transpose()?),
        saved_views::saved_at.eq(micros(view.saved_at)),
    );
    delete(db, holder, &view.name)?;
    diesel::insert_into(saved_views::table).values(row).execute(db)?;
    Ok(())
}

/// Removes a view of a user; `false` if there is none of that name.
///
/// # Errors
/// When the database fails.
pub fn delete(db: &mut Database, holder: &str, name: &str) -> StoreResult<bool> {
    let row = saved_views::table.find((holder, name));
    Ok(diesel::delete(row).execute(db)? == 1)
}
