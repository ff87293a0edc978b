//! Opening directories below a root that is not ours to trust: symlinks on the way, absolute ones too, stay inside.

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Symlinks on one path, as the kernel counts them.
const MAX_LINKS: usize = 40;

/// Opens the directory `path` with `root` as its root.
pub(crate) fn open_dir_in_root(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, target, flags, Mode::empty(), resolve) {
            // The kernel saw a rename elsewhere while it resolved `..`, and asks to try again.
            Err(Errno::AGAIN) => {}
            // Before Linux 5.6, or behind a seccomp filter that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => return walk(root, path, flags),
            other => return other,
        }
    }
}

/// The same by hand. It is safe because nobody else changes what lies below `root` meanwhile.
fn walk(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut below: Vec<OwnedFd> = Vec::new();
    let mut pending = parts(path);
    let mut links = 0;
    while let Some(part) = pending.pop_front() {
        if part == ".." {
            below.pop();
            continue;
        }
        let here = below.last().unwrap_or(root);
        let found = rustix::fs::openat(
            here.as_fd(),
            &part,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let stat = rustix::fs::fstat(&found)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            below.push(found);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        let target = rustix::fs::readlinkat(&found, "", Vec::new())?;
        if target.as_bytes().starts_with(b"/") {
            below.clear();
        }
        let mut next = parts(Path::new(OsStr::from_bytes(target.as_bytes())));
        next.append(&mut pending);
        pending = next;
    }
    rustix::fs::openat(below.last().unwrap_or(root), ".", flags, Mode::empty())
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn both_ways_of_resolving_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir_all(root.join("etc/inner")).unwrap();
        symlink("/etc", root.join("absolute")).unwrap();
        symlink("../../../etc", root.join("climbing")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let inode = |fd: OwnedFd| rustix::fs::fstat(&fd).unwrap().st_ino;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let expected = inode(walk(&fd, Path::new("etc/inner"), flags).unwrap());
        for path in ["etc/inner", "absolute/inner", "climbing/inner", "../etc/../../etc/inner"] {
            let path = Path::new(path);
            assert_eq!(inode(walk(&fd, path, flags).unwrap()), expected, "{}", path.display());
            assert_eq!(inode(open_dir_in_root(&fd, path, flags).unwrap()), expected, "{}", path.display());
        }
        assert_eq!(walk(&fd, Path::new("loop"), flags).unwrap_err(), Errno::LOOP);
        assert_eq!(walk(&fd, Path::new("nope"), flags).unwrap_err(), Errno::NOENT);
    }
}
