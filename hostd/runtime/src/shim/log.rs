//! Docker's json-file log: one `{"log":…,"stream":…,"time":…}` a line, written by the shim.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Longest piece of a line in one entry, as with Docker; the rest follows in further entries.
const PIECE: usize = 16 << 10;

/// A container's log file.
#[derive(Debug)]
pub(crate) struct JsonLog {
    file: File,
    path: PathBuf,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    /// What was printed since the last end of line, for stdout and stderr.
    partial: [Vec<u8>; 2],
}

impl JsonLog {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path, max_size: Option<u64>, max_files: u32) -> io::Result<Self> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        let path = path.to_owned();
        Ok(Self {
            file,
            path,
            size,
            max_size,
            max_files: max_files.max(1),
            partial: [Vec::new(), Vec::new()],
        })
    }

    /// Adds what was printed on stdout (`stream` 1) or stderr (2).
    pub(crate) fn add(&mut self, stream: u8, mut data: &[u8]) -> io::Result<()> {
        let time = rfc3339(SystemTime::now());
        let at = usize::from(stream == 2);
        let mut partial = std::mem::take(&mut self.partial[at]);
        let mut entries = Vec::with_capacity(data.len() + 128);
        while !data.is_empty() {
            let room = PIECE - partial.len();
            let end = data.iter().take(room).position(|&b| b == b'\n').map(|i| i + 1);
            let take = end.unwrap_or(room.min(data.len()));
            let (piece, rest) = data.split_at(take);
            data = rest;
            if end.is_none() && partial.len() + take < PIECE {
                partial.extend_from_slice(piece);
                break;
            }
            entry(&mut entries, &[&partial, piece], stream, &time);
            partial.clear();
            if entries.len() > 4 * PIECE {
                self.write(&entries)?;
                entries.clear();
            }
        }
        // An idle stream holds no memory.
        self.partial[at] = if partial.is_empty() { Vec::new() } else { partial };
        self.write(&entries)
    }

    /// Writes what is left of a last line without end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let time = rfc3339(SystemTime::now());
        for stream in [1, 2] {
            let partial = std::mem::take(&mut self.partial[stream - 1]);
            if !partial.is_empty() {
                let mut entries = Vec::new();
                entry(&mut entries, &[&partial], stream as u8, &time);
                self.write(&entries)?;
            }
        }
        Ok(())
    }

    /// Writes whole entries, each into the file that has room for it.
    fn write(&mut self, entries: &[u8]) -> io::Result<()> {
        let Some(max) = self.max_size else {
            return self.file.write_all(entries);
        };
        let mut rest = entries;
        while !rest.is_empty() {
            let mut fits = 0;
            while let Some(next) = rest[fits..].iter().position(|&b| b == b'\n') {
                if self.size + (fits + next + 1) as u64 > max && (fits > 0 || self.size > 0) {
                    break;
                }
                fits += next + 1;
            }
            let (now, later) = rest.split_at(fits);
            self.file.write_all(now)?;
            self.size += now.len() as u64;
            rest = later;
            if !rest.is_empty() {
                self.rotate()?;
            }
        }
        Ok(())
    }

    /// `x` becomes `x.1`, `x.1` becomes `x.2`, and the eldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let elder = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        if self.max_files == 1 {
            self.file.set_len(0)?;
        } else {
            for n in (1..self.max_files - 1).rev() {
                match fs::rename(elder(n), elder(n + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, elder(1))?;
            self.file = open(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Appends one entry whose text is `parts` together.
fn entry(out: &mut Vec<u8>, parts: &[&[u8]], stream: u8, time: &str) {
    out.extend_from_slice(b"{\"log\":\"");
    match parts {
        [one] | [[], one] => escape(out, one),
        // A character may be cut in two between the parts.
        _ => escape(out, &parts.concat()),
    }
    out.extend_from_slice(if stream == 2 {
        b"\",\"stream\":\"stderr\",\"time\":\""
    } else {
        b"\",\"stream\":\"stdout\",\"time\":\""
    });
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Escapes as Docker does: HTML's characters too, and U+FFFD for what is no UTF-8.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for chunk in text.utf8_chunks() {
        let valid = chunk.valid().as_bytes();
        let mut start = 0;
        for (i, &b) in valid.iter().enumerate() {
            let plain = !matches!(b, 0..=0x1f | b'"' | b'\\' | b'<' | b'>' | b'&' | 0xe2);
            if plain {
                continue;
            }
            // U+2028 and U+2029 end lines in JavaScript.
            let separator = b == 0xe2 && valid[i + 1] == 0x80 && matches!(valid[i + 2], 0xa8 | 0xa9);
            if b == 0xe2 && !separator {
                continue;
            }
            out.extend_from_slice(&valid[start..i]);
            start = i + if separator { 3 } else { 1 };
            match b {
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
                0xe2 => out.extend_from_slice(if valid[i + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" }),
                _ => out.extend_from_slice(&[
                    b'\\',
                    b'u',
                    b'0',
                    b'0',
                    HEX[usize::from(b >> 4)],
                    HEX[usize::from(b & 15)],
                ]),
            }
        }
        out.extend_from_slice(&valid[start..]);
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// RFC 3339 in UTC with nanoseconds, without trailing zeros.
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = ((since.as_secs() / 86400) as i64, since.as_secs() % 86400);
    // Days to civil date (Howard Hinnant's algorithm), from March 1st of year 0.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if since.subsec_nanos() != 0 {
        let fraction = format!(".{:09}", since.subsec_nanos());
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn escaped(text: &[u8]) -> String {
        let mut out = Vec::new();
        escape(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_escaped_as_docker_does() {
        let cases: [(&[u8], &str); 6] = [
            (b"plain \xc3\xa9\n", "plain \u{e9}\\n"),
            (b"a\"b\\c\r\t\x1b", "a\\\"b\\\\c\\r\\u0009\\u001b"),
            (b"<&>", "\\u003c\\u0026\\u003e"),
            (b"x\xff\xfey", "x\\ufffd\\ufffdy"),
            ("\u{2028}\u{20ac}\u{2029}".as_bytes(), "\\u2028\u{20ac}\\u2029"),
            (b"", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(escaped(text), expected);
        }
    }

    #[test]
    fn times_are_rfc3339_without_trailing_zeros() {
        let at = |secs, nanos| rfc3339(UNIX_EPOCH + Duration::new(secs, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 120_000_000), "2000-02-29T00:00:00.12Z");
        assert_eq!(at(1_767_225_599, 1), "2025-12-31T23:59:59.000000001Z");
    }

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("hostd-log-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn lines(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| {
                let entry: serde_json::Value = serde_json::from_str(line).unwrap();
                entry["log"].as_str().unwrap().to_owned()
            })
            .collect()
    }

    #[test]
    fn a_line_is_one_entry_however_it_arrives_and_a_long_one_is_split() {
        let dir = dir("split");
        let mut log = JsonLog::open(&dir.join("log"), None, 1).unwrap();
        log.add(1, b"he").unwrap();
        log.add(2, b"err\n").unwrap();
        log.add(1, b"llo\nwor").unwrap();
        log.add(1, &[b'x'; PIECE]).unwrap();
        log.finish().unwrap();
        let lines = lines(&dir.join("log"));
        assert_eq!(lines[..2], ["err\n", "hello\n"]);
        assert_eq!(lines[2].len(), PIECE);
        assert_eq!(lines[3], "xxx");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_full_log_is_rotated_and_the_eldest_file_goes() {
        let dir = dir("rotate");
        let path = dir.join("log");
        let mut log = JsonLog::open(&path, Some(200), 3).unwrap();
        for n in 0..12 {
            log.add(1, format!("line {n}\n").as_bytes()).unwrap();
        }
        assert_eq!(lines(&path), ["line 10\n", "line 11\n"]);
        assert_eq!(lines(&dir.join("log.1")), ["line 8\n", "line 9\n"]);
        assert_eq!(lines(&dir.join("log.2")), ["line 6\n", "line 7\n"]);
        assert!(!dir.join("log.3").exists());
        fs::remove_dir_all(dir).unwrap();
    }
}
