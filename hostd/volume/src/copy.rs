//! Writing a merged tree out: contents, owners, modes, times, extended attributes, hard links.

use crate::image_tree::{Entry, MergedDir};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Deeper than any real tree, and shallow enough for the stack and the descriptors that the walk takes.
const MAX_DEPTH: usize = 256;
/// Longest list of names, and value, that the kernel has for extended attributes.
const MAX_XATTR: usize = 64 << 10;

/// Copies a tree into the directory `target`.
pub(crate) struct TreeCopy<'a> {
    target: BorrowedFd<'a>,
    /// Files with several names, by where they come from, with the first name that was written.
    linked: HashMap<(u64, u64), PathBuf>,
}

/// What failed, and at which file.
pub(crate) type CopyError = (PathBuf, io::Error);

impl<'a> TreeCopy<'a> {
    pub(crate) fn into(target: BorrowedFd<'a>) -> Self {
        Self { target, linked: HashMap::new() }
    }

    /// Copies `from`'s entries and then what `from` itself is like.
    pub(crate) fn copy(mut self, from: &MergedDir) -> Result<(), CopyError> {
        let target = self.target;
        self.copy_dir(from, target, Path::new(""), 0)
    }

    fn copy_dir(
        &mut self,
        from: &MergedDir,
        to: BorrowedFd<'_>,
        path: &Path,
        depth: usize,
    ) -> Result<(), CopyError> {
        let here = |e: io::Error| (path.to_owned(), e);
        if depth > MAX_DEPTH {
            return Err(here(Errno::NAMETOOLONG.into()));
        }
        for name in from.names().map_err(here)? {
            let path = path.join(&name);
            let at = |e: io::Error| (path.clone(), e);
            match from.get(&name).map_err(at)? {
                None => {} // whited out
                Some(Entry::Dir(dir)) => {
                    let made = make_dir(to, &name).map_err(at)?;
                    self.copy_dir(&dir, made.as_fd(), &path, depth + 1)?;
                }
                Some(Entry::Other { part, stat }) => {
                    self.copy_other(from.part(part), &stat, to, &name, &path).map_err(at)?;
                }
            }
        }
        // Last, as writing the entries changes the times.
        match from.top() {
            Some(top) => copy_attributes(top, to).map_err(here),
            None => Ok(()),
        }
    }

    fn copy_other(
        &mut self,
        from: BorrowedFd<'_>,
        stat: &Stat,
        to: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if stat.st_nlink > 1 {
            if let Some(first) = self.linked.get(&(stat.st_dev, stat.st_ino)) {
                return Ok(rustix::fs::linkat(self.target, first, to, name, AtFlags::empty())?);
            }
            self.linked.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        match kind {
            FileType::RegularFile => return copy_file(from, to, name),
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
            }
            // Pipes, sockets, devices.
            _ => rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?,
        }
        let (uid, gid) = owner(stat);
        rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        Ok(rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

fn make_dir(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(at, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, name, flags, Mode::empty())?)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut target = File::from(rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
    // copy_file_range(2) underneath: a filesystem that can share the blocks does.
    io::copy(&mut source, &mut target)?;
    copy_attributes(source.as_fd(), target.as_fd())
}

/// Owner, extended attributes, mode and times, in this order: a change of owner clears capabilities and set-ID bits.
pub(crate) fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let stat = rustix::fs::fstat(from)?;
    let (uid, gid) = owner(&stat);
    rustix::fs::fchown(to, uid, gid)?;
    copy_xattrs(from, to)?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    Ok(rustix::fs::futimens(to, &times(&stat))?)
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let mut names = vec![0_u8; MAX_XATTR];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut value = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        // Marks of overlayfs, which belong to the layer and not to the file.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        value.resize(MAX_XATTR, 0);
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // Filesystems differ in what they keep; Docker goes on as well.
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    let at = |seconds: i64, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: nanos.try_into().unwrap_or(0) };
    Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}
