//! docs/FAILURES.md against the source: it has each code by which a job can fail, no other one, and says the truth of them.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use slipway_control_plane::domain::faults::blamed;
use slipway_protocol::{ids::StepId, report::Failure};
use slipway_tests::source::rust_files;

/// Where a job's failure is made.
const MAKERS: [&str; 12] = [
    "agent/src/fetch.rs",
    "agent/src/run.rs",
    "agent/src/steps",
    "control-plane/src/domain/edges.rs",
    "control-plane/src/domain/jobs.rs",
    "control-plane/src/domain/offline/adopt.rs",
    "control-plane/src/workflow/overdue.rs",
    "edge/src/bmc/error.rs",
    "edge/src/images.rs",
    "edge/src/runner",
    "protocol/src/inventory.rs",
    "protocol/src/report.rs",
];

/// What stands before a code, without white space, and whether the step is tried again, if that says so.
const BEFORE: [(&str, Option<bool>); 6] = [
    ("passing(\"", Some(true)),
    ("lasting(\"", Some(false)),
    ("failure(\"", None),
    ("code:\"", None),
    ("PASSWORD_REFUSED:&str=\"", None),
    ("end_all_at(db,id,(\"", None),
];

/// The word up to the next quotation mark, if it can be a code.
fn word(rest: &str) -> Option<&str> {
    let (word, _) = rest.split_once('"')?;
    let fits = |c: char| c.is_ascii_lowercase() || c == '_';
    (!word.is_empty() && word.chars().all(fits)).then_some(word)
}

/// The codes that a source file makes, each with what it says of a further try.
fn made_by(source: &str) -> Vec<(String, Option<bool>)> {
    let product = source.split("#[cfg(test)]").next().unwrap();
    let dense: String = product.chars().filter(|c| !c.is_whitespace()).collect();
    let mut made = Vec::new();
    for (before, again) in BEFORE {
        made.extend(
            dense
                .split(before)
                .skip(1)
                .filter_map(|rest| Some((word(rest)?.to_owned(), again))),
        );
    }
    for body in dense.split("fncode(&self)->&'staticstr{").skip(1) {
        let body = body.split("}}").next().unwrap();
        made.extend(
            body.split("=>\"")
                .skip(1)
                .filter_map(|rest| Some((word(rest)?.to_owned(), None))),
        );
    }
    made
}

/// A line of the page's tables.
struct Told {
    again: String,
    blames: Option<String>,
}

fn told(page: &str) -> BTreeMap<String, Told> {
    let mut told = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{line}");
        assert!(cells[3..].iter().all(|cell| !cell.is_empty()), "{line}");
        for code in cells[0].split(", ") {
            let line = Told {
                again: cells[1].to_owned(),
                blames: Some(cells[2].trim_matches('`').to_owned()).filter(|blames| !blames.is_empty()),
            };
            let twice = told.insert(code.trim_matches('`').to_owned(), line);
            assert!(twice.is_none(), "{code} stands twice");
        }
    }
    told
}

#[test]
fn each_code_by_which_a_job_fails_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut made: BTreeMap<String, BTreeSet<Option<bool>>> = BTreeMap::new();
    for maker in MAKERS {
        let files = rust_files(&root.join(maker)).unwrap();
        let read = |file: &PathBuf| made_by(&std::fs::read_to_string(file).unwrap());
        let here: Vec<_> = files.iter().flat_map(read).collect();
        assert!(!here.is_empty(), "no failure is made in {maker} any more");
        for (code, again) in here {
            made.entry(code).or_default().insert(again);
        }
    }
    let told = told(&std::fs::read_to_string(root.join("docs/FAILURES.md")).unwrap());
    let codes: BTreeSet<&String> = made.keys().collect();
    assert_eq!(codes, told.keys().collect(), "made (left) against told (right)");
    for (code, told) in &told {
        let failure = Failure {
            code: code.clone(),
            message: String::new(),
            transient: false,
        };
        let step: StepId = "inventory".parse().unwrap();
        assert_eq!(blamed(&failure, Some(&step)), told.blames.as_deref(), "{code}");
        // A code that several places make may be either; one place alone says which.
        let said: Vec<bool> = made[code].iter().copied().flatten().collect();
        if let ([again], 1) = (said.as_slice(), made[code].len()) {
            assert_eq!(told.again == "yes", *again, "{code}");
        }
    }
}
