#!/usr/bin/env python3
"""Watches a Slipway site: prints its live orders and reports, each verified as docs/PROTOCOL.md says.

    pip install paho-mqtt cryptography          # or: apt install python3-paho-mqtt python3-cryptography
    watch.py /var/lib/slipway/identity.json     # on the edge box, as who may read that file

Reads the edge's loopback port 1883, where nothing can be written. Lines begin with OK or REFUSED and its code."""
import argparse, base64, hashlib, json
from datetime import datetime, timezone
import paho.mqtt.client as mqtt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

class Refused(Exception):
    """Its text is the stable code."""

def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

def key_id(public):
    return hashlib.sha256(public).hexdigest()[:16]

def expected(topic):
    """Site, kind, subject and who signs, by the table of topics."""
    levels = topic.split("/")
    if levels[:2] != ["slipway", "v1"] or len(levels) not in (5, 6) or levels[3] not in ("cmd", "evt"):
        raise Refused("unknown_topic")
    return levels[2], levels[4], (levels + ["-"])[5], "control plane" if levels[3] == "cmd" else "edge"

def raw_msg(payload):
    """The exact bytes of `msg`: never serialised again. The envelope's fields are in this order, and `msg` is the last."""
    start = payload.index(b'"msg":') + len(b'"msg":')
    return payload[start : payload.rindex(b"}")]

class Watch:
    def __init__(self, identity):
        self.site = identity["site"]
        seed = bytes.fromhex(identity["report_key"])[16:48]
        own = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.keys = {"edge": {key_id(own): own}, "control plane": {}}
        self.trust(identity["verifying_keys"])
        self.held = {}

    def trust(self, keys):
        self.keys["control plane"] = {key_id(unbase64(key)): unbase64(key) for key in keys}

    def open(self, topic, payload, now):
        """Form, key, signature, version, address, expiry, revision, in this order."""
        try:
            envelope = json.loads(payload)
            key, sig, msg = envelope["key"], envelope["sig"], raw_msg(payload)
        except (ValueError, KeyError, TypeError):
            raise Refused("malformed")
        site, kind, subject, signer = expected(topic)
        if key not in self.keys[signer]:
            raise Refused("unknown_key")
        signed = b"slipway/v1/message\0" + topic.encode() + b"\0" + msg
        try:
            Ed25519PublicKey.from_public_bytes(self.keys[signer][key]).verify(unbase64(sig), signed)
        except (InvalidSignature, ValueError):
            raise Refused("bad_signature")
        msg = json.loads(msg)
        if msg["v"] != 1:
            raise Refused("version")
        if (site, msg["site"], msg["kind"], msg["subject"]) != (self.site, self.site, kind, subject):
            raise Refused("misaddressed")
        if datetime.fromisoformat(msg["expires_at"][:19] + "+00:00") <= now:
            raise Refused("expired")
        if msg["revision"] < self.held.get((kind, subject), 0):
            raise Refused("stale")
        self.held[kind, subject] = msg["revision"]
        return msg

    def hear(self, topic, payload):
        try:
            msg = self.open(topic, payload, datetime.now(timezone.utc))
        except (Refused, KeyError, TypeError) as error:
            return f"REFUSED {error if isinstance(error, Refused) else 'malformed'} {topic}"
        if msg["kind"] == "config":
            self.trust(msg["body"]["verifying_keys"])
        more = {"order": lambda b: f"job {b['job']} steps {' '.join(s['action']['do'] for s in b['steps'])}",
                "report": lambda b: f"job {b['job']} {b['outcome']['is']}"}.get(msg["kind"], lambda b: "")
        return f"OK {msg['kind']} {msg['subject']} revision {msg['revision']} {more(msg['body'])}"

def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("identity", help="the edge's identity.json")
    args.add_argument("--host", default="127.0.0.1")
    args = args.parse_args()
    watch = Watch(json.load(open(args.identity)))
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2) if hasattr(mqtt, "CallbackAPIVersion") else mqtt.Client()
    client.on_connect = lambda client, *_: client.subscribe([(f"slipway/v1/{watch.site}/{part}/#", 0) for part in ("cmd", "evt")])
    client.on_subscribe = lambda *_: print(f"watching {watch.site}", flush=True)
    client.on_message = lambda client, _, m: print(watch.hear(m.topic, m.payload), flush=True)
    client.connect(args.host, 1883)
    client.loop_forever()

if __name__ == "__main__":
    main()
