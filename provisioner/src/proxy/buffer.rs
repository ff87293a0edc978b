//! Bytes that were read and not passed on yet.

use futures_util::FutureExt as _;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Large enough that a copy costs few calls, and that a head fits twice.
const SIZE: usize = 256 << 10;
/// Whoever sends so much at once sends more.
const BULK: usize = 8 << 10;

/// A buffer between two streams.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// What ended the stream behind what is held.
    failed: Option<io::Error>,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; SIZE], start: 0, end: 0, failed: None }
    }

    /// What is there.
    pub(super) fn held(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Reads what fits; 0 at the end of the stream. What is held stays.
    pub(super) async fn fill(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let read = reader.read(&mut self.bytes[self.end..]).await?;
        self.end += read;
        let (mut last, mut total) = (read, read);
        // TLS and SSH give a record at a time: where there is much, it is better passed on together.
        while last >= BULK && self.end < self.bytes.len() {
            match reader.read(&mut self.bytes[self.end..]).now_or_never() {
                // An end comes again, an error may not.
                None | Some(Ok(0)) => break,
                Some(Err(error)) => {
                    self.failed = Some(error);
                    break;
                }
                Some(Ok(more)) => {
                    self.end += more;
                    total += more;
                    last = more;
                }
            }
        }
        Ok(total)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        (self.start, self.end, self.failed) = (0, 0, None);
    }

    /// Forgets the first bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Writes the first bytes out.
    pub(super) async fn drain(
        &mut self,
        count: usize,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        if count > 0 {
            writer.write_all(&self.bytes[self.start..self.start + count]).await?;
            writer.flush().await?;
            self.consume(count);
        }
        Ok(())
    }
}
