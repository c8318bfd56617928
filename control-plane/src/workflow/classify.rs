//! Which type a machine is of: pure. A type has rules about the hardware an agent found and about what operators say of the
//! machine; the fitting type of the highest priority is the machine's. Knows no database and no request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use slipway_protocol::inventory::{Disk, DiskKind, FirmwareKind, Inventory};
use utoipa::ToSchema;

/// From least to most, both included; what is left out has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Range {
    /// At least so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u64>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

impl Range {
    fn holds(self, n: u64) -> bool {
        self.min.is_none_or(|min| n >= min) && self.max.is_none_or(|max| n <= max)
    }

    fn is_range(self) -> bool {
        self.min.zip(self.max).is_none_or(|(min, max)| min <= max)
    }
}

/// Disks a machine must have: so many of this kind and size.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiskCount {
    /// `nvme`, `ssd` or `hdd`; of any kind if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub kind: Option<DiskKind>,
    /// Size of each in bytes.
    pub bytes: Range,
    /// How many; at least one if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<Range>,
}

impl DiskCount {
    fn holds(&self, disks: &[Disk]) -> bool {
        let fits = |disk: &&Disk| {
            self.kind.is_none_or(|kind| kind == disk.kind) && self.bytes.holds(disk.size_bytes)
        };
        let usual = Range {
            min: Some(1),
            max: None,
        };
        self.count
            .unwrap_or(usual)
            .holds(disks.iter().filter(fits).count() as u64)
    }
}

/// What a machine of a type is like. All that is given must hold. Without any rule no machine fits: such a type is given
/// by hand. A rule about hardware fits no machine that no agent has looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// SMBIOS manufacturer; `*` stands for any text, `?` for any character, upper and lower case are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manufacturer: Option<String>,
    /// SMBIOS product name, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// CPU model name, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Logical processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<Range>,
    /// Memory in bytes, as the kernel sees it: some less than what is fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Range>,
    /// Disks; each entry must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskCount>,
    /// Network ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nics: Option<Range>,
    /// `bios` or `uefi`, as the machine was enrolled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub firmware: Option<FirmwareKind>,
    /// Labels the machine must have, with these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What is known of a machine.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// How it boots.
    pub firmware: FirmwareKind,
    /// What operators say of it.
    pub labels: &'a BTreeMap<String, String>,
    /// What an agent found.
    pub inventory: Option<&'a Inventory>,
}

/// Rules that make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// A range whose end lies before its beginning.
    #[error("the range of `{0}` ends before it begins")]
    Range(&'static str),
    /// More than anybody needs.
    #[error("`{0}` holds more than {1}")]
    Long(&'static str, usize),
}

/// Most entries of a list, and most characters of a text, in rules.
const MOST_ENTRIES: usize = 32;
const MOST_CHARACTERS: usize = 200;

impl Rules {
    /// Whether they make sense.
    ///
    /// # Errors
    /// When a range is upside down, or something is too long.
    pub fn check(&self) -> Result<(), RulesError> {
        let ranges = [
            ("threads", self.threads),
            ("memory_bytes", self.memory_bytes),
            ("nics", self.nics),
        ];
        let ranges = ranges
            .into_iter()
            .filter_map(|(name, range)| Some((name, range?)));
        let of_disks = self.disks.iter().flat_map(|d| [Some(d.bytes), d.count]).flatten();
        let upside_down = ranges
            .chain(of_disks.map(|range| ("disks", range)))
            .find(|(_, r)| !r.is_range());
        if let Some((name, _)) = upside_down {
            return Err(RulesError::Range(name));
        }
        for (name, length) in [("disks", self.disks.len()), ("labels", self.labels.len())] {
            if length > MOST_ENTRIES {
                return Err(RulesError::Long(name, MOST_ENTRIES));
            }
        }
        let texts = [
            ("manufacturer", &self.manufacturer),
            ("product", &self.product),
            ("cpu", &self.cpu),
        ];
        for (name, text) in texts {
            if text
                .as_ref()
                .is_some_and(|text| text.chars().count() > MOST_CHARACTERS)
            {
                return Err(RulesError::Long(name, MOST_CHARACTERS));
            }
        }
        Ok(())
    }

    fn about_hardware(&self, found: &Inventory) -> bool {
        let like = |pattern: &Option<String>, text: &Option<String>| {
            pattern
                .as_ref()
                .is_none_or(|p| text.as_ref().is_some_and(|text| glob(p, text)))
        };
        let within = |range: Option<Range>, n: u64| range.is_none_or(|range| range.holds(n));
        like(&self.manufacturer, &found.manufacturer)
            && like(&self.product, &found.product)
            && like(&self.cpu, &found.cpu)
            && within(self.threads, found.threads.into())
            && within(self.memory_bytes, found.memory_bytes)
            && within(self.nics, found.nics.len() as u64)
            && self.disks.iter().all(|disks| disks.holds(&found.disks))
    }

    /// Whether a machine is like that.
    #[must_use]
    pub fn fit(&self, machine: Known<'_>) -> bool {
        let said = Self {
            firmware: self.firmware,
            labels: self.labels.clone(),
            ..Self::default()
        };
        if *self == Self::default() {
            return false;
        }
        let labels = |(name, value): (&String, &String)| machine.labels.get(name) == Some(value);
        self.firmware.is_none_or(|firmware| firmware == machine.firmware)
            && self.labels.iter().all(labels)
            && (*self == said || machine.inventory.is_some_and(|found| self.about_hardware(found)))
    }
}

/// Whether a text is like a pattern with `*` and `?`; case does not count.
fn glob(pattern: &str, text: &str) -> bool {
    let lower = |text: &str| text.chars().flat_map(char::to_lowercase).collect::<Vec<char>>();
    let (pattern, text) = (lower(pattern), lower(text));
    let (mut p, mut t) = (0, 0);
    // The last star, and where the text it stands for ends as far as tried.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => (p, t) = (p + 1, t + 1),
            _ => {
                let Some((at, end)) = star else { return false };
                star = Some((at, end + 1));
                (p, t) = (at + 1, end + 1);
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// A type as the choice sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its rank: the highest that fits wins.
    pub priority: i64,
    /// What its machines are like.
    pub rules: &'a Rules,
}

/// The type of a machine; none if none fits.
///
/// # Errors
/// When several of the highest priority fit; the text names them.
pub fn classify<'a>(types: &[Candidate<'a>], machine: Known<'_>) -> Result<Option<&'a str>, String> {
    let fitting: Vec<&Candidate<'a>> = types.iter().filter(|t| t.rules.fit(machine)).collect();
    let Some(highest) = fitting.iter().map(|t| t.priority).max() else {
        return Ok(None);
    };
    let mut best: Vec<&str> = fitting
        .iter()
        .filter(|t| t.priority == highest)
        .map(|t| t.name)
        .collect();
    best.sort_unstable();
    match best[..] {
        [one] => Ok(Some(one)),
        _ => Err(format!("matches {}", best.join(" and "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(text: Value) -> Rules {
        serde_json::from_value(text).unwrap()
    }

    fn found() -> Inventory {
        serde_json::from_value(json!({
            "firmware": "uefi", "manufacturer": "Dell Inc.", "product": "PowerEdge R660", "threads": 64,
            "cpu": "Intel(R) Xeon(R) Gold 6430", "memory_bytes": 270_000_000_000_u64,
            "nics": [{ "name": "a", "mac": "02:00:00:00:00:01" }, { "name": "b", "mac": "02:00:00:00:00:02" }],
            "disks": [
                { "size_bytes": 480_000_000_000_u64, "kind": "ssd" }, { "size_bytes": 480_000_000_000_u64, "kind": "ssd" },
                { "size_bytes": 3_840_000_000_000_u64, "kind": "nvme" },
            ],
        }))
        .unwrap()
    }

    fn labels() -> BTreeMap<String, String> {
        BTreeMap::from([("rack".to_owned(), "a1".to_owned())])
    }

    #[test]
    fn each_rule_counts() {
        let (labels, found) = (labels(), found());
        let known = |inventory| Known {
            firmware: FirmwareKind::Uefi,
            labels: &labels,
            inventory,
        };
        let cases = [
            (json!({}), false),
            (json!({ "manufacturer": "dell*" }), true),
            (json!({ "manufacturer": "dell" }), false),
            (json!({ "product": "PowerEdge R?60" }), true),
            (json!({ "cpu": "*gold 6430*" }), true),
            (json!({ "cpu": "*platinum*" }), false),
            (json!({ "threads": { "min": 64, "max": 64 } }), true),
            (json!({ "threads": { "max": 63 } }), false),
            (json!({ "memory_bytes": { "min": 256_000_000_000_u64 } }), true),
            (json!({ "nics": { "min": 3 } }), false),
            (
                json!({ "disks": [{ "kind": "ssd", "count": { "min": 2, "max": 2 } }, { "kind": "nvme" }] }),
                true,
            ),
            (json!({ "disks": [{ "kind": "hdd" }] }), false),
            (
                json!({ "disks": [{ "kind": "hdd", "count": { "max": 0 } }] }),
                true,
            ),
            (
                json!({ "disks": [{ "bytes": { "min": 4_000_000_000_000_u64 } }] }),
                false,
            ),
            (json!({ "firmware": "bios" }), false),
            (json!({ "labels": { "rack": "a1" } }), true),
            (json!({ "labels": { "rack": "a2" } }), false),
            (
                json!({ "labels": { "rack": "a1" }, "threads": { "min": 100 } }),
                false,
            ),
        ];
        for (text, fits) in cases {
            assert_eq!(rules(text.clone()).fit(known(Some(&found))), fits, "{text}");
        }
        for (text, fits) in [
            (json!({ "labels": { "rack": "a1" }, "firmware": "uefi" }), true),
            (
                json!({ "labels": { "rack": "a1" }, "threads": { "min": 0 } }),
                false,
            ),
        ] {
            assert_eq!(
                rules(text.clone()).fit(known(None)),
                fits,
                "not looked at: {text}"
            );
        }
    }

    #[test]
    fn the_highest_priority_wins_and_equals_are_told() {
        let (labels, found) = (labels(), found());
        let known = Known {
            firmware: FirmwareKind::Uefi,
            labels: &labels,
            inventory: Some(&found),
        };
        let (all, dell, none) = (
            rules(json!({ "product": "*" })),
            rules(json!({ "manufacturer": "Dell*" })),
            rules(json!({ "nics": { "max": 0 } })),
        );
        let of = |name, priority, rules| Candidate {
            name,
            priority,
            rules,
        };
        let choose =
            |types: &[Candidate<'static>]| classify(types, known).map(|name| name.map(str::to_owned));
        let leak = |rules: Rules| -> &'static Rules { Box::leak(Box::new(rules)) };
        let (all, dell, none) = (leak(all), leak(dell), leak(none));
        assert_eq!(choose(&[]), Ok(None));
        assert_eq!(choose(&[of("none", 9, none)]), Ok(None));
        assert_eq!(
            choose(&[of("all", 0, all), of("dell", 1, dell), of("none", 9, none)]),
            Ok(Some("dell".to_owned()))
        );
        assert_eq!(
            choose(&[of("dell", 5, dell), of("all", 5, all)]),
            Err("matches all and dell".to_owned())
        );
    }

    #[test]
    fn patterns_are_matched_whole() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("a*b*c", "aXbYbc", true),
            ("a*b*c", "aXbYb", false),
            ("??", "é1", true),
            ("R6*", "PowerEdge R660", false),
            ("*********************x", &"a".repeat(5000), false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text:.20}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            json!({ "threads": { "min": 2, "max": 1 } }),
            json!({ "disks": [{ "bytes": { "min": 2, "max": 1 } }] }),
            json!({ "disks": vec![json!({}); 33] }),
            json!({ "cpu": "x".repeat(201) }),
        ] {
            assert!(rules(bad.clone()).check().is_err(), "{bad}");
        }
        assert!(serde_json::from_value::<Rules>(json!({ "colour": "red" })).is_err());
        assert_eq!(
            rules(json!({ "threads": { "min": 2, "max": 2 } })).check(),
            Ok(())
        );
    }
}
