//! Who really asks when a proxy stands before us. Proxies of ours are believed about whom they speak for; what anybody else
//! writes into `X-Forwarded-For` is not. Everything that knows a caller's address (throttles, audit log) gets it from here.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName},
    middleware::Next,
    response::Response,
};
use ipnet::IpNet;

use crate::app::App;

const HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");

fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// An entry of the header: an address, with or without a port.
fn entry(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse()
        .ok()
        .or_else(with_port)
        .map(|address: IpAddr| address.to_canonical())
}

/// The address of the caller: from the right of what proxies wrote, the first that is not a proxy of ours.
#[must_use]
pub fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer;
    let lines = headers
        .get_all(HEADER)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    let entries: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
    for text in entries.into_iter().rev() {
        if !is_trusted(client, trusted) {
            break;
        }
        // Whoever stands left of what cannot be read is not known.
        let Some(address) = entry(text) else { break };
        client = address;
    }
    client
}

/// Puts the caller's address where handlers look for it.
pub async fn resolve(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if let Some(ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>().copied() {
        let client = client(peer.ip(), request.headers(), &app.config.trusted_proxies);
        request
            .extensions_mut()
            .insert(ConnectInfo(SocketAddr::new(client, peer.port())));
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(peer: &str, lines: &[&str]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|net| net.parse().unwrap());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(HEADER, line.parse().unwrap());
        }
        client(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn only_our_proxies_are_believed() {
        assert_eq!(
            asked("203.0.113.9", &["198.51.100.1"]),
            "203.0.113.9",
            "a stranger says what it likes"
        );
        assert_eq!(asked("10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(
            asked("10.0.0.1", &["1.2.3.4, 198.51.100.1"]),
            "198.51.100.1",
            "the left is the caller's own word"
        );
        assert_eq!(
            asked("10.0.0.1", &["1.2.3.4, 198.51.100.1, 10.0.0.2"]),
            "198.51.100.1"
        );
        assert_eq!(
            asked("10.0.0.1", &["1.2.3.4", "198.51.100.1", "10.0.0.2"]),
            "198.51.100.1",
            "in lines of their own"
        );
        assert_eq!(asked("::ffff:10.0.0.1", &["198.51.100.1:4711"]), "198.51.100.1");
        assert_eq!(asked("fd00::1", &["[2001:db8::7]:443"]), "2001:db8::7");
        assert_eq!(
            asked("10.0.0.1", &["10.0.0.3"]),
            "10.0.0.3",
            "one of ours asks for itself"
        );
        assert_eq!(
            asked("10.0.0.1", &["198.51.100.1, unknown"]),
            "10.0.0.1",
            "nothing left of garbage"
        );
        assert_eq!(asked("10.0.0.1", &[]), "10.0.0.1");
    }
}
