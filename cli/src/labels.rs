//! Labels as they stand on a command line: NAME=VALUE. Pure.

use serde_json::{Map, Value};

/// A label's name and value.
pub(crate) type Pair = (String, String);

/// Reads `NAME=VALUE`.
pub(crate) fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}

/// Labels as the API reads them.
pub(crate) fn object(labels: Vec<Pair>) -> Value {
    let labels = labels.into_iter().map(|(name, value)| (name, Value::from(value)));
    Value::Object(labels.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read() {
        assert_eq!(pair("rack=a=1"), Ok(("rack".into(), "a=1".into())));
        assert!(pair("rack").is_err() && pair("=x").is_err());
        assert_eq!(
            object(vec![pair("a=1").unwrap()]),
            serde_json::json!({ "a": "1" })
        );
    }
}
