//! Between threads that read and write files and clients that come and go: a channel of a few chunks.

use crate::error::{EngineError, Result, io};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use hostd_image::files::{self, Sink};
use std::fs::File;
use std::io::{self as sys, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, oneshot};

/// Bytes per chunk: few enough to stay in the cache on their way, and many enough to be worth a wake-up.
const CHUNK: usize = 256 << 10;
/// Chunks on their way out.
const DEPTH: usize = 4;
/// Chunks on their way in, which are smaller: the client's socket holds little, so that it waits as soon as nobody reads.
const UPLOAD_DEPTH: usize = 12;

/// Runs `work` on a thread of its own; what it puts into its sink comes out of the stream, and its error at the end.
pub(super) fn produce(
    work: impl FnOnce(&mut dyn Sink) -> files::Result<()> + Send + 'static,
) -> Result<BoxStream<'static, sys::Result<Bytes>>> {
    let (sender, receiver) = mpsc::channel(DEPTH);
    let run = move || {
        let mut sink = ChannelSink { sender, pool: Pool::default(), chunk: Vec::new(), filled: 0 };
        let done = work(&mut sink).map_err(|error| match error {
            files::FilesError::Io { source, .. } if source.kind() == sys::ErrorKind::BrokenPipe => source,
            error => sys::Error::other(EngineError::internal("cannot pack files").caused_by(error).chain()),
        });
        if let Err(error) = done.and_then(|()| sink.flush()) {
            // A client that left needs no error.
            let _ = sink.sender.blocking_send(Err(error));
        }
    };
    // Not one of the runtime's own, of which slow clients could take all.
    let spawned = std::thread::Builder::new().name("hostd-pack".to_owned()).spawn(run);
    spawned.map_err(io("cannot start a thread"))?;
    let next = |mut receiver: mpsc::Receiver<_>| async { receiver.recv().await.map(|item| (item, receiver)) };
    Ok(futures_util::stream::unfold(receiver, next).boxed())
}

/// Runs `work` on a thread of its own, with what the stream brings as its input.
pub(super) async fn consume<T: Send + 'static>(
    content: &mut BoxStream<'static, sys::Result<Bytes>>,
    work: impl FnOnce(ChannelReader) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel(UPLOAD_DEPTH);
    let (tell, told) = oneshot::channel();
    let run = move || {
        let reader = ChannelReader { receiver, chunk: Bytes::new(), ended: false };
        // Whoever asked may have left.
        let _ = tell.send(work(reader));
    };
    let spawned = std::thread::Builder::new().name("hostd-unpack".to_owned()).spawn(run);
    spawned.map_err(io("cannot start a thread"))?;
    let feed = async {
        // Ours alone from here on: without it, the reader learns that nothing more comes.
        let sender = sender;
        while let Some(item) = content.next().await {
            let item = match item {
                Ok(chunk) if chunk.is_empty() => continue,
                Ok(chunk) => Ok(Some(chunk)),
                Err(error) => Err(error),
            };
            if sender.send(item).await.is_err() {
                return;
            }
        }
        // Said explicitly: a sender that is dropped is a client that broke off.
        let _ = sender.send(Ok(None)).await;
    };
    let (done, ()) = tokio::join!(told, feed);
    done.map_err(|error| EngineError::internal("the work on files was given up").caused_by(error))?
}

/// Buffers that have been sent come back here, so that a transfer allocates as many as are on their way at once.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0; CHUNK])
    }
}

/// A buffer on its way.
struct Pooled {
    buffer: Vec<u8>,
    filled: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Fills chunks and sends them on.
struct ChannelSink {
    sender: mpsc::Sender<sys::Result<Bytes>>,
    pool: Pool,
    chunk: Vec<u8>,
    filled: usize,
}

impl ChannelSink {
    /// Where to put what comes next; never empty.
    fn room(&mut self) -> sys::Result<&mut [u8]> {
        if self.filled == self.chunk.len() {
            self.flush()?;
            self.chunk = self.pool.take();
        }
        Ok(&mut self.chunk[self.filled..])
    }

    fn flush(&mut self) -> sys::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        if filled == 0 {
            return Ok(());
        }
        let pooled = Pooled { buffer: std::mem::take(&mut self.chunk), filled, pool: self.pool.clone() };
        let sent = self.sender.blocking_send(Ok(Bytes::from_owner(pooled)));
        sent.map_err(|_| sys::ErrorKind::BrokenPipe.into())
    }
}

impl Sink for ChannelSink {
    fn bytes(&mut self, mut bytes: &[u8]) -> sys::Result<()> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
        }
        Ok(())
    }

    fn file(&mut self, mut file: &File, size: u64) -> sys::Result<()> {
        let mut left = size;
        while left > 0 {
            let room = self.room()?;
            let want = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match file.read(&mut room[..want]) {
                Ok(0) => return Err(sys::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == sys::ErrorKind::Interrupted => continue,
                other => other?,
            };
            self.filled += count;
            left -= count as u64;
        }
        Ok(())
    }
}

/// A client's upload as a file.
pub(super) struct ChannelReader {
    receiver: mpsc::Receiver<sys::Result<Option<Bytes>>>,
    chunk: Bytes,
    ended: bool,
}

impl BufRead for ChannelReader {
    fn fill_buf(&mut self) -> sys::Result<&[u8]> {
        while self.chunk.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Ok(Some(chunk))) => self.chunk = chunk,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => {
                    return Err(sys::Error::new(sys::ErrorKind::ConnectionAborted, "the client broke off"));
                }
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, count: usize) {
        bytes::Buf::advance(&mut self.chunk, count);
    }
}

impl Read for ChannelReader {
    fn read(&mut self, buf: &mut [u8]) -> sys::Result<usize> {
        let chunk = self.fill_buf()?;
        let count = chunk.len().min(buf.len());
        buf[..count].copy_from_slice(&chunk[..count]);
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[tokio::test]
    async fn a_file_passes_through_whole_and_a_short_one_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..3 * CHUNK + 17).map(|n| n as u8).collect();
        file.write_all(&data).unwrap();
        for (claimed, good) in [(data.len(), true), (data.len() + 1, false)] {
            file.rewind().unwrap();
            let copy = file.try_clone().unwrap();
            let stream = produce(move |sink| {
                sink.bytes(b"head").unwrap();
                sink.file(&copy, claimed as u64)
                    .map_err(|source| files::FilesError::Io { doing: "read".to_owned(), source })
            });
            let items: Vec<_> = stream.unwrap().collect().await;
            assert_eq!(items.iter().all(Result::is_ok), good);
            let got: Vec<u8> = items.into_iter().flatten().flatten().collect();
            if good {
                assert_eq!(got, [b"head", &data[..]].concat());
            }
        }
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_is_an_error_and_not_an_end() {
        let chunks = |last: sys::Result<Bytes>| {
            futures_util::stream::iter([Ok(Bytes::from_static(b"ab")), Ok(Bytes::new()), last]).boxed()
        };
        let read = |mut reader: ChannelReader| {
            let mut text = String::new();
            Ok(reader.read_to_string(&mut text).map(|_| text).map_err(|error| error.kind()))
        };
        let whole = consume(&mut chunks(Ok(Bytes::from_static(b"c"))), read).await.unwrap();
        assert_eq!(whole.unwrap(), "abc");
        let broken = consume(&mut chunks(Err(sys::ErrorKind::ConnectionReset.into())), read).await.unwrap();
        assert_eq!(broken.unwrap_err(), sys::ErrorKind::ConnectionReset);
    }
}
