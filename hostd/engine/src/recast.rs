//! The shape of an exec's stream, where its client asks for another than the process gives.
//!
//! Docker frames output by what the request says that *starts* an exec, whether or not it was created with a terminal:
//! a client that starts one on a terminal without saying `Tty` again (docker-py, unless told) reads frames.

use crate::error::{Result, io};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::UnixStream;

const BUFFER: usize = 32 << 10;
/// Stream, three zeros, length: see Docker's attach.
const HEAD: usize = 8;

/// What the client is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recast {
    /// Frames of stdout, of what a terminal gives.
    Frame,
    /// The bytes of all frames.
    Unframe,
}

impl Recast {
    /// What there is to do between a process and a client, either on a terminal or not.
    pub(crate) fn between(process: bool, client: bool) -> Option<Self> {
        match (process, client) {
            (true, false) => Some(Self::Frame),
            (false, true) => Some(Self::Unframe),
            _ => None,
        }
    }

    /// The client's end of a stream to a process; it ends when the process's does, and the client's end of file is the
    /// process's.
    pub(crate) fn bridge(self, process: UnixStream) -> Result<UnixStream> {
        let (theirs, client) = UnixStream::pair().map_err(io("cannot make a socket pair"))?;
        tokio::spawn(async move {
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_process, mut to_process) = process.into_split();
            let input = async {
                let _ = copy(&mut from_client, &mut to_process).await;
                let _ = to_process.shutdown().await;
            };
            let output = async {
                let _ = match self {
                    Self::Frame => frame(&mut from_process, &mut to_client).await,
                    Self::Unframe => unframe(&mut from_process, &mut to_client).await,
                };
            };
            tokio::pin!(input, output);
            tokio::select! {
                () = &mut input => output.await,
                () = &mut output => {}
            }
        });
        Ok(theirs)
    }
}

async fn frame(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    buffer[0] = 1;
    loop {
        let n = from.read(&mut buffer[HEAD..]).await?;
        if n == 0 {
            return Ok(());
        }
        // As large as the buffer at most.
        buffer[4..HEAD].copy_from_slice(&u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes());
        to.write_all(&buffer[..HEAD + n]).await?;
    }
}

async fn unframe(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    loop {
        let mut head = [0; HEAD];
        from.read_exact(&mut head).await?;
        let [.., a, b, c, d] = head;
        let length = u64::from(u32::from_be_bytes([a, b, c, d]));
        if copy(&mut (&mut *from).take(length), to).await? < length {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_framed_comes_out_as_it_went_in() {
        let (mut framed, mut plain) = (Vec::new(), Vec::new());
        let text = vec![b'x'; 3 * BUFFER];
        frame(&mut &text[..], &mut framed).await.unwrap();
        assert_eq!(framed[..HEAD], [1, 0, 0, 0, 0, 0, 0x7f, 0xf8]);
        // Ends where the frames do.
        unframe(&mut &framed[..], &mut plain).await.unwrap_err();
        assert_eq!(plain, text);
    }
}
