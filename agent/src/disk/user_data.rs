//! A tenant's user-data and ours in one MIME message, so that neither takes the other's place: cloud-init gives `users` of user-data
//! precedence over those of vendor-data as a whole, and knows one `phone_home`. Pure.

use base64::Engine as _;
use slipway_protocol::ids::Digest;

/// What a message is, on its first lines (cloud-init looks for the second).
const MULTIPART: &str = "Content-Type: multipart/mixed; boundary=";
/// How our part is merged: our user is added to the tenant's list, and what the tenant says otherwise stays (cloud-init, "Merging
/// user-data sections").
const MERGE: &str = "Merge-Type: list(append)+dict(no_replace,recurse_list)+str()";
/// Characters of base64 on a line (RFC 2045, 6.8).
const LINE: usize = 76;

/// What of ours goes along.
pub(super) struct Ours<'a> {
    /// `#cloud-config` with the list of our users.
    pub(super) users: &'a str,
    /// A program that reports the system, for where the tenant has it report elsewhere.
    pub(super) report: &'a str,
}

/// The message. Our program is in it when the tenant's user-data may set `phone_home`: nobody else calls it then.
pub(super) fn merged(tenants: &str, ours: &Ours<'_>) -> String {
    let boundary = format!("slipway-{}", &Digest::of(tenants.as_bytes()).to_string()[..32]);
    let is_message = is_message(tenants);
    let mut parts = vec![if is_message {
        tenants.to_owned()
    } else {
        // Of plain text cloud-init sees by its first line what it is.
        part("text/plain", "user-data", "", tenants)
    }];
    parts.push(part("text/cloud-config", "slipway-users", MERGE, ours.users));
    if is_message || tenants.contains("phone_home") {
        parts.push(part("text/x-shellscript", "slipway-report", "", ours.report));
    }
    let mut message = format!("{MULTIPART}\"{boundary}\"\nMIME-Version: 1.0\n\n");
    for part in parts {
        message.push_str(&format!("--{boundary}\n{part}\n"));
    }
    message.push_str(&format!("--{boundary}--\n"));
    message
}

/// Whether cloud-init takes it for a MIME message itself.
fn is_message(text: &str) -> bool {
    let begin: String = text.chars().take(4096).flat_map(char::to_lowercase).collect();
    begin.contains("mime-version:")
}

fn part(kind: &str, name: &str, header: &str, text: &str) -> String {
    let mut part = format!(
        "Content-Type: {kind}; charset=\"utf-8\"\nContent-Transfer-Encoding: base64\n\
         Content-Disposition: attachment; filename=\"{name}\"\n"
    );
    if !header.is_empty() {
        part.push_str(header);
        part.push('\n');
    }
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        part.push('\n');
        part.push_str(line);
        rest = after;
    }
    part
}

/// A program that tells `url` that the system is up, by whatever the image has for that. `url` and `instance` are words of ours, of
/// letters, digits and `:/.-_` alone.
pub(super) fn report(url: &str, instance: &str) -> String {
    format!(
        "#!/bin/sh\n\
         # Tells Slipway that this system is up; phone_home is its owner's.\n\
         url={url}\n\
         said=\"hostname=$(cat /proc/sys/kernel/hostname)&instance_id={instance}\"\n\
         tell() {{\n\
         \x20 curl -fsS -m 10 -d \"$said\" \"$url\" && return\n\
         \x20 wget -qO- -T 10 --post-data=\"$said\" \"$url\" && return\n\
         \x20 for python in python3 /usr/libexec/platform-python; do\n\
         \x20   $python -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], sys.argv[2].encode(), 10)' \"$url\" \"$said\" && return\n\
         \x20 done\n\
         \x20 return 1\n\
         }}\n\
         tries=0\n\
         until tell >/dev/null 2>&1; do\n\
         \x20 tries=$((tries + 1))\n\
         \x20 [ $tries -lt 20 ] || exit 1\n\
         \x20 sleep 3\n\
         done\n"
    )
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, process::Command};

    use super::*;

    const OURS: Ours<'_> = Ours {
        users: "#cloud-config\nusers:\n  - name: \"ops\"\n",
        report: "#!/bin/sh\ntrue\n",
    };

    /// The parts as Python's `email` reads them, which is what cloud-init reads them with: type, merging, text.
    fn parts(message: &str) -> Vec<(String, String, String)> {
        let program = "import sys, email, json\n\
             m = email.message_from_string(sys.stdin.read())\n\
             print(json.dumps([(p.get_content_type(), p.get('Merge-Type', ''), p.get_payload(decode=True).decode()) \
             for p in m.walk() if not p.is_multipart()]))";
        let mut python = Command::new("python3")
            .args(["-c", program])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("python3 is installed");
        python
            .stdin
            .take()
            .expect("piped")
            .write_all(message.as_bytes())
            .expect("python reads");
        let said = python.wait_with_output().expect("python ends");
        serde_json::from_slice(&said.stdout).expect("JSON")
    }

    #[test]
    fn a_reader_of_mime_finds_the_tenants_words_unchanged() {
        for (tenants, with_report) in [
            ("#cloud-config\nusers:\n  - default\n", false),
            ("#cloud-config\nphone_home: {url: \"http://192.0.2.9/\"}\n", true),
            ("#!/bin/sh\necho \"--slipway-\" ä\u{2028}\n", false),
            ("#cloud-config\r\nhostname: a\r\n", false),
            ("#include\nhttp://192.0.2.1/x", false),
        ] {
            let parts = parts(&merged(tenants, &OURS));
            assert_eq!(parts.len(), 2 + usize::from(with_report), "{tenants:?}");
            assert_eq!(parts[0], ("text/plain".into(), String::new(), tenants.into()));
            assert_eq!(parts[1].0, "text/cloud-config");
            assert!(parts[1].1.starts_with("list(append)"));
            assert_eq!(parts[1].2, OURS.users);
            if with_report {
                assert_eq!(
                    (parts[2].0.as_str(), parts[2].2.as_str()),
                    ("text/x-shellscript", OURS.report)
                );
            }
        }
    }

    #[test]
    fn a_tenants_message_is_a_part_of_ours() {
        let theirs = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"x\"\n\n--x\n\
                      Content-Type: text/cloud-config\n\nusers: [default]\n--x\nContent-Type: text/x-shellscript\n\n#!/bin/sh\n--x--\n";
        let parts = parts(&merged(theirs, &OURS));
        let kinds: Vec<&str> = parts.iter().map(|(kind, _, _)| kind.as_str()).collect();
        assert_eq!(
            kinds,
            [
                "text/cloud-config",
                "text/x-shellscript",
                "text/cloud-config",
                "text/x-shellscript"
            ]
        );
    }

    #[test]
    fn the_report_is_a_program_that_a_shell_reads() {
        let program = report("http://192.0.2.1:8081/phone-home/m/n", "i-1");
        let read = Command::new("sh").args(["-n", "-c", &program]).status();
        assert!(read.expect("a shell").success());
        assert!(
            program.contains("url=http://192.0.2.1:8081/phone-home/m/n\n"),
            "{program}"
        );
    }
}
