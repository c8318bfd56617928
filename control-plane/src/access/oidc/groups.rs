//! Which roles the groups at the provider stand for. Pure.

use std::{collections::BTreeSet, str::FromStr};

use serde_json::{Map, Value};

use crate::access::permission::Scope;

/// A role in a scope.
pub type Given = (String, Scope);

/// Who is in `group` has `role` in `scope`; written `GROUP=ROLE@SCOPE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The group, as the provider names it.
    pub group: String,
    /// The role.
    pub role: String,
    /// Where it holds.
    pub scope: Scope,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!("`{text}` is not GROUP=ROLE@SCOPE, as in ops=operator@global or web=member@project:web")
        };
        // From the right: names of groups may hold anything, as cn=ops,dc=example does.
        let (group, given) = text.rsplit_once('=').ok_or_else(bad)?;
        let (role, scope) = given.split_once('@').ok_or_else(bad)?;
        if group.is_empty() || role.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            group: group.to_owned(),
            role: role.to_owned(),
            scope: scope.parse()?,
        })
    }
}

/// The groups that a claim lists; `None` if it is not there. One group may stand alone, without a list.
#[must_use]
pub fn listed(claims: &Map<String, Value>, claim: &str) -> Option<BTreeSet<String>> {
    match claims.get(claim)? {
        Value::String(one) => Some(BTreeSet::from([one.clone()])),
        Value::Array(many) => Some(
            many.iter()
                .filter_map(|group| group.as_str().map(str::to_owned))
                .collect(),
        ),
        _ => None,
    }
}

/// The roles that groups stand for.
#[must_use]
pub fn given(rules: &[Rule], groups: &BTreeSet<String>) -> BTreeSet<Given> {
    rules
        .iter()
        .filter(|rule| groups.contains(&rule.group))
        .map(|rule| (rule.role.clone(), rule.scope.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_stand_for_roles() {
        let rules: Vec<Rule> = [
            "ops=operator@global",
            "cn=web,dc=x=member@project:web",
            "ops=viewer@site:bj-1",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        assert_eq!(rules[1].group, "cn=web,dc=x");
        let groups = BTreeSet::from(["ops".to_owned(), "other".to_owned()]);
        let roles: Vec<String> = given(&rules, &groups).into_iter().map(|(role, _)| role).collect();
        assert_eq!(roles, ["operator", "viewer"]);
        for bad in [
            "",
            "ops",
            "ops=operator",
            "=operator@global",
            "ops=@global",
            "ops=operator@moon",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_claim_lists_groups_or_names_one() {
        let claims = json!({ "groups": ["a", 1, "b"], "role": "c", "odd": 1 });
        let claims = claims.as_object().unwrap();
        assert_eq!(listed(claims, "groups").unwrap().len(), 2);
        assert_eq!(listed(claims, "role").unwrap().len(), 1);
        assert!(listed(claims, "odd").is_none() && listed(claims, "none").is_none());
    }
}
