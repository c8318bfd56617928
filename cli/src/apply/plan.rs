//! What is to be done so that the control plane is as a file says. Pure: what is there is an argument. A field that a file does
//! not name stays as it is, within objects as well; a list is meant whole.

use serde_json::{Map, Value, json};

use super::{
    kinds::{Kind, Wanted},
    machines, reservations,
};

/// A field that is not as it should be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Difference {
    pub(crate) field: String,
    pub(crate) before: Value,
    pub(crate) after: Value,
}

/// What is to be done to one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Create,
    Update(Vec<Difference>),
    Unchanged,
    Delete,
}

/// One object, and what is to be done to it.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    pub(crate) change: Change,
    /// What the file says of it; nothing of one that is to go.
    pub(crate) wanted: Option<Wanted>,
    /// What is there.
    pub(crate) current: Option<Value>,
}

/// A list of objects `{name_field, value_field}` as a map, as files have members and quotas.
fn as_map(list: &Value, (name, value): (&str, &str)) -> Value {
    let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let pair = |item: &Value| Some((item[name].as_str()?.to_owned(), item[value].clone()));
    Value::Object(items.iter().filter_map(pair).collect::<Map<_, _>>())
}

/// A field of an object as files have it.
pub(crate) fn shown(field: &str, current: &Value) -> Value {
    match field {
        "members" => as_map(&current[field], ("user", "role")),
        "quotas" => as_map(&current[field], ("machine_type", "machines")),
        "machine_type" => machines::pinned(current),
        "shelved" => machines::shelved(current),
        _ => current[field].clone(),
    }
}

/// Whether what is there has all that is wanted.
fn covers(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| covers(there.get(key).unwrap_or(&Value::Null), wanted)),
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(t, w)| covers(t, w))
        }
        (there, wanted) => there == wanted,
    }
}

/// Whether two lists hold the same words, in whatever order and case.
fn same_words(there: &Value, wanted: &Value) -> bool {
    let words = |list: &Value| {
        let list = list.as_array()?;
        let mut words: Vec<String> = list
            .iter()
            .filter_map(|w| Some(w.as_str()?.to_lowercase()))
            .collect();
        words.sort();
        Some(words)
    };
    words(there) == words(wanted)
}

/// A value without what says nothing: nulls, and lists and objects that are empty.
fn bare(value: &Value) -> Value {
    let says = |value: &Value| {
        !(value.is_null()
            || value.as_object().is_some_and(Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty))
    };
    match value {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), bare(value)));
            Value::Object(fields.filter(|(_, value)| says(value)).collect())
        }
        // How many there are in a list says something, whatever they are.
        Value::Array(items) => items.iter().map(bare).collect(),
        other => other.clone(),
    }
}

/// A value of a file as the API would show it: without what it never shows.
fn public(field: &str, wanted: &Value) -> Value {
    if field == "reservations" {
        return reservations::plain(wanted);
    }
    let mut value = wanted.clone();
    if let (true, Some(bmc)) = (field == "bmc", value.as_object_mut()) {
        bmc.remove("password_file");
    }
    value
}

/// What of an object is not as a file says.
pub(crate) fn differences(wanted: &Wanted, current: &Value) -> Vec<Difference> {
    let named = wanted.fields.iter();
    let named = named.filter(|(field, _)| *field != wanted.kind.key && *field != "secret_file");
    let differs = |(field, value): (&String, &Value)| {
        let (before, after) = (shown(field, current), public(field, value));
        let words = matches!(
            field.as_str(),
            "permissions" | "kinds" | "macs" | "webhooks" | "emails"
        ) || (field == "sites" && wanted.kind.word == "webhooks");
        let same = if words {
            same_words(&before, &after)
        } else if field == "rules" {
            // Meant whole: a rule that is left out is no rule.
            bare(&before) == bare(&after)
        } else {
            covers(&before, &after)
        };
        (!same).then(|| Difference {
            field: field.clone(),
            before,
            after,
        })
    };
    named.filter_map(differs).collect()
}

/// What is to be done about what a file wants, and about what is there besides, of the kinds to be `pruned`.
pub(crate) fn plan(wanted: &[Wanted], there: &[(Kind, Vec<Value>)], pruned: &[String]) -> Vec<Step> {
    let of_kind = |kind: Kind| {
        let found = there.iter().find(|(of, _)| *of == kind);
        found.map(|(_, items)| items.as_slice()).unwrap_or_default()
    };
    let step = |one: &Wanted| {
        let current = of_kind(one.kind)
            .iter()
            .find(|item| item[one.kind.key] == one.key.as_str());
        let change = match current.map(|current| differences(one, current)) {
            None => Change::Create,
            Some(none) if none.is_empty() => Change::Unchanged,
            Some(some) => Change::Update(some),
        };
        Step {
            kind: one.kind,
            key: one.key.clone(),
            change,
            wanted: Some(one.clone()),
            current: current.cloned(),
        }
    };
    let mut steps: Vec<Step> = wanted.iter().map(step).collect();
    for (kind, items) in there
        .iter()
        .rev()
        .filter(|(kind, _)| pruned.iter().any(|word| word == kind.word))
    {
        let stays = |item: &&Value| {
            let built_in = item["built_in"] == true || (kind.word == "projects" && item["id"] == "default");
            built_in
                || wanted
                    .iter()
                    .any(|one| one.kind == *kind && item[kind.key] == one.key.as_str())
        };
        steps.extend(items.iter().filter(|item| !stays(item)).map(|item| Step {
            kind: *kind,
            key: item[kind.key].as_str().unwrap_or_default().to_owned(),
            change: Change::Delete,
            wanted: None,
            current: Some(item.clone()),
        }));
    }
    steps
}

/// A plan as people read it.
pub(crate) fn text(steps: &[Step]) -> String {
    let mut text = String::new();
    let mut counts = [0; 4];
    for step in steps {
        let (n, word) = match step.change {
            Change::Create => (0, "create"),
            Change::Update(_) => (1, "update"),
            Change::Delete => (2, "delete"),
            Change::Unchanged => (3, "unchanged"),
        };
        counts[n] += 1;
        text.push_str(&format!("{word:9} {} {}\n", step.kind.one, step.key));
        if let Change::Update(differences) = &step.change {
            for Difference { field, before, after } in differences {
                text.push_str(&format!("            {field}: {before} -> {after}\n"));
            }
        }
    }
    let [create, update, delete, unchanged] = counts;
    text.push_str(&format!(
        "{create} to create, {update} to update, {delete} to delete, {unchanged} unchanged\n"
    ));
    text
}

/// Two objects in one: what the second names takes the place of what the first has.
pub(crate) fn overlaid(under: &Value, over: &Value) -> Value {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            let mut both = under.clone();
            both.extend(over.clone());
            both.into()
        }
        _ => over.clone(),
    }
}

/// A plan as JSON.
pub(crate) fn as_json(steps: &[Step]) -> Value {
    let one = |step: &Step| {
        let (change, fields) = match &step.change {
            Change::Create => ("create", vec![]),
            Change::Delete => ("delete", vec![]),
            Change::Unchanged => ("unchanged", vec![]),
            Change::Update(differences) => {
                let field =
                    |d: &Difference| json!({ "field": d.field, "before": d.before, "after": d.after });
                ("update", differences.iter().map(field).collect())
            }
        };
        json!({ "kind": step.kind.one, "name": step.key, "change": change, "fields": fields })
    };
    json!({ "items": steps.iter().map(one).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{kinds, yaml};

    fn steps(text: &str, there: &[(&str, Value)], pruned: &[&str]) -> Vec<Step> {
        let wanted = kinds::wanted(&yaml::read(text).unwrap()).unwrap();
        let list = |kind: Kind| {
            let found = there.iter().find(|(word, _)| *word == kind.word);
            (
                kind,
                found
                    .and_then(|(_, items)| items.as_array().cloned())
                    .unwrap_or_default(),
            )
        };
        let pruned: Vec<String> = pruned.iter().map(|word| (*word).to_owned()).collect();
        plan(&wanted, &kinds::KINDS.map(list), &pruned)
    }

    #[test]
    fn what_a_file_does_not_name_stays() {
        let there = json!([{ "id": "bj-1", "description": "old", "discover": true,
            "subnets": [{ "network": "192.0.2.0/24", "gateway": null, "lease_seconds": 3600 }], "limits": { "max_installs": 100, "max_failures": 10 } }]);
        let same =
            "sites:\n  - id: bj-1\n    subnets: [{network: 192.0.2.0/24}]\n    limits: {max_installs: 100}\n";
        assert_eq!(
            steps(same, &[("sites", there.clone())], &[])[0].change,
            Change::Unchanged
        );
        let other =
            "sites:\n  - id: bj-1\n    description: new\n    limits: {max_installs: 5}\n  - id: bj-2\n";
        let planned = steps(other, &[("sites", there)], &[]);
        let Change::Update(differences) = &planned[0].change else {
            panic!("{planned:?}")
        };
        assert_eq!(differences.len(), 2);
        assert_eq!(planned[1].change, Change::Create);
        let text = text(&planned);
        assert!(text.contains("description: \"old\" -> \"new\""), "{text}");
        assert!(
            text.ends_with("1 to create, 1 to update, 0 to delete, 0 unchanged\n"),
            "{text}"
        );
        let merged = overlaid(&json!({ "a": 1, "b": 2 }), &json!({ "b": 3 }));
        assert_eq!(merged, json!({ "a": 1, "b": 3 }));
    }

    #[test]
    fn members_quotas_and_words_are_compared_as_they_are_meant() {
        let there = json!([{ "id": "web", "description": "", "members": [{ "user": "bob", "role": "owner" }],
            "quotas": [{ "machine_type": "*", "machines": 5 }] }]);
        let same = "projects:\n  - id: web\n    members: {bob: owner}\n    quotas: {'*': 5, big: ~}\n";
        assert_eq!(
            steps(same, &[("projects", there)], &[])[0].change,
            Change::Unchanged
        );
        let there = json!([{ "id": "m", "name": "m1", "macs": ["52:54:00:00:00:0a"], "bmc": { "address": "192.0.2.9:623", "username": "a" } }]);
        let same = "machines:\n  - name: m1\n    macs: ['52:54:00:00:00:0A']\n    bmc: {address: '192.0.2.9:623', password_file: x}\n    site: ~\n    firmware: ~\n";
        assert_eq!(
            steps(same, &[("machines", there)], &[])[0].change,
            Change::Unchanged
        );
    }

    #[test]
    fn only_listed_kinds_lose_what_a_file_does_not_have() {
        let there = [
            ("projects", json!([{ "id": "default" }, { "id": "old" }])),
            ("sites", json!([{ "id": "bj-9" }])),
            ("roles", json!([{ "name": "admin", "built_in": true }])),
        ];
        let planned = steps(
            "projects: []\nroles: []\nsites: []\n",
            &there,
            &["projects", "roles"],
        );
        let names: Vec<&str> = planned.iter().map(|step| step.key.as_str()).collect();
        assert_eq!(names, ["old"], "not what is built in, nor what is not listed");
    }
}
