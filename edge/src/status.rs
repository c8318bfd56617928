//! The line on how this box is: for a console that nobody logs in to. It must never hold a secret; whoever stands before the
//! box reads it.

use std::{
    fs::Permissions,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use slipway_bus::Event;
use tokio::sync::mpsc;
use tracing::warn;

use crate::{config::Config, identity::Identity};

/// While no wired interface has an address.
pub const NO_ADDRESS: &str =
    "Slipway edge: no address yet. Connect a wired interface to a network that hands out addresses.";

/// Says it in the file of the settings, if there is one. The box works on without it.
pub fn say(config: &Config, text: &str) {
    let Some(path) = &config.status else { return };
    if let Err(error) = replace(path, text) {
        warn!(path = %path.display(), %error, "how this box is cannot be written for its console");
    }
}

/// A reader, of any user, sees the former line or the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{text}\n"))?;
    std::fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    std::fs::rename(&new, path)
}

/// While the set-up page is served at `page`.
#[must_use]
pub fn not_joined(addresses: &[IpAddr], page: SocketAddr) -> String {
    let here = |address: &IpAddr| format!("http://{}/", SocketAddr::new(*address, page.port()));
    let pages: Vec<String> = if page.ip().is_unspecified() {
        addresses.iter().map(here).collect()
    } else {
        vec![here(&page.ip())]
    };
    format!(
        "Slipway edge: not joined. Open {} and enter the token.",
        pages.join(" or ")
    )
}

/// While the site is served.
#[must_use]
pub fn serving(identity: &Identity, addresses: &[IpAddr], connected: bool) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let link = if connected {
        "is reached"
    } else {
        "is not reached; the site is served all the same"
    };
    format!(
        "Slipway edge: serves site {} at {}. The control plane {} {link}.",
        identity.site,
        addresses.join(", "),
        identity.url
    )
}

/// Passes on what the link tells, and says whether the control plane is reached.
#[must_use]
pub fn told(
    config: &Config,
    identity: &Identity,
    mut events: mpsc::Receiver<Event>,
) -> mpsc::Receiver<Event> {
    let (config, identity) = (config.clone(), identity.clone());
    let (sender, receiver) = mpsc::channel(events.max_capacity());
    let show = move |connected| say(&config, &serving(&identity, &config.addresses(), connected));
    show(false);
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            match &event {
                Event::Connected => show(true),
                Event::Disconnected { .. } => show(false),
                Event::Message { .. } => {}
            }
            if sender.send(event).await.is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_named_by_addresses_that_a_browser_can_open() {
        let addresses = ["192.0.2.2", "198.51.100.7"].map(|text| text.parse().unwrap());
        assert_eq!(
            not_joined(&addresses, "0.0.0.0:8080".parse().unwrap()),
            "Slipway edge: not joined. Open http://192.0.2.2:8080/ or http://198.51.100.7:8080/ and enter the token."
        );
        assert_eq!(
            not_joined(&addresses, "192.0.2.2:80".parse().unwrap()),
            "Slipway edge: not joined. Open http://192.0.2.2:80/ and enter the token."
        );
    }
}
