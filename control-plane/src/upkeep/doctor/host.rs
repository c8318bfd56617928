//! What lies on this host: folder, keys, disk, certificate. Reads only.

use std::{os::unix::fs::PermissionsExt as _, path::Path};

use chrono::{DateTime, TimeDelta, Utc};
use x509_parser::pem::parse_x509_pem;

use super::Finding;
use crate::{config::Config, upkeep::archive::KEYS};

/// Free space below which somebody should look, and below which it will not go on, in bytes.
const LITTLE_SPACE: u64 = 5 << 30;
const NO_SPACE: u64 = 256 << 20;
/// How long before its end a certificate should be renewed.
const SOON: TimeDelta = TimeDelta::days(60);

pub(super) fn look(config: &Config, now: DateTime<Utc>) -> Vec<Finding> {
    let dir = &config.data_dir;
    if !dir.is_dir() {
        let advice =
            "start the control plane once, or give --data-dir; to bring a backup back, run `restore FILE`";
        let detail = format!("{} is not there", dir.display());
        return vec![Finding::fail("data folder", detail, advice)];
    }
    let mut found = vec![writable(dir), space(dir)];
    found.extend(keys(dir));
    found.extend(certificate(dir, now));
    found.push(address(config));
    found
}

fn writable(dir: &Path) -> Finding {
    let shown = dir.display();
    match tempfile::tempfile_in(dir) {
        Ok(_) => Finding::ok("data folder", format!("{shown} can be written")),
        Err(e) => Finding::fail(
            "data folder",
            format!("{shown} cannot be written: {e}"),
            "run this as the user of the control plane, who must own the folder",
        ),
    }
}

fn space(dir: &Path) -> Finding {
    let free = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat.f_bavail.saturating_mul(stat.f_frsize),
        Err(e) => {
            return Finding::fail(
                "disk space",
                format!("cannot be asked for: {e}"),
                "look at the file system",
            );
        }
    };
    let detail = format!(
        "{:.1} GiB free at {}",
        free as f64 / f64::from(1 << 30),
        dir.display()
    );
    let advice = "remove images nobody uses (`slipway image delete`), or give it more room";
    match free {
        0..NO_SPACE => Finding::fail("disk space", detail, advice),
        NO_SPACE..LITTLE_SPACE => Finding::warn("disk space", detail, advice),
        _ => Finding::ok("disk space", detail),
    }
}

fn keys(dir: &Path) -> Vec<Finding> {
    let mut found = Vec::new();
    let there: Vec<&&str> = KEYS.iter().filter(|key| dir.join(key).exists()).collect();
    if there.len() < KEYS.len() {
        let missing: Vec<&str> = KEYS
            .iter()
            .filter(|key| !dir.join(key).exists())
            .copied()
            .collect();
        let detail = format!("{} lacks {}", dir.display(), missing.join(", "));
        let advice =
            "keys are made at the first start; if edges have joined already, restore them from a backup";
        found.push(Finding::fail("keys", detail, advice));
    }
    let open = |key: &&&str| {
        let meta = dir.join(key).metadata();
        key.ends_with(".key") && meta.is_ok_and(|meta| meta.permissions().mode() & 0o077 != 0)
    };
    let open: Vec<String> = there
        .iter()
        .copied()
        .filter(open)
        .map(|key| (*key).to_owned())
        .collect();
    if !open.is_empty() {
        let paths: Vec<String> = open
            .iter()
            .map(|key| dir.join(key).display().to_string())
            .collect();
        let detail = format!("others can read {}", open.join(", "));
        found.push(Finding::fail(
            "keys",
            detail,
            format!("chmod 600 {}", paths.join(" ")),
        ));
    }
    if found.is_empty() {
        found.push(Finding::ok("keys", "all there, readable by their owner alone"));
    }
    found
}

/// The authority's certificate, by which every edge knows us.
fn certificate(dir: &Path, now: DateTime<Utc>) -> Option<Finding> {
    let pem = std::fs::read(dir.join("ca.pem")).ok()?;
    let read = parse_x509_pem(&pem).ok();
    let end = read.and_then(|(_, pem)| Some(pem.parse_x509().ok()?.validity().not_after.timestamp()));
    let Some(end) = end.and_then(|end| DateTime::from_timestamp(end, 0)) else {
        let advice = "restore ca.pem and ca.key from a backup";
        return Some(Finding::fail("certificate", "ca.pem cannot be read", advice));
    };
    let detail = format!("the authority's is good until {}", end.date_naive());
    let advice = "every edge has to join anew under a new authority: plan it before that day";
    Some(match end - now {
        left if left <= TimeDelta::zero() => Finding::fail("certificate", detail, advice),
        left if left < SOON => Finding::warn("certificate", detail, advice),
        _ => Finding::ok("certificate", detail),
    })
}

/// The address by which others find us.
fn address(config: &Config) -> Finding {
    let url = &config.public_url;
    let parsed = reqwest::Url::parse(url);
    let host = parsed
        .as_ref()
        .ok()
        .and_then(|url| url.host_str().map(str::to_owned));
    let here = matches!(host.as_deref(), Some("127.0.0.1" | "localhost" | "[::1]"));
    let Some(host) = host else {
        let advice =
            "set SLIPWAY_PUBLIC_URL to what browsers and edges reach, as in https://slipway.example.com";
        return Finding::fail("public address", format!("`{url}` is not a URL"), advice);
    };
    match url.starts_with("https:") {
        true => Finding::ok("public address", url.clone()),
        false if here => Finding::warn(
            "public address",
            format!("{url} reaches nobody but this host"),
            "set SLIPWAY_PUBLIC_URL and SLIPWAY_MQTT_PUBLIC before edges join",
        ),
        false => Finding::warn(
            "public address",
            format!("{url}: passwords and keys travel to {host} in the clear"),
            "put a proxy with TLS before it and set SLIPWAY_PUBLIC_URL=https://..",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Given, pki, upkeep::doctor::Status};

    fn status(found: &[Finding], check: &str) -> Status {
        found
            .iter()
            .filter(|f| f.check == check)
            .map(|f| f.status)
            .max()
            .unwrap()
    }

    #[test]
    fn a_folder_is_looked_at_and_each_fault_told() {
        let dir = tempfile::tempdir().unwrap();
        let config = |path: &Path| {
            let given = Given {
                data_dir: Some(path.to_owned()),
                public_url: Some("http://slipway.example.com".to_owned()),
                ..Given::default()
            };
            given.resolve().unwrap()
        };
        let now = Utc::now();
        let nowhere = look(&config(&dir.path().join("no")), now);
        assert_eq!(status(&nowhere, "data folder"), Status::Fail);
        assert_eq!(status(&look(&config(dir.path()), now), "keys"), Status::Fail);
        pki::Authority::open(dir.path()).unwrap();
        pki::order_signer(dir.path()).unwrap();
        pki::vault_key(dir.path()).unwrap();
        let good = look(&config(dir.path()), now);
        assert_eq!(
            (status(&good, "keys"), status(&good, "certificate")),
            (Status::Ok, Status::Ok)
        );
        assert_eq!(status(&good, "public address"), Status::Warn);
        let old = look(&config(dir.path()), now + TimeDelta::days(4_000_000 / 2));
        assert_eq!(status(&old, "certificate"), Status::Fail);
        let key = dir.path().join("vault.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let open = look(&config(dir.path()), now);
        let told = open.iter().find(|f| f.check == "keys").unwrap();
        assert_eq!(told.status, Status::Fail);
        assert!(told.advice.as_ref().unwrap().contains("chmod 600"), "{told}");
    }
}
