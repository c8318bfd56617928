//! The NoCloud seed (cloud-init's data source of that name): three texts on a FAT volume labelled CIDATA. Every word that
//! comes from an order is checked or quoted, so that no host name or key can add a line of configuration.

use std::io::{Cursor, Write as _};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use slipway_protocol::guest::{self, GuestError};

use super::user_data::{self, Ours};

/// The largest volume that is made, in bytes; the rest of a larger partition stays unused.
const MAX_VOLUME_BYTES: u64 = 4 * 1024 * 1024;
/// The smallest in which three texts and FAT's own tables fit.
const MIN_VOLUME_BYTES: u64 = 64 * 1024;

/// A seed that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// A word has characters it may not have.
    #[error("the guest's {what} `{value}` cannot be used: {rule}")]
    Word {
        /// Which word.
        what: &'static str,
        /// The word, escaped.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A name that no system can have.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// The partition is too small.
    #[error(
        "the seed partition of {0} bytes is too small for the guest's first-boot data; make it larger in the image"
    )]
    TooSmall(u64),
    /// FAT could not be written.
    #[error("cannot write the seed volume: {0}")]
    Volume(String),
}

/// What the installed system is told.
#[derive(Debug, Clone)]
pub struct Seed<'a> {
    /// Instance id.
    pub instance_id: &'a str,
    /// Host name.
    pub hostname: &'a str,
    /// The user to make.
    pub user: &'a str,
    /// Public SSH keys for the user.
    pub ssh_keys: &'a [String],
    /// Where the system reports itself.
    pub phone_home: &'a str,
    /// The tenant's user-data, as given.
    pub user_data: Option<&'a str>,
}

impl Seed<'_> {
    /// `meta-data`.
    ///
    /// # Errors
    /// When a word cannot be used.
    pub fn meta_data(&self) -> Result<String, SeedError> {
        guest::check_host_name(self.hostname)?;
        Ok(format!(
            "instance-id: {}\nlocal-hostname: {}\n",
            quote("instance id", self.instance_id)?,
            quote("host name", self.hostname)?
        ))
    }

    /// `vendor-data`: ours, beside the tenant's user-data, which wins where both say something; see [`Seed::merged_user_data`].
    ///
    /// # Errors
    /// When a word cannot be used.
    pub fn vendor_data(&self) -> Result<String, SeedError> {
        guest::check_host_name(self.hostname)?;
        guest::check_user(self.user)?;
        let hostname = quote("host name", self.hostname)?;
        let mut text =
            format!("#cloud-config\nhostname: {hostname}\nfqdn: {hostname}\npreserve_hostname: false\n");
        text.push_str(&self.users()?);
        text.push_str("growpart:\n  mode: auto\n  devices: [\"/\"]\nresize_rootfs: true\n");
        let url = quote("phone-home address", self.phone_home)?;
        text.push_str(&format!(
            "phone_home:\n  url: {url}\n  post: [hostname, instance_id]\n  tries: 20\n"
        ));
        Ok(text)
    }

    /// The list of users, as configuration.
    fn users(&self) -> Result<String, SeedError> {
        let user = quote("user", self.user)?;
        let mut text = format!(
            "users:\n  - name: {user}\n    sudo: \"ALL=(ALL) NOPASSWD:ALL\"\n    shell: /bin/bash\n    lock_passwd: true\n"
        );
        if !self.ssh_keys.is_empty() {
            text.push_str("    ssh_authorized_keys:\n");
        }
        for key in self.ssh_keys {
            text.push_str(&format!("      - {}\n", quote("SSH key", key)?));
        }
        Ok(text)
    }

    /// `user-data`: the tenant's, if there is any, with what its own words would take the place of otherwise.
    ///
    /// # Errors
    /// When a word cannot be used.
    pub fn merged_user_data(&self) -> Result<String, SeedError> {
        let Some(tenants) = self.user_data.filter(|text| !text.trim().is_empty()) else {
            return Ok("#cloud-config\n{}\n".to_owned());
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '/' | '.' | '-' | '_');
        for (what, word) in [
            ("instance id", self.instance_id),
            ("phone-home address", self.phone_home),
        ] {
            if !word.chars().all(plain) {
                return Err(refused(what, word, "use letters, digits and `:/.-_`"));
            }
        }
        let users = format!("#cloud-config\n{}", self.users()?);
        let report = user_data::report(self.phone_home, self.instance_id);
        let ours = Ours {
            users: &users,
            report: &report,
        };
        Ok(user_data::merged(tenants, &ours))
    }

    /// The volume's bytes for a partition of `partition_bytes`.
    ///
    /// # Errors
    /// When a word cannot be used or it does not fit.
    pub fn volume(&self, partition_bytes: u64) -> Result<Vec<u8>, SeedError> {
        let files = [
            ("meta-data", self.meta_data()?),
            ("vendor-data", self.vendor_data()?),
            ("user-data", self.merged_user_data()?),
        ];
        let len = partition_bytes.min(MAX_VOLUME_BYTES) / 512 * 512;
        let wanted: u64 = files.iter().map(|(_, text)| text.len() as u64 + 2048).sum();
        if len < MIN_VOLUME_BYTES + wanted {
            return Err(SeedError::TooSmall(partition_bytes));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| SeedError::TooSmall(len))?];
        write_volume(&mut bytes, &files).map_err(|e| SeedError::Volume(e.to_string()))?;
        Ok(bytes)
    }
}

fn write_volume(bytes: &mut [u8], files: &[(&str, String)]) -> std::io::Result<()> {
    let mut disk = Cursor::new(bytes);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat12)
        .bytes_per_cluster(2048)
        .volume_label(*b"CIDATA     ");
    fatfs::format_volume(&mut disk, options)?;
    let volume = FileSystem::new(disk, FsOptions::new())?;
    {
        let root = volume.root_dir();
        for (name, text) in files {
            root.create_file(name)?.write_all(text.as_bytes())?;
        }
    }
    volume.unmount()
}

/// A word as a double-quoted YAML scalar (YAML 1.2 section 7.3.1). What would need an escape beyond `\"` and `\\`, such as a
/// line break, is refused: no word here has use for it.
fn quote(what: &'static str, word: &str) -> Result<String, SeedError> {
    if !guest::is_one_line(word) {
        let rule = "it must be one line without control characters";
        return Err(refused(what, word, rule));
    }
    Ok(format!("\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\"")))
}

fn refused(what: &'static str, value: &str, rule: &'static str) -> SeedError {
    SeedError::Word {
        what,
        value: value.escape_default().take(200).collect(),
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn seed<'a>(keys: &'a [String]) -> Seed<'a> {
        Seed {
            instance_id: "i-1",
            hostname: "web-1.example.org",
            user: "ops",
            ssh_keys: keys,
            phone_home: "http://10.0.0.1:8081/phone-home/m/n",
            user_data: None,
        }
    }

    #[test]
    fn no_word_adds_a_line() {
        let keys = ["ssh-ed25519 AAAA \"x\" \\ # y: {z}'".to_owned()];
        let text = seed(&keys).vendor_data().unwrap();
        assert!(
            text.contains("      - \"ssh-ed25519 AAAA \\\"x\\\" \\\\ # y: {z}'\"\n"),
            "{text}"
        );
        for evil in [
            "k\nruncmd: [x]",
            "k\rx",
            "k\u{85}x",
            "k\u{2028}x",
            "k\0",
            "k\u{1b}[2J",
        ] {
            let keys = [evil.to_owned()];
            assert!(matches!(
                seed(&keys).vendor_data(),
                Err(SeedError::Word { what: "SSH key", .. })
            ));
            let hostname = Seed {
                hostname: evil,
                ..seed(&[])
            };
            assert!(hostname.meta_data().is_err() && hostname.vendor_data().is_err());
            let user = Seed {
                user: evil,
                ..seed(&[])
            };
            assert!(user.vendor_data().is_err());
            let id = Seed {
                instance_id: evil,
                ..seed(&[])
            };
            assert!(id.meta_data().is_err());
        }
    }

    #[test]
    fn mtools_reads_the_volume() {
        let keys = ["ssh-ed25519 AAAA ops".to_owned()];
        for partition in [1_u64 << 20, 300 << 20] {
            let volume = seed(&keys).volume(partition).unwrap();
            assert!(volume.len() as u64 <= partition);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &volume).unwrap();
            let run = |program: &str, args: &[&str]| {
                let out = Command::new(program)
                    .arg("-i")
                    .arg(file.path())
                    .args(args)
                    .output();
                let out = out.expect("mtools is installed (Debian package mtools)");
                assert!(
                    out.status.success(),
                    "{program}: {}",
                    String::from_utf8_lossy(&out.stderr)
                );
                String::from_utf8_lossy(&out.stdout).into_owned()
            };
            let listing = run("mdir", &["::"]);
            assert!(
                listing.contains("CIDATA") && listing.contains("vendor-data"),
                "{listing}"
            );
            assert_eq!(run("mtype", &["::meta-data"]), seed(&keys).meta_data().unwrap());
            assert_eq!(run("mtype", &["::user-data"]), "#cloud-config\n{}\n");
            assert!(run("mtype", &["::vendor-data"]).contains("- \"ssh-ed25519 AAAA ops\""));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let large = "#".repeat(1 << 20);
        let with = Seed {
            user_data: Some(&large),
            ..seed(&[])
        };
        assert!(matches!(with.volume(1 << 20), Err(SeedError::TooSmall(_))));
        assert!(matches!(seed(&[]).volume(4096), Err(SeedError::TooSmall(4096))));
    }
}
