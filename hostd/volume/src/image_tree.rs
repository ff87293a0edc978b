//! The layers of an image, seen as the one tree that overlayfs would make of them.
//!
//! Nothing is followed that a layer says: every step opens one name relative to a directory's descriptor, without
//! following links, and links in the mount path are resolved by ourselves inside the tree. So no layer can lead out
//! of it.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::rc::Rc;

/// As many links as the kernel follows in one path.
const MAX_LINKS: usize = 40;

/// A directory of the merged tree: the same directory in one layer or more, the topmost first.
#[derive(Debug)]
pub(crate) struct MergedDir {
    parts: Vec<OwnedFd>,
}

/// What a name in a [`MergedDir`] stands for.
#[derive(Debug)]
pub(crate) enum Entry {
    Dir(MergedDir),
    /// Anything else; `part` is the layer that it comes from.
    Other {
        part: usize,
        stat: Box<Stat>,
    },
}

impl MergedDir {
    /// The root of the image whose layers are `lower`, the topmost first.
    pub(crate) fn root(lower: &[PathBuf]) -> io::Result<Self> {
        let parts = lower.iter().map(|layer| open_dir(CWD, layer.as_os_str())).collect::<io::Result<_>>()?;
        Ok(Self { parts })
    }

    /// The directory in the topmost layer, whose owner and mode count.
    pub(crate) fn top(&self) -> Option<BorrowedFd<'_>> {
        self.parts.first().map(AsFd::as_fd)
    }

    /// The directory in the layer that an [`Entry::Other`] names.
    pub(crate) fn part(&self, part: usize) -> BorrowedFd<'_> {
        self.parts[part].as_fd()
    }

    /// What `name` is here.
    pub(crate) fn get(&self, name: &OsStr) -> io::Result<Option<Entry>> {
        let mut dirs = Vec::new();
        for (part, fd) in self.parts.iter().enumerate() {
            let stat = match rustix::fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let dir = open_dir(fd.as_fd(), name)?;
                    let opaque = is_opaque(dir.as_fd())?;
                    dirs.push(dir);
                    if opaque {
                        break;
                    }
                }
                _ if is_whiteout(&stat) || !dirs.is_empty() => break,
                _ => return Ok(Some(Entry::Other { part, stat: Box::new(stat) })),
            }
        }
        Ok((!dirs.is_empty()).then_some(Entry::Dir(Self { parts: dirs })))
    }

    /// All names here, those included that turn out to be whited out.
    pub(crate) fn names(&self) -> io::Result<BTreeSet<OsString>> {
        let mut names = BTreeSet::new();
        for fd in &self.parts {
            for entry in Dir::read_from(fd)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if name != b"." && name != b".." {
                    names.insert(OsString::from_vec(name.to_vec()));
                }
            }
        }
        Ok(names)
    }

    /// The directory that `path` leads to from this root, links resolved within it; `None` where it leads to no
    /// directory.
    pub(crate) fn resolve(self, path: &str) -> io::Result<Option<Rc<Self>>> {
        let mut left = components(path.as_ref());
        let mut trail = vec![Rc::new(self)];
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                // Above the root is the root.
                trail.truncate((trail.len() - 1).max(1));
                continue;
            }
            let Some(here) = trail.last() else { return Ok(None) };
            match here.get(&name)? {
                Some(Entry::Dir(dir)) => trail.push(Rc::new(dir)),
                Some(Entry::Other { part, stat })
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && links < MAX_LINKS =>
                {
                    links += 1;
                    let target = rustix::fs::readlinkat(here.part(part), &name, Vec::new())?;
                    if target.to_bytes().starts_with(b"/") {
                        trail.truncate(1);
                    }
                    left.extend(components(OsStr::from_bytes(target.to_bytes())));
                }
                _ => return Ok(None),
            }
        }
        Ok(trail.pop())
    }
}

/// The names in `path`, the last first.
fn components(path: &OsStr) -> Vec<OsString> {
    let names = path.as_bytes().split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".");
    names.rev().map(|name| OsString::from_vec(name.to_vec())).collect()
}

fn open_dir(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

/// Overlayfs's mark for "deleted here".
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Overlayfs's mark for "nothing from below shows through".
fn is_opaque(dir: BorrowedFd<'_>) -> io::Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0; 1];
        match rustix::fs::fgetxattr(dir, name, &mut value[..]) {
            Ok(1) if value == *b"y" => return Ok(true),
            Ok(_) | Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(false)
}
