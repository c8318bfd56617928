//! Where deliveries may go: to public addresses only, unless the configuration says otherwise, so that whoever may make a
//! webhook cannot make the control plane knock at doors inside its network. Names are checked when they are connected to,
//! by the very addresses that are used: a name that points elsewhere a moment later gains nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// A destination is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Not an address of the web.
    #[error("`{0}` is not an http or https URL without user name and password")]
    Url(String),
    /// Not public.
    #[error("{0} is not a public address; an operator may allow those with SLIPWAY_WEBHOOK_PRIVATE=true")]
    Private(IpAddr),
}

/// Whether an address belongs to the public internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_public_v4(v4),
            // 2000::/3 is all that was ever given out; in it 2001:db8::/32 is for documents, 2001::/23 for tunnels and
            // other machinery.
            None => {
                let s = v6.segments();
                s[0] & 0xe000 == 0x2000 && !(s[0] == 0x2001 && (s[1] < 0x200 || s[1] == 0xdb8))
            }
        },
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let special = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_documentation()
        || matches!(
            (a, b, c),
            (0, ..) | (224.., ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _)
        );
    !special
}

/// The IPv4 address that an IPv6 address leads to: mapped, compatible, translated (64:ff9b::/96) or by 6to4.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = v6.segments();
    let low = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(low(s[6], s[7])),
        [0x2002, ..] => Some(low(s[1], s[2])),
        _ => None,
    }
}

/// Reads a webhook's URL; an address in it is checked here, a name when it is connected to.
///
/// # Errors
/// When it is no URL for webhooks, or names an address that is not public while those are not allowed.
pub fn check_url(text: &str, private: Private) -> Result<Url, EgressError> {
    let bad = || EgressError::Url(text.to_owned());
    let url = Url::parse(text).map_err(|_| bad())?;
    let plain = url.username().is_empty() && url.password().is_none();
    let host = url.host_str().filter(|host| !host.is_empty());
    let (true, true, Some(host)) = (matches!(url.scheme(), "http" | "https"), plain, host) else {
        return Err(bad());
    };
    match host.trim_matches(['[', ']']).parse() {
        Ok(address) if private == Private::Refused && !is_public(address) => {
            Err(EgressError::Private(address))
        }
        _ => Ok(url),
    }
}

/// What becomes of addresses that are not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Private {
    /// They are used like others.
    Allowed,
    /// They are not used.
    Refused,
}

/// A resolver that gives public addresses only.
pub(super) struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            // One bad address spoils the name: nobody honest mixes them.
            if let Some(bad) = found.iter().find(|address| !is_public(address.ip())) {
                return Err(EgressError::Private(bad.ip()).into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_addresses_are_told_from_public_ones() {
        for inside in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2002:a00:1::",
            "2001::1",
            "2001:db8::1",
            "fec0::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for public in [
            "1.1.1.1",
            "100.63.0.1",
            "172.32.0.1",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "2002:101:101::",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn urls_are_read_as_they_are_connected_to() {
        let check = |text| check_url(text, Private::Refused);
        assert!(check("https://hooks.example.com/x?y=1").is_ok());
        for bad in [
            "ftp://example.com",
            "hooks",
            "http://",
            "https://u:p@example.com",
            "https://u@example.com",
        ] {
            assert!(matches!(check(bad), Err(EgressError::Url(_))), "{bad}");
        }
        // Other spellings of 127.0.0.1 and of a mapped address.
        for inside in [
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://[::ffff:127.0.0.1]:80/",
        ] {
            assert!(matches!(check(inside), Err(EgressError::Private(_))), "{inside}");
        }
        assert!(check_url("http://127.0.0.1:9/", Private::Allowed).is_ok());
    }

    #[tokio::test]
    async fn a_name_that_leads_inside_is_refused() {
        let found = PublicOnly.resolve("localhost".parse().unwrap()).await;
        assert!(found.is_err_and(|e| e.to_string().contains("not a public address")));
    }
}
