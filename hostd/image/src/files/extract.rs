//! From a tar to a container's files.
//!
//! The rules are those of `docker cp`: a directory is merged into one that is there, everything else replaces what is
//! there, and nothing lands outside the directory that was named, except through links that the container itself has there.
//! Those lead nowhere but to its own files, whatever it does to them meanwhile.

use super::lookup::{evaluate, is_of_kernel, open_in_root};
use super::replaced::Replaced;
use super::{FilesError, Result};
use crate::compress::Compression;
use crate::dirtimes::DirTimes;
use crate::tarstream::{Entry, Kind, TarStream};
use crate::unpack::{clean, read_failed};
use hostd_sys::idmap::IdMap;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Deeper than any real tree.
const MAX_DEPTH: usize = 256;
/// Largest extended attribute that Linux takes.
const MAX_XATTR: usize = 65536;
/// What may follow after an archive's end.
const TRAILER: u64 = 1 << 20;

/// How to extract.
#[derive(Clone, Debug, Default)]
pub struct ExtractOptions {
    /// Refuse to put a directory in place of something else, or something else in place of a directory.
    pub no_overwrite_dir_non_dir: bool,
    /// Whom all of it belongs to, by uid and gid, instead of whom the archive says.
    pub owner: Option<(u32, u32)>,
    /// Which ids of the host stand for those of the archive.
    pub id_map: Option<IdMap>,
}

/// Extracts the tar that `input` holds, possibly compressed, into the directory at `path`.
///
/// # Errors
/// [`FilesError::NotFound`] when there is no such directory. What was extracted before a failure stays, as with Docker.
pub fn extract(
    root: BorrowedFd<'_>,
    path: &str,
    options: ExtractOptions,
    mut input: impl BufRead + Send,
) -> Result<()> {
    let path = evaluate(root, path)?;
    let failed = |error| FilesError::path(&path, error);
    let dest = open_in_root(root, path.as_bytes(), OFlags::PATH).map_err(failed)?;
    let stat = rustix::fs::fstat(&dest).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(FilesError::Invalid("extraction point is not a directory".to_owned()));
    }
    if is_of_kernel(dest.as_fd()) {
        return Err(FilesError::NotFound);
    }
    let mut first = Vec::new();
    input.by_ref().take(512).read_to_end(&mut first).map_err(FilesError::io("read the archive"))?;
    // Docker takes nothing for an archive of nothing.
    if first.is_empty() {
        return Ok(());
    }
    let compression = Compression::of(&first);
    let whole = Cursor::new(first).chain(input);
    std::thread::scope(|scope| {
        let (parent, times, replaced) = (None, DirTimes::default(), Replaced::new(scope));
        let extractor = Extractor { root, dest, path: path.into(), options, parent, times, replaced };
        match compression {
            Compression::None => extractor.run(whole),
            _ => {
                let reader = compression.reader(whole).map_err(FilesError::io("read the archive"))?;
                extractor.run(BufReader::with_capacity(256 << 10, reader))
            }
        }
    })
}

struct Extractor<'a, 'scope, 'env> {
    root: BorrowedFd<'a>,
    dest: OwnedFd,
    /// Of `dest`, without links.
    path: PathBuf,
    options: ExtractOptions,
    /// The directory of the entry before: entries mostly come directory by directory.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Directories get their times last, since what is put into them changes those.
    times: DirTimes,
    replaced: Replaced<'scope, 'env>,
}

impl Extractor<'_, '_, '_> {
    fn run(mut self, input: impl BufRead) -> Result<()> {
        let mut tar = TarStream::new(input);
        while let Some(entry) = tar.next()? {
            self.entry(&entry, &mut tar)?;
            if self.times.is_full() {
                self.set_times()?;
            }
        }
        tar.drain_some(TRAILER)?;
        self.set_times()
    }

    fn set_times(&mut self) -> Result<()> {
        for (path, times) in self.times.take() {
            // Replaced meanwhile, it needs none.
            if let Ok(dir) = self.open_dir(&path, OFlags::RDONLY) {
                rustix::fs::futimens(&dir, &times).map_err(failed(&path, "set the time of"))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, data: &mut impl BufRead) -> Result<()> {
        let path = self.checked(entry)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The directory itself stays as it is.
            return Ok(());
        };
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        self.enter(&dir)?;
        let exists = self.clear_way(entry, &path, &name)?;
        let io = |error: Errno| FilesError::from_write(&self.path.join(&path), error);
        let parent = self.parent_fd();
        match entry.kind {
            Kind::File => return self.file(entry, &path, &name, data),
            Kind::Dir => {
                if !exists {
                    rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o700)).map_err(io)?;
                }
                let dir = open_child(parent, &name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(io)?;
                // What the kernel shows is not the container's: some of it is the machine's own, seen from there.
                if is_of_kernel(dir.as_fd()) {
                    self.parent = Some((path, dir));
                    return Ok(());
                }
                self.attributes(&dir, entry).map_err(io)?;
                self.times.insert(path.clone(), times(entry));
                self.parent = Some((path, dir));
                return Ok(());
            }
            Kind::Hardlink => return self.hardlink(entry, &path, &name),
            Kind::Symlink => {
                let target = OsStr::from_bytes(&entry.link);
                rustix::fs::symlinkat(target, parent, &name).map_err(io)?;
            }
            kind => {
                let (kind, device) = match kind {
                    Kind::Char => (FileType::CharacterDevice, entry.device),
                    Kind::Block => (FileType::BlockDevice, entry.device),
                    _ => (FileType::Fifo, (0, 0)),
                };
                let device = rustix::fs::makedev(device.0, device.1);
                rustix::fs::mknodat(parent, &name, kind, Mode::from_raw_mode(0o600), device).map_err(io)?;
            }
        }
        self.attributes_of_made(entry, &name).map_err(io)
    }

    /// The entry's name below the destination; refused where it, or what it links to, leads out. Docker's words.
    fn checked(&self, entry: &Entry) -> Result<PathBuf> {
        let name = entry.display_name();
        let path = clean(&entry.name).ok_or_else(|| {
            FilesError::Refused(format!("{name:?} is outside of {:?}", self.path.display().to_string()))
        })?;
        let target = String::from_utf8_lossy(&entry.link);
        let full = self.path.join(&path).display().to_string();
        if entry.kind == Kind::Symlink {
            let dir = path.parent().unwrap_or(Path::new(""));
            // Joined as text, as Docker does: one that begins with a slash stays below.
            let joined = [dir.as_os_str().as_bytes(), b"/", &entry.link].concat();
            if entry.link.is_empty() || clean(&joined).is_none() {
                return Err(FilesError::Refused(format!("invalid symlink {full:?} -> {target:?}")));
            }
        }
        if entry.kind == Kind::Hardlink && clean(&entry.link).is_none() {
            return Err(FilesError::Refused(format!("invalid hardlink {full:?} -> {target:?}")));
        }
        Ok(path)
    }

    fn parent_fd(&self) -> BorrowedFd<'_> {
        self.parent.as_ref().map_or(self.dest.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Opens the entry's directory, and makes it where the archive does not say what it is like.
    fn enter(&mut self, dir: &Path) -> Result<()> {
        if self.parent.as_ref().is_some_and(|(path, _)| path == dir) {
            return Ok(());
        }
        if dir.as_os_str().is_empty() {
            self.parent = None;
            return Ok(());
        }
        let opened = match self.open_dir(dir, OFlags::PATH) {
            Err(Errno::NOENT) => self.make_dirs(dir).and_then(|()| self.open_dir(dir, OFlags::PATH)),
            other => other,
        };
        let fd = opened.map_err(|error| FilesError::from_write(&self.path.join(dir), error))?;
        self.parent = Some((dir.to_owned(), fd));
        Ok(())
    }

    fn make_dirs(&self, dir: &Path) -> std::result::Result<(), Errno> {
        let mut path = PathBuf::new();
        for part in dir.components() {
            let above = self.open_dir(&path, OFlags::PATH)?;
            path.push(part);
            match rustix::fs::mkdirat(&above, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    let made =
                        open_child(above.as_fd(), part.as_os_str(), OFlags::RDONLY | OFlags::DIRECTORY)?;
                    rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755))?;
                    if let Some((uid, gid)) = self.options.id_map.as_ref().and_then(IdMap::root) {
                        rustix::fs::fchown(&made, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
                    }
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Opens a directory below the destination. Where there is a link on the way, it means what it means in the container.
    fn open_dir(&self, path: &Path, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let below = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.dest, below, flags, Mode::empty(), resolve) {
            Err(Errno::LOOP | Errno::XDEV | Errno::AGAIN) => {
                open_in_root(self.root, self.path.join(path).as_os_str().as_bytes(), flags)
            }
            other => other,
        }
    }

    /// Takes away what is in the way of an entry. Tells whether a directory is there to be merged into.
    fn clear_way(&mut self, entry: &Entry, path: &Path, name: &OsStr) -> Result<bool> {
        let failed = |error| FilesError::from_write(&self.path.join(path), error);
        let parent = self.parent_fd();
        let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other.map_err(failed)?,
        };
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let (here, dest) = (self.path.join(path).display().to_string(), self.path.display().to_string());
        match (is_dir, entry.kind == Kind::Dir) {
            (true, true) => return Ok(true),
            (true, false) if self.options.no_overwrite_dir_non_dir => Err(FilesError::Refused(format!(
                "cannot overwrite directory {here:?} with non-directory {dest:?}"
            ))),
            (false, true) if self.options.no_overwrite_dir_non_dir => Err(FilesError::Refused(format!(
                "cannot overwrite non-directory {here:?} with directory {dest:?}"
            ))),
            // Seen from here no mount of the container's is in use: the kernel would take it off with the file.
            _ if is_mount(parent, name).map_err(failed)? => Err(FilesError::unlink(&here, Errno::BUSY)),
            (true, false) => remove_tree(parent, name, 0).map_err(|e| FilesError::unlink(&here, e)),
            (false, _) => {
                let held = Replaced::hold(parent, name, &stat, entry.size);
                let gone = rustix::fs::unlinkat(parent, name, AtFlags::empty());
                if let (Ok(()), Some(file)) = (gone, held) {
                    self.replaced.let_go(file);
                }
                gone.map_err(|error| FilesError::unlink(&here, error))
            }
        }?;
        Ok(false)
    }

    fn file(&self, entry: &Entry, path: &Path, name: &OsStr, data: &mut impl BufRead) -> Result<()> {
        let io = |error: Errno| FilesError::from_write(&self.path.join(path), error);
        // Made by us, or not at all: what the container puts there in between is never written to.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from_raw_mode(0o600);
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(self.parent_fd(), name, flags, mode).map_err(io)?);
        let mut left = entry.size;
        while left > 0 {
            let chunk = data.fill_buf().map_err(|source| read_failed(entry, source))?;
            let count = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(entry.refuse("the archive is truncated").into());
            }
            file.write_all(&chunk[..count]).map_err(failed(path, "write"))?;
            data.consume(count);
            left -= count as u64;
        }
        self.attributes(&file, entry).map_err(io)?;
        rustix::fs::futimens(&file, &times(entry)).map_err(io)
    }

    fn hardlink(&self, entry: &Entry, path: &Path, name: &OsStr) -> Result<()> {
        let io = |error: Errno| FilesError::from_write(&self.path.join(path), error);
        let target = clean(&entry.link).unwrap_or_default();
        let Some(target_name) = target.file_name() else { return Err(io(Errno::PERM)) };
        let dir = self.open_dir(target.parent().unwrap_or(Path::new("")), OFlags::PATH).map_err(io)?;
        // Without AT_SYMLINK_FOLLOW, a link to a symlink is a link to the symlink.
        rustix::fs::linkat(&dir, target_name, self.parent_fd(), name, AtFlags::empty()).map_err(io)
    }

    fn owner(&self, entry: &Entry) -> (Option<Uid>, Option<Gid>) {
        let (mut uid, mut gid) = self.options.owner.unwrap_or((entry.uid, entry.gid));
        if let Some(map) = &self.options.id_map {
            // Whom the map does not have, the container cannot have either: its root takes the place.
            let root = map.root().unwrap_or((uid, gid));
            (uid, gid) = (map.host_uid(uid).unwrap_or(root.0), map.host_gid(gid).unwrap_or(root.1));
        }
        // All ones means "leave it" to chown(2).
        let id = |raw: u32| (raw != u32::MAX).then_some(raw);
        (id(uid).map(Uid::from_raw), id(gid).map(Gid::from_raw))
    }

    /// Owner, mode and extended attributes, in this order: a change of owner clears setuid bits and capabilities.
    fn attributes(&self, fd: &impl AsFd, entry: &Entry) -> std::result::Result<(), Errno> {
        let (uid, gid) = self.owner(entry);
        rustix::fs::fchown(fd, uid, gid)?;
        rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode as RawMode))?;
        set_xattrs(entry, |key, value| rustix::fs::fsetxattr(fd, key, value, XattrFlags::empty()))
    }

    /// The same for what cannot be opened without consequences; if the container has put something else there meanwhile,
    /// that is left alone.
    fn attributes_of_made(&self, entry: &Entry, name: &OsStr) -> std::result::Result<(), Errno> {
        let pin = match open_child(self.parent_fd(), name, OFlags::PATH) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        let stat = rustix::fs::fstat(&pin)?;
        let same = match (entry.kind, FileType::from_raw_mode(stat.st_mode)) {
            (Kind::Symlink, FileType::Symlink) | (Kind::Fifo, FileType::Fifo) => true,
            (Kind::Char, FileType::CharacterDevice) | (Kind::Block, FileType::BlockDevice) => {
                stat.st_rdev == rustix::fs::makedev(entry.device.0, entry.device.1)
            }
            _ => false,
        };
        if !same {
            return Ok(());
        }
        let (uid, gid) = self.owner(entry);
        rustix::fs::chownat(&pin, "", uid, gid, AtFlags::EMPTY_PATH)?;
        let times = times(entry);
        if entry.kind == Kind::Symlink {
            return rustix::fs::utimensat(self.parent_fd(), name, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
        // The pin's own entry in /proc leads to what is pinned, not to what has its name now.
        let path = format!("/proc/self/fd/{}", pin.as_raw_fd());
        rustix::fs::chmod(&path, Mode::from_raw_mode(entry.mode as RawMode))?;
        rustix::fs::utimensat(rustix::fs::CWD, &path, &times, AtFlags::empty())
    }
}

impl FilesError {
    fn from_write(path: &Path, error: Errno) -> Self {
        match error {
            Errno::ROFS => Self::ReadOnly,
            error => Self::Io { doing: format!("write {}", path.display()), source: error.into() },
        }
    }

    fn unlink(path: &str, error: Errno) -> Self {
        match error {
            Errno::ROFS => Self::ReadOnly,
            // A file that is mounted: Docker's words.
            Errno::BUSY => Self::Refused(format!("unlinkat {path}: device or resource busy")),
            error => Self::Io { doing: format!("remove {path}"), source: error.into() },
        }
    }
}

fn failed<E: Into<std::io::Error>>(path: &Path, doing: &str) -> impl FnOnce(E) -> FilesError {
    FilesError::io(format!("{doing} {}", path.display()))
}

fn open_child(dir: BorrowedFd<'_>, name: &OsStr, flags: OFlags) -> std::result::Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Whether something is mounted there.
fn is_mount(dir: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<bool, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(dir, name, flags, rustix::fs::StatxFlags::TYPE)?;
    Ok(stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// Removes a directory with what it holds. It follows no link, and removes nothing that is mounted.
fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr, depth: usize) -> std::result::Result<(), Errno> {
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let dir = open_child(parent, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    for child in names {
        let child = OsStr::from_bytes(child.as_bytes());
        match is_mount(dir.as_fd(), child) {
            Ok(false) | Err(Errno::NOENT) => {}
            Ok(true) => return Err(Errno::BUSY),
            Err(error) => return Err(error),
        }
        match rustix::fs::unlinkat(&dir, child, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => remove_tree(dir.as_fd(), child, depth + 1)?,
            Err(error) => return Err(error),
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn set_xattrs(
    entry: &Entry,
    set: impl Fn(&[u8], &[u8]) -> std::result::Result<(), Errno>,
) -> std::result::Result<(), Errno> {
    for (key, value) in &entry.xattrs {
        // Overlay's own marks steer it; labels and rules of the kernel's are not an archive's to set.
        let taken =
            key == b"security.capability" || key.starts_with(b"user.") && !key.starts_with(b"user.overlay.");
        if !taken {
            continue;
        }
        if value.len() > MAX_XATTR {
            return Err(Errno::TOOBIG);
        }
        match set(key, value) {
            // What the file system has no room for; Docker goes on too.
            Ok(()) | Err(Errno::NOTSUP | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}
