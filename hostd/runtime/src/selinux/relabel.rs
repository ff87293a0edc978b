//! Giving files a label: what `:z` and `:Z` ask for.
//!
//! Every file is reached by its descriptor from that of its directory, and no link is followed: the tree may belong to
//! somebody who swaps a directory for a link meanwhile.

use super::Context;
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

const ATTRIBUTE: &str = "security.selinux";
/// How deep trees may be: each level holds two descriptors while what is below it is gone through.
const DEEPEST: usize = 256;
/// What would break the host, as libselinux's users have it; and their homes.
const NEVER: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];

/// Gives `path`, with all below it, the files' label of a container; without its categories where it is to be `shared`.
/// A file system that takes no labels is left as it is.
///
/// # Errors
/// The path is one of the host's own, or the label cannot be set; the text says where.
pub fn relabel(path: &Path, label: &str, shared: bool) -> io::Result<()> {
    let mut context: Context =
        label.parse().map_err(|why: String| io::Error::new(io::ErrorKind::InvalidInput, why))?;
    if shared && context.level.is_some() {
        context.level = Some("s0".to_owned());
    }
    let path = path.canonicalize()?;
    if is_the_hosts(&path) {
        let why = format!("SELinux relabeling of {} is not allowed", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let named = |error: io::Error, at: &str| io::Error::new(error.kind(), format!("{at}: {error}"));
    // No link is left in it; one that has been put there since is not followed.
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let top = rustix::fs::openat2(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let label = CString::new(context.to_string())?;
    // What was relabelled before holds files that have it, or will have had it from its making on.
    let fresh = !has(&top, &label);
    match set(&top, &label) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        result => result.map_err(|error| named(error.into(), &path.display().to_string()))?,
    }
    let below = if is_dir(&top)? { Some(open_dir(&top, c".")?) } else { None };
    let mut open: Vec<OpenDir> = below.into_iter().collect();
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.entries.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let at = || format!("{} below {}", name.to_string_lossy(), path.display());
        let deeper = one(&dir.fd, name, &label, fresh).map_err(|error| named(error.into(), &at()))?;
        if deeper.is_some() && open.len() >= DEEPEST {
            return Err(io::Error::other(format!("{}: too deep", at())));
        }
        open.extend(deeper);
    }
    Ok(())
}

/// A directory whose files are under way.
struct OpenDir {
    fd: OwnedFd,
    entries: Dir,
}

/// Labels one file of a directory; the file, where it is a directory itself. One that is gone is none.
fn one(parent: &OwnedFd, name: &CStr, label: &CStr, fresh: bool) -> rustix::io::Result<Option<OpenDir>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = match rustix::fs::openat(parent, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(None),
        fd => fd?,
    };
    if fresh || !has(&fd, label) {
        match set(&fd, label) {
            // Another file system that is mounted there, and takes no labels.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::ROFS) => {}
            Err(error) => return Err(error),
        }
    }
    if !is_dir(&fd)? {
        return Ok(None);
    }
    match open_dir(&fd, c".") {
        Err(Errno::NOENT) => Ok(None),
        dir => dir.map(Some),
    }
}

fn open_dir(at: &OwnedFd, name: &CStr) -> rustix::io::Result<OpenDir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(at, name, flags, Mode::empty())?;
    Ok(OpenDir { entries: Dir::read_from(&fd)?, fd })
}

fn is_dir(fd: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    Ok(FileType::from_raw_mode(stat.st_mode).is_dir())
}

/// A descriptor's file by a path that no link in the file system leads astray, the file being a link included.
fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn has(fd: &OwnedFd, label: &CStr) -> bool {
    let mut now = [0_u8; 4096];
    let len = rustix::fs::getxattr(path_of(fd), ATTRIBUTE, &mut now[..]).unwrap_or(0);
    now[..len].strip_suffix(b"\0").unwrap_or(&now[..len]) == label.to_bytes()
}

fn set(fd: &OwnedFd, label: &CStr) -> rustix::io::Result<()> {
    rustix::fs::setxattr(path_of(fd), ATTRIBUTE, label.to_bytes_with_nul(), XattrFlags::empty())
}

/// Whether a path is one that the host lives by: [`NEVER`], or somebody's home.
fn is_the_hosts(path: &Path) -> bool {
    // `/bin` is a link to `/usr/bin` on most hosts, and `/home` on some.
    let is = |other: &Path| path == other || other.canonicalize().is_ok_and(|other| path == other);
    NEVER.iter().any(|never| is(Path::new(never)))
        || std::env::var_os("HOME").is_some_and(|home| !home.is_empty() && is(Path::new(&home)))
        || homes(&std::fs::read_to_string("/etc/passwd").unwrap_or_default()).any(|home| is(Path::new(home)))
}

/// The homes of people: those of services are often data.
fn homes(passwd: &str) -> impl Iterator<Item = &str> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid: u32 = fields.get(2)?.parse().ok()?;
        fields.get(5).copied().filter(|home| (uid == 0 || (1000..65534).contains(&uid)) && !home.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_directories_are_never_relabelled() {
        for path in ["/", "/usr", "/etc/", "/home", "/root", "/usr/../etc", "/bin", "/lib"] {
            let error = relabel(Path::new(path), "u:r:t:s0:c1,c2", false).unwrap_err().to_string();
            assert!(error.contains("is not allowed"), "{path}: {error}");
        }
        let passwd =
            "root:x:0:0::/root:/bin/sh\nwww:x:33:33::/var/www:/x\njo:x:1000:1000::/home/jo:/bin/sh\nbad\n";
        assert_eq!(homes(passwd).collect::<Vec<_>>(), ["/root", "/home/jo"]);
    }

    #[test]
    fn a_label_without_sense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(relabel(dir.path(), "t", true).unwrap_err().to_string().contains("invalid SELinux label"));
        assert!(relabel(&dir.path().join("none"), "u:r:t:s0", true).is_err());
    }
}
