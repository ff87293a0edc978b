//! Unpacking a layer's tar into a directory, in the form that overlay wants.
//!
//! Nothing that an entry says can lead out of the directory: names are cleaned and refused where they climb above it, parents
//! are opened with `openat2(RESOLVE_IN_ROOT)`, the last component is never followed. `.wh.x` becomes overlay's whiteout (a
//! character device 0:0) and `.wh..wh..opq` its opaque mark.

use crate::dirtimes::DirTimes;
use crate::error::ImageError;
use crate::pipe::CHUNK;
use crate::resolve::open_dir_in_root;
use crate::tarstream::{Entry, Kind, TarStream};
use hostd_sys::idmap::IdMap;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Largest extended attribute that Linux takes.
const MAX_XATTR: usize = 65536;
const OPAQUE: &str = "trusted.overlay.opaque";

/// Unpacks the tar `stream` into the empty directory `root`; gives the bytes of all regular files.
///
/// Owners are the host's ids for the entries' in `id_map`, where there is one.
pub(crate) fn unpack(stream: impl Read, root: &Path, id_map: Option<&IdMap>) -> Result<u64, ImageError> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let root_fd = rustix::fs::open(root, flags, Mode::empty()).map_err(ImageError::io("open", root))?;
    let mut unpacker = Unpacker {
        root: root_fd,
        id_map,
        parent: None,
        dir_times: DirTimes::default(),
        size: 0,
        buffer: vec![0; CHUNK],
    };
    let mut tar = TarStream::new(stream);
    while let Some(mut entry) = tar.next()? {
        if let Some(map) = id_map {
            shift(&mut entry, map)?;
        }
        unpacker.entry(&entry, &mut tar)?;
        if unpacker.dir_times.is_full() {
            unpacker.set_dir_times()?;
        }
    }
    tar.drain()?;
    unpacker.set_dir_times()?;
    Ok(unpacker.size)
}

/// Gives an entry the owner on the host that stands for its own.
fn shift(entry: &mut Entry, map: &IdMap) -> Result<(), ImageError> {
    // All ones means "leave it" to chown(2): to the container's root, that is.
    let inside = |id: u32| if id == u32::MAX { 0 } else { id };
    let (uid, gid) = (inside(entry.uid), inside(entry.gid));
    let unmapped = |id: u32| entry.refuse(format!("Container ID {id} cannot be mapped to a host ID"));
    let owner =
        (map.host_uid(uid).ok_or_else(|| unmapped(uid))?, map.host_gid(gid).ok_or_else(|| unmapped(gid))?);
    (entry.uid, entry.gid) = owner;
    Ok(())
}

struct Unpacker<'a> {
    root: OwnedFd,
    id_map: Option<&'a IdMap>,
    /// The directory of the entry before: entries mostly come directory by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories get their times last, since what is put into them changes those.
    dir_times: DirTimes,
    size: u64,
    buffer: Vec<u8>,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), ImageError> {
        let path = clean(&entry.name).ok_or_else(|| entry.refuse("its name leads out of the archive"))?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else { return self.root_entry(entry) };
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        self.enter(&dir, entry)?;
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(entry, OsStr::from_bytes(hidden));
        }
        let was_whiteout = self.clear_way(entry, &name)?;
        let failed = |source: Errno| entry_io(entry, source);
        match entry.kind {
            Kind::File => self.file(entry, &name, data)?,
            Kind::Dir => self.dir(entry, &path, &name, was_whiteout)?,
            Kind::Hardlink => self.hardlink(entry, &name)?,
            Kind::Symlink => {
                check_symlink(entry, &dir)?;
                let target = OsStr::from_bytes(&entry.link);
                rustix::fs::symlinkat(target, self.dir_fd(), &name).map_err(failed)?;
                self.attributes_by_name(entry, &name)?;
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                let kind = match entry.kind {
                    Kind::Char => FileType::CharacterDevice,
                    Kind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(entry.device.0, entry.device.1);
                rustix::fs::mknodat(self.dir_fd(), &name, kind, mode(entry), device).map_err(failed)?;
                self.attributes_by_name(entry, &name)?;
            }
        }
        Ok(())
    }

    fn set_dir_times(&mut self) -> Result<(), ImageError> {
        for (path, times) in self.dir_times.take() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match open_dir_in_root(&self.root, &path, flags) {
                Ok(dir) => {
                    rustix::fs::futimens(&dir, &times).map_err(ImageError::io("set the time of", &path))?
                }
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(source) => return Err(ImageError::io("open", &path)(source)),
            }
        }
        Ok(())
    }

    fn dir_fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.parent.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Opens the entry's directory, and makes it where the archive forgot to.
    fn enter(&mut self, dir: &Path, entry: &Entry) -> Result<(), ImageError> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == dir) {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match open_dir_in_root(&self.root, dir, flags) {
            Err(Errno::NOENT) => self.make_dirs(dir).and_then(|()| open_dir_in_root(&self.root, dir, flags)),
            other => other,
        };
        self.parent = Some((dir.to_owned(), opened.map_err(|source| entry_io(entry, source))?));
        Ok(())
    }

    fn make_dirs(&self, dir: &Path) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut path = PathBuf::new();
        for part in dir.components() {
            let above = open_dir_in_root(&self.root, &path, flags)?;
            path.push(part);
            match rustix::fs::mkdirat(&above, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let (name, mode) = (part.as_os_str(), Mode::from_raw_mode(0o755));
                    if let Some((uid, gid)) = self.id_map.and_then(IdMap::root) {
                        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                        rustix::fs::chownat(&above, name, Some(uid), Some(gid), AtFlags::empty())?;
                    }
                    rustix::fs::chmodat(&above, name, mode, AtFlags::empty())?;
                }
                Err(Errno::EXIST) => {}
                Err(source) => return Err(source),
            }
        }
        Ok(())
    }

    /// `./`: the attributes of the root itself.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), ImageError> {
        if entry.kind != Kind::Dir {
            return Err(entry.refuse("the archive's root can only be a directory"));
        }
        attributes(&self.root, entry)?;
        self.dir_times.insert(PathBuf::from("."), times(entry));
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, hidden: &OsStr) -> Result<(), ImageError> {
        if hidden == ".wh..opq" {
            return make_opaque(self.dir_fd()).map_err(|source| entry_io(entry, source));
        }
        if hidden.as_bytes().starts_with(b".wh.") {
            // aufs kept its own records under such names; no layer means files by them.
            return Ok(());
        }
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(entry.refuse("this whiteout names no file"));
        }
        // A whiteout hides what lies below this layer, and never this layer's own files.
        match self.stat(hidden) {
            Err(Errno::NOENT) => rustix::fs::mknodat(
                self.dir_fd(),
                hidden,
                FileType::CharacterDevice,
                Mode::empty(),
                rustix::fs::makedev(0, 0),
            )
            .map_err(|source| entry_io(entry, source)),
            Ok(stat) if is_dir(&stat) => self
                .open_child(hidden, OFlags::RDONLY | OFlags::DIRECTORY)
                .and_then(make_opaque)
                .map_err(|source| entry_io(entry, source)),
            Ok(_) => Ok(()),
            Err(source) => Err(entry_io(entry, source)),
        }
    }

    /// A later entry replaces an earlier one, except that a directory keeps what it holds. Tells whether a whiteout went.
    fn clear_way(&mut self, entry: &Entry, name: &OsStr) -> Result<bool, ImageError> {
        let stat = match self.stat(name) {
            Err(Errno::NOENT) => return Ok(false),
            Err(source) => return Err(entry_io(entry, source)),
            Ok(stat) => stat,
        };
        if !is_dir(&stat) {
            rustix::fs::unlinkat(self.dir_fd(), name, AtFlags::empty()).map_err(|e| entry_io(entry, e))?;
            return Ok(is_whiteout(&stat));
        }
        if entry.kind != Kind::Dir {
            let path = proc_path(self.dir_fd(), name);
            std::fs::remove_dir_all(&path).map_err(|source| ImageError::Stream {
                doing: format!("replace {}", entry.display_name()),
                source,
            })?;
        }
        Ok(false)
    }

    fn file(&mut self, entry: &Entry, name: &OsStr, data: &mut impl Read) -> Result<(), ImageError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.dir_fd(), name, flags, Mode::from_raw_mode(0o600))
            .map_err(|source| entry_io(entry, source))?;
        let mut file = std::fs::File::from(fd);
        let mut left = entry.size;
        while left > 0 {
            let n = match data.read(&mut self.buffer).map_err(|source| read_failed(entry, source))? {
                0 => return Err(entry.refuse("the archive is truncated")),
                n => n,
            };
            file.write_all(&self.buffer[..n]).map_err(|source| ImageError::Stream {
                doing: format!("write {}", entry.display_name()),
                source,
            })?;
            left -= n as u64;
        }
        self.size += entry.size;
        attributes(&file, entry)?;
        rustix::fs::futimens(&file, &times(entry)).map_err(|source| entry_io(entry, source))
    }

    fn dir(
        &mut self,
        entry: &Entry,
        path: &Path,
        name: &OsStr,
        was_whiteout: bool,
    ) -> Result<(), ImageError> {
        let failed = |source: Errno| entry_io(entry, source);
        match rustix::fs::mkdirat(self.dir_fd(), name, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(source) => return Err(failed(source)),
        }
        let fd = self.open_child(name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        attributes(&fd, entry)?;
        if was_whiteout {
            make_opaque(&fd).map_err(failed)?;
        }
        self.dir_times.insert(path.to_owned(), times(entry));
        self.parent = Some((path.to_owned(), fd));
        Ok(())
    }

    fn hardlink(&mut self, entry: &Entry, name: &OsStr) -> Result<(), ImageError> {
        let target =
            clean(&entry.link).ok_or_else(|| entry.refuse("its link target leads out of the archive"))?;
        let Some(target_name) = target.file_name() else {
            return Err(entry.refuse("a hard link to the root"));
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = open_dir_in_root(&self.root, target.parent().unwrap_or(Path::new("")), flags)
            .map_err(|source| entry_io(entry, source))?;
        // Without AT_SYMLINK_FOLLOW, a link to a symlink is a link to the symlink.
        rustix::fs::linkat(&dir, target_name, self.dir_fd(), name, AtFlags::empty()).map_err(|source| {
            let target = String::from_utf8_lossy(&entry.link);
            let doing = format!("link {} to {target}", entry.display_name());
            ImageError::Stream { doing, source: source.into() }
        })
    }

    /// Owner, mode, attributes and times of what cannot be opened without consequences.
    fn attributes_by_name(&self, entry: &Entry, name: &OsStr) -> Result<(), ImageError> {
        let failed = |source: Errno| entry_io(entry, source);
        let (uid, gid) = owner(entry);
        rustix::fs::chownat(self.dir_fd(), name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
        if entry.kind != Kind::Symlink {
            // Made by us a moment ago, and no symlink: there is nothing to follow.
            rustix::fs::chmodat(self.dir_fd(), name, mode(entry), AtFlags::empty()).map_err(failed)?;
        }
        let path = proc_path(self.dir_fd(), name);
        for (key, value) in &entry.xattrs {
            set_xattr(entry, key, value, |key| {
                rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty())
            })?;
        }
        rustix::fs::utimensat(self.dir_fd(), name, &times(entry), AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
    }

    fn stat(&self, name: &OsStr) -> Result<Stat, Errno> {
        rustix::fs::statat(self.dir_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn open_child(&self, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(self.dir_fd(), name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }
}

/// A name without `.`, `..` and slashes before or after it; `None` where it leads out. Empty for the root itself.
pub(crate) fn clean(name: &[u8]) -> Option<PathBuf> {
    if name.contains(&0) {
        return None;
    }
    let mut clean = PathBuf::new();
    for part in Path::new(OsStr::from_bytes(name)).components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir if !clean.pop() => return None,
            Component::ParentDir | Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(clean)
}

/// Refuses a relative target that climbs above the root, as Docker does. An absolute one means the container's own root.
fn check_symlink(entry: &Entry, dir: &Path) -> Result<(), ImageError> {
    if entry.link.is_empty() {
        return Err(entry.refuse("a symlink with no target"));
    }
    if entry.link.starts_with(b"/") {
        return Ok(());
    }
    let joined = dir.join(OsStr::from_bytes(&entry.link));
    match clean(joined.as_os_str().as_bytes()) {
        Some(_) => Ok(()),
        None => Err(entry.refuse(format!(
            "invalid symlink: its target {:?} leads out of the archive",
            String::from_utf8_lossy(&entry.link)
        ))),
    }
}

/// Owner, mode and extended attributes, in this order: a change of owner clears setuid bits and capabilities.
fn attributes(fd: &impl std::os::fd::AsFd, entry: &Entry) -> Result<(), ImageError> {
    let failed = |source: Errno| entry_io(entry, source);
    let (uid, gid) = owner(entry);
    rustix::fs::fchown(fd, uid, gid).map_err(failed)?;
    rustix::fs::fchmod(fd, mode(entry)).map_err(failed)?;
    for (key, value) in &entry.xattrs {
        set_xattr(entry, key, value, |key| rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()))?;
    }
    Ok(())
}

fn set_xattr(
    entry: &Entry,
    key: &[u8],
    value: &[u8],
    set: impl FnOnce(&[u8]) -> Result<(), Errno>,
) -> Result<(), ImageError> {
    if value.len() > MAX_XATTR {
        return Err(entry.refuse("an extended attribute of more than 64 KiB"));
    }
    // These steer overlay itself: a layer that sets them could redirect its directories elsewhere.
    if key.starts_with(b"trusted.overlay.") || key.starts_with(b"user.overlay.") {
        return Err(entry.refuse(format!("the attribute {} is overlay's own", String::from_utf8_lossy(key))));
    }
    match set(key) {
        // What the file system has no room for, such as SELinux labels elsewhere; Docker goes on too.
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(Errno::PERM) if key.starts_with(b"user.") => Ok(()),
        Err(source) => Err(ImageError::Stream {
            doing: format!("set the attribute {} of {}", String::from_utf8_lossy(key), entry.display_name()),
            source: source.into(),
        }),
    }
}

fn make_opaque(fd: impl std::os::fd::AsFd) -> Result<(), Errno> {
    rustix::fs::fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty())
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    // All ones means "leave it" to chown(2).
    let id = |raw: u32| (raw != u32::MAX).then_some(raw);
    (id(entry.uid).map(Uid::from_raw), id(entry.gid).map(Gid::from_raw))
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode as RawMode)
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A path to `name` in an open directory, for the calls that take no descriptor.
fn proc_path(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = OsString::from(format!("/proc/self/fd/{}/", dir.as_raw_fd()));
    path.push(name);
    path.into()
}

fn entry_io(entry: &Entry, source: Errno) -> ImageError {
    ImageError::Stream { doing: format!("write {}", entry.display_name()), source: source.into() }
}

pub(crate) fn read_failed(entry: &Entry, source: io::Error) -> ImageError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => entry.refuse("the archive is truncated"),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            entry.refuse(format!("the archive is damaged: {source}"))
        }
        _ => ImageError::Stream { doing: format!("read {}", entry.display_name()), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_never_climb_out() {
        for (name, cleaned) in [
            ("a/b", Some("a/b")),
            ("./a/./b/", Some("a/b")),
            ("/etc/passwd", Some("etc/passwd")),
            ("a/../b", Some("b")),
            ("./", Some("")),
            ("/", Some("")),
            ("..", None),
            ("a/../../b", None),
            ("/../b", None),
        ] {
            assert_eq!(clean(name.as_bytes()), cleaned.map(PathBuf::from), "{name}");
        }
        assert_eq!(clean(b"a\0b"), None);
    }
}
