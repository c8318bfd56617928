//! TFTP packets. Must never panic on any bytes.

use std::collections::BTreeMap;

/// A packet from a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A wish to read a file.
    Read {
        /// Its name.
        file: String,
        /// Options, names in lower case.
        options: BTreeMap<String, String>,
    },
    /// A wish to write one.
    Write,
    /// Everything up to this block has come.
    Ack(u16),
    /// The client gives up.
    Error(u16),
}

impl Incoming {
    /// Reads a packet.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        match number(0)? {
            1 => {
                let mut parts = bytes[2..].split(|b| *b == 0);
                let file = file_name(parts.next()?)?;
                let mut texts = parts.map(|text| String::from_utf8_lossy(text).into_owned());
                let _mode = texts.next()?;
                let mut options = BTreeMap::new();
                while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
                    options.insert(name.to_ascii_lowercase(), value);
                }
                Some(Self::Read { file, options })
            }
            2 => Some(Self::Write),
            4 => number(2).map(Self::Ack),
            5 => Some(Self::Error(number(2).unwrap_or(0))),
            _ => None,
        }
    }
}

/// Some ROMs send more behind the name of the file than the name: bytes of 0xff, blanks, ends of lines.
fn file_name(mut bytes: &[u8]) -> Option<String> {
    while let Some((last, rest)) = bytes.split_last()
        && !last.is_ascii_graphic()
    {
        bytes = rest;
    }
    let name = std::str::from_utf8(bytes).ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// A block of data.
#[must_use]
pub fn data(block: u16, bytes: &[u8]) -> Vec<u8> {
    [&[0, 3], &block.to_be_bytes()[..], bytes].concat()
}

/// An acknowledgement of options (RFC 2347).
#[must_use]
pub fn option_ack(options: &[(&str, String)]) -> Vec<u8> {
    let mut out = vec![0, 6];
    for (name, value) in options {
        out.extend_from_slice(name.as_bytes());
        out.push(0);
        out.extend_from_slice(value.as_bytes());
        out.push(0);
    }
    out
}

/// An error: 1 not found, 2 access violation, 4 illegal operation (RFC 1350, 5).
#[must_use]
pub fn error(code: u16, text: &str) -> Vec<u8> {
    [&[0, 5], &code.to_be_bytes()[..], text.as_bytes(), &[0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_firmware_writes_behind_a_name_is_none_of_it() {
        for sent in [
            &b"undionly.kpxe"[..],
            b"undionly.kpxe\xff",
            b"undionly.kpxe\xff\xff\xff",
            b"undionly.kpxe\r\n",
            b"undionly.kpxe  \t",
            b"undionly.kpxe\x80\xfe",
        ] {
            let packet = [b"\0\x01", sent, b"\0octet\0blksize\x001468\0"].concat();
            let Some(Incoming::Read { file, options }) = Incoming::parse(&packet) else {
                panic!("{sent:?}");
            };
            assert_eq!(
                (file.as_str(), options["blksize"].as_str()),
                ("undionly.kpxe", "1468")
            );
        }
        for none in [&b"\xff\xff"[..], b"", b" "] {
            let packet = [b"\0\x01", none, b"\0octet\0"].concat();
            assert_eq!(Incoming::parse(&packet), None, "{none:?}");
        }
        let no_end = b"\0\x01undionly.kpxe\0octet";
        assert!(Incoming::parse(no_end).is_some(), "a mode without its end");
    }
}
