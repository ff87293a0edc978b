//! A terminal on the machine: raw mode, resizing, stdin and the exit status passed on.

use super::SshError;
use russh::client::Msg;
use russh::{Channel, ChannelMsg};
use rustix::termios::{self, OptionalActions, Termios};
use std::io::{self, IsTerminal as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::signal::unix::{SignalKind, signal};

/// Runs a shell, or a command, with this process's stdio; answers its exit status.
pub(crate) async fn interact(
    channel: Channel<Msg>,
    command: Option<&str>,
    pty: bool,
) -> Result<u8, SshError> {
    let pty = pty && io::stdin().is_terminal();
    if pty {
        let (columns, rows) = size();
        let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".to_owned());
        channel.request_pty(true, &term, columns, rows, 0, 0, &[]).await?;
    }
    match command {
        Some(command) => channel.exec(true, command).await?,
        None => channel.request_shell(true).await?,
    }
    let _raw = if pty { Some(RawMode::enter().map_err(SshError::Terminal)?) } else { None };
    relay(channel, pty).await
}

/// Runs a command without input; answers its exit status. A reader that went away (`| head`) ends it, with success.
pub(crate) async fn listen(mut channel: Channel<Msg>, command: &str) -> Result<u8, SshError> {
    channel.exec(true, command).await?;
    channel.eof().await?;
    let (mut stdout, mut stderr, mut status) = (tokio::io::stdout(), tokio::io::stderr(), None);
    while let Some(message) = channel.wait().await {
        let written = match message {
            ChannelMsg::Data { data } => match stdout.write_all(&data).await {
                Ok(()) => stdout.flush().await,
                failed => failed,
            },
            ChannelMsg::ExtendedData { data, .. } => stderr.write_all(&data).await,
            ChannelMsg::Failure => return Err(SshError::NotRun),
            ChannelMsg::ExitStatus { exit_status } => {
                status = Some(exit_status);
                Ok(())
            }
            _ => Ok(()),
        };
        match written {
            Err(closed) if closed.kind() == io::ErrorKind::BrokenPipe => return Ok(0),
            other => other.map_err(SshError::Terminal)?,
        }
    }
    let status = status.ok_or(SshError::Broken(Box::new(russh::Error::Disconnect)))?;
    Ok(u8::try_from(status).unwrap_or(255))
}

async fn relay(channel: Channel<Msg>, pty: bool) -> Result<u8, SshError> {
    let (mut reader, writer) = channel.split();
    let (mut stdin, mut stdout, mut stderr) = (tokio::io::stdin(), tokio::io::stdout(), tokio::io::stderr());
    let mut resized = signal(SignalKind::window_change()).map_err(SshError::Terminal)?;
    let (mut buffer, mut input_open, mut status) = (vec![0; 32 * 1024], true, None);
    loop {
        tokio::select! {
            message = reader.wait() => match message {
                None => break,
                Some(ChannelMsg::Data { data }) => {
                    stdout.write_all(&data).await.map_err(SshError::Terminal)?;
                    stdout.flush().await.map_err(SshError::Terminal)?;
                }
                Some(ChannelMsg::ExtendedData { data, .. }) => {
                    stderr.write_all(&data).await.map_err(SshError::Terminal)?;
                    stderr.flush().await.map_err(SshError::Terminal)?;
                }
                Some(ChannelMsg::Failure) => return Err(SshError::NotRun),
                Some(ChannelMsg::ExitStatus { exit_status }) => status = Some(exit_status),
                Some(ChannelMsg::ExitSignal { .. }) => status = Some(255),
                Some(_) => {}
            },
            read = stdin.read(&mut buffer), if input_open => match read {
                Ok(0) | Err(_) => {
                    input_open = false;
                    let _ = writer.eof().await;
                }
                // A command that has ended takes no more input; its status is on the way.
                Ok(read) => input_open = writer.data(&buffer[..read]).await.is_ok(),
            },
            _ = resized.recv(), if pty => {
                let (columns, rows) = size();
                writer.window_change(columns, rows, 0, 0).await?;
            }
        }
    }
    let status = status.ok_or(SshError::Broken(Box::new(russh::Error::Disconnect)))?;
    Ok(u8::try_from(status).unwrap_or(255))
}

/// Columns and rows of the terminal.
fn size() -> (u32, u32) {
    match termios::tcgetwinsize(io::stdin()) {
        Ok(size) if size.ws_col > 0 => (u32::from(size.ws_col), u32::from(size.ws_row)),
        _ => (80, 24),
    }
}

/// The terminal passes every key on until this is dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
