//! The wired interfaces of this box and the addresses they have, for a box whose settings say `auto`. Looks alone: it must
//! never change an address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use futures::TryStreamExt as _;
use rtnetlink::packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage, AddressScope},
    link::LinkAttribute,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Interface;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(2);
/// `ARPHRD_ETHER`.
const ETHERNET: &str = "1";

/// The kernel does not tell the addresses.
#[derive(Debug, thiserror::Error)]
pub enum InterfacesError {
    /// No socket to the kernel.
    #[error("cannot ask the kernel for this box's addresses: name them instead, --interface NAME=ADDRESS")]
    Socket(#[from] std::io::Error),
    /// It refuses.
    #[error("the kernel does not tell this box's addresses: name them instead, --interface NAME=ADDRESS")]
    Refused(#[from] rtnetlink::Error),
}

/// Waits until a wired interface has an address; `None` if `stop` comes first.
///
/// # Errors
/// When the kernel does not tell.
pub async fn wait(stop: &CancellationToken) -> Result<Option<Vec<Interface>>, InterfacesError> {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            _ = look.tick() => {}
        }
        let found = found().await?;
        if !found.is_empty() {
            return Ok(Some(found));
        }
    }
}

/// Cancels `stop` when there is an address that is not among `served`: the service manager starts the edge anew, with all.
/// One that is gone is no reason; a cable that is out for a moment takes its address along.
pub async fn stop_on_change(served: Vec<Interface>, stop: CancellationToken) {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        match found().await {
            Ok(found) => {
                if let Some(new) = found.iter().find(|interface| !served.contains(interface)) {
                    info!(interface = new.name, address = %new.address, "a new address: this edge ends, to start anew with it");
                    stop.cancel();
                    return;
                }
            }
            Err(error) => {
                warn!(error = %anyhow::Error::from(error), "cannot see whether addresses have changed")
            }
        }
    }
}

/// Every wired interface that has an address, by name.
///
/// # Errors
/// When the kernel does not tell.
pub async fn found() -> Result<Vec<Interface>, InterfacesError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let told = async {
        let links: Vec<_> = handle.link().get().execute().try_collect().await?;
        let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
        Ok::<_, rtnetlink::Error>((links, addresses))
    };
    let told = told.await;
    connection.abort();
    let (links, addresses) = told?;
    let names = links.iter().filter_map(|link| {
        link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some((link.header.index, name.clone())),
            _ => None,
        })
    });
    let wired = names.filter(|(_, name)| is_wired(Path::new("/sys/class/net"), name));
    Ok(first_addresses(&wired.collect(), &addresses))
}

/// Whether it is hardware for a cable: neither virtual nor wireless.
fn is_wired(class: &Path, name: &str) -> bool {
    let folder = class.join(name);
    let kind = std::fs::read_to_string(folder.join("type")).unwrap_or_default();
    kind.trim() == ETHERNET && folder.join("device").exists() && !folder.join("wireless").exists()
}

/// The first address of each interface that is good beyond its own link.
fn first_addresses(names: &HashMap<u32, String>, addresses: &[AddressMessage]) -> Vec<Interface> {
    let mut found: Vec<Interface> = Vec::new();
    for message in addresses {
        let (header, Some(name)) = (&message.header, names.get(&message.header.index)) else {
            continue;
        };
        let Some(address) = local(message) else { continue };
        let good = header.family == AddressFamily::Inet && header.scope == AddressScope::Universe;
        if good && !found.iter().any(|interface| interface.name == *name) {
            found.push(Interface {
                name: name.clone(),
                address,
            });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u32, address: &str, scope: AddressScope) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.index = index;
        message.header.scope = scope;
        message.attributes = vec![AddressAttribute::Local(address.parse().unwrap())];
        message
    }

    #[test]
    fn each_interface_is_served_by_its_first_address_that_others_can_reach() {
        let names = HashMap::from([(2, "enp2s0".to_owned()), (3, "enp1s0".to_owned())]);
        let addresses = [
            message(1, "127.0.0.1", AddressScope::Host),
            message(2, "169.254.1.1", AddressScope::Link),
            message(2, "192.0.2.2", AddressScope::Universe),
            message(2, "192.0.2.3", AddressScope::Universe),
            message(3, "198.51.100.7", AddressScope::Universe),
            message(4, "203.0.113.1", AddressScope::Universe),
        ];
        let found = first_addresses(&names, &addresses);
        let expected = ["enp1s0=198.51.100.7", "enp2s0=192.0.2.2"].map(|text| text.parse().unwrap());
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_virtual_or_wireless_is_not_wired() {
        let class = tempfile::tempdir().unwrap();
        let make = |name: &str, kind: &str, parts: &[&str]| {
            let folder = class.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("type"), format!("{kind}\n")).unwrap();
            parts
                .iter()
                .for_each(|part| std::fs::create_dir(folder.join(part)).unwrap());
            is_wired(class.path(), name)
        };
        assert!(make("enp1s0", "1", &["device"]));
        assert!(!make("br0", "1", &[]));
        assert!(!make("wlan0", "1", &["device", "wireless"]));
        assert!(!make("lo", "772", &[]));
        assert!(!is_wired(class.path(), "gone0"));
    }

    #[tokio::test]
    async fn the_kernel_tells() {
        assert!(found().await.unwrap().iter().all(|i| !i.address.is_loopback()));
    }
}
