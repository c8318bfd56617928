//! The machine's address, as the overlay says it: nothing is asked of the network. Sets, and never takes away. Ports that were
//! not booted from are up, and silent.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use futures::TryStreamExt as _;
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use slipway_protocol::{boot::BootConfig, ids::MacAddr};

use crate::inventory;

/// How long the port may take to appear and to have a link.
const PORT_LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// A network that could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The kernel has no such port.
    #[error(
        "no port with the address {mac} appeared within 30 s; there are: {present}; the LiveOS may lack its driver"
    )]
    NoPort {
        /// The port booted from.
        mac: MacAddr,
        /// What ports there are.
        present: String,
    },
    /// No netlink.
    #[error("cannot talk to the kernel's network")]
    Netlink(#[source] std::io::Error),
    /// The kernel refused.
    #[error("cannot {what} on {port}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// Which port.
        port: String,
        /// What the kernel said.
        #[source]
        source: rtnetlink::Error,
    },
}

/// Brings the loopback and the port up, with the address and the route of `config`.
///
/// # Errors
/// When the port does not appear or the kernel refuses.
pub async fn set_up(config: &BootConfig) -> Result<(), NetError> {
    let port = wait_for_port(config.mac).await?;
    let (connection, handle, _) = rtnetlink::new_connection().map_err(NetError::Netlink)?;
    let connection = tokio::spawn(connection);
    let result = configure(&handle, config, &port).await;
    connection.abort();
    result?;
    wait_for_link(&port).await;
    Ok(())
}

/// Brings up the ports that are not `boot`, so that their neighbours can be heard and their links are seen. They get no
/// address, and answer nobody: what network they are in is not known.
pub async fn raise_others(boot: MacAddr) {
    let Ok((connection, handle, _)) = rtnetlink::new_connection() else {
        return;
    };
    let connection = tokio::spawn(connection);
    for nic in inventory::nics(Path::new("/")) {
        if nic.mac == boot {
            continue;
        }
        let raised = match silence(Path::new("/proc/sys/net"), &nic.name) {
            Ok(()) => up(&handle, &nic.name).await.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = raised {
            tracing::warn!(port = nic.name, error, "a port stays down");
        }
    }
    connection.abort();
}

/// Has a port neither speak IPv6 nor answer who asks for an IPv4 address of another port.
fn silence(settings: &Path, port: &str) -> std::io::Result<()> {
    let ipv6 = settings.join("ipv6/conf").join(port).join("disable_ipv6");
    if ipv6.exists() {
        std::fs::write(ipv6, "1")?;
    }
    // 8: no answer for any local address (kernel documentation, ip-sysctl)
    std::fs::write(settings.join("ipv4/conf").join(port).join("arp_ignore"), "8")
}

async fn wait_for_port(mac: MacAddr) -> Result<String, NetError> {
    let search = async {
        loop {
            let nics = inventory::nics(Path::new("/"));
            if let Some(nic) = nics.into_iter().find(|nic| nic.mac == mac) {
                return nic.name;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(PORT_LIMIT, search).await.map_err(|_| {
        let nics = inventory::nics(Path::new("/"));
        let present: Vec<_> = nics
            .iter()
            .map(|nic| format!("{} {}", nic.name, nic.mac))
            .collect();
        NetError::NoPort {
            mac,
            present: if present.is_empty() {
                "none".to_owned()
            } else {
                present.join(", ")
            },
        }
    })
}

/// Waits for a carrier, within the limit; without one connecting is tried all the same.
async fn wait_for_link(port: &str) {
    let search = async {
        while !inventory::nics(Path::new("/"))
            .iter()
            .any(|nic| nic.name == port && nic.link)
        {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(PORT_LIMIT, search).await.is_err() {
        tracing::warn!(port, "the port has no link; is the cable in?");
    }
}

async fn configure(handle: &Handle, config: &BootConfig, port: &str) -> Result<(), NetError> {
    let refused = |what: &'static str, port: &str| {
        let port = port.to_owned();
        move |source| NetError::Refused { what, port, source }
    };
    up(handle, "lo")
        .await
        .map_err(refused("bring up the port", "lo"))?;
    let index = up(handle, port)
        .await
        .map_err(refused("bring up the port", port))?;
    let address = handle
        .address()
        .add(index, IpAddr::V4(config.address), config.prefix);
    // replace: a second set-up of the same address is no error
    let added = address.replace().execute().await;
    added.map_err(refused("add the address", port))?;
    if let Some(gateway) = config.gateway {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .build();
        let added = handle.route().add(route).replace().execute().await;
        added.map_err(refused("add the default route", port))?;
    }
    Ok(())
}

async fn up(handle: &Handle, name: &str) -> Result<u32, rtnetlink::Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await?.ok_or(rtnetlink::Error::RequestFailed)?;
    let index = link.header.index;
    let change = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(change).execute().await?;
    Ok(index)
}
