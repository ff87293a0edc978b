//! Reading tar streams that nobody vouches for.
//!
//! The `tar` crate parses the headers; this reader walks the blocks, so that every size is bounded before anything is
//! read into memory: names, PAX records, the number of entries.

use crate::error::ImageError;
use std::io::{self, BufRead, Read};

/// Longest name or link target: PATH_MAX.
const MAX_NAME: u64 = 4096;
/// Longest block of PAX records: room for the largest extended attributes.
const MAX_PAX: u64 = 1024 * 1024;
/// Entries in one stream.
const MAX_ENTRIES: u64 = 10_000_000;
const BLOCK: usize = 512;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Hardlink,
    Char,
    Block,
    Fifo,
}

/// An entry's header, with its PAX and GNU extensions applied.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    pub(crate) fn display_name(&self) -> String {
        String::from_utf8_lossy(&self.name).into_owned()
    }

    pub(crate) fn refuse(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Entry { name: self.display_name(), reason: reason.into() }
    }
}

/// A tar stream; `Read` gives the data of the entry that [`TarStream::next`] gave last.
pub(crate) struct TarStream<R> {
    inner: R,
    /// Bytes of the entry's data that were not read yet.
    remaining: u64,
    /// Bytes after them, up to the next header.
    padding: u64,
    entries: u64,
    /// Whether the two empty blocks were seen.
    ended: bool,
}

/// What stands before an entry and changes it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, remaining: 0, padding: 0, entries: 0, ended: false }
    }

    /// The next entry, or `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, ImageError> {
        let mut extensions = Extensions::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|_| invalid_header())?;
            self.begin_data(size);
            let kind = header.entry_type();
            if kind.is_gnu_longname() {
                extensions.name = Some(self.long_name(size)?);
            } else if kind.is_gnu_longlink() {
                extensions.link = Some(self.long_name(size)?);
            } else if kind.is_pax_local_extensions() {
                let records = self.read_extension(size, MAX_PAX)?;
                extensions.apply_pax(&records)?;
            } else if !kind.is_pax_global_extensions() {
                return self.entry(&header, size, extensions).map(Some);
            }
        }
    }

    /// Reads on to the end of the stream, so that whoever hashes it sees all of it.
    pub(crate) fn drain(mut self) -> Result<(), ImageError> {
        io::copy(&mut self.inner, &mut io::sink()).map_err(read_failed)?;
        Ok(())
    }

    /// Reads on, but not for ever: a client may send what it likes after the end.
    pub(crate) fn drain_some(mut self, limit: u64) -> Result<(), ImageError> {
        io::copy(&mut self.inner.by_ref().take(limit), &mut io::sink()).map_err(read_failed)?;
        Ok(())
    }

    fn entry(&mut self, header: &tar::Header, size: u64, ext: Extensions) -> Result<Entry, ImageError> {
        let name = ext.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let link =
            ext.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default();
        let mut entry = Entry {
            name,
            link,
            kind: Kind::File,
            size: ext.size.unwrap_or(size),
            mode: header.mode().unwrap_or(0) & 0o7777,
            uid: id(ext.uid, header.uid())?,
            gid: id(ext.gid, header.gid())?,
            mtime: ext.mtime.unwrap_or((header.mtime().unwrap_or(0) as i64, 0)),
            device: (0, 0),
            xattrs: ext.xattrs,
        };
        use tar::EntryType as T;
        entry.kind = match header.entry_type() {
            // Before POSIX, a directory was a file whose name ends in a slash.
            T::Regular | T::Continuous if entry.name.ends_with(b"/") => Kind::Dir,
            T::Regular | T::Continuous => Kind::File,
            T::Directory => Kind::Dir,
            T::Symlink => Kind::Symlink,
            T::Link => Kind::Hardlink,
            T::Char => Kind::Char,
            T::Block => Kind::Block,
            T::Fifo => Kind::Fifo,
            T::GNUSparse => return Err(entry.refuse("sparse entries are not supported")),
            other => return Err(entry.refuse(format!("unknown entry type {:?}", other.as_byte() as char))),
        };
        if matches!(entry.kind, Kind::Char | Kind::Block) {
            let number = |n: io::Result<Option<u32>>| n.ok().flatten().ok_or_else(invalid_header);
            entry.device = (number(header.device_major())?, number(header.device_minor())?);
        }
        if entry.name.len() as u64 > MAX_NAME || entry.link.len() as u64 > MAX_NAME {
            return Err(entry.refuse(format!("its name or target is longer than {MAX_NAME} bytes")));
        }
        if entry.kind != Kind::File {
            // Some writers put the target's size into the header of a hard link, with no data behind it.
            entry.size = if entry.kind == Kind::Hardlink { 0 } else { entry.size };
        }
        self.begin_data(entry.size);
        Ok(entry)
    }

    fn begin_data(&mut self, size: u64) {
        self.remaining = size;
        // Sizes that no multiple of a block comes after are refused when their data ends.
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Skips what is left of the entry and reads one header.
    fn header(&mut self) -> Result<Option<tar::Header>, ImageError> {
        self.skip(self.remaining.saturating_add(self.padding))?;
        self.begin_data(0);
        if self.ended {
            return Ok(None);
        }
        let mut header = tar::Header::new_old();
        let block = header.as_mut_bytes();
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]).map_err(read_failed)? {
                // Without the two empty blocks, but between entries: Go's reader takes that as the end too.
                0 if filled == 0 && self.entries > 0 => return Ok(None),
                0 if filled == 0 => return Err(ImageError::InvalidArchive("the archive is empty".into())),
                0 if self.entries == 0 => return Err(invalid_header()),
                0 => return Err(truncated()),
                n => filled += n,
            }
        }
        if block.iter().all(|&b| b == 0) {
            self.ended = true;
            return Ok(None);
        }
        check_sum(&header)?;
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(ImageError::InvalidArchive(format!(
                "the archive has more than {MAX_ENTRIES} entries"
            )));
        }
        Ok(Some(header))
    }

    fn skip(&mut self, mut count: u64) -> Result<(), ImageError> {
        let mut sink = [0; 8192];
        while count > 0 {
            let want = sink.len().min(usize::try_from(count).unwrap_or(usize::MAX));
            match self.inner.read(&mut sink[..want]).map_err(read_failed)? {
                0 => return Err(truncated()),
                n => count -= n as u64,
            }
        }
        Ok(())
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>, ImageError> {
        let mut name = self.read_extension(size, MAX_NAME + 1)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn read_extension(&mut self, size: u64, limit: u64) -> Result<Vec<u8>, ImageError> {
        if size > limit {
            return Err(ImageError::InvalidArchive(format!(
                "a tar extension header of {size} bytes is longer than the {limit} that are allowed"
            )));
        }
        let mut data = Vec::with_capacity(size as usize);
        self.take(size).read_to_end(&mut data).map_err(read_failed)?;
        Ok(data)
    }

    fn take(&mut self, size: u64) -> io::Take<&mut Self> {
        Read::take(self, size)
    }
}

impl<R: Read> Read for TarStream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated"));
        }
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// Shows the data of an entry where it lies, for writing it out without a copy.
impl<R: BufRead> BufRead for TarStream<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        let buffer = self.inner.fill_buf()?;
        if buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is truncated"));
        }
        let count = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        Ok(&buffer[..count])
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.remaining = self.remaining.saturating_sub(count as u64);
    }
}

impl Extensions {
    /// Records are `<length> <key>=<value>\n`, the length counting all of it.
    fn apply_pax(&mut self, mut records: &[u8]) -> Result<(), ImageError> {
        while !records.is_empty() {
            let space = records.iter().position(|&b| b == b' ').ok_or_else(invalid_header)?;
            let length = number::<usize>(&records[..space]).ok_or_else(invalid_header)?;
            if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
                return Err(invalid_header());
            }
            let record = &records[space + 1..length - 1];
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(invalid_header)?;
            self.apply_record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn apply_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ImageError> {
        match key {
            b"path" => self.name = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value).ok_or_else(invalid_header)?),
            b"uid" => self.uid = Some(number(value).ok_or_else(invalid_header)?),
            b"gid" => self.gid = Some(number(value).ok_or_else(invalid_header)?),
            b"mtime" => self.mtime = Some(pax_time(value).ok_or_else(invalid_header)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(ImageError::InvalidArchive("sparse entries are not supported".into()));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `1700000000.123456789`, possibly negative, with any number of decimals.
fn pax_time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !decimals.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{decimals:0<9}").get(..9)?.parse().ok()?;
    match (text.starts_with('-'), nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

fn id(pax: Option<u32>, header: io::Result<u64>) -> Result<u32, ImageError> {
    match pax {
        Some(id) => Ok(id),
        None => u32::try_from(header.unwrap_or(0)).map_err(|_| invalid_header()),
    }
}

/// A header's checksum is the sum of its bytes with its own field read as spaces.
fn check_sum(header: &tar::Header) -> Result<(), ImageError> {
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|&b| u32::from(b)).sum::<u32>() + 8 * 32;
    match header.cksum() {
        Ok(declared) if declared == sum => Ok(()),
        _ => Err(invalid_header()),
    }
}

fn invalid_header() -> ImageError {
    ImageError::InvalidArchive("archive/tar: invalid tar header".into())
}

fn truncated() -> ImageError {
    ImageError::InvalidArchive("unexpected EOF: the archive is truncated".into())
}

fn read_failed(source: io::Error) -> ImageError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => truncated(),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            ImageError::InvalidArchive(format!("the archive is damaged: {source}"))
        }
        _ => ImageError::Stream { doing: "read the archive".into(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Result<Vec<String>, ImageError> {
        let mut tar = TarStream::new(bytes);
        let mut names = Vec::new();
        while let Some(entry) = tar.next()? {
            names.push(entry.display_name());
        }
        Ok(names)
    }

    fn pax_entry(records: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(records.len() as u64);
        header.set_cksum();
        builder.append(&header, records).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("plain").unwrap();
        header.set_size(0);
        header.set_cksum();
        builder.append(&header, &b""[..]).unwrap();
        builder.into_inner().unwrap()
    }

    fn record(key: &str, value: &str) -> Vec<u8> {
        let body = format!(" {key}={value}\n");
        let mut length = body.len() + 1;
        while length.to_string().len() + body.len() != length {
            length += 1;
        }
        format!("{length}{body}").into_bytes()
    }

    #[test]
    fn pax_records_override_the_header() {
        let mut records = record("path", "from/pax");
        records.extend(record("mtime", "12.5"));
        records.extend(record("uid", "70000"));
        records.extend(record("SCHILY.xattr.user.a", "1=2"));
        let bytes = pax_entry(&records);
        let entry = TarStream::new(&bytes[..]).next().unwrap().unwrap();
        assert_eq!(entry.display_name(), "from/pax");
        assert_eq!((entry.mtime, entry.uid), ((12, 500_000_000), 70000));
        assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"1=2".to_vec())]);
    }

    #[test]
    fn malformed_and_oversized_headers_are_errors() {
        assert!(names(b"").unwrap_err().to_string().contains("empty"));
        assert!(names(&[b'x'; 100]).unwrap_err().to_string().contains("invalid tar header"));
        assert!(names(&[b'x'; 1024]).unwrap_err().to_string().contains("invalid tar header"));
        for bad in [&b"5 a=b\n"[..], b"99 a=b\n", b"a=b\n", b"4 ab\n", b"0 a=b\n", b"2 "] {
            assert!(names(&pax_entry(bad)).is_err(), "{bad:?}");
        }
        let huge = vec![b'1'; MAX_PAX as usize + 1];
        assert!(names(&pax_entry(&huge)).unwrap_err().to_string().contains("longer than"));
    }

    #[test]
    fn a_size_that_cannot_be_is_an_early_end() {
        let bytes = pax_entry(&record("size", &u64::MAX.to_string()));
        assert!(names(&bytes).unwrap_err().to_string().contains("truncated"));
    }

    #[test]
    fn a_stream_that_ends_inside_an_entry_is_truncated() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("file").unwrap();
        header.set_size(3000);
        header.set_cksum();
        builder.append(&header, &[7; 3000][..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        assert!(names(&bytes[..1500]).unwrap_err().to_string().contains("truncated"));
    }

    #[test]
    fn times_before_1970_and_with_decimals_are_read() {
        for (text, time) in [
            ("0", (0, 0)),
            ("1.5", (1, 500_000_000)),
            ("-1.5", (-2, 500_000_000)),
            ("1.1234567891", (1, 123_456_789)),
        ] {
            assert_eq!(pax_time(text.as_bytes()), Some(time), "{text}");
        }
        assert_eq!(pax_time(b"1.x"), None);
    }
}
