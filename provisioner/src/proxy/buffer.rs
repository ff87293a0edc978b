//! Bytes that were read and not passed on yet.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Large enough that a copy costs few calls, and that a head fits twice.
const SIZE: usize = 128 << 10;

/// A buffer between two streams.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; SIZE], start: 0, end: 0 }
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
        let read = reader.read(&mut self.bytes[self.end..]).await?;
        self.end += read;
        Ok(read)
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
