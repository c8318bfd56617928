//! YAML as JSON that knows on which line each value stands, so that whatever is wrong can be pointed at. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use yaml_rust2::{
    Event,
    parser::{MarkedEventReceiver, Parser},
    scanner::{Marker, TScalarStyle},
};

/// Something that is wrong in a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}: {what}")]
pub(crate) struct Fault {
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// A file's value, and the line of each place in it, by JSON pointer.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) value: Value,
    lines: BTreeMap<String, usize>,
}

impl Document {
    /// The line of a place, or of the nearest one around it.
    pub(crate) fn line(&self, pointer: &str) -> usize {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return *line;
            }
            match pointer.rsplit_once('/') {
                Some((around, _)) => pointer = around,
                None => return 1,
            }
        }
    }

    /// What is wrong at a place.
    pub(crate) fn fault(&self, pointer: &str, what: impl Into<String>) -> Fault {
        let field = pointer.trim_start_matches('/').replace('/', ".");
        let what = what.into();
        Fault {
            line: self.line(pointer),
            what: if field.is_empty() {
                what
            } else {
                format!("{field}: {what}")
            },
        }
    }
}

/// What is being read.
enum Open {
    List(Vec<Value>),
    /// With the key whose value comes next.
    Map(Map<String, Value>, Option<String>),
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    document: Document,
    documents: usize,
    fault: Option<Fault>,
}

impl Reader {
    fn pointer(&self) -> String {
        let part = |open: &Open| match open {
            Open::List(items) => format!("/{}", items.len()),
            Open::Map(_, key) => format!("/{}", key.as_deref().unwrap_or_default()),
        };
        self.open.iter().map(part).collect()
    }

    fn wrong(&mut self, line: usize, what: &str) {
        let what = what.to_owned();
        self.fault.get_or_insert(Fault { line, what });
    }

    /// A scalar that is a key, if one is expected.
    fn key(&mut self, text: &str, line: usize) -> bool {
        let Some(Open::Map(map, key @ None)) = self.open.last_mut() else {
            return false;
        };
        let twice = map.contains_key(text);
        *key = Some(text.to_owned());
        if twice {
            self.wrong(line, &format!("`{text}` is said twice"));
        }
        true
    }

    fn begun(&mut self, line: usize) {
        let pointer = self.pointer();
        self.document.lines.insert(pointer, line);
    }

    fn ended(&mut self, value: Value) {
        match self.open.last_mut() {
            None => self.document.value = value,
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(map, key)) => {
                if let Some(key) = key.take() {
                    map.insert(key, value);
                }
            }
        }
    }
}

/// A plain scalar as YAML 1.2's core schema reads it; a quoted one is a text.
fn scalar(text: &str, style: TScalarStyle) -> Value {
    if style != TScalarStyle::Plain {
        return text.into();
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        _ => text.parse::<i64>().map_or_else(|_| text.into(), Value::from),
    }
}

impl MarkedEventReceiver for Reader {
    fn on_event(&mut self, event: Event, mark: Marker) {
        let line = mark.line();
        match event {
            Event::DocumentStart => {
                self.documents += 1;
                if self.documents > 1 {
                    self.wrong(line, "there is a second document; one file is one document");
                }
            }
            Event::Alias(_) => self.wrong(line, "anchors and aliases are not understood"),
            Event::Scalar(text, style, _, tag) => {
                if tag.is_some() {
                    self.wrong(line, "tags are not understood");
                }
                if !self.key(&text, line) {
                    self.begun(line);
                    self.ended(scalar(&text, style));
                } else {
                    self.begun(line);
                }
            }
            Event::SequenceStart(..) => {
                self.begun(line);
                self.open.push(Open::List(Vec::new()));
            }
            Event::MappingStart(..) => {
                if matches!(self.open.last(), Some(Open::Map(_, None))) {
                    self.wrong(line, "a key is a text");
                }
                self.begun(line);
                self.open.push(Open::Map(Map::new(), None));
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List(items)) => self.ended(items.into()),
                Some(Open::Map(map, _)) => self.ended(map.into()),
                None => {}
            },
            _ => {}
        }
    }
}

/// Reads a document.
///
/// # Errors
/// What is wrong first.
pub(crate) fn read(text: &str) -> Result<Document, Fault> {
    let mut reader = Reader::default();
    let mut parser = Parser::new_from_str(text);
    let loaded = parser.load(&mut reader, true);
    loaded.map_err(|e| Fault {
        line: e.marker().line(),
        what: e.info().to_owned(),
    })?;
    match reader.fault {
        Some(fault) => Err(fault),
        None => Ok(reader.document),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_read_with_their_lines() {
        let text = "sites:\n  - id: bj-1\n    discover: true\n    lease: 3600\n    name: \"007\"\n  - {id: bj-2, gateway: ~}\n";
        let document = read(text).unwrap();
        let expected = json!({ "sites": [
            { "id": "bj-1", "discover": true, "lease": 3600, "name": "007" }, { "id": "bj-2", "gateway": null } ] });
        assert_eq!(document.value, expected);
        assert_eq!(document.line("/sites/0/lease"), 4);
        assert_eq!(document.line("/sites/1/gateway"), 6);
        assert_eq!(document.line("/sites/1/none/at/all"), 6);
        assert_eq!(
            document.fault("/sites/0/lease", "no").to_string(),
            "4: sites.0.lease: no"
        );
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        for (text, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: &x 1\nb: *x\n", 2),
            ("a: [1\nb: 2\n", 2),
            ("a: 1\n---\nb: 2\n", 2),
            ("a: 1\nb: !tag 2\n", 2),
        ] {
            assert_eq!(read(text).unwrap_err().line, line, "{text}");
        }
    }
}
