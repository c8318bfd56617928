//! Every MQTT topic, built and parsed in one place. No other module writes a topic as text.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ids::{ImageId, MacAddr, MachineId, SiteId};

/// First two levels of every topic.
pub const ROOT: &str = "slipway/v1";

/// What a message is about; with the subject it names one revisioned document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A site's configuration.
    Config,
    /// A machine's current order.
    Order,
    /// What may be done with a machine while its site is cut off.
    Lease,
    /// An image manifest the site is to hold.
    Image,
    /// The control plane's side of the comparison of what both hold.
    Sync,
    /// An edge's side of the same.
    Hello,
    /// The state of every step of a machine's order.
    Report,
    /// An unknown machine was seen.
    Machine,
    /// A piece of a machine's log.
    Log,
    /// Whether an edge is connected.
    Presence,
    /// Which steps of its order an agent may do now, with the secrets they need.
    Release,
    /// An edge wants its certificates renewed.
    Renew,
    /// The certificates of an edge.
    Identity,
    /// Whether an edge still is its site's.
    Standing,
}

/// A topic of the wire (design section 3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `cmd/config`, control plane to edge.
    Config(SiteId),
    /// `cmd/order/{machine}`, control plane to edge.
    Order(SiteId, MachineId),
    /// `cmd/lease/{machine}`, control plane to edge.
    Lease(SiteId, MachineId),
    /// `cmd/image/{image}`, control plane to edge.
    Image(SiteId, ImageId),
    /// `cmd/report/{machine}`, control plane to edge: the edge's own last report, of which it has lost the newest.
    ReportBack(SiteId, MachineId),
    /// `cmd/sync`, control plane to edge: digests and wants.
    Sync(SiteId),
    /// `evt/hello`, edge to control plane.
    Hello(SiteId),
    /// `evt/report/{machine}`, edge to control plane.
    Report(SiteId, MachineId),
    /// `evt/machine/{mac}`, edge to control plane.
    Machine(SiteId, MacAddr),
    /// `evt/log/{machine}`, edge to control plane.
    Log(SiteId, MachineId),
    /// `evt/presence`, edge to control plane; also the last will.
    Presence(SiteId),
    /// `evt/renew`, edge to control plane: travels by HTTP only, as a certificate may have run out.
    Renew(SiteId),
    /// `cmd/identity`, control plane to edge: the answer to it.
    Identity(SiteId),
    /// `cmd/standing`, control plane to edge: travels by HTTP only, as a revoked edge cannot connect.
    Standing(SiteId),
    /// `agent/{machine}/cmd/order`, edge to agent: the control plane's order, unopened.
    AgentOrder(SiteId, MachineId),
    /// `agent/{machine}/cmd/release`, edge to agent: which steps may run.
    AgentRelease(SiteId, MachineId),
    /// `agent/{machine}/evt/report`, agent to edge.
    AgentReport(SiteId, MachineId),
    /// `agent/{machine}/evt/machine`, agent to edge: what hardware it found.
    AgentMachine(SiteId, MachineId),
    /// `agent/{machine}/evt/log`, agent to edge.
    AgentLog(SiteId, MachineId),
}

/// A text that is no topic of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a Slipway topic")]
pub struct TopicError(String);

impl Topic {
    /// The site every topic names.
    #[must_use]
    pub fn site(&self) -> &SiteId {
        match self {
            Self::Config(site) | Self::Sync(site) | Self::Hello(site) | Self::Presence(site) => site,
            Self::Renew(site) | Self::Identity(site) | Self::Standing(site) => site,
            Self::Image(site, _) | Self::Machine(site, _) => site,
            Self::Order(site, _) | Self::Lease(site, _) => site,
            Self::Report(site, _) | Self::ReportBack(site, _) | Self::Log(site, _) => site,
            Self::AgentOrder(site, _) | Self::AgentRelease(site, _) => site,
            Self::AgentReport(site, _) | Self::AgentMachine(site, _) | Self::AgentLog(site, _) => site,
        }
    }

    /// What a message on this topic is about.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Config(_) => Kind::Config,
            Self::Order(..) | Self::AgentOrder(..) => Kind::Order,
            Self::Lease(..) => Kind::Lease,
            Self::Image(..) => Kind::Image,
            Self::Sync(_) => Kind::Sync,
            Self::Hello(_) => Kind::Hello,
            Self::Report(..) | Self::ReportBack(..) | Self::AgentReport(..) => Kind::Report,
            Self::Machine(..) | Self::AgentMachine(..) => Kind::Machine,
            Self::Log(..) | Self::AgentLog(..) => Kind::Log,
            Self::Presence(_) => Kind::Presence,
            Self::AgentRelease(..) => Kind::Release,
            Self::Renew(_) => Kind::Renew,
            Self::Identity(_) => Kind::Identity,
            Self::Standing(_) => Kind::Standing,
        }
    }

    /// Which document of that kind: a machine, image or MAC; `-` where a site has only one.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Self::Config(_) | Self::Sync(_) | Self::Hello(_) | Self::Presence(_) => "-".to_owned(),
            Self::Renew(_) | Self::Identity(_) | Self::Standing(_) => "-".to_owned(),
            Self::Image(_, image) => image.to_string(),
            Self::Machine(_, mac) => mac.hyphenated(),
            Self::Order(_, m) | Self::Lease(_, m) => m.to_string(),
            Self::Report(_, m) | Self::ReportBack(_, m) | Self::Log(_, m) => m.to_string(),
            Self::AgentOrder(_, m) | Self::AgentRelease(_, m) => m.to_string(),
            Self::AgentReport(_, m) | Self::AgentMachine(_, m) | Self::AgentLog(_, m) => m.to_string(),
        }
    }

    /// The topic under which the control plane signed what now travels on this one: an agent gets the
    /// order with the signature made for the edge's order topic.
    #[must_use]
    pub fn signed_as(&self) -> Self {
        match self {
            Self::AgentOrder(site, machine) => Self::Order(site.clone(), *machine),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let site = self.site();
        match self {
            Self::Config(_) => write!(f, "{ROOT}/{site}/cmd/config"),
            Self::Order(_, machine) => write!(f, "{ROOT}/{site}/cmd/order/{machine}"),
            Self::Lease(_, machine) => write!(f, "{ROOT}/{site}/cmd/lease/{machine}"),
            Self::Image(_, image) => write!(f, "{ROOT}/{site}/cmd/image/{image}"),
            Self::ReportBack(_, machine) => write!(f, "{ROOT}/{site}/cmd/report/{machine}"),
            Self::Sync(_) => write!(f, "{ROOT}/{site}/cmd/sync"),
            Self::Hello(_) => write!(f, "{ROOT}/{site}/evt/hello"),
            Self::Renew(_) => write!(f, "{ROOT}/{site}/evt/renew"),
            Self::Identity(_) => write!(f, "{ROOT}/{site}/cmd/identity"),
            Self::Standing(_) => write!(f, "{ROOT}/{site}/cmd/standing"),
            Self::Report(_, machine) => write!(f, "{ROOT}/{site}/evt/report/{machine}"),
            Self::Machine(_, mac) => write!(f, "{ROOT}/{site}/evt/machine/{}", mac.hyphenated()),
            Self::Log(_, machine) => write!(f, "{ROOT}/{site}/evt/log/{machine}"),
            Self::Presence(_) => write!(f, "{ROOT}/{site}/evt/presence"),
            Self::AgentOrder(_, machine) => write!(f, "{ROOT}/{site}/agent/{machine}/cmd/order"),
            Self::AgentRelease(_, machine) => write!(f, "{ROOT}/{site}/agent/{machine}/cmd/release"),
            Self::AgentReport(_, machine) => write!(f, "{ROOT}/{site}/agent/{machine}/evt/report"),
            Self::AgentMachine(_, machine) => write!(f, "{ROOT}/{site}/agent/{machine}/evt/machine"),
            Self::AgentLog(_, machine) => write!(f, "{ROOT}/{site}/agent/{machine}/evt/log"),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        let bad = || TopicError(text.to_owned());
        let rest = text
            .strip_prefix(ROOT)
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(bad)?;
        let levels: Vec<&str> = rest.split('/').collect();
        let site = SiteId::new(*levels.first().ok_or_else(bad)?).map_err(|_| bad())?;
        let machine = |text: &str| text.parse::<MachineId>().map_err(|_| bad());
        Ok(match &levels[1..] {
            ["cmd", "config"] => Self::Config(site),
            ["cmd", "order", id] => Self::Order(site, machine(id)?),
            ["cmd", "lease", id] => Self::Lease(site, machine(id)?),
            ["cmd", "image", id] => Self::Image(site, id.parse().map_err(|_| bad())?),
            ["cmd", "report", id] => Self::ReportBack(site, machine(id)?),
            ["cmd", "sync"] => Self::Sync(site),
            ["cmd", "identity"] => Self::Identity(site),
            ["cmd", "standing"] => Self::Standing(site),
            ["evt", "renew"] => Self::Renew(site),
            ["evt", "hello"] => Self::Hello(site),
            ["evt", "report", id] => Self::Report(site, machine(id)?),
            ["evt", "machine", mac] => Self::Machine(site, mac.parse().map_err(|_| bad())?),
            ["evt", "log", id] => Self::Log(site, machine(id)?),
            ["evt", "presence"] => Self::Presence(site),
            ["agent", id, "cmd", "order"] => Self::AgentOrder(site, machine(id)?),
            ["agent", id, "cmd", "release"] => Self::AgentRelease(site, machine(id)?),
            ["agent", id, "evt", "report"] => Self::AgentReport(site, machine(id)?),
            ["agent", id, "evt", "machine"] => Self::AgentMachine(site, machine(id)?),
            ["agent", id, "evt", "log"] => Self::AgentLog(site, machine(id)?),
            _ => return Err(bad()),
        })
    }
}

/// Everything the control plane sends to a site: what its edge subscribes to.
#[must_use]
pub fn site_commands(site: &SiteId) -> String {
    format!("{ROOT}/{site}/cmd/#")
}

/// Prefix of all an edge may publish.
#[must_use]
pub fn site_events_prefix(site: &SiteId) -> String {
    format!("{ROOT}/{site}/evt/")
}

/// Everything any edge says: what the control plane subscribes to.
#[must_use]
pub fn all_events() -> String {
    format!("{ROOT}/+/evt/#")
}

/// Everything an edge says to one agent: what that agent subscribes to.
#[must_use]
pub fn agent_commands(site: &SiteId, machine: MachineId) -> String {
    format!("{ROOT}/{site}/agent/{machine}/cmd/#")
}

/// Prefix of all an agent may publish.
#[must_use]
pub fn agent_events_prefix(site: &SiteId, machine: MachineId) -> String {
    format!("{ROOT}/{site}/agent/{machine}/evt/")
}

/// Everything any agent of the site says: what its edge subscribes to.
#[must_use]
pub fn all_agent_events(site: &SiteId) -> String {
    format!("{ROOT}/{site}/agent/+/evt/#")
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn every_topic() -> Vec<Topic> {
        let site = SiteId::new("bj-1").unwrap();
        let machine = MachineId(Uuid::from_u128(7));
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        vec![
            Topic::Config(site.clone()),
            Topic::Order(site.clone(), machine),
            Topic::Lease(site.clone(), machine),
            Topic::Image(site.clone(), ImageId::of(b"x")),
            Topic::Sync(site.clone()),
            Topic::Hello(site.clone()),
            Topic::Report(site.clone(), machine),
            Topic::Machine(site.clone(), mac),
            Topic::Log(site.clone(), machine),
            Topic::Presence(site.clone()),
            Topic::ReportBack(site.clone(), machine),
            Topic::Renew(site.clone()),
            Topic::Identity(site.clone()),
            Topic::Standing(site.clone()),
            Topic::AgentOrder(site.clone(), machine),
            Topic::AgentRelease(site.clone(), machine),
            Topic::AgentReport(site.clone(), machine),
            Topic::AgentMachine(site.clone(), machine),
            Topic::AgentLog(site, machine),
        ]
    }

    #[test]
    fn every_topic_reads_back() {
        for topic in every_topic() {
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
    }

    #[test]
    fn what_is_no_topic_is_refused() {
        for bad in [
            "",
            "slipway/v1",
            "slipway/v1/bj-1",
            "slipway/v2/bj-1/cmd/config",
            "slipway/v1/#/cmd/config",
            "slipway/v1/bj-1/cmd/order/x",
            "slipway/v1/bj-1/cmd/config/more",
            "slipway/v1/bj-1/evt/config",
        ] {
            assert!(bad.parse::<Topic>().is_err(), "{bad}");
        }
    }
}
