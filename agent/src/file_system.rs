//! One file of a system on a disk, changed. The disk is a tenant's and may be laid out to deceive: nothing in it is run,
//! no link in it is followed, and what is mounted is unmounted again.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tracing::{info, warn};

use crate::{inventory::FoundDisk, modules};

/// What can be mounted, with the kernel module for it. XFS and ext4 are what servers are installed on.
const KINDS: [&str; 2] = ["ext4", "xfs"];
const MOUNT_POINT: &str = "/run/slipway-disk";
/// A file to be changed is not longer than this.
const MAX_FILE: u64 = 1 << 20;
/// Where SELinux keeps a file's label.
const LABEL: &str = "security.selinux";

/// The new text of a file by its old one, or nothing if it does not fit.
pub type Edit<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A file that was not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// No file system of the disk has it.
    #[error("no file system on the disk has that file")]
    NotFound,
    /// It does not fit.
    #[error("the file has nothing to change")]
    Unchanged,
    /// The kernel refuses.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
}

fn failed(what: impl Into<String>) -> impl FnOnce(Errno) -> EditError {
    let what = what.into();
    move |error| EditError::Io(what, error.into())
}

/// Changes a file on the first partition of the disk that has it. Blocks; one at a time.
///
/// # Errors
/// When there is none, it does not fit, or the kernel refuses.
pub fn edit_on_disk(disk: &FoundDisk, path: &str, edit: Edit<'_>) -> Result<(), EditError> {
    for kind in KINDS {
        modules::load_named(kind);
    }
    fs::create_dir_all(MOUNT_POINT).map_err(|e| EditError::Io(format!("cannot make {MOUNT_POINT}"), e))?;
    for partition in partitions(Path::new("/sys/block"), &disk.path) {
        let Some(kind) = mounted(&partition) else { continue };
        info!(partition = %partition.display(), kind, "looking for {path}");
        let result = edit_below(Path::new(MOUNT_POINT), path, edit);
        // Whatever is written must have reached the disk before the machine goes on.
        if let Err(error) = unmount(MOUNT_POINT, UnmountFlags::empty()) {
            return Err(failed("cannot unmount the partition")(error));
        }
        match result {
            Err(EditError::NotFound) => {}
            other => return other,
        }
    }
    Err(EditError::NotFound)
}

/// The disk itself and its partitions, as device nodes.
fn partitions(block: &Path, disk: &Path) -> Vec<PathBuf> {
    let mut found = vec![disk.to_owned()];
    let Some(name) = disk.file_name() else {
        return found;
    };
    let entries = fs::read_dir(block.join(name)).into_iter().flatten().flatten();
    let mut parts: Vec<PathBuf> = entries
        .filter(|entry| entry.path().join("partition").exists())
        .map(|entry| disk.with_file_name(entry.file_name()))
        .collect();
    parts.sort();
    found.append(&mut parts);
    found
}

/// Mounts a device as the first kind that fits; nothing that lies on it can be run or be a device.
fn mounted(device: &Path) -> Option<&'static str> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    KINDS
        .into_iter()
        .find(|kind| match mount(device, MOUNT_POINT, *kind, flags, None) {
            Ok(()) => true,
            // Another kind, or none.
            Err(Errno::INVAL | Errno::NODEV) => false,
            Err(error) => {
                warn!(device = %device.display(), kind, %error, "cannot be mounted");
                false
            }
        })
}

/// Changes a file below a folder: the new text takes the old one's place whole, with its owner, mode and label.
///
/// # Errors
/// When it is not there, is behind a link, does not fit, or cannot be written.
pub fn edit_below(root: &Path, path: &str, edit: Edit<'_>) -> Result<(), EditError> {
    let (folder, name) = path.rsplit_once('/').unwrap_or((".", path));
    let top = File::open(root).map_err(|e| EditError::Io(format!("cannot open {}", root.display()), e))?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |dir: &dyn std::os::fd::AsFd, path: &str, flags| {
        rustix::fs::openat2(dir.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), inside)
    };
    let absent = |error| match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV => EditError::NotFound,
        other => failed(format!("cannot open {path}"))(other),
    };
    let folder = open(&top, folder, OFlags::RDONLY | OFlags::DIRECTORY).map_err(absent)?;
    let file: File = open(&folder, name, OFlags::RDONLY | OFlags::NONBLOCK)
        .map_err(absent)?
        .into();
    let text = read(&file, path)?;
    let new = edit(&text).ok_or(EditError::Unchanged)?;
    replace(&folder, name, &file, &new)
}

fn read(file: &File, path: &str) -> Result<String, EditError> {
    let io = |e| EditError::Io(format!("cannot read {path}"), e);
    let kind = file.metadata().map_err(io)?;
    if !kind.is_file() || kind.len() > MAX_FILE {
        return Err(EditError::NotFound);
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
    Ok(text)
}

fn replace(folder: &OwnedFd, name: &str, old: &File, text: &str) -> Result<(), EditError> {
    let temporary = format!(".{name}.slipway");
    let io = |e| EditError::Io(format!("cannot write {name}"), e);
    let like = old.metadata().map_err(io)?;
    // One that an earlier attempt left.
    let _ = rustix::fs::unlinkat(folder, &temporary, AtFlags::empty());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, &temporary, flags, Mode::RUSR | Mode::WUSR);
    let mut file: File = file.map_err(failed(format!("cannot write {name}")))?.into();
    file.write_all(text.as_bytes()).map_err(io)?;
    let (user, group) = (like.uid(), like.gid());
    std::os::unix::fs::fchown(&file, Some(user), Some(group)).map_err(io)?;
    let mode = Mode::from_raw_mode(like.mode() & 0o7777);
    rustix::fs::fchmod(&file, mode).map_err(failed(format!("cannot set the mode of {name}")))?;
    copy_label(old, &file);
    file.sync_all().map_err(io)?;
    rustix::fs::renameat(folder, &temporary, folder, name)
        .map_err(failed(format!("cannot replace {name}")))?;
    rustix::fs::fsync(folder).map_err(failed(format!("cannot replace {name}")))
}

/// A file without its label would be out of reach for a system under SELinux.
fn copy_label(from: &File, to: &File) {
    let Ok(name) = CString::new(LABEL) else { return };
    let mut label = vec![0; 1024];
    let Ok(len) = rustix::fs::fgetxattr(from, &name, &mut label[..]) else {
        return;
    };
    if let Err(error) = rustix::fs::fsetxattr(to, &name, &label[..len], XattrFlags::empty()) {
        warn!(%error, "the file's SELinux label cannot be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let path = dir.path().join("etc/shadow");
        fs::write(&path, "old\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(dir.path().join("etc/.shadow.slipway"), "left by a crash").unwrap();
        edit_below(dir.path(), "etc/shadow", &|old| Some(format!("{old}new\n"))).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old\nnew\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
        let unchanged = edit_below(dir.path(), "etc/shadow", &|_| None);
        assert!(matches!(unchanged, Err(EditError::Unchanged)), "{unchanged:?}");
        assert_eq!(
            fs::read_dir(dir.path().join("etc")).unwrap().count(),
            1,
            "nothing is left behind"
        );
    }

    #[test]
    fn no_link_leads_out_of_the_disk() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir(outside.path().join("etc")).unwrap();
        fs::write(outside.path().join("etc/shadow"), "ours\n").unwrap();
        let try_it = || edit_below(dir.path(), "etc/shadow", &|_| Some("theirs\n".into()));
        assert!(matches!(try_it(), Err(EditError::NotFound)), "nothing there");
        symlink(outside.path().join("etc"), dir.path().join("etc")).unwrap();
        assert!(matches!(try_it(), Err(EditError::NotFound)), "a linked folder");
        fs::remove_file(dir.path().join("etc")).unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink(outside.path().join("etc/shadow"), dir.path().join("etc/shadow")).unwrap();
        assert!(matches!(try_it(), Err(EditError::NotFound)), "a linked file");
        assert_eq!(
            fs::read_to_string(outside.path().join("etc/shadow")).unwrap(),
            "ours\n"
        );
    }

    #[test]
    fn a_disk_and_its_partitions_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        for (part, is) in [("vda1", true), ("vda2", true), ("queue", false)] {
            fs::create_dir_all(dir.path().join("vda").join(part)).unwrap();
            if is {
                fs::write(dir.path().join("vda").join(part).join("partition"), "1").unwrap();
            }
        }
        let found = partitions(dir.path(), Path::new("/dev/vda"));
        let expected: Vec<PathBuf> = ["/dev/vda", "/dev/vda1", "/dev/vda2"].map(PathBuf::from).into();
        assert_eq!(found, expected);
    }
}
