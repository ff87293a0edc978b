//! A bounded pipe of bytes between threads.
//!
//! Chunks travel whole and their buffers travel back, so that a stage neither copies nor allocates as it goes. A writer that
//! goes away without [`PipeWriter::finish`] leaves its reader with an error, never with an early end.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

/// Bytes per chunk.
pub(crate) const CHUNK: usize = 256 * 1024;
/// Chunks in flight between two stages.
const DEPTH: usize = 8;

pub(crate) fn pipe() -> (PipeWriter, PipeReader) {
    let (tx, rx) = sync_channel(DEPTH);
    let (free_tx, free_rx) = channel();
    (
        PipeWriter { tx, free: free_rx },
        PipeReader { rx, free: free_tx, chunk: Vec::new(), at: 0, ended: false },
    )
}

enum Message {
    Chunk(Vec<u8>),
    End,
}

pub(crate) struct PipeWriter {
    tx: SyncSender<Message>,
    free: Receiver<Vec<u8>>,
}

impl PipeWriter {
    /// An empty buffer to fill, with room for [`CHUNK`] bytes.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.free.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK))
    }

    /// Sends a chunk; waits while the reader is behind. `Err` once the reader is gone.
    pub(crate) fn send(&self, chunk: Vec<u8>) -> io::Result<()> {
        self.tx.send(Message::Chunk(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Says that all was sent.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.tx.send(Message::End).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

pub(crate) struct PipeReader {
    rx: Receiver<Message>,
    free: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for PipeReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.chunk.len() {
            if self.ended {
                return Ok(0);
            }
            let mut old = std::mem::take(&mut self.chunk);
            self.at = 0;
            if old.capacity() > 0 {
                old.clear();
                // A writer that is done wants no buffers back.
                let _ = self.free.send(old);
            }
            match self.rx.recv() {
                Ok(Message::Chunk(chunk)) => self.chunk = chunk,
                Ok(Message::End) => self.ended = true,
                Err(_) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the stream broke off")),
            }
        }
        let n = buf.len().min(self.chunk.len() - self.at);
        buf[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

/// Fills `buf` up to its capacity; less only at the end.
pub(crate) fn fill(reader: &mut impl Read, buf: &mut Vec<u8>) -> io::Result<usize> {
    let room = buf.capacity() - buf.len();
    reader.by_ref().take(room as u64).read_to_end(buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_that_gives_up_is_an_error_and_not_an_end() {
        let (writer, mut reader) = pipe();
        writer.send(b"half".to_vec()).unwrap();
        drop(writer);
        let mut read = Vec::new();
        assert_eq!(reader.read_to_end(&mut read).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read, b"half");
    }

    #[test]
    fn a_finished_writer_ends_the_stream() {
        let (writer, mut reader) = pipe();
        writer.send(b"whole".to_vec()).unwrap();
        writer.finish().unwrap();
        let mut read = String::new();
        reader.read_to_string(&mut read).unwrap();
        assert_eq!(read, "whole");
    }
}
