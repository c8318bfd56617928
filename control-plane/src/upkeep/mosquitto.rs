//! The configuration of a Mosquitto that serves as broker to several replicas: who may connect, and what each may say and
//! hear. Makes text; writing it is [`write`], and it never starts anything.

use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use chrono::{DateTime, Utc};

use crate::pki::{Authority, PkiError};

/// The name in the certificates of control planes; no site may have it.
pub const CONTROL_PLANE: &str = "control-plane";

/// Where the broker listens.
#[derive(Debug, Clone)]
pub struct Doors {
    /// For sites: ADDRESS and port.
    pub sites: (String, u16),
    /// For replicas, in a network that sites do not reach.
    pub replicas: (String, u16),
    /// Most connections at once, at each.
    pub connections: u32,
}

/// A configuration that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum MosquittoError {
    /// A file cannot be written.
    #[error("cannot write {0}: {1}")]
    Write(String, #[source] std::io::Error),
    /// The broker's certificate cannot be made.
    #[error("cannot make the broker's certificate")]
    Certificate(#[from] PkiError),
}

/// Writes `mosquitto.conf`, the two lists of rights, the list of certificates that were taken back (`revoked`: serial
/// numbers and when), and the broker's certificate and key, which is valid for `hosts`. Written again and reloaded by
/// SIGHUP, Mosquitto keeps to the new list.
///
/// # Errors
/// When a file cannot be written or the certificate cannot be made.
pub fn write(
    folder: &Path,
    authority: &Authority,
    doors: &Doors,
    hosts: &[String],
    (revoked, now): (&[(String, DateTime<Utc>)], DateTime<Utc>),
) -> Result<(), MosquittoError> {
    let revocations = authority.revocations(revoked, now)?;
    let identity = authority.identity("slipway broker", hosts)?;
    let path = |name: &str| folder.join(name).display().to_string();
    let failed = |path: String| move |e| MosquittoError::Write(path, e);
    fs::create_dir_all(folder).map_err(failed(folder.display().to_string()))?;
    for (name, text, mode) in [
        ("ca.pem", authority.certificate.as_str(), 0o644),
        ("revoked.pem", &revocations, 0o644),
        ("broker.pem", &identity.certificate, 0o644),
        ("broker.key", &identity.key, 0o600),
        ("sites.acl", SITES, 0o600),
        ("replicas.acl", REPLICAS, 0o600),
        ("mosquitto.conf", &configuration(folder, doors), 0o644),
    ] {
        let open = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(folder.join(name));
        open.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(failed(path(name)))?;
    }
    Ok(())
}

/// What may wait for a reader who is slow or away, in bytes: sixteen of the largest messages.
const QUEUED_BYTES: usize = 16 * slipway_bus::MAX_PACKET_BYTES;

/// A site speaks below its own `evt/` and hears its own `cmd/`; `%u` is the name in its certificate.
const SITES: &str = "\
pattern write slipway/v1/%u/evt/#
pattern read slipway/v1/%u/cmd/#
";

const REPLICAS: &str = "\
user control-plane
topic read slipway/v1/+/evt/#
topic write slipway/v1/+/cmd/#
";

/// Nothing is kept: what a broker forgets, the next comparison finds. A retained message would be told again to whoever comes
/// later, a session without end fills the memory, and so do messages that a slow reader leaves; each has its limit. A site's client
/// id is its name whatever it says, so none can take another's place; replicas share a name, so they have a door of their
/// own.
fn configuration(folder: &Path, doors: &Doors) -> String {
    let file = |name: &str| folder.join(name).display().to_string();
    let tls = format!(
        "cafile {}\ncrlfile {}\ncertfile {}\nkeyfile {}\nrequire_certificate true\nuse_identity_as_username true\n\
         tls_version tlsv1.2\nallow_anonymous false\n",
        file("ca.pem"),
        file("revoked.pem"),
        file("broker.pem"),
        file("broker.key"),
    );
    let listener = |(address, port): &(String, u16), acl: &str, more: &str| {
        format!(
            "\nlistener {port} {address}\nmax_connections {}\n{tls}acl_file {}\n{more}",
            doors.connections,
            file(acl)
        )
    };
    format!(
        "# Made by `slipway-control-plane mosquitto`; changes are lost when it is made again.\n\
         per_listener_settings true\npersistence false\nmax_packet_size {}\nmax_queued_messages 10000\n\
         max_queued_bytes {QUEUED_BYTES}\nretain_available false\npersistent_client_expiration 1h\n{}{}",
        slipway_bus::MAX_PACKET_BYTES,
        listener(&doors.sites, "sites.acl", "use_username_as_clientid true\n"),
        listener(&doors.replicas, "replicas.acl", ""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_key_is_for_the_broker_alone_and_names_are_those_of_certificates() {
        let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let authority = Authority::open(keys.path()).unwrap();
        let doors = Doors {
            sites: ("0.0.0.0".into(), 8883),
            replicas: ("127.0.0.1".into(), 8884),
            connections: 10_000,
        };
        write(
            dir.path(),
            &authority,
            &doors,
            &["broker.example".into()],
            (&[], Utc::now()),
        )
        .unwrap();
        let mode = fs::metadata(dir.path().join("broker.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = fs::read_to_string(dir.path().join("mosquitto.conf")).unwrap();
        assert_eq!(text.matches("require_certificate true").count(), 2);
        let (sites, replicas) = text.split_once("listener 8884 127.0.0.1").unwrap();
        assert!(
            sites.contains("use_username_as_clientid true") && !replicas.contains("use_username_as_clientid")
        );
        assert!(REPLICAS.contains(&format!("user {CONTROL_PLANE}\n")));
    }
}
