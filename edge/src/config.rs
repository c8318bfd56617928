//! The edge's settings: command line, then environment, then `/etc/slipway/edge.toml`, then defaults; read once, before
//! anything is opened. The only reader of the environment.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use chrono::TimeDelta;
use clap::Args;
use serde::Deserialize;

/// A setting cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path} is not a valid configuration: {reason}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing to serve on.
    #[error(
        "no interface is named: set --interface NAME=ADDRESS, for example --interface br0=192.0.2.1, or --interface auto"
    )]
    NoInterface,
    /// Some interfaces are named, and all are.
    #[error("`auto` stands for every wired interface: give it alone, or name the interfaces")]
    AutoAndNamed,
}

/// Folder for keys, database and image cache, if none is named.
const DATA_DIR: &str = "/var/lib/slipway";

/// A network interface and this box's address on it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// This box's address on it.
    pub address: Ipv4Addr,
}

impl FromStr for Interface {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not of the form NAME=ADDRESS, as in br0=192.0.2.1");
        let (name, address) = text.split_once('=').ok_or_else(bad)?;
        Ok(Self {
            name: name.to_owned(),
            address: address.parse().map_err(|_| bad())?,
        })
    }
}

impl TryFrom<String> for Interface {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// What is given as an interface.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Served {
    /// `auto`: every wired interface, by the address it has.
    Auto,
    /// This one.
    Named(Interface),
}

impl FromStr for Served {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            named => named.parse().map(Self::Named),
        }
    }
}

impl TryFrom<String> for Served {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// As given, before defaults.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// Configuration file [default: /etc/slipway/edge.toml, if it is there]
    #[arg(long, env = "SLIPWAY_EDGE_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Folder for keys, database and image cache [default: /var/lib/slipway]
    #[arg(long, env = "SLIPWAY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Interface to serve and this box's address on it, NAME=ADDRESS; may be repeated. `auto` serves every wired interface by
    /// the address it has
    #[arg(long = "interface", env = "SLIPWAY_INTERFACES", value_delimiter = ',')]
    pub interfaces: Vec<Served>,
    /// Whether to serve DHCP; `false` where another server hands out addresses and names this box [default: true]
    #[arg(long, env = "SLIPWAY_EDGE_DHCP", action = clap::ArgAction::Set)]
    pub dhcp: Option<bool>,
    /// Port of the HTTP boot server [default: 8081]
    #[arg(long, env = "SLIPWAY_EDGE_HTTP_PORT")]
    pub http_port: Option<u16>,
    /// Port of the agents' MQTT broker [default: 8883]
    #[arg(long, env = "SLIPWAY_EDGE_MQTT_PORT")]
    pub mqtt_port: Option<u16>,
    /// Read-only MQTT for people, on loopback [default: 127.0.0.1:1883]
    #[arg(long, env = "SLIPWAY_EDGE_MQTT_DEBUG")]
    pub mqtt_debug: Option<SocketAddr>,
    /// ADDRESS:PORT of a page that takes a join token while this box has not joined; the page ends when it has [default: none]
    #[arg(long, env = "SLIPWAY_EDGE_SETUP")]
    pub setup: Option<SocketAddr>,
    /// File that always holds a line on how this box is, for a console to show [default: none]
    #[arg(long, env = "SLIPWAY_EDGE_STATUS")]
    pub status: Option<PathBuf>,
    /// Seconds without a link to the control plane after which `slipway-edge local` may operate machines [default: 60]
    #[arg(long, env = "SLIPWAY_EDGE_CUT_OFF_AFTER")]
    pub cut_off_after: Option<u32>,
    /// Bytes that the image cache may take, in GiB; what was not used for longest goes, never what an order needs [default: 80 % of
    /// the file system]
    #[arg(long, env = "SLIPWAY_EDGE_IMAGE_CACHE_GIB")]
    pub image_cache_gib: Option<u32>,
    /// Folder with the LiveOS: vmlinuz and initramfs.img [default: /usr/lib/slipway/liveos]
    #[arg(long, env = "SLIPWAY_LIVEOS")]
    pub liveos: Option<PathBuf>,
    /// Folder with undionly.kpxe and snponly.efi [default: /usr/lib/ipxe]
    #[arg(long, env = "SLIPWAY_BOOT_PROGRAMS")]
    pub boot_programs: Option<PathBuf>,
}

/// As used.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder for keys, database and image cache.
    pub data_dir: PathBuf,
    /// Interfaces to serve; none yet if they are to be found.
    pub interfaces: Vec<Interface>,
    /// Whether the interfaces are to be found: every wired one, by the address it has.
    pub auto: bool,
    /// Whether DHCP (and router advertisements) are served on them.
    pub dhcp: bool,
    /// Port of the HTTP boot server.
    pub http_port: u16,
    /// Port of the agents' MQTT broker.
    pub mqtt_port: u16,
    /// Read-only MQTT for people.
    pub mqtt_debug: SocketAddr,
    /// Where a box that has not joined takes a token.
    pub setup: Option<SocketAddr>,
    /// File that always holds a line on how this box is.
    pub status: Option<PathBuf>,
    /// How long the control plane must have been out of reach before machines may be operated locally.
    pub cut_off_after: TimeDelta,
    /// Bytes that the image cache may take; a share of its file system if none.
    pub image_cache_bytes: Option<u64>,
    /// Folder with the LiveOS.
    pub liveos: PathBuf,
    /// Folder with the boot programs.
    pub boot_programs: PathBuf,
}

impl Given {
    /// Adds what the file says and the defaults.
    ///
    /// # Errors
    /// When the file cannot be used or no interface is named.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let file = self.file()?;
        let pick = |given: Option<PathBuf>, file: Option<PathBuf>, default: &str| {
            given.or(file).unwrap_or_else(|| PathBuf::from(default))
        };
        let served = if self.interfaces.is_empty() {
            file.interfaces
        } else {
            self.interfaces
        };
        let (interfaces, auto) = interfaces(served)?;
        Ok(Config {
            data_dir: pick(self.data_dir, file.data_dir, DATA_DIR),
            interfaces,
            auto,
            dhcp: self.dhcp.or(file.dhcp).unwrap_or(true),
            http_port: self.http_port.or(file.http_port).unwrap_or(8081),
            mqtt_port: self.mqtt_port.or(file.mqtt_port).unwrap_or(8883),
            mqtt_debug: self
                .mqtt_debug
                .or(file.mqtt_debug)
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 1883))),
            setup: self.setup.or(file.setup),
            status: self.status.or(file.status),
            cut_off_after: TimeDelta::seconds(self.cut_off_after.or(file.cut_off_after).unwrap_or(60).into()),
            image_cache_bytes: self
                .image_cache_gib
                .or(file.image_cache_gib)
                .map(|gib| u64::from(gib) << 30),
            liveos: pick(self.liveos, file.liveos, "/usr/lib/slipway/liveos"),
            boot_programs: pick(self.boot_programs, file.boot_programs, "/usr/lib/ipxe"),
        })
    }

    /// The data folder alone: whoever talks to the running edge needs nothing else.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn resolve_data_dir(self) -> Result<PathBuf, ConfigError> {
        let file = self.file()?;
        let default = || PathBuf::from(DATA_DIR);
        Ok(self.data_dir.or(file.data_dir).unwrap_or_else(default))
    }

    fn file(&self) -> Result<Self, ConfigError> {
        let path = self
            .config
            .clone()
            .unwrap_or_else(|| PathBuf::from("/etc/slipway/edge.toml"));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && self.config.is_none() => {
                return Ok(Self::default());
            }
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        toml::from_str(&text).map_err(|e| ConfigError::Parse {
            path,
            reason: e.message().to_owned(),
        })
    }
}

/// The interfaces that are named, and whether all are meant instead.
fn interfaces(served: Vec<Served>) -> Result<(Vec<Interface>, bool), ConfigError> {
    let given = served.len();
    let named: Vec<Interface> = served
        .into_iter()
        .filter_map(|served| match served {
            Served::Auto => None,
            Served::Named(interface) => Some(interface),
        })
        .collect();
    match (named.len(), given) {
        (_, 0) => Err(ConfigError::NoInterface),
        (0, _) => Ok((named, true)),
        (names, given) if names == given => Ok((named, false)),
        _ => Err(ConfigError::AutoAndNamed),
    }
}

impl Config {
    /// This box's addresses on the site's networks.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.interfaces
            .iter()
            .map(|interface| IpAddr::V4(interface.address))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_fills_in_what_is_not_given_and_a_typo_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("edge.toml");
        std::fs::write(&path, "interfaces = [\"br0=192.0.2.1\"]\nhttp_port = 9\n").unwrap();
        let given = Given {
            config: Some(path.clone()),
            mqtt_port: Some(7),
            ..Given::default()
        };
        let config = given.clone().resolve().unwrap();
        assert_eq!(
            (config.http_port, config.mqtt_port, config.interfaces.len()),
            (9, 7, 1)
        );
        assert!(config.dhcp, "served unless it is said not to");
        assert!(!config.auto);
        std::fs::write(&path, "interfaces = [\"auto\"]\n").unwrap();
        let config = given.clone().resolve().unwrap();
        assert!(config.auto && config.interfaces.is_empty());
        std::fs::write(&path, "interfaces = [\"auto\", \"br0=192.0.2.1\"]\n").unwrap();
        assert!(matches!(given.clone().resolve(), Err(ConfigError::AutoAndNamed)));
        std::fs::write(&path, "interface = 1\n").unwrap();
        assert!(matches!(given.resolve(), Err(ConfigError::Parse { .. })));
        assert!(matches!("br0".parse::<Interface>(), Err(e) if e.contains("NAME=ADDRESS")));
    }
}
