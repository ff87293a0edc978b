//! WebSocket (RFC 6455), the server's half of it: `attach/ws` alone needs it, and no extensions.
//!
//! What the process prints goes out as binary messages, without the frames that tell stdout from stderr; what comes in
//! any data message goes to its stdin. Pings are answered, and a close by a close.

use crate::connection::{Begun, Transport};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use hostd_engine::EngineError;
use sha1::{Digest, Sha1};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Longest message that a client may send in one frame; what it types and pastes is shorter.
const LONGEST: u64 = 1 << 20;
/// Read from the process at once.
const CHUNK: usize = 64 << 10;
/// How long a client may take to answer a close.
const CLOSING: Duration = Duration::from_secs(2);

const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What the server answers to `Sec-WebSocket-Key`.
pub(crate) fn accept(key: &str) -> String {
    let digest = Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    BASE64_STANDARD.encode(digest)
}

/// A frame from the client, unmasked.
#[derive(Debug, PartialEq)]
struct Frame {
    kind: u8,
    data: Vec<u8>,
}

/// Reads a frame; `None` at the end of the stream.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; 2];
    if from.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..]).await?;
    let (kind, masked) = (head[0] & 0x0f, head[1] & 0x80 != 0);
    if head[0] & 0x70 != 0 || !masked || !matches!(kind, CONTINUATION..=BINARY | CLOSE..=PONG) {
        return Err(invalid("not a frame of a client"));
    }
    let length = match head[1] & 0x7f {
        126 => u64::from(from.read_u16().await?),
        127 => from.read_u64().await?,
        short => u64::from(short),
    };
    if length > LONGEST || (kind >= CLOSE && length > 125) {
        return Err(invalid("the frame is too long"));
    }
    let mut mask = [0; 4];
    from.read_exact(&mut mask).await?;
    let mut data = vec![0; length as usize];
    from.read_exact(&mut data).await?;
    for (byte, key) in data.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    Ok(Some(Frame { kind, data }))
}

/// The head of a whole message.
fn head(kind: u8, length: usize) -> Vec<u8> {
    let mut head = vec![0x80 | kind];
    match length {
        0..126 => head.push(length as u8),
        126..0x1_0000 => {
            head.push(126);
            head.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head
}

async fn send(to: &mut (impl AsyncWrite + Unpin), kind: u8, data: &[u8]) -> io::Result<()> {
    to.write_all(&head(kind, data.len())).await?;
    to.write_all(data).await?;
    to.flush().await
}

/// Takes the frames off that tell stdout from stderr.
#[derive(Debug, Default)]
struct Unframed {
    head: Vec<u8>,
    /// Of the present frame.
    left: usize,
}

impl Unframed {
    fn take(&mut self, mut data: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len());
        while !data.is_empty() {
            if self.left > 0 {
                let (text, rest) = data.split_at(self.left.min(data.len()));
                out.extend_from_slice(text);
                self.left -= text.len();
                data = rest;
                continue;
            }
            let (more, rest) = data.split_at((8 - self.head.len()).min(data.len()));
            self.head.extend_from_slice(more);
            data = rest;
            if let [_, _, _, _, a, b, c, d] = self.head[..] {
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                self.head.clear();
            }
        }
        out
    }
}

/// Carries both directions until one side ends. `ahead` is what was read of the client's already.
pub(crate) async fn run(client: impl Transport, ahead: Bytes, begun: Begun, tty: bool) -> io::Result<()> {
    let (from_client, mut to_client) = tokio::io::split(client);
    let mut from_client = AsyncReadExt::chain(&ahead[..], from_client);
    let (from_engine, mut to_engine) = begun.stream.map(UnixStream::into_split).unzip();
    let (answers, to_answer) = mpsc::channel(16);
    let frames = (!tty).then(Unframed::default);
    let ended = tokio::select! {
        result = input(&mut from_client, &mut to_engine, answers) => result.map(|()| true),
        result = output(begun.replay, from_engine, to_answer, frames, &mut to_client) => result.map(|()| false),
    };
    let left = match ended {
        Ok(left) => left,
        Err(error) => {
            // It broke the rules, or is gone.
            let _ = send(&mut to_client, CLOSE, &1002_u16.to_be_bytes()).await;
            return Err(error);
        }
    };
    send(&mut to_client, CLOSE, &1000_u16.to_be_bytes()).await?;
    if !left {
        // Until it has said good-bye too, so that it reads all of what was sent.
        let good_bye =
            async { while read(&mut from_client).await.is_ok_and(|f| f.is_some_and(|f| f.kind != CLOSE)) {} };
        let _ = tokio::time::timeout(CLOSING, good_bye).await;
    }
    to_client.shutdown().await
}

/// What the client sends goes to the process, until the client leaves.
async fn input(
    from: &mut (impl AsyncRead + Unpin),
    to_engine: &mut Option<OwnedWriteHalf>,
    answers: mpsc::Sender<Frame>,
) -> io::Result<()> {
    while let Some(frame) = read(from).await? {
        match frame.kind {
            CLOSE => break,
            PING => drop(answers.send(Frame { kind: PONG, ..frame }).await),
            PONG => {}
            _ => {
                if let Some(engine) = to_engine
                    && engine.write_all(&frame.data).await.is_err()
                {
                    // The process reads no more; it may still print.
                    *to_engine = None;
                }
            }
        }
    }
    Ok(())
}

/// What the process prints goes to the client, and answers to its pings between, until the process ends.
async fn output(
    replay: Option<BoxStream<'static, Result<Bytes, EngineError>>>,
    mut from_engine: Option<OwnedReadHalf>,
    mut answers: mpsc::Receiver<Frame>,
    mut frames: Option<Unframed>,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut plain = |data: &[u8]| match &mut frames {
        Some(frames) => frames.take(data),
        None => data.to_vec(),
    };
    if let Some(mut replay) = replay {
        while let Some(chunk) = replay.next().await {
            send(to, BINARY, &plain(&chunk.map_err(io::Error::other)?)).await?;
        }
    }
    let Some(engine) = &mut from_engine else { return Ok(()) };
    let mut buffer = vec![0; CHUNK];
    loop {
        tokio::select! {
            count = engine.read(&mut buffer) => match count? {
                0 => return Ok(()),
                count => {
                    let data = plain(&buffer[..count]);
                    if !data.is_empty() {
                        send(to, BINARY, &data).await?;
                    }
                }
            },
            Some(answer) = answers.recv() => send(to, answer.kind, &answer.data).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a client sends it.
    fn masked(first: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = head(0, data.len());
        frame[0] = first;
        frame[1] |= 0x80;
        frame.extend_from_slice(&[1, 2, 3, 4]);
        frame.extend(data.iter().zip([1, 2, 3, 4].iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    #[test]
    fn the_key_is_answered_as_the_rfc_has_it() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn frames_are_read_and_refused() {
        for length in [0, 5, 125, 126, 70_000] {
            let data = vec![7; length];
            let frame = read(&mut &masked(0x82, &data)[..]).await;
            assert_eq!(frame.unwrap(), Some(Frame { kind: BINARY, data }));
        }
        assert!(read(&mut &[][..]).await.unwrap().is_none());
        let long = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes()].concat();
        for bad in
            [&b"\x82\x01a"[..], &masked(0xf2, b"a"), &masked(0x83, b"a"), &masked(0x89, &[0; 126]), &long]
        {
            assert!(read(&mut &bad[..]).await.is_err(), "{bad:?}");
        }
    }

    #[test]
    fn headers_are_taken_off_wherever_the_chunks_break() {
        let stream = b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\x03cde";
        for size in 1..stream.len() {
            let mut frames = Unframed::default();
            let text: Vec<u8> = stream.chunks(size).flat_map(|chunk| frames.take(chunk)).collect();
            assert_eq!(text, b"abcde", "{size}");
        }
    }

    #[tokio::test]
    async fn data_goes_both_ways_pings_are_answered_and_the_end_is_a_close() {
        let (client_end, mut client) = tokio::io::duplex(1 << 16);
        let (engine_end, mut engine) = UnixStream::pair().unwrap();
        let begun = Begun { replay: None, stream: Some(engine_end) };
        let ahead = Bytes::from(masked(0x81, b"early "));
        let session = tokio::spawn(run(client_end, ahead, begun, false));
        client.write_all(&masked(0x82, b"late")).await.unwrap();
        client.write_all(&masked(0x89, b"hm")).await.unwrap();
        let mut input = [0; 10];
        engine.read_exact(&mut input).await.unwrap();
        assert_eq!(&input, b"early late");
        let mut pong = [0; 4];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"\x8a\x02hm");
        engine.write_all(b"\x01\0\0\0\0\0\0\x03out").await.unwrap();
        drop(engine);
        let mut rest = [0; 9];
        client.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"\x82\x03out\x88\x02\x03\xe8");
        client.write_all(&masked(0x88, b"\x03\xe8")).await.unwrap();
        session.await.unwrap().unwrap();
    }
}
