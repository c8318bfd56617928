//! What callers say of a list's order and of what they look for, and the cursors of an order. A cursor holds the order it
//! is of: one of another order is refused, because its page would begin at no place of this one. A list in its usual order
//! has the cursors it always had.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    error::ApiError,
    store::ordering::{Key, Order, Place},
};

/// Begins the cursor of an order; no name and no id does.
const MARK: char = '~';
/// Most letters that are looked for.
const LONGEST: usize = 255;

/// The order asked for, if it is not the usual one, with the place in `cursor`.
///
/// # Errors
/// `sort` for an order that the list has not, `cursor` for a cursor that is none, or of another order.
pub(super) fn order(
    keys: &'static [Key],
    sort: Option<&str>,
    cursor: &str,
) -> Result<Option<Order>, ApiError> {
    let Some(sort) = sort.filter(|sort| !sort.is_empty()) else {
        if cursor.starts_with(MARK) {
            return Err(foreign());
        }
        return Ok(None);
    };
    let (word, descending) = match sort.strip_prefix('-') {
        Some(word) => (word, true),
        None => (sort, false),
    };
    let Some(key) = keys.iter().find(|key| key.word == word) else {
        let words: Vec<&str> = keys.iter().map(|key| key.word).collect();
        let detail = format!(
            "this list cannot be sorted by `{word}`; it can by {}, with a leading - for the other way round",
            words.join(", ")
        );
        return Err(ApiError::Bad("sort", detail));
    };
    let after = match cursor {
        "" => None,
        cursor => Some(place(key, sort, cursor).ok_or_else(foreign)?),
    };
    Ok(Some(Order {
        key,
        descending,
        after,
    }))
}

fn foreign() -> ApiError {
    let detail = "the cursor is not one of this list in this order: begin without one, and keep `sort` from page to page";
    ApiError::Bad("cursor", detail.to_owned())
}

fn place(key: &Key, sort: &str, cursor: &str) -> Option<Place> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor.strip_prefix(MARK)?).ok()?;
    let (of, value, tie): (String, String, String) = serde_json::from_slice(&bytes).ok()?;
    // PostgreSQL takes no NUL, and a number has to be one.
    let fits = of == sort && key.takes(&value) && !value.contains('\0') && !tie.contains('\0');
    fits.then_some(Place { value, tie })
}

/// The cursor after a row: by its value of what the list is ordered by, and what tells it from others of that value.
pub(super) fn cursor(order: &Order, value: &str, tie: &str) -> String {
    let way = if order.descending { "-" } else { "" };
    let held = serde_json::json!([format!("{way}{}", order.key.word), value, tie]);
    format!("{MARK}{}", URL_SAFE_NO_PAD.encode(held.to_string()))
}

/// What is looked for, if anything.
///
/// # Errors
/// `query` for a text that nothing is as long as.
pub(super) fn words(q: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(q) = q.map(|q| q.trim().to_owned()).filter(|q| !q.is_empty()) else {
        return Ok(None);
    };
    if q.len() > LONGEST {
        let detail = format!("q: at most {LONGEST} bytes can be looked for");
        return Err(ApiError::Bad("query", detail));
    }
    Ok(Some(q))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::machine_lists::KEYS;

    fn code(answer: Result<Option<Order>, ApiError>) -> &'static str {
        match answer {
            Err(ApiError::Bad(code, _)) => code,
            other => panic!("{other:?} is no refusal"),
        }
    }

    #[test]
    fn a_cursor_is_good_for_its_own_order_alone() {
        let first = order(KEYS, Some("-state"), "").unwrap().unwrap();
        assert!(first.descending && first.after.is_none());
        let next = cursor(&first, "available", "m1");
        let second = order(KEYS, Some("-state"), &next).unwrap().unwrap();
        let place = Place {
            value: "available".into(),
            tie: "m1".into(),
        };
        assert_eq!(second.after, Some(place));
        for (sort, cursor) in [
            (Some("state"), next.as_str()),
            (Some("-name"), &next),
            (None, &next),
            (Some(""), &next),
            (Some("-state"), "m1"),
            (Some("-state"), "~x"),
        ] {
            assert_eq!(code(order(KEYS, sort, cursor)), "cursor", "{sort:?} {cursor}");
        }
        let made = order(KEYS, Some("created_at"), "").unwrap().unwrap();
        let forged = cursor(&made, "yesterday", "m1");
        assert_eq!(code(order(KEYS, Some("created_at"), &forged)), "cursor");
        let forged = cursor(&first, "a\0", "m1");
        assert_eq!(code(order(KEYS, Some("-state"), &forged)), "cursor");
        assert_eq!(order(KEYS, None, "m1").unwrap(), None);
        assert_eq!(code(order(KEYS, Some("colour"), "")), "sort");
    }

    #[test]
    fn what_is_looked_for_is_trimmed_and_bounded() {
        assert_eq!(words(Some(" M1 ".into())).unwrap().as_deref(), Some("M1"));
        assert_eq!(words(Some("  ".into())).unwrap(), None);
        assert!(words(Some("x".repeat(256))).is_err());
    }
}
