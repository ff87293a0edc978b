//! Where to begin in a log and its rotated elders, and how to go on from file to file.

use super::decode::{Decoder, Wanted};
use bytes::Bytes;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Read at once.
const STEP: usize = 128 << 10;
/// Handed to the client at once, about.
const CHUNK: usize = 64 << 10;

pub(super) enum Step {
    /// Some of the log; empty when nothing of what was read is wanted.
    Chunk(Bytes),
    /// Nothing more for now.
    CaughtUp,
    /// Nothing more that is wanted.
    Over,
}

pub(super) struct Reader {
    path: PathBuf,
    /// `None` as long as the container has printed nothing.
    file: Option<File>,
    /// The beginning of a line whose end is not read yet.
    carry: Vec<u8>,
    buffer: Vec<u8>,
    decoder: Decoder,
    over: bool,
}

/// `log`, `log.1`, `log.2` …: the older, the higher.
fn rotated(path: &Path, age: usize) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    name.into()
}

impl Reader {
    /// At the beginning of the oldest file, or before the last `tail` lines.
    pub(super) fn open(path: &Path, tail: Option<usize>, wanted: Wanted) -> io::Result<Self> {
        let mut reader = Self {
            path: path.to_owned(),
            file: None,
            carry: Vec::new(),
            buffer: Vec::new(),
            decoder: Decoder::new(wanted),
            over: false,
        };
        let oldest = (0..).take_while(|age| rotated(path, *age).exists()).last();
        let Some(oldest) = oldest else { return Ok(reader) };
        let Some(mut missing) = tail else {
            reader.file = open_if_there(&rotated(path, oldest))?;
            return Ok(reader);
        };
        for age in 0..=oldest {
            let Some(mut file) = open_if_there(&rotated(path, age))? else { continue };
            let (offset, lines) = before_last_lines(&file, missing)?;
            missing -= lines;
            file.seek(SeekFrom::Start(offset))?;
            reader.file = Some(file);
            if missing == 0 {
                break;
            }
        }
        Ok(reader)
    }

    /// Reads on.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.over {
            return Ok(Step::Over);
        }
        let mut out = Vec::with_capacity(CHUNK + (CHUNK >> 1));
        self.buffer.resize(STEP, 0);
        let n = match &mut self.file {
            Some(file) => file.read(&mut self.buffer)?,
            None => 0,
        };
        if n == 0 {
            return Ok(if self.next_file()? { Step::Chunk(Bytes::new()) } else { Step::CaughtUp });
        }
        let mut rest = &self.buffer[..n];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            let goes_on = if self.carry.is_empty() {
                self.decoder.line(line, &mut out)
            } else {
                self.carry.extend_from_slice(line);
                let goes_on = self.decoder.line(&self.carry, &mut out);
                self.carry.clear();
                goes_on
            };
            if !goes_on {
                self.over = true;
                return Ok(Step::Chunk(out.into()));
            }
            rest = after;
        }
        self.carry.extend_from_slice(rest);
        Ok(Step::Chunk(out.into()))
    }

    /// Goes on to the file that was begun after the present one; `false` when there is none.
    fn next_file(&mut self) -> io::Result<bool> {
        let Some(file) = &self.file else {
            self.file = open_if_there(&self.path)?;
            return Ok(self.file.is_some());
        };
        let own = file.metadata()?;
        let mut age = 0;
        loop {
            match fs::metadata(rotated(&self.path, age)) {
                Ok(meta) if (meta.dev(), meta.ino()) == (own.dev(), own.ino()) => break,
                Ok(_) => age += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        if age == 0 {
            return Ok(false);
        }
        // Ours has age `age` now, or is gone and `age - 1` is the oldest there is.
        self.carry.clear();
        self.file = open_if_there(&rotated(&self.path, age - 1))?;
        Ok(self.file.is_some())
    }
}

fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Offset at which the last `wanted` lines begin, and how many there are. Reads backwards.
fn before_last_lines(file: &File, wanted: usize) -> io::Result<(u64, usize)> {
    let mut end = file.metadata()?.len();
    if wanted == 0 {
        return Ok((end, 0));
    }
    let (mut buffer, mut newlines) = (vec![0; CHUNK], 0);
    while end > 0 {
        let start = end.saturating_sub(CHUNK as u64);
        let part = &mut buffer[..usize::try_from(end - start).unwrap_or(CHUNK)];
        file.read_exact_at(part, start)?;
        for at in (0..part.len()).rev() {
            if part[at] == b'\n' {
                if newlines == wanted {
                    return Ok((start + at as u64 + 1, wanted));
                }
                newlines += 1;
            }
        }
        end = start;
    }
    Ok((0, newlines.min(wanted)))
}

#[cfg(test)]
mod tests {
    use super::super::LogOptions;
    use super::*;
    use std::fmt::Write as _;

    fn lines(range: std::ops::Range<usize>) -> String {
        range.fold(String::new(), |mut text, n| {
            writeln!(text, r#"{{"log":"{n}\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}}"#).unwrap();
            text
        })
    }

    fn read(reader: &mut Reader) -> String {
        let mut text = Vec::new();
        loop {
            match reader.step().unwrap() {
                Step::Chunk(bytes) => text.extend_from_slice(&bytes),
                Step::CaughtUp | Step::Over => return String::from_utf8(text).unwrap(),
            }
        }
    }

    fn numbers(range: std::ops::Range<usize>) -> String {
        range.map(|n| format!("{n}\n")).collect()
    }

    fn open(path: &Path, tail: Option<usize>) -> Reader {
        let options = LogOptions { stdout: true, ..LogOptions::default() };
        Reader::open(path, tail, Wanted::new(&options, false)).unwrap()
    }

    #[test]
    fn rotated_files_are_read_from_the_oldest_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(read(&mut open(&log, None)), "");
        fs::write(rotated(&log, 2), lines(0..3000)).unwrap();
        fs::write(rotated(&log, 1), lines(3000..3010)).unwrap();
        fs::write(&log, lines(3010..3013)).unwrap();
        assert_eq!(read(&mut open(&log, None)), numbers(0..3013));
        for tail in [0, 1, 3, 4, 13, 14, 2000, 5000] {
            assert_eq!(
                read(&mut open(&log, Some(tail))),
                numbers(3013_usize.saturating_sub(tail)..3013),
                "{tail}"
            );
        }
    }

    #[test]
    fn reading_goes_on_through_a_rotation_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let text = lines(0..2);
        let (first, second) = text.split_at(text.len() - 20);
        fs::write(&log, first).unwrap();
        let mut reader = open(&log, None);
        assert_eq!(read(&mut reader), "0\n");
        fs::write(&log, text.as_bytes()).unwrap();
        assert_eq!(second.len(), 20);
        assert_eq!(read(&mut reader), "1\n");
        fs::rename(&log, rotated(&log, 1)).unwrap();
        fs::write(&log, lines(2..4)).unwrap();
        assert_eq!(read(&mut reader), "2\n3\n");
        assert_eq!(read(&mut reader), "");
    }
}
