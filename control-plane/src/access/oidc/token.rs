//! The ID token: whose word it is, for whom, until when, and that it answers this very log-in. Pure: keys, expectations and
//! the time are arguments. Only [`verify`] makes [`Claims`].

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::jwks::{Algorithm, Checked, KeySet};

/// How far the provider's clock may be from ours, in seconds.
const LEEWAY: f64 = 60.0;

/// Why an ID token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three parts of base64url and JSON.
    #[error("the ID token cannot be read")]
    Unreadable,
    /// An algorithm that proves nothing, or none we know.
    #[error("the ID token is signed by `{0}`; RS256, ES256 and EdDSA are taken")]
    Algorithm(String),
    /// The provider publishes no such key.
    #[error("the ID token is signed by a key that the provider does not publish")]
    UnknownKey,
    /// The signature is not by that key.
    #[error("the ID token's signature is not the provider's")]
    Forged,
    /// Of another provider.
    #[error("the ID token is issued by `{0}`, not by the provider")]
    Issuer(String),
    /// For another client.
    #[error("the ID token is for another client")]
    Audience,
    /// Too old, or of the future.
    #[error("the ID token is not valid at this time; are the clocks right?")]
    Time,
    /// Of another log-in.
    #[error("the ID token answers another log-in")]
    Nonce,
}

/// What a token must say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The provider.
    pub issuer: &'a str,
    /// Our client id there.
    pub client: &'a str,
    /// What this log-in was begun with.
    pub nonce: &'a str,
}

/// What a genuine token says.
#[derive(Debug, Clone)]
pub struct Claims {
    /// Who it is, at this provider.
    pub subject: String,
    /// Everything else it says.
    pub all: Map<String, Value>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Body {
    iss: String,
    sub: String,
    aud: Audience,
    exp: f64,
    iat: f64,
    nbf: Option<f64>,
    nonce: Option<String>,
    azp: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

fn json<T: DeserializeOwned>(part: &str) -> Result<T, TokenError> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Unreadable)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Unreadable)
}

/// Verifies an ID token: its signature first, then what it says.
///
/// # Errors
/// The first reason not to believe it.
pub fn verify(
    token: &str,
    keys: &KeySet,
    expected: Expected<'_>,
    now: DateTime<Utc>,
) -> Result<Claims, TokenError> {
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Unreadable)?;
    let (header, body) = signed.split_once('.').ok_or(TokenError::Unreadable)?;
    let head: Header = json(header)?;
    let algorithm = Algorithm::named(&head.alg)
        .ok_or_else(|| TokenError::Algorithm(head.alg.chars().take(16).collect()))?;
    if head.crit.is_some() {
        return Err(TokenError::Unreadable);
    }
    let signature = URL_SAFE_NO_PAD
        .decode(signature)
        .map_err(|_| TokenError::Unreadable)?;
    match keys.check(algorithm, head.kid.as_deref(), signed.as_bytes(), &signature) {
        Checked::Genuine => believe(json(body)?, expected, now),
        Checked::Forged => Err(TokenError::Forged),
        Checked::UnknownKey => Err(TokenError::UnknownKey),
    }
}

fn believe(body: Body, expected: Expected<'_>, now: DateTime<Utc>) -> Result<Claims, TokenError> {
    if body.iss != expected.issuer {
        return Err(TokenError::Issuer(body.iss));
    }
    let others = match &body.aud {
        Audience::One(one) if one == expected.client => 0,
        Audience::Many(many) if many.iter().any(|one| one == expected.client) => many.len() - 1,
        _ => return Err(TokenError::Audience),
    };
    // A token for several clients says which of them asked for it.
    let asked = body.azp.as_deref();
    if asked.is_some_and(|azp| azp != expected.client) || (others > 0 && asked.is_none()) {
        return Err(TokenError::Audience);
    }
    let now = now.timestamp() as f64;
    let early = body.nbf.is_some_and(|from| from > now + LEEWAY);
    if body.exp <= now - LEEWAY || body.iat > now + LEEWAY || early {
        return Err(TokenError::Time);
    }
    if body.nonce.as_deref() != Some(expected.nonce) {
        return Err(TokenError::Nonce);
    }
    if body.sub.is_empty() || body.sub.len() > 255 {
        return Err(TokenError::Unreadable);
    }
    Ok(Claims {
        subject: body.sub,
        all: body.rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _},
    };
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;
    const EXPECTED: Expected<'static> = Expected {
        issuer: "https://id.example.com",
        client: "slipway",
        nonce: "n-1",
    };

    fn base64(bytes: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    struct Signed {
        ed: Ed25519KeyPair,
        ec: EcdsaKeyPair,
        keys: KeySet,
    }

    impl Signed {
        fn new() -> Self {
            let random = SystemRandom::new();
            let ed = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
            let ec =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
            let point = ec.public_key().as_ref();
            let set = json!({ "keys": [
                { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": base64(ed.public_key()) },
                { "kty": "EC", "crv": "P-256", "kid": "ec", "use": "sig", "x": base64(&point[1..33]), "y": base64(&point[33..]) },
                { "kty": "EC", "crv": "P-256", "kid": "enc", "use": "enc", "x": base64(&point[1..33]), "y": base64(&point[33..]) },
                { "kty": "oct", "kid": "oct", "k": "c2VjcmV0" },
                "not a key",
            ] });
            let keys = KeySet::parse(set.to_string().as_bytes()).unwrap();
            Self { ed, ec, keys }
        }

        fn token(&self, header: &Value, body: &Value) -> String {
            let signed = format!("{}.{}", base64(header.to_string()), base64(body.to_string()));
            let signature = if header["alg"] == "ES256" {
                let random = SystemRandom::new();
                self.ec
                    .sign(&random, signed.as_bytes())
                    .unwrap()
                    .as_ref()
                    .to_vec()
            } else {
                self.ed.sign(signed.as_bytes()).as_ref().to_vec()
            };
            format!("{signed}.{}", base64(signature))
        }

        fn verify(&self, token: &str) -> Result<Claims, TokenError> {
            verify(
                token,
                &self.keys,
                EXPECTED,
                DateTime::from_timestamp(NOW, 0).unwrap(),
            )
        }
    }

    fn good() -> Value {
        json!({ "iss": "https://id.example.com", "sub": "248289761001", "aud": "slipway", "nonce": "n-1",
            "exp": NOW + 300, "iat": NOW, "groups": ["ops"] })
    }

    #[test]
    fn a_good_token_is_believed_by_each_algorithm() {
        let signed = Signed::new();
        for header in [
            json!({ "alg": "EdDSA", "kid": "ed" }),
            json!({ "alg": "ES256", "kid": "ec" }),
            json!({ "alg": "ES256" }),
        ] {
            let claims = signed.verify(&signed.token(&header, &good())).unwrap();
            assert_eq!(claims.subject, "248289761001");
            assert_eq!(claims.all["groups"][0], "ops");
        }
    }

    #[test]
    fn each_lie_is_refused_for_its_own_reason() {
        let signed = Signed::new();
        let cases = [
            (
                "iss",
                json!("https://evil.example.com"),
                TokenError::Issuer("https://evil.example.com".into()),
            ),
            ("aud", json!("another"), TokenError::Audience),
            ("aud", json!(["slipway", "another"]), TokenError::Audience),
            ("azp", json!("another"), TokenError::Audience),
            ("exp", json!(NOW - 61), TokenError::Time),
            ("iat", json!(NOW + 61), TokenError::Time),
            ("nbf", json!(NOW + 61), TokenError::Time),
            ("nonce", json!("n-2"), TokenError::Nonce),
            ("nonce", Value::Null, TokenError::Nonce),
            ("sub", json!(""), TokenError::Unreadable),
            ("exp", json!("soon"), TokenError::Unreadable),
        ];
        for (claim, value, expected) in cases {
            let mut body = good();
            body[claim] = value;
            let token = signed.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &body);
            assert_eq!(signed.verify(&token).unwrap_err(), expected, "{claim}");
        }
        let mut several = good();
        several["aud"] = json!(["slipway", "another"]);
        several["azp"] = json!("slipway");
        let token = signed.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &several);
        assert!(signed.verify(&token).is_ok(), "for several, asked for by us");
    }

    #[test]
    fn forged_signatures_and_algorithms_are_refused() {
        let signed = Signed::new();
        for (header, expected) in [
            (json!({ "alg": "none" }), TokenError::Algorithm("none".into())),
            (
                json!({ "alg": "HS256", "kid": "ed" }),
                TokenError::Algorithm("HS256".into()),
            ),
            (json!({ "alg": "EdDSA", "kid": "new" }), TokenError::UnknownKey),
            (json!({ "alg": "RS256", "kid": "ed" }), TokenError::UnknownKey),
            (json!({ "alg": "ES256", "kid": "enc" }), TokenError::UnknownKey),
            (
                json!({ "alg": "EdDSA", "kid": "ed", "crit": ["b64"] }),
                TokenError::Unreadable,
            ),
        ] {
            assert_eq!(
                signed.verify(&signed.token(&header, &good())).unwrap_err(),
                expected,
                "{header}"
            );
        }
        let token = signed.token(&json!({ "alg": "EdDSA", "kid": "ed" }), &good());
        let (head, rest) = token.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let mut other = good();
        other["sub"] = json!("1");
        let swapped = format!("{head}.{}.{signature}", base64(other.to_string()));
        assert_eq!(signed.verify(&swapped).unwrap_err(), TokenError::Forged);
        let bare = format!("{head}.{}.", base64(good().to_string()));
        assert_eq!(signed.verify(&bare).unwrap_err(), TokenError::Forged);
        for text in ["", "a.b", "a.b.c", "....", "e30.e30.AA"] {
            assert_eq!(signed.verify(text).unwrap_err(), TokenError::Unreadable, "{text}");
        }
    }
}
