//! What a file may say: the kinds of objects, their fields, and how each stands in the API. A field that is not here is refused.

use serde_json::{Map, Value};

use super::yaml::{Document, Fault};

/// A kind of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its key in a file, and its name for `--prune`.
    pub(crate) word: &'static str,
    /// One of it, for people.
    pub(crate) one: &'static str,
    /// Its collection in the API.
    pub(crate) path: &'static str,
    /// The field that tells its objects apart.
    pub(crate) key: &'static str,
    /// The field by which the API addresses one.
    pub(crate) address: &'static str,
    /// Its other fields.
    pub(crate) fields: &'static [&'static str],
    /// Those that must be there.
    pub(crate) required: &'static [&'static str],
}

/// Roles come first, since members hold them, and types before machines and quotas that name them; rules come last, since they
/// name webhooks.
pub(crate) const KINDS: [Kind; 7] = [
    Kind {
        word: "roles",
        one: "role",
        path: "/api/v1/roles",
        key: "name",
        address: "name",
        fields: &["permissions"],
        required: &["permissions"],
    },
    Kind {
        word: "machine_types",
        one: "machine type",
        path: "/api/v1/machine-types",
        key: "name",
        address: "name",
        fields: &["description", "priority", "rules"],
        required: &["rules"],
    },
    Kind {
        word: "sites",
        one: "site",
        path: "/api/v1/sites",
        key: "id",
        address: "id",
        fields: &[
            "description",
            "discover",
            "subnets",
            "dhcp_relays",
            "limits",
            "offline",
            "reservations",
        ],
        required: &[],
    },
    Kind {
        word: "machines",
        one: "machine",
        path: "/api/v1/machines",
        key: "name",
        address: "id",
        fields: &[
            "site",
            "macs",
            "firmware",
            "address",
            "bmc",
            "labels",
            "machine_type",
            "shelved",
        ],
        required: &["site", "macs", "firmware"],
    },
    Kind {
        word: "projects",
        one: "project",
        path: "/api/v1/projects",
        key: "id",
        address: "id",
        fields: &["description", "members", "quotas"],
        required: &[],
    },
    Kind {
        word: "webhooks",
        one: "webhook",
        path: "/api/v1/webhooks",
        key: "url",
        address: "id",
        fields: &["kinds", "sites", "active", "secret_file"],
        required: &[],
    },
    Kind {
        word: "alert_rules",
        one: "alert rule",
        path: "/api/v1/alert-rules",
        key: "name",
        address: "id",
        fields: &["condition", "webhooks", "emails", "active"],
        required: &["condition"],
    },
];

/// Fields of a machine's BMC.
const BMC: [&str; 4] = ["driver", "address", "username", "password_file"];

/// An object that a file wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) kind: Kind,
    /// Where it stands in the file.
    pub(crate) pointer: String,
    /// What tells it apart.
    pub(crate) key: String,
    pub(crate) fields: Map<String, Value>,
}

/// What a file wants, in the order of [`KINDS`].
///
/// # Errors
/// The first field that is wrong, with its line.
pub(crate) fn wanted(document: &Document) -> Result<Vec<Wanted>, Fault> {
    let Value::Object(top) = &document.value else {
        return Err(document.fault("", "a file is a map of kinds: sites, machines, projects, .."));
    };
    if let Some(other) = top.keys().find(|key| !KINDS.iter().any(|kind| kind.word == *key)) {
        let words = KINDS.map(|kind| kind.word).join(", ");
        return Err(document.fault(
            &format!("/{other}"),
            format!("there is no such kind; there are {words}"),
        ));
    }
    let mut found: Vec<Wanted> = Vec::new();
    for kind in KINDS {
        let list = match top.get(kind.word) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => list,
            Some(_) => return Err(document.fault(&format!("/{}", kind.word), "a list is expected")),
        };
        for (n, item) in list.iter().enumerate() {
            let pointer = format!("/{}/{n}", kind.word);
            let one = object(document, kind, (&pointer, item))?;
            if found
                .iter()
                .any(|other| other.kind == kind && other.key == one.key)
            {
                return Err(document.fault(&pointer, format!("`{}` is in the list twice", one.key)));
            }
            found.push(one);
        }
    }
    Ok(found)
}

fn object(document: &Document, kind: Kind, (pointer, item): (&str, &Value)) -> Result<Wanted, Fault> {
    let Value::Object(fields) = item else {
        return Err(document.fault(
            pointer,
            format!("a map of the fields of a {} is expected", kind.one),
        ));
    };
    let at = |field: &str| format!("{pointer}/{field}");
    let known = |field: &str| field == kind.key || kind.fields.contains(&field);
    if let Some(other) = fields.keys().find(|field| !known(field)) {
        let words = kind.fields.join(", ");
        let what = format!(
            "a {} has no such field; there are {}, {words}",
            kind.one, kind.key
        );
        return Err(document.fault(&at(other), what));
    }
    let Some(key) = fields.get(kind.key).and_then(Value::as_str) else {
        return Err(document.fault(pointer, format!("`{}` is missing or no text", kind.key)));
    };
    if let Some(missing) = kind.required.iter().find(|field| !fields.contains_key(**field)) {
        return Err(document.fault(pointer, format!("`{missing}` is missing")));
    }
    if let Some(Value::Object(bmc)) = fields.get("bmc").filter(|_| kind.word == "machines") {
        let other = bmc.keys().find(|field| !BMC.contains(&field.as_str()));
        match other.map(String::as_str) {
            Some("password") => {
                let what = "a secret does not stand in this file: give `password_file`, a file that only you can read";
                return Err(document.fault(&at("bmc/password"), what));
            }
            Some(other) => {
                let what = format!("a BMC has no such field; there are {}", BMC.join(", "));
                return Err(document.fault(&at(&format!("bmc/{other}")), what));
            }
            None => {}
        }
    }
    Ok(Wanted {
        kind,
        pointer: pointer.to_owned(),
        key: key.to_owned(),
        fields: fields.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::yaml;

    fn told(text: &str) -> String {
        wanted(&yaml::read(text).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn each_fault_names_its_line_and_field() {
        for (text, expected) in [
            ("planets: []\n", "1: planets: there is no such kind"),
            ("sites:\n  id: x\n", "2: sites: a list is expected"),
            (
                "sites:\n  - id: x\n    colour: red\n",
                "3: sites.0.colour: a site has no such field",
            ),
            ("sites:\n  - description: x\n", "2: sites.0: `id` is missing"),
            (
                "sites:\n  - id: x\n  - id: x\n",
                "3: sites.1: `x` is in the list twice",
            ),
            ("machines:\n  - name: m1\n", "2: machines.0: `site` is missing"),
            (
                "machines:\n  - name: m1\n    site: x\n    macs: []\n    firmware: bios\n    bmc:\n      password: hunter2\n",
                "7: machines.0.bmc.password: a secret does not stand in this file",
            ),
        ] {
            let said = told(text);
            assert!(said.starts_with(expected), "{said}");
            assert!(!said.contains("hunter2"));
        }
    }
}
