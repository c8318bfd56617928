//! Identifiers: one newtype each, checked when parsed, so that a value of the type can be used in a topic,
//! a path or a query without further escaping. Must never hold behaviour beyond parse, print and compare.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use uuid::Uuid;

/// Why a text is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// A name outside `[a-z0-9]([a-z0-9-]*[a-z0-9])?`, 1 to 63 characters.
    #[error("`{0}` is not a name: use 1 to 63 of a-z, 0-9 and '-', with a letter or digit at both ends")]
    Name(String),
    /// Not a UUID.
    #[error("`{0}` is not an id: a UUID is expected")]
    Uuid(String),
    /// Not a SHA-256 in hexadecimal.
    #[error("`{0}` is not a SHA-256: 64 lower-case hexadecimal digits are expected")]
    Digest(String),
    /// Not an Ethernet address.
    #[error("`{0}` is not a MAC address: six hexadecimal bytes are expected, as in 52:54:00:12:34:56")]
    Mac(String),
}

/// Implements text form, serde and `FromStr` for a newtype over a checked string.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks and wraps a text.
            ///
            /// # Errors
            /// When the text is not of the type's form.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                $check(text.into()).map(Self)
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        text_forms!($name);
    };
}

/// Implements `Display`, `FromStr` and serde through `Self::new(&str)`-like `FromStr`.
macro_rules! text_forms {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        serde_as_text!($name);
    };
}

/// Serialises through `Display`, deserialises through `FromStr`.
macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

/// Implements a newtype over a UUID.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Uuid::parse_str(text).map(Self).map_err(|_| IdError::Uuid(text.to_owned()))
            }
        }

        serde_as_text!($name);
    };
}

uuid_id!(
    /// One run of an edge's process, made at each start: two boxes with one identity differ in it.
    EdgeRunId
);
text_id!(
    /// A site (IDC), named by the operator: `bj-1`. Also the common name of its edge's certificate.
    SiteId,
    check_name
);
text_id!(
    /// A step within one order: `write-image`. Unique within the order.
    StepId,
    check_name
);
text_id!(
    /// A signing key: the first 16 hexadecimal digits of the SHA-256 of the public key.
    KeyId,
    check_name
);
uuid_id!(
    /// A physical server.
    MachineId
);
uuid_id!(
    /// One run of work on one machine; a machine has at most one live job.
    JobId
);
uuid_id!(
    /// What a tenant asked for: a machine with an operating system.
    InstanceId
);
uuid_id!(
    /// One boot of an agent, made by the agent at start; tells a restart from a reconnect.
    BootId
);

/// A SHA-256, in JSON as 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        Self(digest.as_ref().try_into().expect("SHA-256 is 32 bytes long"))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::Digest(text.to_owned()))?;
        Ok(Self(bytes))
    }
}

serde_as_text!(Digest);

/// An image: the digest of its manifest's content (see [`crate::image::Manifest::id`]).
pub type ImageId = Digest;

/// An Ethernet address. Reads `:`, `-` and `.` separated and bare forms; prints `52:54:00:12:34:56`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `52-54-00-12-34-56`, the form iPXE's `${mac:hexhyp}` gives and our boot URLs use.
    #[must_use]
    pub fn hyphenated(&self) -> String {
        self.joined("-")
    }

    fn joined(self, separator: &str) -> String {
        self.0.map(|byte| format!("{byte:02x}")).join(separator)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined(":"))
    }
}

impl FromStr for MacAddr {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let bad = || IdError::Mac(text.to_owned());
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
        let mut bytes = [0; 6];
        hex::decode_to_slice(&digits, &mut bytes).map_err(|_| bad())?;
        Ok(Self(bytes))
    }
}

serde_as_text!(MacAddr);

fn check_name(text: String) -> Result<String, IdError> {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    let end = |c: Option<&u8>| c.is_some_and(|&c| c != b'-');
    let bytes = text.as_bytes();
    let good =
        bytes.len() <= 63 && bytes.iter().all(|&c| inner(c)) && end(bytes.first()) && end(bytes.last());
    if good { Ok(text) } else { Err(IdError::Name(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_in_topics() {
        for good in ["bj-1", "a", "0", &"x".repeat(63)] {
            assert!(SiteId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a/b",
            "a+b",
            "#",
            "a b",
            "ä",
            &"x".repeat(64),
        ] {
            assert_eq!(SiteId::new(bad), Err(IdError::Name(bad.to_owned())));
        }
    }

    #[test]
    fn mac_reads_every_spelling() {
        let mac = MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0xab]);
        for text in [
            "52:54:00:12:34:ab",
            "52-54-00-12-34-AB",
            "5254.0012.34ab",
            "5254001234ab",
        ] {
            assert_eq!(text.parse(), Ok(mac));
        }
        assert_eq!(mac.to_string(), "52:54:00:12:34:ab");
        assert_eq!(mac.hyphenated(), "52-54-00-12-34-ab");
        assert!("52:54:00:12:34".parse::<MacAddr>().is_err());
    }

    #[test]
    fn digest_round_trips_as_text() {
        let digest = Digest::of(b"slipway");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("00".parse::<Digest>().is_err());
    }
}
