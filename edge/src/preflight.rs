//! What a box needs to serve a site, looked at before it joins: nothing is written, and every finding says what to do. It
//! must never join by itself, and never keeps what it binds.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::Serialize;
use slipway_protocol::site::JoinToken;
use tokio::net::{TcpListener, UdpSocket};

use crate::{
    config::{Config, Interface},
    dhcp::server as dhcp,
};

/// Room for images below which the box is not worth joining, and below which somebody should look, in bytes.
const ROOM: (u64, u64) = (2 << 30, 20 << 30);
/// How far clocks may differ: below the first nothing is said, above the second signed messages are refused as too old.
const CLOCKS: (i64, i64) = (5, 120);
/// Longest wait for the control plane.
const LIMIT: Duration = Duration::from_secs(10);

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, but somebody should look.
    Warn,
    /// The edge cannot serve its site so.
    Fail,
}

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The thing.
    pub check: String,
    /// How it is.
    pub status: Status,
    /// What was seen, and what to do.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.status {
            Status::Ok => "OK",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        };
        write!(f, "{word:4} {}: {}", self.check, self.detail)
    }
}

fn finding(check: impl Into<String>, status: Status, detail: impl Into<String>) -> Finding {
    Finding {
        check: check.into(),
        status,
        detail: detail.into(),
    }
}

/// Whether a box can serve so.
#[must_use]
pub fn works(findings: &[Finding]) -> bool {
    findings.iter().all(|found| found.status < Status::Fail)
}

/// Looks at everything; at the control plane only if a token names it.
pub async fn look(config: &Config, token: Option<&JoinToken>, now: DateTime<Utc>) -> Vec<Finding> {
    let mut found = Vec::new();
    if config.interfaces.is_empty() {
        let detail = "none has an address: connect a cable to a network that hands out addresses, or name an interface";
        found.push(finding("wired interfaces", Status::Fail, detail));
    }
    for interface in &config.interfaces {
        found.extend(ports(config, interface).await);
    }
    found.push(listens(config.mqtt_debug, "MQTT for people").await);
    found.push(room(&config.data_dir));
    for (what, folder, file) in [
        ("LiveOS", &config.liveos, "vmlinuz"),
        ("LiveOS", &config.liveos, "initramfs.img"),
        ("boot programs", &config.boot_programs, "undionly.kpxe"),
        ("boot programs", &config.boot_programs, "snponly.efi"),
    ] {
        found.push(file_is_there(what, &folder.join(file)));
    }
    if let Some(token) = token {
        found.extend(control_plane(&token.url, now).await);
        if let Some(address) = &token.broker {
            found.push(broker(address).await);
        }
    }
    found
}

async fn broker(address: &str) -> Finding {
    const BROKER: &str = "central broker";
    match tokio::time::timeout(LIMIT, tokio::net::TcpStream::connect(address)).await {
        Ok(Ok(_)) => finding(BROKER, Status::Ok, format!("{address} answers")),
        Ok(Err(error)) => finding(
            BROKER,
            Status::Fail,
            format!("{address} does not answer ({error}): open the way to it in firewalls on the way"),
        ),
        Err(_) => finding(
            BROKER,
            Status::Fail,
            format!("{address} does not answer within 10 s: open the way to it in firewalls on the way"),
        ),
    }
}

/// The sockets an interface's services need.
async fn ports(config: &Config, interface: &Interface) -> Vec<Finding> {
    let Interface { name, address } = interface;
    let here = IpAddr::V4(*address);
    let shown = format!("interface {name}");
    if !Path::new("/sys/class/net").join(name).exists() {
        let detail = "there is no such interface; name one that `ip link` lists";
        return vec![finding(shown, Status::Fail, detail)];
    }
    if let Err(error) = UdpSocket::bind((here, 0)).await {
        let detail = format!("{address} is not an address of this box ({error}): give it to {name} first");
        return vec![finding(shown, Status::Fail, detail)];
    }
    let mut found = vec![finding(shown, Status::Ok, format!("has {address}"))];
    if config.dhcp {
        found.push(bound(format!("DHCP on {name}, port 67"), dhcp::bind(name, 67)));
    }
    let tftp = UdpSocket::bind((here, 69)).await;
    found.push(bound(format!("TFTP on {address}, port 69"), tftp));
    found.push(listens(SocketAddr::new(here, config.http_port), "HTTP boot").await);
    found.push(listens(SocketAddr::new(here, config.mqtt_port), "MQTT for agents").await);
    found
}

async fn listens(address: SocketAddr, what: &str) -> Finding {
    bound(format!("{what} on {address}"), TcpListener::bind(address).await)
}

fn bound<T>(check: String, result: std::io::Result<T>) -> Finding {
    match result {
        Ok(_) => finding(check, Status::Ok, "free"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => finding(
            check,
            Status::Fail,
            "not allowed: run as root, or with CAP_NET_BIND_SERVICE and CAP_NET_RAW",
        ),
        Err(error) => finding(
            check,
            Status::Fail,
            format!("cannot be served ({error}): stop what uses it, an edge that runs already among others"),
        ),
    }
}

fn room(dir: &Path) -> Finding {
    let check = "room for images";
    // The folder may not be there yet.
    let there = dir.ancestors().find(|path| path.exists()).unwrap_or(dir);
    let free = match rustix::fs::statvfs(there) {
        Ok(stat) => stat.f_bavail * stat.f_frsize,
        Err(error) => {
            let detail = format!("{} cannot be looked at: {error}", there.display());
            return finding(check, Status::Fail, detail);
        }
    };
    let gib = free >> 30;
    let detail = format!("{gib} GiB free at {}", there.display());
    let enough = |least: u64| free >= least;
    if !enough(ROOM.0) {
        let detail = format!("{detail}: 2 GiB are the least, images are kept there");
        return finding(check, Status::Fail, detail);
    }
    if !enough(ROOM.1) {
        let detail = format!("{detail}: a few large images fill it");
        return finding(check, Status::Warn, detail);
    }
    finding(check, Status::Ok, detail)
}

fn file_is_there(what: &str, path: &Path) -> Finding {
    let shown = path.display();
    match std::fs::File::open(path) {
        Ok(_) => finding(what, Status::Ok, format!("{shown}")),
        Err(error) => finding(
            what,
            Status::Fail,
            format!("{shown} cannot be read ({error}): install it, or name its folder in the settings"),
        ),
    }
}

/// Whether the control plane answers, and its clock is as ours.
async fn control_plane(url: &str, now: DateTime<Utc>) -> Vec<Finding> {
    let check = "control plane";
    let asked = reqwest::Client::new()
        .get(format!("{}/healthz", url.trim_end_matches('/')))
        .timeout(LIMIT)
        .send()
        .await;
    let answer = match asked.and_then(reqwest::Response::error_for_status) {
        Ok(answer) => answer,
        Err(error) => {
            let detail = format!(
                "{url} does not answer as it should ({}): look at routes, names and firewalls",
                error.without_url()
            );
            return vec![finding(check, Status::Fail, detail)];
        }
    };
    let date = answer.headers().get(reqwest::header::DATE);
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date.to_str().ok()?).ok());
    vec![
        finding(check, Status::Ok, format!("{url} answers")),
        clock(date.map(|date| (date.to_utc() - now).num_seconds())),
    ]
}

/// Judges the seconds by which the control plane's clock is ahead of ours.
fn clock(ahead_s: Option<i64>) -> Finding {
    let check = "clock";
    let Some(ahead) = ahead_s else {
        return finding(check, Status::Warn, "the control plane does not tell its time");
    };
    let by = ahead.abs();
    let detail = format!(
        "{by} s {} the control plane's",
        if ahead >= 0 { "behind" } else { "ahead of" }
    );
    match by {
        by if by <= CLOCKS.0 => finding(check, Status::Ok, "as the control plane's"),
        by if by <= CLOCKS.1 => finding(check, Status::Warn, format!("{detail}: set up NTP")),
        _ => finding(
            check,
            Status::Fail,
            format!("{detail}: signed messages would be refused as too old; set up NTP"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_judged_both_ways() {
        let status = |ahead| clock(ahead).status;
        assert_eq!(status(Some(3)), Status::Ok);
        assert_eq!(status(Some(-60)), Status::Warn);
        assert_eq!(status(Some(-3600)), Status::Fail);
        assert_eq!(status(Some(3600)), Status::Fail);
        assert_eq!(status(None), Status::Warn);
        assert!(clock(Some(60)).detail.contains("behind"));
    }

    #[tokio::test]
    async fn what_is_taken_missing_or_not_ours_is_told() {
        slipway_bus::tls::install_provider();
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let found = listens(taken.local_addr().unwrap(), "HTTP boot").await;
        assert_eq!(found.status, Status::Fail, "{found}");
        let lo = |name: &str, address: &str| Interface {
            name: name.into(),
            address: address.parse().unwrap(),
        };
        let config = Config {
            data_dir: "/nowhere/slipway".into(),
            interfaces: vec![],
            auto: false,
            dhcp: false,
            http_port: 0,
            mqtt_port: 0,
            mqtt_debug: ([127, 0, 0, 1], 0).into(),
            liveos: "/nowhere".into(),
            boot_programs: "/nowhere".into(),
            setup: None,
            status: None,
            cut_off_after: chrono::TimeDelta::seconds(60),
            image_cache_bytes: None,
        };
        let nothing = look(&config, None, Utc::now()).await;
        assert_eq!(
            (nothing[0].check.as_str(), nothing[0].status),
            ("wired interfaces", Status::Fail)
        );
        let no_interface = ports(&config, &lo("nope0", "127.0.0.1")).await;
        assert!(!works(&no_interface));
        let not_ours = ports(&config, &lo("lo", "192.0.2.1")).await;
        assert!(
            not_ours[0].detail.contains("not an address of this box"),
            "{not_ours:?}"
        );
        assert_eq!(
            file_is_there("LiveOS", Path::new("/nowhere/vmlinuz")).status,
            Status::Fail
        );
        assert!(
            room(Path::new("/nowhere/at/all"))
                .detail
                .contains("GiB free at /")
        );
        let away = control_plane("http://127.0.0.1:9", Utc::now()).await;
        assert!(!works(&away), "{away:?}");
    }
}
