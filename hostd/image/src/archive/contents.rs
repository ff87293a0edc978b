//! What an archive holds, after one pass over it.

use crate::compress::Compression;
use crate::digest::Digest;
use crate::error::ImageError;
use crate::layer::{Unpacked, unpack_layer};
use crate::model::{Progress, ProgressSink};
use crate::pipe::{CHUNK, fill};
use crate::store::{Hold, Inner};
use crate::tarstream::{Entry, Kind, TarStream};
use crate::unpack::clean;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest manifest or configuration.
const MAX_SMALL: u64 = 16 * 1024 * 1024;
/// All of them together, and the names of all entries.
const MAX_ALL_SMALL: u64 = 64 * 1024 * 1024;
/// What is this short is kept as it is, whatever it is.
const SHORT: u64 = 4096;
/// Links that lead to links.
const MAX_LINKS: usize = 16;

/// One entry of the archive.
pub(super) enum Item {
    /// Its bytes.
    Small(Vec<u8>),
    /// Unpacked already; `None` once it has been taken.
    Layer { diff_id: Digest, unpacked: Option<Unpacked> },
    /// A layer that the store has.
    Known(Digest),
    /// Another entry.
    Link(PathBuf),
    /// Nothing that an image is made of.
    Other,
}

pub(super) struct Contents {
    items: HashMap<PathBuf, Item>,
    small: u64,
    /// Layers of the store that the archive has too, and that must not go before it is loaded.
    holds: Vec<Hold>,
}

impl Contents {
    /// Reads the archive to its end; what is a layer is unpacked on the way.
    pub(super) fn read(
        inner: &Arc<Inner>,
        mut reader: impl Read + Send,
        progress: &ProgressSink,
    ) -> Result<Self, ImageError> {
        let mut start = Vec::with_capacity(SHORT as usize);
        fill(&mut reader, &mut start).map_err(ImageError::stream("read the archive"))?;
        let compression = Compression::of(&start);
        let reader = compression
            .reader(std::io::Cursor::new(start).chain(reader))
            .map_err(ImageError::stream("read the archive"))?;
        let mut tar = TarStream::new(reader);
        let mut contents = Self { items: HashMap::new(), small: 0, holds: Vec::new() };
        while let Some(entry) = tar.next()? {
            contents.add(inner, &entry, &mut tar, progress)?;
        }
        tar.drain()?;
        Ok(contents)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.items.contains_key(Path::new(name))
    }

    pub(super) fn item(&self, path: &Path) -> Result<&Item, ImageError> {
        self.items.get(path).ok_or_else(|| missing(path))
    }

    /// A small file's bytes.
    pub(super) fn small(&self, path: &Path) -> Result<&[u8], ImageError> {
        let path = self.follow(path)?;
        match self.item(&path)? {
            Item::Small(bytes) => Ok(bytes),
            _ => Err(ImageError::InvalidArchive(format!(
                "{} in the archive is not what it should be: a JSON file",
                path.display()
            ))),
        }
    }

    /// Where the entry is, after links. Older archives store a layer once and link to it.
    pub(super) fn follow(&self, path: &Path) -> Result<PathBuf, ImageError> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            match self.item(&path)? {
                Item::Link(target) => path = target.clone(),
                _ => return Ok(path),
            }
        }
        Err(ImageError::InvalidArchive(format!("too many links at {} in the archive", path.display())))
    }

    pub(super) fn take_unpacked(&mut self, path: &Path) -> Option<Unpacked> {
        match self.items.get_mut(path) {
            Some(Item::Layer { unpacked, .. }) => unpacked.take(),
            _ => None,
        }
    }

    fn add(
        &mut self,
        inner: &Arc<Inner>,
        entry: &Entry,
        data: &mut (impl Read + Send),
        progress: &ProgressSink,
    ) -> Result<(), ImageError> {
        self.remember(entry, (entry.name.len() + entry.link.len()) as u64)?;
        let path = inside(entry, &entry.name, Path::new(""))?;
        let item = match entry.kind {
            Kind::Dir => return Ok(()),
            Kind::File => self.file(inner, entry, &path, data, progress)?,
            Kind::Symlink => Item::Link(inside(entry, &entry.link, path.parent().unwrap_or(Path::new("")))?),
            Kind::Hardlink => Item::Link(inside(entry, &entry.link, Path::new(""))?),
            _ => return Err(entry.refuse("an image archive has no such entries")),
        };
        self.items.insert(path, item);
        Ok(())
    }

    fn file(
        &mut self,
        inner: &Arc<Inner>,
        entry: &Entry,
        path: &Path,
        data: &mut (impl Read + Send),
        progress: &ProgressSink,
    ) -> Result<Item, ImageError> {
        let mut data = data.take(entry.size);
        let mut start = Vec::with_capacity(SHORT as usize);
        fill(&mut data, &mut start).map_err(ImageError::stream("read the archive"))?;
        let expected = blob_digest(path);
        let compression = Compression::of(&start);
        let json = start.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| matches!(b, b'{' | b'['));
        if entry.size <= SHORT || (json && !is_tar(&start)) {
            return self.keep(entry, start, data, expected.as_ref()).map(Item::Small);
        }
        if compression == Compression::None && !is_tar(&start) {
            // The tar reader skips it.
            return Ok(Item::Other);
        }
        let mut raw = Meter::new(std::io::Cursor::new(start).chain(data), entry, expected.as_ref(), progress);
        if compression == Compression::None
            && let Some(diff_id) = &expected
            && let Some(known) = inner.read().layer_with_diff(diff_id).cloned()
        {
            self.holds.push(inner.hold(&[known.chain_id]));
            return hash_known(&mut raw, diff_id, path).map(Item::Known);
        }
        let unpacked =
            unpack_layer(&mut raw, inner.layout.stage()?, expected.as_ref(), &path.display().to_string())?;
        Ok(Item::Layer { diff_id: unpacked.diff_id.clone(), unpacked: Some(unpacked) })
    }

    /// Counts what is kept in memory.
    fn remember(&mut self, entry: &Entry, bytes: u64) -> Result<(), ImageError> {
        self.small = self.small.saturating_add(bytes);
        if bytes > MAX_SMALL || self.small > MAX_ALL_SMALL {
            return Err(entry.refuse("the archive's manifests, or the names in it, are too large"));
        }
        Ok(())
    }

    fn keep(
        &mut self,
        entry: &Entry,
        mut bytes: Vec<u8>,
        mut rest: impl Read,
        expected: Option<&Digest>,
    ) -> Result<Vec<u8>, ImageError> {
        self.remember(entry, entry.size)?;
        rest.read_to_end(&mut bytes).map_err(ImageError::stream("read the archive"))?;
        match expected.map(|expected| (expected, Digest::of(&bytes))) {
            Some((expected, got)) if *expected != got => Err(ImageError::WrongDigest {
                what: entry.display_name(),
                expected: expected.to_string(),
                got: got.to_string(),
            }),
            _ => Ok(bytes),
        }
    }
}

/// Whether this may be the start of a tar: a header whose checksum is right.
fn is_tar(start: &[u8]) -> bool {
    if start.len() < 512 {
        return false;
    }
    let header = tar::Header::from_byte_slice(&start[..512]);
    let sum: u32 = start[..148].iter().chain(&start[156..512]).map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
    // An empty layer starts with the two empty blocks.
    header.cksum().is_ok_and(|declared| declared == sum) || start.iter().all(|&b| b == 0)
}

/// The digest that an OCI layout's file name claims.
fn blob_digest(path: &Path) -> Option<Digest> {
    Digest::from_hex(path.strip_prefix("blobs/sha256").ok()?.to_str()?)
}

/// A name or link target as the entry that it means. Absolute ones and ones that climb out mean none.
fn inside(entry: &Entry, name: &[u8], dir: &Path) -> Result<PathBuf, ImageError> {
    use std::os::unix::ffi::OsStrExt;
    if name.starts_with(b"/") {
        return Err(entry.refuse("an absolute path in an image archive"));
    }
    let joined = dir.join(std::ffi::OsStr::from_bytes(name));
    clean(joined.as_os_str().as_bytes()).ok_or_else(|| entry.refuse("it leads out of the archive"))
}

fn missing(path: &Path) -> ImageError {
    ImageError::InvalidArchive(format!("invalid archive: it has no {}", path.display()))
}

fn hash_known(raw: &mut impl Read, expected: &Digest, path: &Path) -> Result<Digest, ImageError> {
    let mut hasher = Hash(crate::digest::Hasher::default());
    let mut raw = std::io::BufReader::with_capacity(CHUNK, raw);
    std::io::copy(&mut raw, &mut hasher).map_err(ImageError::stream("read the archive"))?;
    let got = hasher.0.finish();
    if got != *expected {
        let what = path.display().to_string();
        return Err(ImageError::WrongDigest { what, expected: expected.to_string(), got: got.to_string() });
    }
    Ok(got)
}

struct Hash(crate::digest::Hasher);

impl Write for Hash {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Counts what is read of a layer, and tells it ten times a second.
struct Meter<'a, R> {
    inner: R,
    id: String,
    current: u64,
    total: u64,
    told: Instant,
    progress: &'a ProgressSink,
}

impl<'a, R> Meter<'a, R> {
    fn new(inner: R, entry: &Entry, digest: Option<&Digest>, progress: &'a ProgressSink) -> Self {
        // Without a digest in its name, a layer lies at `<hex id>/layer.tar`.
        let id =
            digest.map_or_else(|| entry.display_name().chars().take(12).collect(), |d| d.short().to_owned());
        let meter = Self { inner, id, current: 0, total: entry.size, told: Instant::now(), progress };
        meter.tell();
        meter
    }

    /// A receiver that is slow or gone misses a line.
    fn tell(&self) {
        let _ = self.progress.try_send(Progress {
            id: Some(self.id.clone()),
            status: "Loading layer".into(),
            current: Some(self.current),
            total: Some(self.total),
        });
    }
}

impl<R: Read> Read for Meter<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.current += n as u64;
        if self.told.elapsed() >= Duration::from_millis(100) || (self.current == self.total && n > 0) {
            self.told = Instant::now();
            self.tell();
        }
        Ok(n)
    }
}
