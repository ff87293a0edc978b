//! A unix socket that wakes its task only for what it waits for.
//!
//! tokio's own streams are told of every moment at which a socket may be written to as well. On a unix socket that is
//! each time that the client reads: one wake-up more for every answer, just when the client is about to ask
//! again. Here a socket is watched for something to read; and for room to write only from the time on that it was full.

use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// A connected unix socket.
pub(crate) struct QuietStream {
    reader: AsyncFd<UnixStream>,
    /// The same socket, watched for room to write; there once it was full.
    writer: Option<AsyncFd<UnixStream>>,
}

fn watch(socket: UnixStream, interest: Interest) -> io::Result<AsyncFd<UnixStream>> {
    // Its successor is unsafe because a type may lie about its descriptor; `UnixStream` does not.
    #[expect(deprecated)]
    AsyncFd::with_interest(socket, interest)
}

impl QuietStream {
    /// Takes a stream over that nobody uses yet.
    pub(crate) fn new(stream: tokio::net::UnixStream) -> io::Result<Self> {
        let reader = watch(stream.into_std()?, Interest::READABLE)?;
        Ok(Self { reader, writer: None })
    }

    fn poll_with(
        &mut self,
        context: &mut Context<'_>,
        write: impl Fn(&UnixStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.writer.is_none() {
            match write(self.reader.get_ref()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // epoll(7) takes a file once for each of its descriptors.
                    let copy = self.reader.get_ref().try_clone()?;
                    self.writer = Some(watch(copy, Interest::WRITABLE)?);
                }
                result => return Poll::Ready(result),
            }
        }
        let Some(writer) = &self.writer else { return Poll::Pending };
        loop {
            let mut guard = ready!(writer.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|socket| write(socket.get_ref())) {
                return Poll::Ready(result);
            }
        }
    }
}

impl AsFd for QuietStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.get_ref().as_fd()
    }
}

impl AsyncRead for QuietStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.reader.poll_read_ready(context))?;
            let asked = buffer.remaining();
            match guard.try_io(|socket| hostd_sys::socket::read(socket.as_fd(), buffer)) {
                Ok(Ok(count)) => {
                    // Less than there is room for: all was read, and the next thing to do is to wait.
                    if 0 < count && count < asked {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for QuietStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_with(context, |mut socket| socket.write(data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_with(context, |mut socket| socket.write_vectored(parts))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.reader.get_ref().shutdown(Shutdown::Write) {
            // The client has gone already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (QuietStream, tokio::net::UnixStream) {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        (QuietStream::new(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn both_directions_carry_more_than_a_socket_holds() {
        let (mut ours, theirs) = pair();
        let data = vec![7; 8 << 20];
        let expected = data.clone();
        let echo = tokio::spawn(async move {
            let (mut from, mut to) = theirs.into_split();
            let mut got = vec![0; expected.len()];
            from.read_exact(&mut got).await.unwrap();
            assert_eq!(got, expected);
            to.write_all(&got).await.unwrap();
        });
        ours.write_all(&data).await.unwrap();
        let mut back = Vec::new();
        ours.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, data);
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn each_half_closes_on_its_own() {
        let (mut ours, mut theirs) = pair();
        ours.write_all(b"bye").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut got = String::new();
        theirs.read_to_string(&mut got).await.unwrap();
        theirs.write_all(b"see you").await.unwrap();
        drop(theirs);
        got.clear();
        ours.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "see you");
    }
}
