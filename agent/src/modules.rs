//! Kernel modules by modalias: what depmod wrote (modules.alias, modules.dep) against what devices say of themselves.
//! Loads; never unloads.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use tracing::{debug, warn};

/// Modules that are loaded whatever the devices say: disks behind SCSI hosts have no modalias of their own before they are
/// scanned.
const ALWAYS: [&str; 2] = ["sd_mod", "virtio_blk"];
/// How often new devices are looked for; a bus behind a bus behind a bus is 3.
const MAX_ROUNDS: usize = 8;

/// What depmod knows of one kernel's modules.
#[derive(Debug, Default)]
pub struct Catalogue {
    base: PathBuf,
    /// Pattern and module name, in the file's order.
    aliases: Vec<(String, String)>,
    /// Module name to its file and those it needs, both relative to `base`; the needed ones stand deepest last.
    files: HashMap<String, (String, Vec<String>)>,
}

impl Catalogue {
    /// Reads `/lib/modules/KVER`.
    ///
    /// # Errors
    /// When depmod's files are not there.
    pub fn read(base: &Path) -> io::Result<Self> {
        let aliases = fs::read_to_string(base.join("modules.alias"))?;
        let deps = fs::read_to_string(base.join("modules.dep"))?;
        Ok(Self {
            base: base.to_owned(),
            aliases: aliases.lines().filter_map(parse_alias).collect(),
            files: deps.lines().filter_map(parse_dep).collect(),
        })
    }

    /// The modules that claim a device, by name.
    pub fn claiming<'a>(&'a self, modalias: &'a str) -> impl Iterator<Item = &'a str> {
        let fits = move |(pattern, _): &&(String, String)| glob(pattern.as_bytes(), modalias.as_bytes());
        self.aliases
            .iter()
            .filter(fits)
            .map(|(_, module)| module.as_str())
    }

    /// The files to load for a module, in the order to load them. Empty for one that is not there.
    #[must_use]
    pub fn load_order(&self, module: &str) -> Vec<PathBuf> {
        let Some((file, needs)) = self.files.get(module) else {
            return Vec::new();
        };
        let mut order: Vec<PathBuf> = needs.iter().rev().map(|need| self.base.join(need)).collect();
        order.push(self.base.join(file));
        order
    }
}

fn parse_alias(line: &str) -> Option<(String, String)> {
    let (pattern, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
    Some((pattern.to_owned(), module.to_owned()))
}

fn parse_dep(line: &str) -> Option<(String, (String, Vec<String>))> {
    let (file, needs) = line.split_once(':')?;
    let needs = needs.split_whitespace().map(str::to_owned).collect();
    Some((name_of(file), (file.to_owned(), needs)))
}

/// `kernel/drivers/net/virtio-net.ko` is module `virtio_net`.
fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split('.').next().unwrap_or(name).replace('-', "_")
}

/// Loads the modules of every device, again for those that appear meanwhile; answers how many were loaded.
pub fn load_all(catalogue: &Catalogue, sys: &Path) -> usize {
    let mut tried = BTreeSet::new();
    let mut loaded = 0;
    for module in ALWAYS {
        loaded += load(catalogue, module, &mut tried);
    }
    for _ in 0..MAX_ROUNDS {
        let before = tried.len();
        for modalias in modaliases(&sys.join("devices")) {
            for module in catalogue.claiming(&modalias) {
                loaded += load(catalogue, module, &mut tried);
            }
        }
        if tried.len() == before {
            break;
        }
    }
    loaded
}

/// Loads a module that no device asks for, with what it needs. One that is part of the kernel, or not in this LiveOS, is
/// no error: whoever needs it says so better.
pub fn load_named(module: &str) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match Catalogue::read(&Path::new("/lib/modules").join(release)) {
        Ok(catalogue) => {
            load(&catalogue, module, &mut BTreeSet::new());
        }
        Err(error) => warn!(module, %error, "there is no catalogue of modules"),
    }
}

fn load(catalogue: &Catalogue, module: &str, tried: &mut BTreeSet<PathBuf>) -> usize {
    let mut loaded = 0;
    for file in catalogue.load_order(module) {
        if !tried.insert(file.clone()) {
            continue;
        }
        match insert(&file) {
            Ok(()) => loaded += 1,
            Err(rustix::io::Errno::EXIST) => {}
            // A driver that finds its hardware unfit says so; others may claim the device.
            Err(rustix::io::Errno::NODEV) => debug!(module, "no device for it"),
            Err(error) => warn!(file = %file.display(), %error, "a kernel module cannot be loaded"),
        }
    }
    loaded
}

fn insert(file: &Path) -> rustix::io::Result<()> {
    let file = fs::File::open(file)
        .map_err(|e| rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO))?;
    rustix::system::finit_module(&file, c"", 0)
}

/// Every `modalias` below a folder of sysfs, each once. Follows no links, so it ends.
fn modaliases(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.file_name() == "modalias" {
                let text = fs::read_to_string(entry.path()).unwrap_or_default();
                found.extend(Some(text.trim().to_owned()).filter(|t| !t.is_empty()));
            }
        }
    }
    found
}

/// Shell patterns as in depmod's files: `*`, `?`, `[..]`. Linear in practice: one `*` is retried at a time.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => class(&pattern[p..], text[t]),
            Some(byte) if *byte == text[t] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(len), _) => {
                p += len;
                t += 1;
            }
            (None, Some((at, from))) => {
                p = at + 1;
                t = from + 1;
                star = Some((at, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// The length of the class at the start of `pattern` if it holds `byte`.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let end = pattern.iter().position(|b| *b == b']')?;
    let mut members = &pattern[1..end];
    while let Some((&first, rest)) = members.split_first() {
        if let [b'-', last, more @ ..] = rest {
            if (first..=*last).contains(&byte) {
                return Some(end + 1);
            }
            members = more;
        } else {
            if first == byte {
                return Some(end + 1);
            }
            members = rest;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_modprobe_does() {
        let table = [
            ("virtio:d00000001v*", "virtio:d00000001v00001AF4", true),
            ("virtio:d00000001v*", "virtio:d00000002v00001AF4", false),
            (
                "pci:v00001AF4d*sv*sd*bc*sc*i*",
                "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
                true,
            ),
            (
                "pci:v*d*sv*sd*bc01sc06i01*",
                "pci:v00008086d00002922sv0sd0bc01sc06i01",
                true,
            ),
            (
                "pci:v*d*sv*sd*bc01sc06i01*",
                "pci:v00008086d00002922sv0sd0bc01sc01i01",
                false,
            ),
            ("usb:v05[0-9A]Cp?", "usb:v05ACp1", true),
            ("usb:v05[0-9A]Cp?", "usb:v05BCp1", false),
            ("a*", "a", true),
            ("a?", "a", false),
            ("[", "[", false),
            ("", "", true),
            ("*a*b*c", "xxaxxbxxbc", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn what_a_module_needs_is_loaded_before_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join("modules.alias"),
            "# Aliases\nalias virtio:d00000001v* virtio_net\nalias virtio:d00000001v* other\n",
        )
        .unwrap();
        fs::write(
            dir.path().join("modules.dep"),
            "kernel/net/virtio-net.ko: kernel/net/failover.ko kernel/virtio/virtio.ko\nkernel/x/other.ko:\n",
        )
        .unwrap();
        let catalogue = Catalogue::read(dir.path()).unwrap();
        let claiming: Vec<_> = catalogue.claiming("virtio:d00000001v00001AF4").collect();
        assert_eq!(claiming, ["virtio_net", "other"]);
        let names: Vec<String> = catalogue
            .load_order("virtio_net")
            .iter()
            .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["virtio.ko", "failover.ko", "virtio-net.ko"]);
        assert!(catalogue.load_order("absent").is_empty());
    }

    #[test]
    fn modaliases_are_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("devices/pci0/0000:00:01.0/virtio0");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("modalias"), "virtio:d1\n").unwrap();
        fs::write(dir.path().join("devices/pci0/modalias"), "acpi:PNP0A03:\n").unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("devices/loop")).unwrap();
        let found: Vec<_> = modaliases(dir.path()).into_iter().collect();
        assert_eq!(found, ["acpi:PNP0A03:", "virtio:d1"]);
    }
}
