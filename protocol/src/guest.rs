//! What an installed system can be told: one check each, for the control plane's door and for the agent that writes it. Pure.

use base64::Engine as _;

/// The most user-data, in bytes: as much as a seed volume of 1 MiB holds once it is wrapped.
pub const MAX_USER_DATA_BYTES: usize = 512 * 1024;

/// What cannot be used, and what could.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestError {
    /// A host name.
    #[error(
        "`{0}` is not a host name: use letters, digits and '-' in labels of 1 to 63, 253 in all (RFC 1123, 2.1)"
    )]
    HostName(String),
    /// A user name.
    #[error("`{0}` is not a user name: use 1 to 32 of a-z, 0-9, '_', '-', beginning with a letter or '_'")]
    User(String),
    /// A public SSH key.
    #[error(
        "this is no public SSH key: {0}; give the one line of its .pub file, as in `ssh-ed25519 AAAAC3Nz.. name`"
    )]
    SshKey(&'static str),
}

/// The beginning of what somebody typed, escaped, for an error.
fn shown(text: &str) -> String {
    text.escape_default().take(100).collect()
}

/// Whether a host can have this name (RFC 1123, 2.1).
///
/// # Errors
/// When it cannot.
pub fn check_host_name(name: &str) -> Result<(), GuestError> {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) {
        Ok(())
    } else {
        Err(GuestError::HostName(shown(name)))
    }
}

/// Whether the system that is installed can make such a user (useradd(8): what begins with a digit or a dash is refused by one
/// distribution or the other).
///
/// # Errors
/// When it cannot.
pub fn check_user(user: &str) -> Result<(), GuestError> {
    let begins = |c: char| c.is_ascii_lowercase() || c == '_';
    let goes_on = |c: char| begins(c) || c.is_ascii_digit() || c == '-';
    if user.len() <= 32 && user.starts_with(begins) && user.chars().all(goes_on) {
        Ok(())
    } else {
        Err(GuestError::User(shown(user)))
    }
}

/// Whether a text is one line that a file of keys can hold: a line break would add a line, which may carry options.
#[must_use]
pub fn is_one_line(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'))
}

/// The types of keys that OpenSSH takes, and how many fields the key has behind its type (RFC 4253, 6.6; RFC 5656, 3.1; RFC 8709;
/// OpenSSH's PROTOCOL.u2f).
const KEY_TYPES: [(&str, usize); 7] = [
    ("ssh-ed25519", 1),
    ("ssh-rsa", 2),
    ("ecdsa-sha2-nistp256", 2),
    ("ecdsa-sha2-nistp384", 2),
    ("ecdsa-sha2-nistp521", 2),
    ("sk-ssh-ed25519@openssh.com", 2),
    ("sk-ecdsa-sha2-nistp256@openssh.com", 3),
];

/// The smallest RSA key that is let in anywhere, in bytes of its modulus: sshd refuses less than 1024 bits, and most systems less
/// than 2048.
const RSA_BYTES: usize = 256;

/// Whether a line is a public key that OpenSSH would let in: decoded, and of the type that it says.
///
/// # Errors
/// When it is not, with what is wrong.
pub fn check_ssh_key(line: &str) -> Result<(), GuestError> {
    let bad = |what| Err(GuestError::SshKey(what));
    if !is_one_line(line) {
        return bad("it has line breaks or control characters");
    }
    if line.contains("PRIVATE KEY") {
        return bad("this is a private key, which stays where it is");
    }
    let mut words = line.split(' ').filter(|word| !word.is_empty());
    let (Some(kind), Some(body)) = (words.next(), words.next()) else {
        return bad("a type and a key belong to it");
    };
    if kind == "ssh-dss" {
        return bad("OpenSSH lets DSA keys in no more");
    }
    if kind.contains("-cert-v01@") {
        return bad("this is a certificate, not a key");
    }
    let Some((_, fields)) = KEY_TYPES.iter().find(|(name, _)| *name == kind) else {
        return bad("its type is none of OpenSSH's, and options before it are not taken");
    };
    let Ok(bytes) = base64::engine::general_purpose::STANDARD.decode(body) else {
        return bad("the key is not base64, or was cut");
    };
    let Some(parts) = ssh_strings(&bytes) else {
        return bad("the key was cut, or something was added to it");
    };
    let Some((said, values)) = parts.split_first() else {
        return bad("the key is empty");
    };
    if *said != kind.as_bytes() {
        return bad("the key is of another type than the line says");
    }
    if values.len() != *fields || values.iter().any(|value| value.is_empty()) {
        return bad("the key does not have the parts that its type has");
    }
    match (kind, values) {
        ("ssh-ed25519" | "sk-ssh-ed25519@openssh.com", [point, ..]) if point.len() != 32 => {
            bad("an ed25519 key has 32 bytes")
        }
        ("ssh-rsa", [_, modulus]) if modulus.strip_prefix(&[0]).unwrap_or(modulus).len() < RSA_BYTES => {
            bad("an RSA key of less than 2048 bits is let in nowhere")
        }
        (ecdsa, [curve, point, ..]) if ecdsa.contains("ecdsa") => match (*curve, point.len()) {
            (b"nistp256", 65) | (b"nistp384", 97) | (b"nistp521", 133) if contains(ecdsa, curve) => Ok(()),
            _ => bad("the key is not of the curve that its type names"),
        },
        _ => Ok(()),
    }
}

fn contains(kind: &str, curve: &[u8]) -> bool {
    std::str::from_utf8(curve).is_ok_and(|curve| kind.contains(curve))
}

/// The strings that bytes hold, each behind its length (RFC 4251, 5); none if they hold anything else.
fn ssh_strings(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut strings = Vec::new();
    while !bytes.is_empty() {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (string, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        strings.push(string);
        bytes = rest;
    }
    Some(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, parts: &[&[u8]]) -> String {
        let mut bytes = Vec::new();
        for part in std::iter::once(&kind.as_bytes()).chain(parts) {
            bytes.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend(*part);
        }
        base64::engine::general_purpose::STANDARD.encode(bytes)
    }

    #[test]
    fn keys_of_openssh_are_taken() {
        let rsa = [&[0][..], &[0xc1; 256]].concat();
        for (kind, parts) in [
            ("ssh-ed25519", vec![&[7; 32][..]]),
            ("ssh-rsa", vec![&[1, 0, 1], &rsa]),
            ("ecdsa-sha2-nistp256", vec![b"nistp256", &[4; 65]]),
            ("ecdsa-sha2-nistp521", vec![b"nistp521", &[4; 133]]),
            ("sk-ssh-ed25519@openssh.com", vec![&[7; 32], b"ssh:"]),
            (
                "sk-ecdsa-sha2-nistp256@openssh.com",
                vec![b"nistp256", &[4; 65], b"ssh:"],
            ),
        ] {
            let key = key(kind, &parts);
            for line in [
                format!("{kind} {key}"),
                format!("{kind} {key} ann@example.org"),
                format!("{kind}  {key} a name of three words"),
            ] {
                assert_eq!(check_ssh_key(&line), Ok(()), "{line}");
            }
        }
    }

    #[test]
    fn what_no_server_would_take_is_refused_with_why() {
        let good = key("ssh-ed25519", &[&[7; 32]]);
        let small = key("ssh-rsa", &[&[1, 0, 1], &[0xc1; 128]]);
        let cut = &good[..good.len() - 8];
        let other = key("ssh-rsa", &[&[1, 0, 1], &[0xc1; 256]]);
        let longer = key("ssh-ed25519", &[&[7; 32], b"x"]);
        let curve = key("ecdsa-sha2-nistp256", &[b"nistp384", &[4; 97]]);
        for (line, why) in [
            (String::new(), "a type and a key"),
            ("ssh-ed25519".to_owned(), "a type and a key"),
            ("ssh-ed25519 AAAA ops".to_owned(), "cut"),
            (format!("ssh-ed25519 {cut}"), "cut"),
            (format!("ssh-ed25519 {good}!"), "base64"),
            (format!("ssh-ed25519 {other}"), "another type"),
            (format!("ssh-ed25519 {longer}"), "parts"),
            (format!("ecdsa-sha2-nistp256 {curve}"), "curve"),
            (format!("ssh-rsa {small}"), "2048"),
            (format!("ssh-dss {good}"), "DSA"),
            (format!("ssh-ed25519-cert-v01@openssh.com {good}"), "certificate"),
            (format!("from=\"192.0.2.1\" ssh-ed25519 {good}"), "options"),
            (format!("ssh-ed25519 {good}\nssh-rsa x"), "line breaks"),
            (format!("\u{feff}ssh-ed25519 {good}"), "line breaks"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(), "private"),
        ] {
            let refused = check_ssh_key(&line).unwrap_err().to_string();
            assert!(refused.contains(why), "{line}: {refused}");
        }
    }

    #[test]
    fn names_are_what_a_system_can_have() {
        let long = "a".repeat(32);
        for user in ["debian", "_ops", "a-b_9", "x", &long] {
            assert_eq!(check_user(user), Ok(()), "{user}");
        }
        for user in [
            "",
            "9lives",
            "-rf",
            "Ann",
            "a b",
            "a:b",
            "ann\n",
            "änn",
            "a$",
            &"a".repeat(33),
        ] {
            assert!(check_user(user).is_err(), "{user}");
        }
        for name in ["web-1.example.org", "a", "1", &"x".repeat(63)] {
            assert_eq!(check_host_name(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "-a",
            "a..b",
            "a b",
            "a\"b",
            "ä",
            "a.",
            &"x".repeat(64),
            &"x.".repeat(150),
        ] {
            assert!(check_host_name(name).is_err(), "{name}");
        }
    }
}
