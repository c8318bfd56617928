//! W3C trace context: `traceparent` in and out. Pure but for new random ids.

use std::{fmt, str::FromStr};

use crate::vault::{self, VaultError};

/// Where in which trace something happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The trace.
    pub trace: [u8; 16],
    /// The span that what follows is part of.
    pub span: [u8; 8],
    /// Whether it is to be told.
    pub sampled: bool,
}

impl Context {
    /// A new trace.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn new() -> Result<Self, VaultError> {
        Ok(Self {
            trace: vault::random()?,
            span: vault::random()?,
            sampled: true,
        })
    }

    /// A new span of the same trace.
    ///
    /// # Errors
    /// When there are no random bytes.
    pub fn child(self) -> Result<Self, VaultError> {
        Ok(Self {
            span: vault::random()?,
            ..self
        })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace, span) = (hex::encode(self.trace), hex::encode(self.span));
        write!(f, "00-{trace}-{span}-{:02x}", u8::from(self.sampled))
    }
}

/// Not a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct NotAContext;

/// Lower-case hex that is not all zero.
fn id<const N: usize>(text: &str) -> Result<[u8; N], NotAContext> {
    let mut bytes = [0; N];
    let lower = text.bytes().all(|b| !b.is_ascii_uppercase());
    hex::decode_to_slice(text, &mut bytes).map_err(|_| NotAContext)?;
    if lower && bytes != [0; N] {
        return Ok(bytes);
    }
    Err(NotAContext)
}

impl FromStr for Context {
    type Err = NotAContext;

    fn from_str(text: &str) -> Result<Self, NotAContext> {
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [version, trace, span, flags, rest @ ..] = parts.as_slice() else {
            return Err(NotAContext);
        };
        let mut numbers = [[0; 1]; 2];
        for (text, number) in [version, flags].into_iter().zip(&mut numbers) {
            hex::decode_to_slice(text, number).map_err(|_| NotAContext)?;
        }
        let [[version], [flags]] = numbers;
        // A later version may have more parts; this one has none.
        if version == 0xff || (version == 0 && !rest.is_empty()) {
            return Err(NotAContext);
        }
        Ok(Self {
            trace: id(trace)?,
            span: id(span)?,
            sampled: flags & 1 == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_goes_there_and_back_and_others_are_refused() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context: Context = text.parse().unwrap();
        assert_eq!(context.to_string(), text);
        assert!(context.sampled && context.child().unwrap().trace == context.trace);
        assert!(format!("01{}-more", &text[2..]).parse::<Context>().is_ok());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf9-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<Context>().is_err(), "{bad}");
        }
    }
}
