//! The control plane's settings: command line, then environment, then `/etc/slipway/control-plane.toml`, then defaults;
//! read once, before anything is opened. The only reader of the environment.

pub mod oidc;

use std::{net::SocketAddr, path::PathBuf};

use chrono::TimeDelta;
use clap::Args;
use ipnet::IpNet;
use reqwest::Url;
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
    /// A setting that will not do.
    #[error("{name}: {reason}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What is wrong, and what would do.
        reason: String,
    },
    /// Not host and port.
    #[error("{name} is `{value}`; HOST:PORT is expected, as in 203.0.113.5:8883")]
    HostPort {
        /// Which setting.
        name: &'static str,
        /// What it says.
        value: String,
    },
}

/// As given, before defaults.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Given {
    /// Configuration file [default: /etc/slipway/control-plane.toml, if it is there]
    #[arg(long, env = "SLIPWAY_CONTROL_PLANE_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Where the API listens [default: 127.0.0.1:8080]
    #[arg(long, env = "SLIPWAY_HTTP")]
    pub http: Option<SocketAddr>,
    /// Folder for keys, database and image chunks [default: /var/lib/slipway]
    #[arg(long, env = "SLIPWAY_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// postgres://.. [default: an SQLite file in the data folder]
    #[arg(long, env = "SLIPWAY_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// Where the embedded broker listens [default: 0.0.0.0:8883]
    #[arg(long, env = "SLIPWAY_MQTT")]
    pub mqtt: Option<SocketAddr>,
    /// Most connections at once at the embedded broker, or at each door of the Mosquitto it configures [default: 10000]
    #[arg(long, env = "SLIPWAY_MQTT_CONNECTIONS")]
    pub mqtt_connections: Option<u32>,
    /// HOST:PORT by which edges reach the broker [default: 127.0.0.1 and the port of --mqtt]
    #[arg(long, env = "SLIPWAY_MQTT_PUBLIC")]
    pub mqtt_public: Option<String>,
    /// URL by which edges and people reach the API [default: http:// and --http]
    #[arg(long, env = "SLIPWAY_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// Most installs under way at all sites together [default: 2000]
    #[arg(long, env = "SLIPWAY_MAX_INSTALLS")]
    pub max_installs: Option<usize>,
    /// HOST:PORT of an external broker, used with this control plane's own certificates, instead of the embedded one
    #[arg(long, env = "SLIPWAY_BROKER")]
    pub broker: Option<String>,
    /// How many days events are kept [default: 365]
    #[arg(long, env = "SLIPWAY_EVENT_DAYS")]
    pub event_days: Option<u16>,
    /// How many hours an edge's certificate is good; edges renew theirs when a third is left [default: 2160, 90 days]
    #[arg(long, env = "SLIPWAY_EDGE_CERTIFICATE_HOURS")]
    pub edge_certificate_hours: Option<u32>,
    /// Lets webhooks reach loopback, link-local and private addresses, and with them whatever trusts this host
    #[arg(long, env = "SLIPWAY_WEBHOOK_PRIVATE")]
    pub webhook_private: Option<bool>,
    /// Mail server for alerts: smtp://HOST:PORT, smtps://USER:PASSWORD@HOST, or smtp://..?tls=required
    #[arg(long, env = "SLIPWAY_SMTP", hide_env_values = true)]
    pub smtp: Option<String>,
    /// Sender of alerts [default: slipway@localhost]
    #[arg(long, env = "SLIPWAY_SMTP_FROM")]
    pub smtp_from: Option<String>,
    /// Networks of proxies before us that tell whom they speak for, as 10.0.0.0/8 [default: none]
    #[arg(long, env = "SLIPWAY_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Collector of traces by OTLP over HTTP, as in http://127.0.0.1:4318 [default: none]
    #[arg(long, env = "SLIPWAY_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// Single sign-on.
    #[command(flatten)]
    pub oidc: oidc::GivenOidc,
}

/// A host name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// As used.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the API listens.
    pub http: SocketAddr,
    /// Folder for keys, database and image chunks.
    pub data_dir: PathBuf,
    /// The database.
    pub database_url: String,
    /// Where the embedded broker listens.
    pub mqtt: SocketAddr,
    /// Most connections at once at the broker.
    pub mqtt_connections: u32,
    /// By which edges reach the broker.
    pub mqtt_public: HostPort,
    /// By which edges and people reach the API.
    pub public_url: String,
    /// Most installs under way at all sites together.
    pub max_installs: usize,
    /// An external broker.
    pub broker: Option<HostPort>,
    /// How many days events are kept.
    pub event_days: u16,
    /// How long an edge's certificate is good.
    pub edge_certificate_life: TimeDelta,
    /// Whether webhooks may reach private addresses.
    pub webhook_private: bool,
    /// URL of the mail server, with its password.
    pub smtp: Option<String>,
    /// Sender of alerts.
    pub smtp_from: String,
    /// Networks of proxies that are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Collector of traces.
    pub otlp_endpoint: Option<Url>,
    /// Single sign-on, if there is any.
    pub oidc: Option<oidc::Oidc>,
}

impl Given {
    /// Adds what the file says and the defaults.
    ///
    /// # Errors
    /// When the file or a value cannot be used.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let file = self.file()?;
        let http = self
            .http
            .or(file.http)
            .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
        let mqtt = self
            .mqtt
            .or(file.mqtt)
            .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 8883)));
        let data_dir = self
            .data_dir
            .or(file.data_dir)
            .unwrap_or_else(|| PathBuf::from("/var/lib/slipway"));
        let sqlite = || data_dir.join("control-plane.db").display().to_string();
        let mqtt_public = self.mqtt_public.or(file.mqtt_public);
        let mqtt_public = mqtt_public.unwrap_or_else(|| format!("127.0.0.1:{}", mqtt.port()));
        let broker = self.broker.or(file.broker);
        Ok(Config {
            http,
            database_url: self.database_url.or(file.database_url).unwrap_or_else(sqlite),
            data_dir,
            max_installs: self.max_installs.or(file.max_installs).unwrap_or(2000),
            mqtt,
            mqtt_connections: self
                .mqtt_connections
                .or(file.mqtt_connections)
                .unwrap_or(10_000)
                .max(1),
            mqtt_public: host_port("SLIPWAY_MQTT_PUBLIC", &mqtt_public)?,
            public_url: self
                .public_url
                .or(file.public_url)
                .unwrap_or_else(|| format!("http://{http}")),
            broker: broker
                .map(|text| host_port("SLIPWAY_BROKER", &text))
                .transpose()?,
            event_days: self.event_days.or(file.event_days).unwrap_or(365),
            edge_certificate_life: {
                let hours = self.edge_certificate_hours.or(file.edge_certificate_hours);
                TimeDelta::hours(hours.unwrap_or(90 * 24).max(1).into())
            },
            webhook_private: self.webhook_private.or(file.webhook_private).unwrap_or(false),
            smtp: self.smtp.or(file.smtp),
            smtp_from: self
                .smtp_from
                .or(file.smtp_from)
                .unwrap_or_else(|| "slipway@localhost".to_owned()),
            trusted_proxies: self.trusted_proxies.or(file.trusted_proxies).unwrap_or_default(),
            otlp_endpoint: self
                .otlp_endpoint
                .or(file.otlp_endpoint)
                .map(|text| web_url("SLIPWAY_OTLP_ENDPOINT", &text))
                .transpose()?,
            oidc: oidc::resolve(self.oidc, file.oidc)?,
        })
    }

    fn file(&self) -> Result<Self, ConfigError> {
        let path = self
            .config
            .clone()
            .unwrap_or_else(|| PathBuf::from("/etc/slipway/control-plane.toml"));
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

fn web_url(name: &'static str, text: &str) -> Result<Url, ConfigError> {
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| ConfigError::Setting {
        name,
        reason: format!("`{text}` is not an http or https URL"),
    })
}

fn host_port(name: &'static str, value: &str) -> Result<HostPort, ConfigError> {
    let bad = || ConfigError::HostPort {
        name,
        value: value.to_owned(),
    };
    let (host, port) = value.rsplit_once(':').ok_or_else(bad)?;
    let host = host.trim_matches(['[', ']']).to_owned();
    if host.is_empty() {
        return Err(bad());
    }
    Ok(HostPort {
        host,
        port: port.parse().map_err(|_| bad())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_make_one_binary_to_try_and_bad_values_are_named() {
        let config = Given {
            data_dir: Some("/tmp/x".into()),
            ..Given::default()
        }
        .resolve()
        .unwrap();
        assert_eq!(config.public_url, "http://127.0.0.1:8080");
        assert_eq!(config.database_url, "/tmp/x/control-plane.db");
        assert_eq!(
            config.mqtt_public,
            HostPort {
                host: "127.0.0.1".into(),
                port: 8883
            }
        );
        let bad = Given {
            broker: Some("nowhere".into()),
            ..Given::default()
        }
        .resolve();
        assert!(matches!(
            bad,
            Err(ConfigError::HostPort {
                name: "SLIPWAY_BROKER",
                ..
            })
        ));
    }
}
