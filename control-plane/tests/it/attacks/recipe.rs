//! Messages as an attacker would make them: by hand from docs/PROTOCOL.md, not by the product's own signer, which makes no bad
//! ones.

use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{TimeDelta, Utc};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Map, Value, json};
use slipway_edge::identity::Identity;
use slipway_protocol::{
    ids::Digest,
    seal::{Secret, seal},
};

/// The machine every fixture is about.
const MACHINE: &str = "00000000-0000-4000-8000-00000000000a";
const JOB: &str = "00000000-0000-4000-8000-00000000000b";

/// One folder of `tests/fixtures/attacks`.
pub(crate) struct Fixture {
    pub(crate) name: String,
    pub(crate) topic: String,
    /// The stable code it is refused with.
    pub(crate) expected: String,
    recipe: Value,
    message: Option<Vec<u8>>,
}

/// Who is there to sign, and for whom.
pub(crate) struct Keys<'a> {
    /// PKCS#8 of the control plane's key.
    pub(crate) control_plane: Vec<u8>,
    /// The site that the message is from or for.
    pub(crate) site: &'a Identity,
    /// Another one.
    pub(crate) other: &'a Identity,
    /// The site's first configuration as it was sent.
    pub(crate) former: &'a [u8],
}

/// All that are there, by name. Panics if a part is missing.
pub(crate) fn fixtures() -> Vec<Fixture> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/attacks");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(base)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    folders.sort();
    folders.iter().map(|folder| Fixture::read(folder)).collect()
}

impl Fixture {
    fn read(folder: &Path) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        let text = |file: &str| {
            let text = std::fs::read_to_string(folder.join(file));
            text.unwrap_or_else(|e| panic!("{name}/{file}: {e}"))
        };
        let lines = text("README.md").trim().lines().count();
        assert_eq!(
            lines, 2,
            "{name}/README.md says what it is and why it must be refused"
        );
        let recipe: Value = serde_json::from_str(&text("make.json")).unwrap();
        let message = std::fs::read(folder.join("message.json")).ok();
        assert!(
            message.is_some() || recipe["signed_by"].is_string(),
            "{name} has neither a message nor a recipe for one"
        );
        Self {
            topic: text("topic").trim().replace("{machine}", MACHINE),
            expected: text("expected").trim().to_owned(),
            recipe,
            message,
            name,
        }
    }

    pub(crate) fn is_for_edge(&self) -> bool {
        match self.recipe["to"].as_str() {
            Some("edge") => true,
            Some("control-plane") => false,
            other => panic!("{}: to {other:?}", self.name),
        }
    }

    /// Whether it is refused when its step is due, and told in the report.
    pub(crate) fn is_told_in_report(&self) -> bool {
        self.recipe["told_in"] == "report"
    }

    /// The bytes, fresh.
    pub(crate) fn make(&self, keys: &Keys) -> Vec<u8> {
        if let Some(message) = &self.message {
            return message.clone();
        }
        if self.recipe["replay"].is_string() {
            return keys.former.to_vec();
        }
        let fill = |text: &str| {
            text.replace("{machine}", MACHINE)
                .replace("{site}", keys.site.site.as_str())
                .replace("{other}", keys.other.site.as_str())
        };
        let field = |name: &str, default: &str| fill(self.recipe[name].as_str().unwrap_or(default));
        let now = Utc::now();
        let left = self.recipe["expires_in_s"].as_i64().unwrap_or(600);
        let mut msg = Map::new();
        for (name, value) in [
            ("v", self.recipe.get("v").cloned().unwrap_or(json!(1))),
            ("kind", json!(field("kind", ""))),
            ("site", json!(field("site", "{site}"))),
            ("subject", json!(field("subject", ""))),
            (
                "revision",
                self.recipe.get("revision").cloned().unwrap_or(json!(1_000)),
            ),
            ("issued_at", json!(now - TimeDelta::minutes(5))),
            ("expires_at", json!(now + TimeDelta::seconds(left))),
            ("body", self.body(keys)),
        ] {
            msg.insert(name.to_owned(), value);
        }
        let msg = fill(&Value::Object(msg).to_string());
        let topic = fill(self.recipe["signed_for"].as_str().unwrap_or(&self.topic));
        self.damage(envelope(&self.signer(keys), &topic, &msg))
    }

    fn body(&self, keys: &Keys) -> Value {
        let mut body = self.recipe["body"].clone();
        let sealed_to = match self.recipe["seal_to"].as_str() {
            None => return body,
            Some("other") => keys.other.opening_key().unwrap().sealing_key(),
            other => panic!("{}: seal_to {other:?}", self.name),
        };
        for (name, secret) in body["secrets"].as_object_mut().unwrap() {
            let place = format!("order/{}/{MACHINE}/{JOB}/{name}", keys.site.site);
            let text = Secret::new(secret["seal"].as_str().unwrap());
            *secret = serde_json::to_value(seal(sealed_to, &place, &text).unwrap()).unwrap();
        }
        body
    }

    fn signer(&self, keys: &Keys) -> Ed25519KeyPair {
        let of_site = |identity: &Identity| hex::decode(&identity.report_key).unwrap();
        let pkcs8 = match self.recipe["signed_by"].as_str().unwrap() {
            "control-plane" => keys.control_plane.clone(),
            "site" => of_site(keys.site),
            "other-site" => of_site(keys.other),
            // An agent's key follows from its boot token.
            "agent" => return Ed25519KeyPair::from_seed_unchecked(&Digest::of(b"a boot token").0).unwrap(),
            "stranger" => return Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap(),
            other => panic!("{}: signed_by {other}", self.name),
        };
        Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap()
    }

    fn damage(&self, message: Vec<u8>) -> Vec<u8> {
        let damage = &self.recipe["damage"];
        if damage["truncate"].is_number() {
            return message[..message.len() / 2].to_vec();
        }
        let (Some(from), Some(to)) = (damage["replace"][0].as_str(), damage["replace"][1].as_str()) else {
            return message;
        };
        let text = String::from_utf8(message).unwrap();
        assert!(text.contains(from), "{}: no `{from}` in {text}", self.name);
        text.replacen(from, to, 1).into_bytes()
    }
}

/// `{"key":..,"sig":..,"msg":..}` as docs/PROTOCOL.md has it.
fn envelope(pair: &Ed25519KeyPair, topic: &str, msg: &str) -> Vec<u8> {
    let signed = [b"slipway/v1/message\0", topic.as_bytes(), b"\0", msg.as_bytes()].concat();
    let sig = URL_SAFE_NO_PAD.encode(pair.sign(&signed).as_ref());
    let key = &Digest::of(pair.public_key().as_ref()).to_string()[..16];
    format!(r#"{{"key":"{key}","sig":"{sig}","msg":{msg}}}"#).into_bytes()
}
