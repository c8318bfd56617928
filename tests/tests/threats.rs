//! docs/THREATS.md against the source: each test it names is there.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{collections::BTreeSet, path::Path};

use slipway_tests::source::rust_files;

/// Adds the names of all functions in the Rust files below a folder.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for file in rust_files(folder).unwrap() {
        let text = std::fs::read_to_string(file).unwrap();
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            if let Some((name, _)) = line.strip_prefix("fn ").and_then(|rest| rest.split_once('(')) {
                names.insert(name.to_owned());
            }
        }
    }
}

#[test]
fn each_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut there = BTreeSet::new();
    for part in [
        "agent",
        "bus",
        "control-plane",
        "edge",
        "protocol",
        "tests",
        "cli",
        "listen",
    ] {
        functions(&root.join(part), &mut there);
    }
    let page = std::fs::read_to_string(root.join("docs/THREATS.md")).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: Vec<&str> = page
        .split("test: ")
        .skip(1)
        .filter_map(|rest| rest.split(|c| !is_name(c)).next())
        .filter(|name| !name.is_empty() && *name != "name")
        .collect();
    assert!(named.len() >= 20, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|name| !there.contains(**name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}
