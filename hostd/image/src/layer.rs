//! From a layer's stream to its directory, in three threads: read and hash; inflate and hash; write.

use crate::compress::Compression;
use crate::digest::{Digest, Hasher};
use crate::error::{ErrorKind, ImageError};
use crate::layout::Staging;
use crate::pipe::{PipeReader, PipeWriter, fill, pipe};
use crate::unpack::unpack;
use hostd_sys::idmap::IdMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A layer that is unpacked in staging and waits to be committed.
pub(crate) struct Unpacked {
    pub(crate) staging: Staging,
    /// Digest of the uncompressed tar.
    pub(crate) diff_id: Digest,
    /// Bytes of its regular files.
    pub(crate) size: u64,
}

/// Unpacks the tar that `raw` holds, possibly compressed, into `staging`/diff. Where the stream's digest is known
/// beforehand, content that differs is told as that, even if it could not be unpacked either.
pub(crate) fn unpack_layer(
    mut raw: impl Read,
    staging: Staging,
    expected: Option<&Digest>,
    what: &str,
) -> Result<Unpacked, ImageError> {
    let dir = staging.make_diff()?;
    let map = staging.id_map();
    let (writer, reader) = pipe();
    let mut first = writer.buffer();
    fill(&mut raw, &mut first).map_err(ImageError::stream(format!("read {what}")))?;
    let compression = Compression::of(&first);
    let bad_content = AtomicBool::new(false);
    let (read, unpacked) = std::thread::scope(|scope| {
        let flag = &bad_content;
        let rest = scope.spawn(move || inflate_and_write(reader, compression, &dir, map, flag));
        let read = pump(&mut raw, first, writer, flag, expected.is_some());
        (read, rest.join().unwrap_or_else(|_| Err(ImageError::Other("unpacking a layer panicked".into()))))
    });
    let blob = match read {
        Ok(blob) => blob,
        Err(Pump::ReaderGone) => return Err(in_layer(what, unpacked.err())),
        Err(Pump::Source(source)) => {
            return Err(ImageError::Stream { doing: format!("read {what}"), source });
        }
    };
    if let Some(expected) = expected.filter(|expected| **expected != blob) {
        return Err(ImageError::WrongDigest {
            what: what.to_owned(),
            expected: expected.to_string(),
            got: blob.to_string(),
        });
    }
    let (diff_id, size) = unpacked.map_err(|error| in_layer(what, Some(error)))?;
    Ok(Unpacked { staging, diff_id: diff_id.unwrap_or(blob), size })
}

fn in_layer(what: &str, error: Option<ImageError>) -> ImageError {
    let source = error.unwrap_or_else(|| ImageError::Other("its end was not read".into()));
    ImageError::Unpack { layer: what.to_owned(), source: Box::new(source) }
}

enum Pump {
    Source(io::Error),
    /// The stages behind gave up, and know why.
    ReaderGone,
}

/// Reads and hashes `raw` and sends it on. When what comes is not even a tar, reads on if its digest will tell more.
fn pump(
    raw: &mut impl Read,
    first: Vec<u8>,
    writer: PipeWriter,
    bad_content: &AtomicBool,
    digest_matters: bool,
) -> Result<Digest, Pump> {
    let mut hasher = Hasher::default();
    let mut chunk = first;
    while !chunk.is_empty() {
        hasher.update(&chunk);
        if writer.send(chunk).is_err() && !(digest_matters && bad_content.load(Ordering::Acquire)) {
            return Err(Pump::ReaderGone);
        }
        chunk = writer.buffer();
        fill(raw, &mut chunk).map_err(Pump::Source)?;
    }
    // A reader that is gone by now has an error of its own.
    let _ = writer.finish();
    Ok(hasher.finish())
}

/// The stages behind the first. The digest is `None` where the stream is not compressed: the first stage has it.
fn inflate_and_write(
    mut raw: PipeReader,
    compression: Compression,
    dir: &Path,
    map: Option<&IdMap>,
    bad_content: &AtomicBool,
) -> Result<(Option<Digest>, u64), ImageError> {
    let result = match compression {
        Compression::None => unpack(&mut raw, dir, map).map(|size| (None, size)),
        _ => inflate(&mut raw, compression, dir, map),
    };
    if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid) {
        bad_content.store(true, Ordering::Release);
    }
    result
}

fn inflate(
    raw: &mut PipeReader,
    compression: Compression,
    dir: &Path,
    map: Option<&IdMap>,
) -> Result<(Option<Digest>, u64), ImageError> {
    let (writer, mut reader) = pipe();
    std::thread::scope(|scope| {
        let unpacking = scope.spawn(move || unpack(&mut reader, dir, map));
        let inflated = inflate_into(raw, compression, writer);
        let unpacked =
            unpacking.join().unwrap_or_else(|_| Err(ImageError::Other("unpacking a layer panicked".into())));
        match inflated {
            Ok(diff_id) => Ok((Some(diff_id), unpacked?)),
            // The writing side gave up first, and knows why.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(unpacked
                .err()
                .unwrap_or_else(|| ImageError::Other("unpacking a layer ended early".into()))),
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) =>
            {
                Err(ImageError::InvalidArchive(format!("its compressed data is damaged: {error}")))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(ImageError::InvalidArchive("its compressed data is truncated".into()))
            }
            Err(source) => Err(ImageError::Stream { doing: "inflate it".into(), source }),
        }
    })
}

fn inflate_into(raw: &mut PipeReader, compression: Compression, writer: PipeWriter) -> io::Result<Digest> {
    let mut inflated = compression.reader(raw)?;
    let mut hasher = Hasher::default();
    loop {
        let mut chunk = writer.buffer();
        fill(&mut inflated, &mut chunk)?;
        if chunk.is_empty() {
            break;
        }
        hasher.update(&chunk);
        writer.send(chunk)?;
    }
    writer.finish()?;
    Ok(hasher.finish())
}

/// Copies a committed layer's directory: the same layer stands in two places of a stack, or on two stacks. Files are
/// hard links, since no layer ever changes.
pub(crate) fn clone_layer(from: &Path, to: &Path) -> Result<(), ImageError> {
    use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
    use std::os::unix::fs::MetadataExt;
    let mut pending: Vec<(PathBuf, PathBuf)> = vec![(from.to_owned(), to.to_owned())];
    let mut dirs = Vec::new();
    while let Some((from, to)) = pending.pop() {
        for child in std::fs::read_dir(&from).map_err(ImageError::io("copy", &from))? {
            let child = child.map_err(ImageError::io("copy", &from))?;
            let target = to.join(child.file_name());
            if child.file_type().map_err(ImageError::io("copy", &from))?.is_dir() {
                std::fs::create_dir(&target).map_err(ImageError::io("copy", &from))?;
                pending.push((child.path(), target));
            } else {
                std::fs::hard_link(child.path(), &target).map_err(ImageError::io("copy", &from))?;
            }
        }
        dirs.push((from, to));
    }
    for (from, to) in dirs.into_iter().rev() {
        let meta = std::fs::symlink_metadata(&from).map_err(ImageError::io("copy", &from))?;
        let mut names = vec![0; 64 * 1024];
        let length = rustix::fs::llistxattr(&from, &mut names[..]).map_err(ImageError::io("copy", &from))?;
        for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
            let mut value = vec![0; 64 * 1024];
            let length =
                rustix::fs::lgetxattr(&from, name, &mut value[..]).map_err(ImageError::io("copy", &from))?;
            rustix::fs::lsetxattr(&to, name, &value[..length], XattrFlags::empty())
                .map_err(ImageError::io("copy", &from))?;
        }
        let (uid, gid) = (Uid::from_raw(meta.uid()), Gid::from_raw(meta.gid()));
        rustix::fs::chownat(CWD, &to, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ImageError::io("copy", &from))?;
        rustix::fs::chmodat(CWD, &to, Mode::from_raw_mode(meta.mode() & 0o7777), AtFlags::empty())
            .map_err(ImageError::io("copy", &from))?;
        let time = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &to, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(ImageError::io("copy", &from))?;
    }
    Ok(())
}
