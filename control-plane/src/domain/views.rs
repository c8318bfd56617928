//! Views of lists that users save for themselves: a page, what its list is asked for, and its columns. The control plane
//! keeps them and reads nothing into them: what a page takes is the page's affair.

use serde_json::json;

use crate::{
    access::Caller,
    app::App,
    error::ApiError,
    store::{
        audit::{self, Change},
        views::{self, SavedView},
    },
};

/// Most views of a user.
const MOST: i64 = 100;
/// Longest query, in bytes.
const LONGEST: usize = 4096;
/// Most columns of a view.
const MOST_COLUMNS: usize = 100;

fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.chars().count()) && !text.chars().any(char::is_control)
}

fn check(view: &SavedView) -> Result<(), ApiError> {
    let bad = |code, detail: String| Err(ApiError::Bad(code, detail));
    if !is_word(&view.name) {
        return bad(
            "name",
            "a view's name is 1 to 63 characters of one line".to_owned(),
        );
    }
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !is_word(&view.page) || !view.page.chars().all(plain) {
        return bad(
            "page",
            format!("`{}` is not a page: use 1 to 63 of a-z, 0-9 and '-'", view.page),
        );
    }
    if view.query.len() > LONGEST {
        return bad("view_query", format!("a view's query is at most {LONGEST} bytes"));
    }
    if let Some(columns) = &view.columns
        && (columns.len() > MOST_COLUMNS || !columns.iter().all(|column| is_word(column)))
    {
        let detail = format!("a view has at most {MOST_COLUMNS} columns, of 1 to 63 characters each");
        return bad("columns", detail);
    }
    Ok(())
}

fn told(view: &SavedView) -> serde_json::Value {
    json!({ "page": view.page, "query": view.query, "columns": view.columns })
}

/// The caller's views, by name.
///
/// # Errors
/// When the store fails.
pub async fn list(app: &App, caller: &Caller) -> Result<Vec<SavedView>, ApiError> {
    let holder = caller.user.clone();
    Ok(app.store.read(move |db| views::of(db, &holder)).await?)
}

/// Saves a view of the caller's, in place of the one of that name.
///
/// # Errors
/// When something of it will not do, or they have as many as can be.
pub async fn put(app: &App, caller: &Caller, view: SavedView) -> Result<SavedView, ApiError> {
    caller.require_whole()?;
    check(&view)?;
    let (by, holder, now) = (caller.actor.clone(), caller.user.clone(), (app.now)());
    let saved = app.store.transaction(move |db| {
        let former = views::get(db, &holder, &view.name)?;
        if former.is_none() && views::count(db, &holder)? >= MOST {
            let detail = format!("`{}` has {MOST} saved views already; delete one first", by.name);
            return Err(ApiError::Conflict("too_many_views", detail));
        }
        views::put(db, &holder, &view)?;
        let object = format!("view/{}/{}", by.name, view.name);
        let change = Change::new("view.put", object, former.as_ref().map(told), Some(told(&view)));
        audit::done(db, &by, now, change)?;
        Ok(view)
    });
    saved.await
}

/// Removes a view of the caller's.
///
/// # Errors
/// When there is none of that name.
pub async fn delete(app: &App, caller: &Caller, name: String) -> Result<(), ApiError> {
    caller.require_whole()?;
    let (by, holder, now) = (caller.actor.clone(), caller.user.clone(), (app.now)());
    let done = app.store.transaction(move |db| {
        let former = views::get(db, &holder, &name)?;
        if !views::delete(db, &holder, &name)? {
            return Err(ApiError::NotFound("saved view", name));
        }
        let object = format!("view/{}/{name}", by.name);
        let change = Change::new("view.delete", object, former.as_ref().map(told), None);
        Ok(audit::done(db, &by, now, change)?)
    });
    done.await
}
