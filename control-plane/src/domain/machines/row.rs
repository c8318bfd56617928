//! A row of an import, read and held against the other rows: pure. What the store says of it is looked at elsewhere.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
};

use serde::Deserialize;
use slipway_protocol::{
    ids::{MacAddr, SiteId},
    inventory::FirmwareKind,
    order::BmcDriver,
    seal::Secret,
};
use utoipa::ToSchema;

use super::{check_bmc, check_labels, check_name, check_ports};
use crate::{error::ApiError, store::machines::BmcDetails};

/// A machine as somebody wrote it down; nothing of it is believed yet.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ImportRow {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub site: String,
    /// The ports it may boot from.
    pub macs: Vec<String>,
    /// `bios` or `uefi`; `uefi` for a new machine if left out.
    pub firmware: Option<String>,
    /// The address it is given; chosen for a new machine if left out.
    pub address: Option<String>,
    /// Where the edge reaches its BMC, as in `192.0.2.101:623`.
    pub bmc: Option<String>,
    /// User at its BMC; `admin` for a new one if left out.
    pub bmc_user: Option<String>,
    /// Password at its BMC.
    pub bmc_password: Option<String>,
    /// For operators; all it has, if given.
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether a new machine is to be shelved.
    pub shelved: Option<bool>,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The column.
    pub field: &'static str,
    /// Stable, for programs.
    pub code: &'static str,
    /// For people.
    pub detail: String,
}

impl RowError {
    /// What is wrong with a field, by what the API says of it elsewhere.
    pub(super) fn of(field: &'static str, error: &ApiError) -> Self {
        Self {
            field,
            code: error.code(),
            detail: error.to_string(),
        }
    }
}

/// A row that reads well.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) site: SiteId,
    pub(super) macs: Vec<MacAddr>,
    pub(super) firmware: Option<FirmwareKind>,
    pub(super) address: Option<Ipv4Addr>,
    pub(super) bmc: Option<SocketAddr>,
    pub(super) bmc_user: Option<String>,
    pub(super) bmc_password: Option<Secret>,
    pub(super) labels: Option<BTreeMap<String, String>>,
    pub(super) shelved: bool,
}

fn field<T: FromStr>(
    errors: &mut Vec<RowError>,
    (field, code): (&'static str, &'static str),
    text: &str,
) -> Option<T>
where
    T::Err: std::fmt::Display,
{
    let read = text.parse().map_err(|e: T::Err| {
        errors.push(RowError {
            field,
            code,
            detail: format!("`{text}`: {e}"),
        });
    });
    read.ok()
}

fn firmware(errors: &mut Vec<RowError>, text: &str) -> Option<FirmwareKind> {
    match text {
        "bios" => Some(FirmwareKind::Bios),
        "uefi" => Some(FirmwareKind::Uefi),
        other => {
            let detail = format!("`{other}` is neither bios nor uefi");
            errors.push(RowError {
                field: "firmware",
                code: "firmware",
                detail,
            });
            None
        }
    }
}

/// The address of the row's BMC, with what is wrong with it and its user.
fn bmc(errors: &mut Vec<RowError>, row: &ImportRow) -> Option<SocketAddr> {
    let Some(text) = &row.bmc else {
        if row.bmc_user.is_some() || row.bmc_password.is_some() {
            let detail = "a BMC's user and password need its address".to_owned();
            errors.push(RowError {
                field: "bmc",
                code: "bmc",
                detail,
            });
        }
        return None;
    };
    let address = field(errors, ("bmc", "bmc"), text)?;
    let details = BmcDetails {
        driver: BmcDriver::Ipmi,
        address,
        username: row.bmc_user.clone().unwrap_or_default(),
    };
    let password = row.bmc_password.clone().map(Secret::new);
    if let Err(error) = check_bmc(&details, password.as_ref()) {
        errors.push(RowError::of("bmc", &error));
    }
    Some(address)
}

/// Reads a row; every field that is wrong is told, not only the first.
pub(super) fn read(row: ImportRow) -> Result<Wanted, Vec<RowError>> {
    let mut errors = Vec::new();
    if let Err(error) = check_name(&row.name) {
        errors.push(RowError::of("name", &error));
    }
    let site = field::<SiteId>(&mut errors, ("site", "name"), &row.site);
    let macs: Vec<Option<MacAddr>> = row
        .macs
        .iter()
        .map(|mac| field(&mut errors, ("macs", "mac"), mac))
        .collect();
    let macs: Option<Vec<MacAddr>> = macs.into_iter().collect();
    if let Some(Err(error)) = macs.as_deref().map(check_ports) {
        errors.push(RowError::of("macs", &error));
    }
    let firmware = row
        .firmware
        .as_deref()
        .and_then(|text| firmware(&mut errors, text));
    let address = row
        .address
        .as_deref()
        .and_then(|text| field(&mut errors, ("address", "address"), text));
    let bmc = bmc(&mut errors, &row);
    if let Some(labels) = &row.labels
        && let Err(error) = check_labels(labels)
    {
        errors.push(RowError::of("labels", &error));
    }
    match (site, macs) {
        (Some(site), Some(macs)) if errors.is_empty() => Ok(Wanted {
            name: row.name,
            site,
            macs,
            firmware,
            address,
            bmc,
            bmc_user: row.bmc_user,
            bmc_password: row.bmc_password.map(Secret::new),
            labels: row.labels,
            shelved: row.shelved.unwrap_or(false),
        }),
        _ => Err(errors),
    }
}

/// What each row says twice over: the second of two rows that want the same is wrong.
pub(super) fn clashes<'a>(rows: impl Iterator<Item = (usize, &'a Wanted)>) -> Vec<(usize, RowError)> {
    let (mut names, mut macs, mut addresses) = (HashMap::new(), HashMap::new(), HashMap::new());
    let mut bmcs = HashMap::new();
    let mut found = Vec::new();
    for (n, row) in rows {
        let mut note = |field, first: Option<usize>, what: String| {
            if let Some(first) = first {
                let detail = format!("{what} is in row {first} already");
                found.push((
                    n,
                    RowError {
                        field,
                        code: "twice",
                        detail,
                    },
                ));
            }
        };
        note(
            "name",
            first(&mut names, row.name.clone(), n),
            format!("`{}`", row.name),
        );
        for mac in &row.macs {
            note("macs", first(&mut macs, *mac, n), mac.to_string());
        }
        if let Some(bmc) = row.bmc {
            let at = (row.site.clone(), bmc);
            note("bmc", first(&mut bmcs, at, n), bmc.to_string());
        }
        if let Some(address) = row.address {
            let at = (row.site.clone(), address);
            note("address", first(&mut addresses, at, n), address.to_string());
        }
    }
    found
}

/// The row that came first with a key, if this is not it.
fn first<K: Eq + Hash>(seen: &mut HashMap<K, usize>, key: K, n: usize) -> Option<usize> {
    let first = *seen.entry(key).or_insert(n);
    (first != n).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, mac: &str) -> ImportRow {
        ImportRow {
            name: name.into(),
            site: "bj-1".into(),
            macs: vec![mac.into()],
            ..ImportRow::default()
        }
    }

    const MAC: &str = "52:54:00:00:00:01";

    #[test]
    fn every_wrong_field_is_told() {
        assert!(read(row("m1", MAC)).is_ok());
        let wrong = ImportRow {
            name: "M 1".into(),
            site: "?".into(),
            macs: vec!["x".into()],
            firmware: Some("coreboot".into()),
            address: Some("300.0.0.1".into()),
            bmc: Some("nowhere".into()),
            labels: Some(BTreeMap::from([(" ".to_owned(), String::new())])),
            ..ImportRow::default()
        };
        let errors = read(wrong).err().unwrap();
        let fields: Vec<_> = errors.iter().map(|e| (e.field, e.code)).collect();
        let expected = [
            ("name", "name"),
            ("site", "name"),
            ("macs", "mac"),
            ("firmware", "firmware"),
            ("address", "address"),
            ("bmc", "bmc"),
            ("labels", "label"),
        ];
        assert_eq!(fields, expected);
        let lonely = ImportRow {
            bmc_password: Some("s".into()),
            macs: vec![],
            ..row("m1", MAC)
        };
        let codes: Vec<_> = read(lonely).err().unwrap().iter().map(|e| e.code).collect();
        assert_eq!(codes, ["no_mac", "bmc"]);
    }

    #[test]
    fn rows_are_held_against_each_other() {
        let other = ImportRow {
            address: Some("192.0.2.9".into()),
            ..row("m2", "52:54:00:00:00:02")
        };
        let third = ImportRow {
            name: "m1".into(),
            ..other.clone()
        };
        let rows: Vec<Wanted> = [row("m1", MAC), other, third]
            .map(|r| read(r).ok().unwrap())
            .into();
        let found = clashes(rows.iter().enumerate().map(|(n, row)| (n + 1, row)));
        let told: Vec<_> = found
            .iter()
            .map(|(n, e)| (*n, e.field, e.detail.as_str()))
            .collect();
        let expected = [
            (3, "name", "`m1` is in row 1 already"),
            (3, "macs", "52:54:00:00:00:02 is in row 2 already"),
            (3, "address", "192.0.2.9 is in row 2 already"),
        ];
        assert_eq!(told, expected);
    }
}
