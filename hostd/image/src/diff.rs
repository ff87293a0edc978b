//! What a writable layer changes: overlay's upper directory, read against the layers below it.
//!
//! One walk serves both `docker diff` and `docker commit`. It tells of a file that is in the upper directory, of one that
//! a whiteout or an opaque directory hides, and of a directory only where it or something in it has changed: overlay has
//! the directories above every change there too.

use crate::error::ImageError;
use crate::files::{FilesError, Packer, Sink, names, shift};
use crate::tarstream::Kind;
use hostd_sys::idmap::IdMap;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// Deeper than any real tree, and shallow enough for the descriptors that the walk takes.
const MAX_DEPTH: usize = 256;

/// What has become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is another than below, or something in it is.
    Modified,
    /// It is not there below.
    Added,
    /// It is there below alone.
    Deleted,
}

/// One line of `docker diff`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What has become of it.
    pub kind: ChangeKind,
    /// Absolute, in the container.
    pub path: String,
}

/// Places that hostd makes, most of them to mount on. A file there that is empty, or a directory that holds nothing else, is no change of
/// the container's.
const MOUNT_POINTS: [&str; 13] = [
    "/.dockerenv",
    "/dev",
    "/dev/console",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/run/.containerenv",
    "/sys",
];

/// Lists what `upper` changes of `lower` (top layer first), parents before children.
pub(crate) fn changes(upper: &Path, lower: &[PathBuf]) -> Result<Vec<Change>, ImageError> {
    let mut list = Vec::new();
    walk(upper, lower, None, Out::List(&mut list))?;
    Ok(list)
}

/// Writes what `upper` changes of `lower` as a layer's tar: with `.wh.` files for what is hidden.
pub(crate) fn write_layer<'a>(
    upper: &Path,
    lower: &[PathBuf],
    id_map: Option<&'a IdMap>,
    sink: &'a mut dyn Sink,
) -> Result<(), ImageError> {
    walk(upper, lower, id_map, Out::Tar(Packer::new(sink, id_map)))
}

fn walk<'a>(
    upper: &Path,
    lower: &[PathBuf],
    id_map: Option<&'a IdMap>,
    out: Out<'a>,
) -> Result<(), ImageError> {
    let failed = |error: Errno| ImageError::io("open", upper)(error);
    let root = open_dir(CWD, upper).map_err(failed)?;
    let dirs = lower.iter().map(|layer| open_dir(CWD, layer)).collect::<Result<_, _>>().map_err(failed)?;
    let mut walk = Walk { out, waiting: Vec::new(), id_map };
    let walked = walk.dir(&root, Some(&Below { dirs }), false, b"", 0).and_then(|_| match walk.out {
        Out::Tar(packer) => packer.finish(),
        Out::List(_) => Ok(()),
    });
    walked.map_err(|error| match error {
        FilesError::Io { doing, source } => ImageError::Stream { doing, source },
        FilesError::Archive(error) => error,
        other => ImageError::Other(other.to_string()),
    })
}

/// Where the walk tells what it finds.
enum Out<'a> {
    List(&'a mut Vec<Change>),
    Tar(Packer<'a>),
}

/// A directory that is told of once something in it is.
struct Waiting {
    path: Vec<u8>,
    fd: OwnedFd,
    stat: Stat,
    kind: ChangeKind,
}

struct Walk<'a> {
    out: Out<'a>,
    waiting: Vec<Waiting>,
    /// For the owners that a tar tells.
    id_map: Option<&'a IdMap>,
}

impl Walk<'_> {
    /// Tells of what is in a directory; gives whether a place to mount on was passed over. `hidden`: the directory is
    /// opaque, so that what is below is gone unless it is here again.
    fn dir(
        &mut self,
        upper: &OwnedFd,
        below: Option<&Below>,
        hidden: bool,
        prefix: &[u8],
        depth: usize,
    ) -> Result<bool, FilesError> {
        if depth > MAX_DEPTH {
            return Err(FilesError::Invalid(format!("{}: nested too deeply", show(prefix))));
        }
        let here = names(upper, prefix)?;
        let mut all: BTreeSet<CString> = here.into_iter().collect();
        if let (true, Some(below), Out::List(_)) = (hidden, below, &self.out) {
            all.extend(below.names(prefix)?);
        }
        let mut passed_over = false;
        for name in all {
            let path = [prefix, name.to_bytes()].concat();
            let io = |error: Errno| FilesError::io(format!("read {}", show(&path)))(error);
            let found = below.map(|below| below.get(&name)).transpose().map_err(io)?.flatten();
            match rustix::fs::statat(upper, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) if found.is_some() => self.deleted(prefix, &name)?,
                Err(Errno::NOENT) => {}
                Err(error) => return Err(io(error)),
                Ok(stat) if is_whiteout(&stat) => {
                    if found.is_some() {
                        self.deleted(prefix, &name)?;
                    }
                }
                Ok(stat) if is_dir(&stat) => {
                    passed_over |= self.subdir(upper, &name, stat, found, &path, depth)?;
                }
                Ok(stat) => passed_over |= !self.file(upper, &name, &stat, found, &path)?,
            }
        }
        Ok(passed_over)
    }

    fn subdir(
        &mut self,
        upper: &OwnedFd,
        name: &CStr,
        stat: Stat,
        found: Option<Found>,
        path: &[u8],
        depth: usize,
    ) -> Result<bool, FilesError> {
        let io = |error: Errno| FilesError::io(format!("read {}", show(path)))(error);
        let fd = open_dir(upper.as_fd(), name).map_err(io)?;
        let opaque = is_opaque(fd.as_fd()).map_err(io)?;
        let prefix = [path, b"/"].concat();
        let (kind, below) = match found {
            None => (ChangeKind::Added, None),
            Some(Found::Other(_)) => (ChangeKind::Modified, None),
            Some(Found::Dir(below)) => (ChangeKind::Modified, Some(below)),
        };
        let ours = is_mount_point(path);
        let old = below.as_ref().and_then(Below::stat);
        let changed = old.as_ref().is_none_or(|old| attributes(old) != attributes(&stat));
        // Of an opaque directory a layer must say that it is one.
        let marks = opaque && below.is_some() && matches!(self.out, Out::Tar(_));
        let at = self.waiting.len();
        let inner = fd.try_clone().map_err(FilesError::io(format!("read {}", show(path))))?;
        self.waiting.push(Waiting { path: path.to_vec(), fd, stat, kind });
        if changed && !ours || marks {
            self.tell_waiting()?;
        }
        if let (true, Out::Tar(packer)) = (marks, &mut self.out) {
            packer.mark(&[&prefix[..], b".wh..wh..opq"].concat())?;
        }
        let passed_over = self.dir(&inner, below.as_ref(), opaque, &prefix, depth + 1)?;
        if self.waiting.len() > at {
            // Nothing in it. Its time alone is worth a layer's entry, but no line to a reader.
            let touched = old.is_some_and(|old| times(&old) != times(&stat));
            if matches!(self.out, Out::Tar(_)) && touched && !passed_over && !ours {
                self.tell_waiting()?;
            } else {
                self.waiting.truncate(at);
                return Ok(ours);
            }
        }
        Ok(false)
    }

    /// Tells of a file, unless it is a place to mount on.
    fn file(
        &mut self,
        upper: &OwnedFd,
        name: &CStr,
        stat: &Stat,
        found: Option<Found>,
        path: &[u8],
    ) -> Result<bool, FilesError> {
        if found.is_none() && is_ours(upper, name, stat, path) {
            return Ok(false);
        }
        let kind = match &found {
            None => ChangeKind::Added,
            Some(Found::Other(old))
                if contents(old) == contents(stat) && matches!(self.out, Out::List(_)) =>
            {
                return Ok(true);
            }
            Some(_) => ChangeKind::Modified,
        };
        self.tell_waiting()?;
        match &mut self.out {
            Out::List(list) => list.push(Change { kind, path: format!("/{}", show(path)) }),
            Out::Tar(packer) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let pin = match rustix::fs::openat(upper, name, flags, Mode::empty()) {
                    // A running container has removed it.
                    Err(Errno::NOENT) => return Ok(true),
                    other => other.map_err(FilesError::io(format!("read {}", show(path))))?,
                };
                let mut stat =
                    rustix::fs::fstat(&pin).map_err(FilesError::io(format!("read {}", show(path))))?;
                shift(&mut stat, self.id_map);
                packer.single(&pin, &stat, path)?;
            }
        }
        Ok(true)
    }

    fn deleted(&mut self, prefix: &[u8], name: &CStr) -> Result<(), FilesError> {
        self.tell_waiting()?;
        match &mut self.out {
            Out::List(list) => {
                let path = format!("/{}{}", show(prefix), name.to_string_lossy());
                list.push(Change { kind: ChangeKind::Deleted, path });
            }
            Out::Tar(packer) => packer.mark(&[prefix, b".wh.", name.to_bytes()].concat())?,
        }
        Ok(())
    }

    fn tell_waiting(&mut self) -> Result<(), FilesError> {
        for Waiting { path, fd, mut stat, kind } in self.waiting.drain(..) {
            match &mut self.out {
                Out::List(list) => list.push(Change { kind, path: format!("/{}", show(&path)) }),
                Out::Tar(packer) => {
                    shift(&mut stat, self.id_map);
                    packer.header(Some(&fd), &stat, &[&path[..], b"/"].concat(), Kind::Dir, b"")?;
                }
            }
        }
        Ok(())
    }
}

/// A directory as the layers below make it: the topmost first.
struct Below {
    dirs: Vec<OwnedFd>,
}

/// What a name in a [`Below`] stands for.
enum Found {
    Dir(Below),
    Other(Box<Stat>),
}

impl Below {
    fn stat(&self) -> Option<Stat> {
        rustix::fs::fstat(self.dirs.first()?).ok()
    }

    fn get(&self, name: &CStr) -> Result<Option<Found>, Errno> {
        let mut dirs = Vec::new();
        for dir in &self.dirs {
            let stat = match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                // A layer that has a file where another has a directory cannot have anything below it.
                Err(Errno::NOENT | Errno::NOTDIR) => continue,
                other => other?,
            };
            if is_dir(&stat) {
                let fd = open_dir(dir.as_fd(), name)?;
                let opaque = is_opaque(fd.as_fd())?;
                dirs.push(fd);
                if opaque {
                    break;
                }
            } else if is_whiteout(&stat) || !dirs.is_empty() {
                break;
            } else {
                return Ok(Some(Found::Other(Box::new(stat))));
            }
        }
        Ok((!dirs.is_empty()).then_some(Found::Dir(Self { dirs })))
    }

    /// All names, those included that turn out to be whited out.
    fn names(&self, path: &[u8]) -> Result<BTreeSet<CString>, FilesError> {
        let mut all = BTreeSet::new();
        for dir in &self.dirs {
            all.extend(names(dir, path)?);
        }
        Ok(all)
    }
}

/// A file to mount on, or `/etc/mtab` as hostd makes it.
fn is_ours(dir: &OwnedFd, name: &CStr, stat: &Stat, path: &[u8]) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => stat.st_size == 0 && is_mount_point(path),
        FileType::Symlink if path == b"etc/mtab" => rustix::fs::readlinkat(dir, name, Vec::new())
            .is_ok_and(|target| target.as_bytes() == b"/proc/mounts"),
        _ => false,
    }
}

fn is_mount_point(path: &[u8]) -> bool {
    MOUNT_POINTS.iter().any(|place| place.as_bytes()[1..] == *path)
}

fn open_dir<P: rustix::path::Arg>(at: BorrowedFd<'_>, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Overlay's mark for "deleted here".
fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Overlay's mark for "nothing from below shows through".
fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value[..]) {
        Ok(length) => Ok(length == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// By what a directory is another: its time and size only tell that something in it is.
fn attributes(stat: &Stat) -> (u32, u32, u32) {
    (stat.st_mode, stat.st_uid, stat.st_gid)
}

fn times(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, stat.st_mtime_nsec as i64)
}

/// By what a file is another.
fn contents(stat: &Stat) -> impl PartialEq {
    (attributes(stat), times(stat), stat.st_size, stat.st_rdev)
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::WriteSink;
    use crate::tarstream::TarStream;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A layer's directory; whiteouts and opaque marks need root, without which there is nothing to test.
    fn layer(base: &Path, name: &str, files: &[&str]) -> PathBuf {
        let dir = base.join(name);
        for file in files {
            let path = dir.join(file);
            if file.ends_with('/') {
                fs::create_dir_all(&path).unwrap();
            } else {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, file).unwrap();
            }
        }
        dir
    }

    fn whiteout(path: &Path) -> Result<(), Errno> {
        rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0)
    }

    fn opaque(path: &Path) -> Result<(), Errno> {
        rustix::fs::setxattr(path, "trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
    }

    #[test]
    fn changes_are_told_by_what_is_there_below() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        let bottom = layer(
            base,
            "bottom",
            &["etc/passwd", "etc/group", "old/a", "old/b", "gone/x", "same/s", "dir/f"],
        );
        let top = layer(base, "top", &["etc/passwd", "more/m"]);
        let upper = layer(
            base,
            "upper",
            &["etc/passwd", "new/n", "old/b", "old/c", "dev/", "proc/", "same/", "more/"],
        );
        fs::write(upper.join("etc/hosts"), "").unwrap();
        std::os::unix::fs::symlink("/proc/mounts", upper.join("etc/mtab")).unwrap();
        // Written in the same instant, files of one size would pass for the same.
        fs::write(upper.join("etc/passwd"), "another").unwrap();
        fs::write(upper.join("old/b"), "another").unwrap();
        fs::File::open(upper.join("same")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        fs::set_permissions(upper.join("more"), fs::Permissions::from_mode(0o700)).unwrap();
        if whiteout(&upper.join("gone")).is_err() || opaque(&upper.join("old")).is_err() {
            println!("skipped: whiteouts need root");
            return;
        }
        whiteout(&upper.join("never-there")).unwrap();
        whiteout(&upper.join("etc/group")).unwrap();
        let lower = [top, bottom];
        let list: Vec<_> =
            changes(&upper, &lower).unwrap().into_iter().map(|change| (change.kind, change.path)).collect();
        use ChangeKind::{Added as A, Deleted as D, Modified as M};
        let expected = [
            (M, "/etc"),
            (D, "/etc/group"),
            (M, "/etc/passwd"),
            (D, "/gone"),
            (M, "/more"),
            (A, "/new"),
            (A, "/new/n"),
            (M, "/old"),
            (D, "/old/a"),
            (M, "/old/b"),
            (A, "/old/c"),
        ];
        assert_eq!(list, expected.map(|(kind, path)| (kind, path.to_owned())));

        let mut tar = Vec::new();
        write_layer(&upper, &lower, None, &mut WriteSink(&mut tar)).unwrap();
        let (mut stream, mut entries) = (TarStream::new(&tar[..]), Vec::new());
        while let Some(entry) = stream.next().unwrap() {
            entries.push(entry.display_name());
        }
        // `same` was touched.
        let expected = [
            "etc/",
            "etc/.wh.group",
            "etc/passwd",
            ".wh.gone",
            "more/",
            "new/",
            "new/n",
            "old/",
            "old/.wh..wh..opq",
            "old/b",
            "old/c",
            "same/",
        ];
        assert_eq!(entries, expected);
    }

    #[test]
    fn a_layer_without_changes_is_the_empty_tar() {
        let base = tempfile::tempdir().unwrap();
        let (bottom, upper) = (
            layer(base.path(), "bottom", &["etc/passwd"]),
            layer(base.path(), "upper", &["dev/pts/", "proc/"]),
        );
        let mut tar = Vec::new();
        write_layer(&upper, &[bottom], None, &mut WriteSink(&mut tar)).unwrap();
        assert_eq!(crate::digest::Digest::of(&tar).to_string(), crate::commit::EMPTY_TAR);
    }
}
