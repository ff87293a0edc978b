//! A session: the user's standard streams, connected to a container's.

use super::terminal::{self, DetachKeys, DetachWatch, RawMode};
use crate::error::CliError;
use bytes::Bytes;
use std::io::{IsTerminal, Read};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The container will say nothing more.
    Output,
    /// The user left with the detach keys; the container runs on.
    Detached,
}

/// What a session connects.
pub(crate) struct Session {
    /// The container has a terminal: one raw stream instead of two in frames.
    pub(crate) tty: bool,
    /// Our standard input goes to the container.
    pub(crate) stdin: bool,
    /// Where they leave a terminal session.
    pub(crate) detach_keys: DetachKeys,
}

impl Session {
    /// Carries bytes both ways until the container's output ends or the user leaves. `resize` is told the terminal's
    /// columns and rows, now and whenever they change.
    pub(crate) async fn drive<S, F>(
        self,
        stream: S,
        resize: impl Fn(u16, u16) -> F,
    ) -> Result<Ended, CliError>
    where
        S: AsyncRead + AsyncWrite,
        F: Future<Output = bool>,
    {
        let raw = self.tty && self.stdin && std::io::stdin().is_terminal();
        let _raw = raw
            .then(RawMode::enter)
            .transpose()
            .map_err(|e| CliError::new("cannot set up the terminal").because(e))?;
        let (reader, writer) = tokio::io::split(stream);
        let watch = raw.then(|| DetachWatch::new(self.detach_keys.clone()));
        let input = async {
            if self.stdin {
                send_input(writer, watch).await;
            } else {
                // Kept, as dropping it would end the other half too.
                let _writer = writer;
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // What is there is shown before anything else is looked at.
            biased;
            shown = copy_output(reader, self.tty) => shown.map(|()| Ended::Output).map_err(output_failed),
            () = input => Ok(Ended::Detached),
            killed = killed(), if raw => Err(killed),
            () = follow_size(resize), if self.tty => Ok(Ended::Output),
        }
    }
}

fn output_failed(error: std::io::Error) -> CliError {
    CliError::new("cannot pass the container's output on").because(error)
}

/// Sends standard input on; ends only when the user leaves.
async fn send_input(mut writer: impl AsyncWrite + Unpin, mut watch: Option<DetachWatch>) {
    let mut chunks = stdin_chunks();
    while let Some(Ok(chunk)) = chunks.recv().await {
        let (chunk, leave) = match &mut watch {
            Some(watch) => watch.typed(&chunk),
            None => (chunk.to_vec(), false),
        };
        // A container that no longer reads is no failure: its output goes on.
        if writer.write_all(&chunk).await.is_err() || writer.flush().await.is_err() {
            break;
        }
        if leave {
            return;
        }
    }
    // The container reads an end of file, and we go on listening.
    let _ = writer.shutdown().await;
    std::future::pending::<()>().await;
}

/// Standard input, read by a thread of its own: tokio's would keep the process from ending until a key is pressed.
pub(crate) fn stdin_chunks() -> mpsc::Receiver<std::io::Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let chunk = match std::io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(n) => Ok(Bytes::copy_from_slice(&buffer[..n])),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let failed = chunk.is_err();
            if sender.blocking_send(chunk).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Writes what a container says to our standard output and standard error, until it ends.
///
/// Without a terminal, the engine sends frames: one byte for the stream, three of nothing, four for the length.
pub(crate) async fn copy_output(mut reader: impl AsyncRead + Unpin, tty: bool) -> std::io::Result<()> {
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    let mut buffer = vec![0; 32 << 10];
    if tty {
        loop {
            let n = reader.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            stdout.write_all(&buffer[..n]).await?;
            stdout.flush().await?;
        }
    }
    loop {
        let mut header = [0; 8];
        match reader.read_exact(&mut header).await {
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        }
        let [kind, _, _, _, length @ ..] = header;
        let mut left = u32::from_be_bytes(length) as usize;
        while left > 0 {
            let wanted = left.min(buffer.len());
            let n = reader.read(&mut buffer[..wanted]).await?;
            if n == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            left -= n;
            match kind {
                0 | 1 => stdout.write_all(&buffer[..n]).await?,
                2 => stderr.write_all(&buffer[..n]).await?,
                // The engine's own message, in place of more output.
                3 => return Err(std::io::Error::other(String::from_utf8_lossy(&buffer[..n]).into_owned())),
                _ => return Err(std::io::Error::other("the engine sent a frame of an unknown stream")),
            }
        }
        stdout.flush().await?;
        stderr.flush().await?;
    }
}

/// Tells `resize` the terminal's size whenever it changes. Never ends.
async fn follow_size<F: Future<Output = bool>>(resize: impl Fn(u16, u16) -> F) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return std::future::pending().await };
    loop {
        if let Some((columns, rows)) = terminal::size() {
            // A process that is just being started may have no terminal yet.
            for attempt in 1..=6 {
                if resize(columns, rows).await {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20 * attempt)).await;
            }
        }
        changes.recv().await;
    }
}

/// Ends when we are told to end ourselves, so that the terminal is given back before.
async fn killed() -> CliError {
    async fn next(kind: SignalKind) -> i32 {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        };
        kind.as_raw_value()
    }
    let number = tokio::select! {
        n = next(SignalKind::terminate()) => n,
        n = next(SignalKind::hangup()) => n,
        n = next(SignalKind::interrupt()) => n,
        n = next(SignalKind::quit()) => n,
    };
    CliError::new(format!("ended by signal {number}")).code(u8::try_from(128 + number).unwrap_or(1))
}

/// The signals that go to the container instead of us.
pub(crate) struct Signals(Vec<(&'static str, Signal)>);

impl Signals {
    /// From now on they no longer end us.
    pub(crate) fn take_over() -> std::io::Result<Self> {
        let kinds = [
            ("INT", SignalKind::interrupt()),
            ("TERM", SignalKind::terminate()),
            ("HUP", SignalKind::hangup()),
            ("QUIT", SignalKind::quit()),
            ("USR1", SignalKind::user_defined1()),
            ("USR2", SignalKind::user_defined2()),
        ];
        let open = |(name, kind)| Ok((name, signal(kind)?));
        kinds.into_iter().map(open).collect::<std::io::Result<_>>().map(Self)
    }

    /// The name of the next one.
    pub(crate) async fn next(&mut self) -> &'static str {
        std::future::poll_fn(|cx| {
            let ready = |(name, signal): &mut (&'static str, Signal)| {
                signal.poll_recv(cx).is_ready().then_some(*name)
            };
            self.0.iter_mut().find_map(ready).map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        })
        .await
    }
}
