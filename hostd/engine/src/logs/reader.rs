//! Reads a log on from where it is told to begin, through its files, as long as there is more.

use super::decode::{Decoder, Format, Wanted};
use super::files::{self, Input};
use bytes::Bytes;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Handed to the client at once, about.
const CHUNK: usize = 64 << 10;
/// Read at once.
const READ: usize = 128 << 10;
/// Chunks in a step: a step is a turn on a thread that may block, which costs more than a chunk.
const CHUNKS: usize = 4;

pub(super) enum Step {
    /// Some of the log; empty when nothing of what was read is wanted.
    Chunks(Vec<Bytes>),
    /// Nothing more for now.
    CaughtUp,
    /// Nothing more that is wanted.
    Over,
}

pub(super) struct Reader {
    path: PathBuf,
    format: Format,
    /// `None` as long as the container has printed nothing.
    input: Option<Input>,
    /// What was read and not decoded yet: `data[start..end]`.
    data: Vec<u8>,
    start: usize,
    end: usize,
    decoder: Decoder,
    /// Whether the file is known to be complete: another one is being written.
    complete: bool,
    over: bool,
}

impl Reader {
    /// At the beginning of the oldest file, or before the last `tail` lines.
    pub(super) fn open(path: &Path, format: Format, tail: Option<usize>, wanted: Wanted) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            format,
            input: files::begin(path, format, tail)?,
            data: Vec::new(),
            start: 0,
            end: 0,
            decoder: Decoder::new(wanted),
            complete: false,
            over: false,
        })
    }

    /// Reads on.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        if self.over {
            return Ok(Step::Over);
        }
        let mut chunks = Vec::new();
        for _ in 0..CHUNKS {
            let mut out = Vec::with_capacity(CHUNK + (CHUNK >> 1));
            while out.len() < CHUNK {
                let (read, goes_on) =
                    self.decoder.entries(self.format, &self.data[self.start..self.end], &mut out, CHUNK);
                self.start += read;
                if !goes_on {
                    self.over = true;
                    chunks.push(out.into());
                    return Ok(Step::Chunks(chunks));
                }
                if out.len() < CHUNK && !self.fill()? {
                    return Ok(match (chunks.is_empty(), out.is_empty()) {
                        (true, true) => self.rest(),
                        (_, true) => Step::Chunks(chunks),
                        _ => {
                            chunks.push(out.into());
                            Step::Chunks(chunks)
                        }
                    });
                }
            }
            chunks.push(out.into());
        }
        Ok(Step::Chunks(chunks))
    }

    /// Who waits for more holds no memory.
    fn rest(&mut self) -> Step {
        if self.start == self.end {
            (self.data, self.start, self.end) = (Vec::new(), 0, 0);
        }
        Step::CaughtUp
    }

    /// Reads more behind what is left; `false` when there is no more.
    fn fill(&mut self) -> io::Result<bool> {
        self.data.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.data.len() < self.end + READ {
            self.data.resize(self.end + READ, 0);
        }
        loop {
            let Some(input) = &mut self.input else {
                self.input = files::begin(&self.path, self.format, None)?;
                if self.input.is_none() {
                    return Ok(false);
                }
                continue;
            };
            let n = input.read(&mut self.data[self.end..])?;
            if n > 0 {
                self.end += n;
                return Ok(true);
            }
            // What was added before the rotation, and after the read, comes with one more.
            if !std::mem::replace(&mut self.complete, true) {
                if input.is_current(&self.path)? {
                    self.complete = false;
                    return Ok(false);
                }
                continue;
            }
            let Some(next) = files::after(&self.path, input)? else { return Ok(false) };
            (self.input, self.complete) = (Some(next), false);
            // What is left was torn off by a crash.
            self.end = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogOptions;
    use super::*;
    use flate2::{Compression, GzBuilder};
    use std::fmt::Write as _;
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt;

    fn rotated(path: &Path, age: usize) -> PathBuf {
        path.with_extension(age.to_string())
    }

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
                Step::Chunks(chunks) => text.extend(chunks.concat()),
                Step::CaughtUp | Step::Over => return String::from_utf8(text).unwrap(),
            }
        }
    }

    fn numbers(range: std::ops::Range<usize>) -> String {
        range.map(|n| format!("{n}\n")).collect()
    }

    fn open(path: &Path, tail: Option<usize>) -> Reader {
        let options = LogOptions { stdout: true, ..LogOptions::default() };
        Reader::open(path, Format::Json, tail, Wanted::new(&options, false)).unwrap()
    }

    /// As the shim does.
    fn compress(path: &Path) {
        let meta = fs::metadata(path).unwrap();
        let mut name = path.as_os_str().to_owned();
        name.push(".gz");
        let identity = format!("{}:{}", meta.dev(), meta.ino());
        let to = fs::File::create(name).unwrap();
        let mut gz = GzBuilder::new().comment(identity).write(to, Compression::fast());
        gz.write_all(&fs::read(path).unwrap()).unwrap();
        gz.finish().unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn rotated_files_are_read_from_the_oldest_on_compressed_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(read(&mut open(&log, None)), "");
        fs::write(rotated(&log, 3), lines(0..1000)).unwrap();
        fs::write(rotated(&log, 2), lines(1000..20_000)).unwrap();
        fs::write(rotated(&log, 1), lines(20_000..20_010)).unwrap();
        fs::write(&log, lines(20_010..20_013)).unwrap();
        let all = 20_013_usize;
        for compressed in 0..3 {
            if compressed > 0 {
                compress(&rotated(&log, 4 - compressed));
            }
            assert_eq!(read(&mut open(&log, None)), numbers(0..all), "{compressed}");
            for tail in [0, 1, 3, 4, 13, 14, 2000, 19_013, 19_014, 50_000] {
                let expected = numbers(all.saturating_sub(tail)..all);
                assert!(read(&mut open(&log, Some(tail))) == expected, "{compressed} {tail}");
            }
        }
    }

    #[test]
    fn parts_count_as_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let part = |text: &str| format!("{{\"log\":\"{text}\",\"stream\":\"stdout\",\"time\":\"t\"}}\n");
        let text = [part("one\\n"), part("tw"), part("o\\n"), part("th"), part("ree")].concat();
        fs::write(&log, &text).unwrap();
        assert_eq!(read(&mut open(&log, Some(1))), "three");
        assert_eq!(read(&mut open(&log, Some(2))), "two\nthree");
        fs::rename(&log, rotated(&log, 1)).unwrap();
        compress(&rotated(&log, 1));
        assert_eq!(read(&mut open(&log, Some(2))), "two\nthree");
        assert_eq!(read(&mut open(&log, Some(3))), "one\ntwo\nthree");
    }

    #[test]
    fn reading_goes_on_through_rotations_and_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let text = lines(0..2);
        let first = &text[..text.len() - 20];
        fs::write(&log, first).unwrap();
        let mut reader = open(&log, None);
        assert_eq!(read(&mut reader), "0\n");
        fs::write(&log, text.as_bytes()).unwrap();
        assert_eq!(read(&mut reader), "1\n");
        // What comes just before a rotation is not lost, and a file that was compressed meanwhile is known again.
        let mut add = fs::File::options().append(true).open(&log).unwrap();
        add.write_all(lines(2..3).as_bytes()).unwrap();
        fs::rename(&log, rotated(&log, 1)).unwrap();
        fs::write(&log, lines(3..5)).unwrap();
        assert_eq!(read(&mut reader), "2\n3\n4\n");
        fs::rename(rotated(&log, 1), rotated(&log, 2)).unwrap();
        fs::rename(&log, rotated(&log, 1)).unwrap();
        compress(&rotated(&log, 1));
        fs::write(&log, lines(5..6)).unwrap();
        assert_eq!(read(&mut reader), "5\n");
        assert_eq!(read(&mut reader), "");
        // Files that are gone are passed over.
        fs::remove_file(&log).unwrap();
        fs::write(&log, lines(9..10)).unwrap();
        fs::remove_file(with_gz(&rotated(&log, 1))).unwrap();
        fs::remove_file(rotated(&log, 2)).unwrap();
        assert_eq!(read(&mut reader), "9\n");
    }

    fn with_gz(path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(".gz");
        name.into()
    }
}
