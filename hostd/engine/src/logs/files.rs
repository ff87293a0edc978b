//! A log and its rotated elders on disk: which there are, which follows which, where the last lines begin.
//!
//! Whoever rotates holds a lock (flock(2)) on the directory, and so does who looks for a file here: it never sees
//! half of a rotation. An elder may be compressed while it is read, and then its header names the inode that it had.

use super::decode::Format;
use super::entry;
use flate2::bufread::GzDecoder;
use rustix::fs::FlockOperation;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Read at once, when looking for the last lines.
const BLOCK: usize = 256 << 10;

/// What tells files apart that somebody has open, whatever they are called. Others may have the same later.
type Identity = (u64, u64);

/// A file of a log that is being read.
pub(super) enum Input {
    Plain(File),
    Compressed(Box<GzDecoder<BufReader<File>>>),
}

impl Input {
    fn open(member: &Member) -> io::Result<Self> {
        match File::open(&member.path) {
            Ok(file) if member.compressed => Self::inflate(file),
            Ok(file) => Ok(Self::Plain(file)),
            // It has just been compressed.
            Err(error) if error.kind() == ErrorKind::NotFound && !member.compressed => {
                Self::inflate(File::open(with_suffix(&member.path, ".gz"))?)
            }
            Err(error) => Err(error),
        }
    }

    fn inflate(file: File) -> io::Result<Self> {
        Ok(Self::Compressed(Box::new(GzDecoder::new(BufReader::with_capacity(64 << 10, file)))))
    }

    fn identity(&self) -> io::Result<Identity> {
        let meta = match self {
            Self::Plain(file) => file.metadata()?,
            Self::Compressed(gz) => gz.get_ref().get_ref().metadata()?,
        };
        Ok((meta.dev(), meta.ino()))
    }

    /// Whether this is the file that `member` names, or `member` what was made of it by compressing it.
    fn is(&self, member: &Member) -> io::Result<bool> {
        let own = self.identity()?;
        match fs::metadata(&member.path) {
            Ok(meta) if own == (meta.dev(), meta.ino()) => return Ok(true),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(_) if !member.compressed => return Ok(false),
            _ => {}
        }
        match (self, Self::open(member)?) {
            (Self::Plain(_), Self::Compressed(gz)) => {
                Ok(gz.header().and_then(|header| parse_identity(header.comment()?)) == Some(own))
            }
            _ => Ok(false),
        }
    }

    /// Whether this is the file that is being written.
    pub(super) fn is_current(&self, path: &Path) -> io::Result<bool> {
        match (self, fs::metadata(path)) {
            (Self::Compressed(..), _) => Ok(false),
            (Self::Plain(_), Ok(meta)) => Ok(self.identity()? == (meta.dev(), meta.ino())),
            (Self::Plain(_), Err(error)) if error.kind() == ErrorKind::NotFound => Ok(false),
            (Self::Plain(_), Err(error)) => Err(error),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Compressed(gz) => gz.read(buffer),
        }
    }
}

/// `device:inode`.
fn parse_identity(comment: &[u8]) -> Option<Identity> {
    let (dev, ino) = std::str::from_utf8(comment).ok()?.split_once(':')?;
    Some((dev.parse().ok()?, ino.parse().ok()?))
}

struct Member {
    age: u32,
    compressed: bool,
    path: PathBuf,
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Keeps the log from being rotated.
struct Lock(#[expect(dead_code, reason = "the lock goes with the descriptor")] File);

impl Lock {
    fn take(path: &Path) -> io::Result<Option<Self>> {
        match File::open(path.parent().unwrap_or(Path::new("/"))) {
            Ok(dir) => {
                rustix::fs::flock(&dir, FlockOperation::LockShared)?;
                Ok(Some(Self(dir)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The files of a log, the youngest first.
fn members(path: &Path) -> io::Result<Vec<Member>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut members = Vec::new();
    for file in fs::read_dir(path.parent().unwrap_or(Path::new("/")))? {
        let file = file?.file_name();
        let Some(rest) = file.to_str().and_then(|file| file.strip_prefix(&name)) else { continue };
        let (bare, compressed) = rest.strip_suffix(".gz").map_or((rest, false), |bare| (bare, true));
        let age = match bare.strip_prefix('.') {
            None if bare.is_empty() && !compressed => Some(0),
            None => None,
            Some(number) => number.parse().ok().filter(|age| *age > 0),
        };
        if let Some(age) = age {
            members.push(Member { age, compressed, path: with_suffix(path, rest) });
        }
    }
    // One that is being compressed is there twice, for a moment.
    members.sort_by_key(|member| (member.age, member.compressed));
    members.dedup_by_key(|member| member.age);
    Ok(members)
}

/// Opens the oldest file, or the one in which the last `tail` lines begin, there. `None` where there is no log yet.
pub(super) fn begin(path: &Path, format: Format, tail: Option<usize>) -> io::Result<Option<Input>> {
    let Some(_lock) = Lock::take(path)? else { return Ok(None) };
    let members = members(path)?;
    let Some(wanted) = tail else { return members.last().map(Input::open).transpose() };
    let mut counted = Counted { wanted, lines: 0, newest: true };
    let mut found = None;
    for member in &members {
        let mut input = Input::open(member)?;
        let (begins, complete) = match &mut input {
            Input::Plain(file) => counted.back_through(file, format)?,
            Input::Compressed(..) => {
                let mut again = Input::open(member)?;
                let result = counted.through(&mut again, format)?;
                skip(&mut input, result.0)?;
                result
            }
        };
        if let Input::Plain(file) = &mut input {
            file.seek(SeekFrom::Start(begins))?;
        }
        found = Some(input);
        if complete {
            break;
        }
    }
    Ok(found)
}

/// The file that was begun after `input`, which has been rotated; the oldest where nobody knows any more. `None` where
/// there is none yet.
pub(super) fn after(path: &Path, input: &Input) -> io::Result<Option<Input>> {
    let Some(_lock) = Lock::take(path)? else { return Ok(None) };
    let members = members(path)?;
    // The youngest that it may be: an elder's former inode may be that of a later file.
    for (at, member) in members.iter().enumerate() {
        if input.is(member)? {
            let younger = at.checked_sub(1).map(|at| &members[at]);
            return younger.map(Input::open).transpose();
        }
    }
    members.last().map(Input::open).transpose()
}

fn skip(input: &mut Input, bytes: u64) -> io::Result<()> {
    io::copy(&mut input.take(bytes), &mut io::sink()).map(drop)
}

/// Counts lines from the end of a log. A line is counted by its last entry; the newest entry counts, ended or not.
struct Counted {
    wanted: usize,
    lines: usize,
    newest: bool,
}

impl Counted {
    /// Takes the entry before those taken so far; `false` when it is one line too many.
    fn take(&mut self, ends_line: bool) -> bool {
        let counts = ends_line || std::mem::take(&mut self.newest);
        if counts && self.lines == self.wanted {
            return false;
        }
        self.newest = false;
        self.lines += usize::from(counts);
        true
    }

    /// Where in the file the lines wanted begin, and whether it holds them all. Reads backwards, and no more than needed.
    fn back_through(&mut self, file: &File, format: Format) -> io::Result<(u64, bool)> {
        let mut end = file.metadata()?.len();
        if self.wanted == 0 {
            return Ok((end, true));
        }
        let (mut block, mut size) = (Vec::new(), BLOCK as u64);
        while end > 0 {
            let start = end.saturating_sub(size);
            block.resize((end - start) as usize, 0);
            file.read_exact_at(&mut block, start)?;
            let mut left = block.len();
            while left > 0
                && let Some((at, ends_line)) = entry::last(format, &block[..left], start == 0)
            {
                if !self.take(ends_line) {
                    return Ok((start + left as u64, true));
                }
                left = at;
            }
            if left == block.len() {
                // An entry longer than that; or none at all.
                if start == 0 || size > 4 * entry::LONGEST as u64 {
                    return Ok((end, true));
                }
                size *= 2;
            }
            end = start + left as u64;
        }
        Ok((0, false))
    }

    /// As `back_through`, of a file that can only be read from its start.
    fn through(&mut self, input: &mut Input, format: Format) -> io::Result<(u64, bool)> {
        // Where entries end that end lines: as many as may be wanted.
        let keep = self.wanted - self.lines.min(self.wanted) + 1;
        let mut ends = std::collections::VecDeque::new();
        let (mut data, mut position, mut last_ends) = (Vec::new(), 0_u64, true);
        let mut block = vec![0; BLOCK];
        loop {
            let n = input.read(&mut block)?;
            if n == 0 {
                break;
            }
            data.extend_from_slice(&block[..n]);
            let mut at = 0;
            while let Some((_, length)) = entry::first(format, &data[at..]) {
                let whole = entry::last(format, &data[at..at + length], true);
                last_ends = whole.is_some_and(|(_, ends_line)| ends_line);
                at += length;
                if last_ends {
                    ends.push_back(position + at as u64);
                    if ends.len() > keep {
                        ends.pop_front();
                    }
                }
            }
            position += at as u64;
            data.drain(..at);
        }
        if self.newest && position > 0 && !last_ends {
            ends.push_back(position);
        }
        while let Some(end) = ends.pop_back() {
            if !self.take(true) {
                return Ok((end, true));
            }
        }
        Ok((0, false))
    }
}
