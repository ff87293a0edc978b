//! The file of a log, and its rotated elders beside it: `x`, `x.1`, `x.2.gz` …
//!
//! A rotation locks the directory (flock(2)), so that no reader sees half of one. Elders are compressed by a fork of the writer, which holds a lock (flock(2)) on what it compresses; the next
//! rotation waits for it. Whoever reads an elder when it is compressed goes on in what he has open, and finds its
//! successor by the inode that the compressed file names in its header's comment.

use super::json::{self, Json};
use super::lines::Piece;
use super::{Sink, local};
use crate::spec::{LogFile, LogFormat};
use flate2::{Compression, GzBuilder};
use hostd_sys::fork::{Cloned, SingleThreaded};
use rustix::fs::FlockOperation;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Written at once, about.
const BATCH: usize = 256 << 10;

/// A log file that is being written.
#[derive(Debug)]
pub(super) struct FileLog {
    format: Format,
    file: File,
    path: PathBuf,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    compress: bool,
    /// To fork; without it this process compresses by itself.
    proof: Option<SingleThreaded>,
    /// Entries that are not written yet.
    batch: Vec<u8>,
    /// What went wrong since the last flush.
    failed: io::Result<()>,
    /// Time of the last entry.
    last: u64,
}

#[derive(Debug)]
enum Format {
    Json(Json),
    Local,
}

impl FileLog {
    /// Opens the file, or makes it (and its directory).
    pub(super) fn open(spec: &LogFile, proof: Option<SingleThreaded>) -> io::Result<Self> {
        let file = match open(&spec.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(spec.path.parent().unwrap_or(Path::new("/")))?;
                open(&spec.path)?
            }
            opened => opened?,
        };
        let format = match &spec.format {
            LogFormat::Json { attrs } => Format::Json(Json::new(attrs)),
            LogFormat::Local => Format::Local,
        };
        let mut log = Self {
            format,
            size: file.metadata()?.len(),
            file,
            path: spec.path.clone(),
            max_size: spec.max_size,
            max_files: spec.max_files.max(1),
            compress: spec.compress,
            proof,
            batch: Vec::new(),
            failed: Ok(()),
            last: 0,
        };
        log.mend()?;
        Ok(log)
    }

    /// Sees to it that a new entry begins where an entry may: a crash may have torn the last one.
    fn mend(&mut self) -> io::Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        match self.format {
            Format::Json(_) => {
                let mut last = [0];
                self.file.read_exact_at(&mut last, self.size - 1)?;
                if last != *b"\n" {
                    self.file.write_all(b"\n")?;
                    self.size += 1;
                }
            }
            Format::Local => {
                let whole = whole_messages(&self.file, self.size)?;
                if whole < self.size {
                    self.file.set_len(whole)?;
                    self.size = whole;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, end: usize) -> io::Result<()> {
        let written = self.file.write_all(&self.batch[..end]);
        match written {
            Ok(()) => self.size += end as u64,
            // Half an entry (the disk is full) would spoil the one behind it.
            Err(_) => self.file.set_len(self.size)?,
        }
        self.batch.drain(..end);
        written
    }

    fn note(&mut self, result: io::Result<()>) {
        if self.failed.is_ok() {
            self.failed = result;
        }
    }

    /// `x` becomes `x.1`, `x.1` becomes `x.2`, and the eldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        let eldest = self.max_files - 1;
        // Readers that look for a file hold it too, for as long as that takes.
        let dir = File::open(self.path.parent().unwrap_or(Path::new("/")))?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive)?;
        if eldest == 0 {
            // A new file, not a shorter one: who reads the old one must notice.
            fs::remove_file(&self.path)?;
        } else {
            if let Some(first) = if_there(File::open(elder(&self.path, 1)))? {
                rustix::fs::flock(&first, FlockOperation::LockExclusive)?;
            }
            if_there(fs::remove_file(elder(&self.path, eldest)))?;
            if_there(fs::remove_file(compressed(&elder(&self.path, eldest))))?;
            for n in (1..eldest).rev() {
                let (from, to) = (elder(&self.path, n), elder(&self.path, n + 1));
                if_there(fs::rename(compressed(&from), compressed(&to)))?;
                if_there(fs::rename(from, to))?;
            }
            fs::rename(&self.path, elder(&self.path, 1))?;
        }
        let old = std::mem::replace(&mut self.file, open(&self.path)?);
        self.size = 0;
        if self.compress && eldest > 0 {
            self.compress(old)?;
        }
        Ok(())
    }

    /// Has a fork compress what is `x.1` now.
    fn compress(&self, old: File) -> io::Result<()> {
        // The child's, too: it is let go of when the child has ended.
        rustix::fs::flock(&old, FlockOperation::LockExclusive)?;
        let Some(proof) = self.proof else { return compress(old, &elder(&self.path, 1), self.last) };
        match hostd_sys::fork::clone_process(proof, 0, None)? {
            Cloned::Parent { .. } => Ok(()),
            Cloned::Child => {
                let kept = hostd_sys::fork::close_all_but(&[old.as_fd()]);
                // Nobody waits for it but the next rotation.
                let _ = rustix::process::setpriority_process(None, 10);
                let done = kept.and_then(|()| compress(old, &elder(&self.path, 1), self.last));
                hostd_sys::fork::exit_now(i32::from(done.is_err()))
            }
        }
    }
}

impl Sink for FileLog {
    fn piece(&mut self, piece: &Piece<'_>) {
        let before = self.batch.len();
        match &mut self.format {
            Format::Json(json) => json.encode(piece, &mut self.batch),
            Format::Local => local::encode(piece, &mut self.batch),
        }
        let full = self.max_size.is_some_and(|max| self.size + self.batch.len() as u64 > max);
        if full && self.size + before as u64 > 0 {
            let rotated = self.write(before).and_then(|()| self.rotate());
            self.note(rotated);
        }
        self.last = piece.time;
        if self.batch.len() > BATCH {
            let written = self.write(self.batch.len());
            self.note(written);
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.batch.is_empty() {
            let written = self.write(self.batch.len());
            self.note(written);
        }
        // A quiet container holds no memory.
        self.batch = Vec::new();
        std::mem::replace(&mut self.failed, Ok(()))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

fn elder(path: &Path, n: u32) -> PathBuf {
    with_suffix(path, &format!(".{n}"))
}

fn compressed(path: &Path) -> PathBuf {
    with_suffix(path, ".gz")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts `path.gz` in the place of `path`, whose content `from` is. The header has Docker's metadata (when its last
/// entry was made), and which file it was.
fn compress(mut from: File, path: &Path, last: u64) -> io::Result<()> {
    let inode = format!("{}:{}", from.metadata()?.dev(), from.metadata()?.ino());
    let metadata = format!("{{\"lastTime\":\"{}\"}}", json::rfc3339(last));
    let fresh = with_suffix(path, ".gz.new");
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&fresh)?;
    let mut gz = GzBuilder::new().extra(metadata).comment(inode).write(to, Compression::fast());
    from.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; BATCH];
    loop {
        match from.read(&mut buffer)? {
            0 => break,
            n => gz.write_all(&buffer[..n])?,
        }
    }
    gz.finish()?;
    // Both stand there for a moment: whoever looks takes the plain one.
    fs::rename(&fresh, compressed(path))?;
    fs::remove_file(path)
}

/// How much of a file in `local` format are whole messages.
fn whole_messages(file: &File, size: u64) -> io::Result<u64> {
    let length = |at: u64| {
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, at).map(|()| u64::from(u32::from_be_bytes(bytes)))
    };
    // As a rule the last one is whole, which its two lengths tell.
    if size >= 8 {
        let last = length(size - 4)?;
        if last + 8 <= size && length(size - last - 8)? == last {
            return Ok(size);
        }
    }
    let mut at = 0;
    while at + 8 <= size {
        let inner = length(at)?;
        if at + inner + 8 > size || length(at + 4 + inner)? != inner {
            break;
        }
        at += inner + 8;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::super::lines::Lines;
    use super::*;

    fn spec(path: &Path, max_size: Option<u64>, max_files: u32) -> LogFile {
        let format = LogFormat::Json { attrs: String::new() };
        LogFile { path: path.to_owned(), format, max_size, max_files, compress: false }
    }

    fn log(spec: &LogFile) -> FileLog {
        FileLog::open(spec, None).unwrap()
    }

    fn print(log: &mut FileLog, text: &[u8]) {
        Lines::default().feed(1, text, 0, |piece| log.piece(&piece));
        log.flush().unwrap();
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
    fn a_full_log_is_rotated_and_the_eldest_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = log(&spec(&path, Some(150), 3));
        for n in 0..12 {
            print(&mut log, format!("line {n}\n").as_bytes());
        }
        assert_eq!(lines(&path), ["line 10\n", "line 11\n"]);
        assert_eq!(lines(&elder(&path, 1)), ["line 8\n", "line 9\n"]);
        assert_eq!(lines(&elder(&path, 2)), ["line 6\n", "line 7\n"]);
        assert!(!elder(&path, 3).exists());
    }

    #[test]
    fn elders_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = log(&LogFile { compress: true, ..spec(&path, Some(80), 3) });
        print(&mut log, b"1\n2\n3\n4\n");
        let mut names: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1.gz", "log.2.gz"]);
        let mut text = String::new();
        let gz = File::open(compressed(&elder(&path, 2))).unwrap();
        flate2::read::GzDecoder::new(gz).read_to_string(&mut text).unwrap();
        assert!(text.starts_with(r#"{"log":"2\n""#), "{text}");
    }

    #[test]
    fn one_file_alone_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = log(&spec(&path, Some(150), 1));
        print(&mut log, b"1\n2\n3\n");
        assert_eq!(lines(&path), ["3\n"]);
    }

    #[test]
    fn compressing_keeps_the_content_and_says_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.1");
        fs::write(&path, "content").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        compress(File::open(&path).unwrap(), &path, 1).unwrap();
        assert!(!path.exists());
        let mut gz = flate2::read::GzDecoder::new(File::open(compressed(&path)).unwrap());
        let mut text = String::new();
        gz.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        let header = gz.header().unwrap();
        assert_eq!(header.extra().unwrap(), br#"{"lastTime":"1970-01-01T00:00:00.000000001Z"}"#);
        assert!(String::from_utf8_lossy(header.comment().unwrap()).ends_with(&format!(":{inode}")));
    }

    #[test]
    fn a_torn_entry_does_not_spoil_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, r#"{"log":"tor"#).unwrap();
        print(&mut log(&spec(&path, None, 1)), b"whole\n");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().nth(1).unwrap().starts_with(r#"{"log":"whole\n""#), "{text}");

        let path = dir.path().join("local");
        let local = LogFile { format: LogFormat::Local, ..spec(&path, None, 1) };
        print(&mut log(&local), b"one\ntwo\n");
        let whole = fs::read(&path).unwrap();
        for cut in 1..whole.len() / 2 {
            fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            drop(log(&local));
            assert_eq!(fs::read(&path).unwrap(), whole[..whole.len() / 2], "{cut}");
        }
        fs::write(&path, &whole).unwrap();
        drop(log(&local));
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}
