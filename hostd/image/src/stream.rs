//! From the asynchronous side to the threads that read: a client's upload or a registry's answer as `std::io::Read`.

use bytes::{Bytes, BytesMut};
use std::io::{self, Read};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

const CHUNK: usize = 256 * 1024;

/// The sending side. Dropped without [`Feed::end`], the reader gets an error.
pub(crate) struct Feed(mpsc::Sender<io::Result<Option<Bytes>>>);

/// The reading side, for a thread that may block.
pub(crate) struct FeedReader {
    rx: mpsc::Receiver<io::Result<Option<Bytes>>>,
    chunk: Bytes,
    ended: bool,
}

pub(crate) fn feed() -> (Feed, FeedReader) {
    let (tx, rx) = mpsc::channel(16);
    (Feed(tx), FeedReader { rx, chunk: Bytes::new(), ended: false })
}

impl Feed {
    /// Sends on; `false` once nobody reads any more.
    pub(crate) async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Ok(Some(bytes))).await.is_ok()
    }

    pub(crate) async fn end(self) {
        // A reader that is gone needs no end.
        let _ = self.0.send(Ok(None)).await;
    }

    /// Sends all of `source`, and its end or its error.
    pub(crate) async fn send_all(self, mut source: impl AsyncRead + Unpin) {
        loop {
            let mut chunk = BytesMut::with_capacity(CHUNK);
            while chunk.len() < CHUNK / 2 {
                match source.read_buf(&mut chunk).await {
                    Ok(0) => {
                        if chunk.is_empty() || self.send(chunk.freeze()).await {
                            self.end().await;
                        }
                        return;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        let _ = self.0.send(Err(error)).await;
                        return;
                    }
                }
            }
            if !self.send(chunk.freeze()).await {
                return;
            }
        }
    }
}

impl Read for FeedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.rx.blocking_recv() {
                Some(Ok(Some(chunk))) => self.chunk = chunk,
                Some(Ok(None)) => self.ended = true,
                Some(Err(error)) => return Err(error),
                None => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the stream broke off")),
            }
        }
        let n = buf.len().min(self.chunk.len());
        buf[..n].copy_from_slice(&self.chunk[..n]);
        self.chunk = self.chunk.split_off(n);
        Ok(n)
    }
}
