//! The signature of a delivery: HMAC-SHA-256 over its time and its body, so that neither can be changed and an old one is
//! told from a new one. Pure.

use ring::hmac;
use slipway_protocol::seal::Secret;

/// The value of `Slipway-Signature`: `t=SECONDS,v1=HEX`, where HEX signs `SECONDS.BODY`; one `v1` for each secret.
#[must_use]
pub fn header(secrets: &[Secret], seconds: i64, body: &[u8]) -> String {
    let mut value = format!("t={seconds}");
    for secret in secrets {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.reveal().as_bytes());
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{seconds}.").as_bytes());
        context.update(body);
        value.push_str(",v1=");
        value.push_str(&hex::encode(context.sign().as_ref()));
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected value is Python's `hmac.new(b"s3cret", b'1700000000.{"a":1}', "sha256").hexdigest()`.
    #[test]
    fn signs_time_and_body() {
        let signed = header(&[Secret::new("s3cret")], 1_700_000_000, br#"{"a":1}"#);
        assert_eq!(
            signed,
            "t=1700000000,v1=1698a50bc74d1ff1db85c4e0a5297c2ad9fdba245d5737cdb789e4cc6e098940"
        );
        let both = header(
            &[Secret::new("new"), Secret::new("s3cret")],
            1_700_000_000,
            br#"{"a":1}"#,
        );
        assert!(
            both.ends_with(&signed["t=1700000000".len()..]) && both.matches(",v1=").count() == 2,
            "{both}"
        );
    }
}
