//! What hostd and a shim say to each other, over the socket pair that the shim is born with and over
//! connections to `<exec_root>/<id>/shim.sock`.
//!
//! ```text
//! frame     u32 length of JSON, u32 length of blob (little-endian), JSON, blob
//! exchange  one request, one reply; after the reply to an attach the connection is the stream
//! ```
//! Descriptors come with the first byte of a `Create` and nowhere else.

use crate::cgroup::Driver;
use crate::spec::{ContainerSpec, ExecSpec, Resources, TtySize};
use crate::{Exit, Kernel, Streams};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt;

/// Longest frame that is read; an environment and arguments fill at most 2 MiB (execve(2)).
const LONGEST: usize = 8 << 20;

/// How a process ended, as it stands in `exit.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    pub(crate) code: i32,
    #[serde(default)]
    pub(crate) oom_killed: bool,
    /// Nanoseconds since 1970.
    pub(crate) at: i128,
}

impl ExitRecord {
    pub(crate) fn now(code: i32, oom_killed: bool) -> Self {
        Self { code, oom_killed, at: OffsetDateTime::now_utc().unix_timestamp_nanos() }
    }
}

impl From<ExitRecord> for Exit {
    fn from(record: ExitRecord) -> Self {
        let at = OffsetDateTime::from_unix_timestamp_nanos(record.at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self { code: record.code, oom_killed: record.oom_killed, at }
    }
}

/// First message to a shim; its blob is the seccomp program (empty: unconfined).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Create {
    pub(crate) spec: ContainerSpec,
    /// The container's directory on the host.
    pub(crate) bundle: String,
    pub(crate) cgroup_parent: String,
    pub(crate) cgroup_driver: Driver,
    /// Whether a network namespace came along.
    pub(crate) netns: bool,
    /// Whether a user namespace came along, after the other.
    #[serde(default)]
    pub(crate) userns: bool,
    pub(crate) caps: u64,
    pub(crate) kernel: Kernel,
}

/// What a shim is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Who are you: answered by `Hello`.
    Hello,
    /// Let the container exec its program.
    Start,
    /// Answered by `Exited` once the container's process has ended; before that by `OutOfMemory` whenever that
    /// happens, and at once when it has happened before.
    Wait,
    Kill(i32),
    /// Stop all processes where they are, or let them go on.
    Freeze(bool),
    /// Change limits; those that are `None` stay.
    Update(Box<Resources>),
    Resize(TtySize),
    Attach(Streams),
    Exec {
        spec: Box<ExecSpec>,
        attach: Option<Streams>,
    },
    /// Answered by `ExecIs` or `NoSuchExec`.
    ExecPid(String),
    /// Answered by `Exited` or `NoSuchExec`.
    ExecWait(String),
    ExecResize(String, TtySize),
    /// Kill an exec's process group.
    ExecKill(String),
    /// Kill the container and end.
    Quit,
}

/// What a shim answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Created {
        pid: i32,
    },
    Hello {
        pid: i32,
        started: bool,
    },
    Exited(ExitRecord),
    /// How often the container's memory has run out.
    OutOfMemory(u64),
    ExecIs {
        pid: i32,
    },
    NoSuchExec,
    Failed(Failure),
}

/// Why something failed; `code` is not 0 when the program could not be executed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: String,
    /// The message says all, in another runtime's words: nothing of ours is put before it.
    #[serde(default)]
    pub(crate) whole: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 0, message: message.into(), whole: false }
    }
}

/// Result of what happens in a shim or a container's first process.
pub(crate) type Attempt<T> = Result<T, Failure>;

/// Gives an error its object: `cannot <what>: <error>`.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Attempt<T>;
}
impl<T, E: std::fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Attempt<T> {
        self.map_err(|error| Failure::new(format!("cannot {}: {error}", what())))
    }
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A whole frame.
pub(crate) fn encode<T: Serialize>(message: &T, blob: &[u8]) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 8];
    serde_json::to_writer(&mut frame, message)?;
    let json = frame.len() - 8;
    if json + blob.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message to the shim is too long"));
    }
    frame[..4].copy_from_slice(&(json as u32).to_le_bytes());
    frame[4..8].copy_from_slice(&(blob.len() as u32).to_le_bytes());
    frame.extend_from_slice(blob);
    Ok(frame)
}

/// Length of JSON and of blob.
fn lengths(head: [u8; 8]) -> io::Result<(usize, usize)> {
    let [a, b, c, d, e, f, g, h] = head;
    let (json, blob) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]) as usize);
    if json.saturating_add(blob) > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    Ok((json, blob))
}

/// Reads a frame, blocking; `None` at the end of the stream.
pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut head = [0; 8];
    if from.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    read_rest(from, head).map(Some)
}

/// Reads what follows a frame's head.
fn read_rest<T: DeserializeOwned>(from: &mut impl Read, head: [u8; 8]) -> io::Result<(T, Vec<u8>)> {
    let (json, blob) = lengths(head)?;
    let mut text = vec![0; json];
    from.read_exact(&mut text)?;
    let mut bytes = vec![0; blob];
    from.read_exact(&mut bytes)?;
    Ok((serde_json::from_slice(&text)?, bytes))
}

/// A message, its blob and the descriptors that came along.
pub(crate) type WithFds<T> = (T, Vec<u8>, Vec<OwnedFd>);

/// Reads a frame whose first byte brings descriptors.
pub(crate) fn read_with_fds<T: DeserializeOwned>(
    from: &mut std::os::unix::net::UnixStream,
) -> io::Result<Option<WithFds<T>>> {
    let mut head = [0; 8];
    let Some(fds) = recv_fds(from.as_fd(), &mut head[..1])? else { return Ok(None) };
    from.read_exact(&mut head[1..])?;
    let (message, blob) = read_rest(from, head)?;
    Ok(Some((message, blob, fds)))
}

/// As [`read`], without blocking.
pub(crate) async fn read_async<T: DeserializeOwned>(
    from: &mut tokio::net::UnixStream,
) -> io::Result<Option<T>> {
    let mut head = [0; 8];
    if from.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..]).await?;
    let (json, blob) = lengths(head)?;
    let mut text = vec![0; json + blob];
    from.read_exact(&mut text).await?;
    Ok(Some(serde_json::from_slice(&text[..json])?))
}

/// Sends `bytes` with `fds` (unix(7), `SCM_RIGHTS`).
pub(crate) fn send_fds(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives at most `bytes` and descriptors; `None` at the end of the stream.
pub(crate) fn recv_fds(from: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<Option<Vec<OwnedFd>>> {
    let (len, fds) = recv_message(from, bytes)?;
    Ok((len > 0).then_some(fds))
}

/// Receives one message: its length, and the descriptors that came along.
pub(crate) fn recv_message(from: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::io::retry_on_intr(|| {
        recvmsg(from, &mut [IoSliceMut::new(&mut *bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((got.bytes, fds))
}
