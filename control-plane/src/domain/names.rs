//! What people may call things. A thing is found by its id, else by its name, so no name may look like an id.

use slipway_protocol::ids::SiteId;
use uuid::Uuid;

use crate::error::ApiError;

/// Refuses a name that has the form of an id (a UUID in any of its spellings): who gave it to a thing of theirs could be taken
/// for another.
///
/// # Errors
/// [`ApiError::Bad`] with the code `name`.
pub fn check_is_no_id(name: &str) -> Result<(), ApiError> {
    if Uuid::parse_str(name).is_ok() {
        let detail = format!("`{name}` has the form of an id; choose another name");
        return Err(ApiError::Bad("name", detail));
    }
    Ok(())
}

/// Checks a name by which something is found, and which stands in addresses: 1 to 63 of a-z, 0-9 and '-', and no id.
///
/// # Errors
/// [`ApiError::Bad`] with the code `name`.
pub fn check(name: &str) -> Result<(), ApiError> {
    if SiteId::new(name).is_err() {
        let detail = format!("`{name}` is not a usable name: use 1 to 63 of a-z, 0-9 and '-'");
        return Err(ApiError::Bad("name", detail));
    }
    check_is_no_id(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_any_spelling_are_no_names() {
        for good in ["node-7", "a", "deadbeef", "0198c5a0-cafe"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in [
            "0198c5a0-6b4e-7a51-9a39-3f1f6e0d2c11",
            "0198c5a06b4e7a519a393f1f6e0d2c11",
            "",
            "Node",
            "a b",
            "-a",
        ] {
            assert!(check(bad).is_err(), "{bad}");
        }
        for bad in [
            "urn:uuid:0198c5a0-6b4e-7a51-9a39-3f1f6e0d2c11",
            "{0198C5A0-6B4E-7A51-9A39-3F1F6E0D2C11}",
        ] {
            assert!(check_is_no_id(bad).is_err(), "{bad}");
        }
    }
}
