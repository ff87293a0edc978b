//! From a container's files to a tar.

use super::lookup::{base, describe, is_of_kernel, pin, reopen};
use super::{FilesError, PathStat, Result};
use crate::tarout::{END, Header, pad};
use crate::tarstream::Kind;
use hostd_sys::idmap::IdMap;
use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Deeper than any real tree, and shallow enough for the descriptors that the walk takes.
const MAX_DEPTH: usize = 256;
/// Hard links that are kept in mind; the names of files beyond become files of their own.
const MAX_LINKS: usize = 500_000;
/// Longest list of names, and value, that the kernel has for extended attributes.
const MAX_XATTR: usize = 64 << 10;

/// Where a tar goes.
pub trait Sink {
    /// Takes bytes.
    ///
    /// # Errors
    /// When nobody wants more.
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Takes the first `size` bytes of a file.
    ///
    /// # Errors
    /// As `bytes`; when the file cannot be read, or has fewer.
    fn file(&mut self, file: &File, size: u64) -> io::Result<()>;
}

/// A sink that writes.
#[cfg(test)]
pub(crate) struct WriteSink<W>(pub(crate) W);

#[cfg(test)]
impl<W: io::Write> Sink for WriteSink<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn file(&mut self, file: &File, size: u64) -> io::Result<()> {
        let copied = io::copy(&mut io::Read::take(file, size), &mut self.0)?;
        if copied == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// What is to be packed, found and pinned.
#[derive(Debug)]
pub struct Pack {
    /// What it is.
    pub stat: PathStat,
    pin: OwnedFd,
    raw: Stat,
    name: Vec<u8>,
    id_map: Option<IdMap>,
    /// Of a regular file: itself, and the header that it will have.
    file: Option<(File, Vec<u8>)>,
}

impl Pack {
    /// Finds what is at `path`; a link there is not followed. Owners are told as the container's ids in `id_map`.
    ///
    /// # Errors
    /// [`FilesError::NotFound`] when there is nothing.
    pub fn find(root: BorrowedFd<'_>, path: &str, id_map: Option<&IdMap>) -> Result<Self> {
        let (pin, mut raw) = pin(root, path)?;
        shift(&mut raw, id_map);
        let (mut link_target, mut file) = (String::new(), None);
        let name = base(path).as_bytes().to_vec();
        match FileType::from_raw_mode(raw.st_mode) {
            FileType::Symlink => link_target = super::lookup::evaluate(root, path)?,
            FileType::RegularFile => {
                let fd = reopen(&pin, OFlags::RDONLY).map_err(read_error(&name))?;
                let xattrs = xattrs(fd.as_fd(), &mut Vec::new()).map_err(read_error(&name))?;
                let mut head = Vec::new();
                encode(&mut head, &raw, &name, Kind::File, b"", &xattrs);
                file = Some((File::from(fd), head));
            }
            _ => {}
        }
        let stat = describe(path, &raw, link_target);
        Ok(Self { stat, pin, raw, name, id_map: id_map.cloned(), file })
    }

    /// Bytes of the tar, where they are known beforehand: of a single file.
    pub fn length(&self) -> Option<u64> {
        let (_, head) = self.file.as_ref()?;
        let data = u64::try_from(self.raw.st_size).ok()?.checked_next_multiple_of(512)?;
        data.checked_add((head.len() + END.len()) as u64)
    }
}

/// Packs one file or tree, under its own name.
///
/// # Errors
/// When it cannot be read, or the sink takes no more.
pub fn pack_path(pack: &Pack, sink: &mut dyn Sink) -> Result<()> {
    let mut packer = Packer::new(sink, pack.id_map.as_ref());
    match &pack.file {
        Some((file, head)) => {
            packer.head.extend_from_slice(head);
            packer.data(file, &pack.raw, &pack.name)?;
        }
        None => packer.pinned(&pack.pin, &pack.raw, &pack.name, 0, None)?,
    }
    packer.finish()
}

/// Packs all that lies in the directory `root`, without what is mounted on it.
///
/// # Errors
/// As [`pack_path`].
pub fn pack_all(root: BorrowedFd<'_>, id_map: Option<&IdMap>, sink: &mut dyn Sink) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(root, ".", flags, Mode::empty()).map_err(FilesError::io("open the root"))?;
    let stat = rustix::fs::fstat(&dir).map_err(FilesError::io("open the root"))?;
    let mut packer = Packer::new(sink, id_map);
    packer.children(&dir, b"", 0, stat.st_dev)?;
    packer.finish()
}

/// A walk that writes what it meets.
pub(crate) struct Packer<'a> {
    sink: &'a mut dyn Sink,
    /// Headers of small entries go out together.
    head: Vec<u8>,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    names: Vec<u8>,
    id_map: Option<&'a IdMap>,
}

impl<'a> Packer<'a> {
    pub(crate) fn new(sink: &'a mut dyn Sink, id_map: Option<&'a IdMap>) -> Self {
        Self { sink, head: Vec::new(), links: HashMap::new(), names: Vec::new(), id_map }
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        self.head.extend_from_slice(&END);
        self.flush()
    }

    fn flush(&mut self) -> Result<()> {
        self.sink.bytes(&self.head).map_err(FilesError::io("send the archive"))?;
        self.head.clear();
        Ok(())
    }

    /// What is in a directory, in the order of names.
    fn children(&mut self, dir: &OwnedFd, prefix: &[u8], depth: usize, device: u64) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(FilesError::Invalid(format!("{}: nested too deeply", show(prefix))));
        }
        for name in names(dir, prefix)? {
            let path = [prefix, name.as_bytes()].concat();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let pin = match rustix::fs::openat(dir, &name, flags, Mode::empty()) {
                Ok(pin) => pin,
                // Gone since it was listed.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(read_error(&path)(error)),
            };
            let mut stat = rustix::fs::fstat(&pin).map_err(read_error(&path))?;
            shift(&mut stat, self.id_map);
            self.pinned(&pin, &stat, &path, depth, Some(device))?;
        }
        Ok(())
    }

    /// One entry, and what is below it. `device` is that of the directory around it.
    fn pinned(
        &mut self,
        pin: &OwnedFd,
        stat: &Stat,
        path: &[u8],
        depth: usize,
        device: Option<u64>,
    ) -> Result<()> {
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return self.single(pin, stat, path);
        }
        let mounted = device != Some(stat.st_dev);
        let prefix = if path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() };
        let dir = reopen(pin, OFlags::RDONLY | OFlags::DIRECTORY).map_err(read_error(path))?;
        self.header(Some(&dir), stat, &prefix, Kind::Dir, b"")?;
        if mounted && is_of_kernel(dir.as_fd()) {
            return Ok(());
        }
        self.children(&dir, &prefix, depth + 1, stat.st_dev)
    }

    /// An entry that is no directory.
    pub(crate) fn single(&mut self, pin: &OwnedFd, stat: &Stat, path: &[u8]) -> Result<()> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::Char,
            FileType::BlockDevice => Kind::Block,
            FileType::Fifo => Kind::Fifo,
            // Tar has no sockets.
            _ => return Ok(()),
        };
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let first = first.clone();
                return self.header(None, stat, path, Kind::Hardlink, &first);
            }
            if self.links.len() < MAX_LINKS {
                self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
            }
        }
        match kind {
            Kind::File => {
                let fd = reopen(pin, OFlags::RDONLY).map_err(read_error(path))?;
                self.header(Some(&fd), stat, path, kind, b"")?;
                self.data(&File::from(fd), stat, path)
            }
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(pin, "", Vec::new()).map_err(read_error(path))?;
                self.header(None, stat, path, kind, target.as_bytes())
            }
            kind => self.header(None, stat, path, kind, b""),
        }
    }

    fn data(&mut self, file: &File, stat: &Stat, path: &[u8]) -> Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > 0 {
            self.flush()?;
            self.sink.file(file, size).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => FilesError::Io {
                    doing: format!("read {}: it became shorter meanwhile", show(path)),
                    source: error,
                },
                _ => FilesError::Io { doing: format!("read {}", show(path)), source: error },
            })?;
            pad(&mut self.head, size);
        }
        Ok(())
    }

    /// Writes a header; the attributes are those of `fd`.
    pub(crate) fn header(
        &mut self,
        fd: Option<&OwnedFd>,
        stat: &Stat,
        path: &[u8],
        kind: Kind,
        link: &[u8],
    ) -> Result<()> {
        let xattrs = match fd {
            Some(fd) => xattrs(fd.as_fd(), &mut self.names).map_err(read_error(path))?,
            None => Vec::new(),
        };
        encode(&mut self.head, stat, path, kind, link, &xattrs);
        if self.head.len() > 32 << 10 { self.flush() } else { Ok(()) }
    }

    /// An empty file that is not there, such as a whiteout.
    pub(crate) fn mark(&mut self, path: &[u8]) -> Result<()> {
        Header {
            name: path,
            link: b"",
            kind: Kind::File,
            size: 0,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: 0,
            device: (0, 0),
            xattrs: &[],
        }
        .write(&mut self.head);
        Ok(())
    }
}

/// Owners as the container has them; one that the map does not have stays.
pub(crate) fn shift(stat: &mut Stat, id_map: Option<&IdMap>) {
    let Some(map) = id_map else { return };
    stat.st_uid = map.container_uid(stat.st_uid).unwrap_or(stat.st_uid);
    stat.st_gid = map.container_gid(stat.st_gid).unwrap_or(stat.st_gid);
}

fn encode(
    out: &mut Vec<u8>,
    stat: &Stat,
    path: &[u8],
    kind: Kind,
    link: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
) {
    let device = match kind {
        Kind::Char | Kind::Block => (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        _ => (0, 0),
    };
    Header {
        name: path,
        link,
        kind,
        size: if kind == Kind::File { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 },
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: stat.st_mtime,
        device,
        xattrs,
    }
    .write(out);
}

/// The names in a directory, sorted.
pub(crate) fn names(dir: &OwnedFd, path: &[u8]) -> Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir).map_err(read_error(path))? {
        let entry = entry.map_err(read_error(path))?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The attributes that belong to a file wherever it is: capabilities, and the user's own. `names` is room for the list.
fn xattrs(fd: BorrowedFd<'_>, names: &mut Vec<u8>) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    names.resize(MAX_XATTR, 0);
    let length = match rustix::fs::flistxattr(fd, &mut names[..]) {
        Ok(length) => length,
        // No attributes there, or a descriptor that only pins.
        Err(Errno::NOTSUP | Errno::BADF) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let wanted = |name: &&[u8]| {
        *name == b"security.capability" || name.starts_with(b"user.") && !name.starts_with(b"user.overlay.")
    };
    let mut found = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(wanted) {
        let mut value = vec![0; MAX_XATTR];
        match rustix::fs::fgetxattr(fd, name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                found.push((name.to_vec(), value));
            }
            // Taken away since it was listed.
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn read_error(path: &[u8]) -> impl FnOnce(Errno) -> FilesError {
    FilesError::io(format!("read {}", show(path)))
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
