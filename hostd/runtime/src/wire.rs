//! What hostd and a shim say to each other, over the socket pair that the shim is born with and over
//! connections to `<exec_root>/<id>/shim.sock`.
//!
//! ```text
//! frame     u32 length of JSON, u32 length of blob (little-endian), JSON, blob
//! exchange  one request, one reply; after the reply to an attach the connection is the stream
//! ```
//! Descriptors come with the first byte of a `Create` or an `AttachTo`, and nowhere else.
//!
//! A shim lives as long as its container, and hostd is upgraded meanwhile: the two may be of different [`VERSION`]s.
//! What keeps them at peace: messages change by optional fields and new variants alone, and `Hello`, `Wait`, `Kill`,
//! `Quit` and `exit.json` never lose a field. A shim answers what it does not understand with a failure. hostd learns
//! a shim's version from its `Hello`, and does not ask an older one for what that cannot do ([`Request::since`]).

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

/// The version of the protocol that this program speaks: one more with every new request, and with every new field
/// that must not be overlooked. 0 are the shims that did not tell.
pub(crate) const VERSION: u32 = 1;

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
    /// As `Attach`, for a client whose socket comes along and is served instead of this connection.
    AttachTo(Streams),
    /// Which execs are there that have a note: answered by `Execs`.
    Execs,
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

impl Request {
    /// The first version whose shims understand it.
    pub(crate) fn since(&self) -> u32 {
        match self {
            Self::Freeze(_) | Self::Update(_) | Self::ExecKill(_) | Self::AttachTo(_) | Self::Execs => 1,
            _ => 0,
        }
    }
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
        #[serde(default)]
        version: u32,
    },
    Exited(ExitRecord),
    /// How often the container's memory has run out.
    OutOfMemory(u64),
    ExecIs {
        pid: i32,
    },
    Execs(Vec<KnownExec>),
    NoSuchExec,
    Failed(Failure),
}

/// An exec as the shim knows it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KnownExec {
    pub(crate) id: String,
    pub(crate) note: String,
    pub(crate) pid: i32,
    pub(crate) exit: Option<ExitRecord>,
}

/// Why something failed; `code` is not 0 when the program could not be executed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    pub(crate) message: String,
    /// The message says all, in another runtime's words: nothing of ours is put before it.
    #[serde(default)]
    pub(crate) whole: bool,
    /// Whether the log could not be set up, which has words of its own.
    #[serde(default)]
    pub(crate) logging: bool,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { code: 0, message: message.into(), whole: false, logging: false }
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

/// Reads a request, blocking; `None` at the end of the stream, a failure for one that is not understood.
pub(crate) fn read_request(from: &mut impl Read) -> io::Result<Option<Attempt<Request>>> {
    let mut head = [0; 8];
    if from.read(&mut head[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..])?;
    let (text, _) = read_parts(from, head)?;
    let strange = |error| {
        Failure::new(format!(
            "the shim, of protocol version {VERSION}, does not understand the request: {error}"
        ))
    };
    Ok(Some(serde_json::from_slice(&text).map_err(strange)))
}

/// Reads what follows a frame's head: JSON and blob.
fn read_parts(from: &mut impl Read, head: [u8; 8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let (json, blob) = lengths(head)?;
    let mut text = vec![0; json];
    from.read_exact(&mut text)?;
    let mut bytes = vec![0; blob];
    from.read_exact(&mut bytes)?;
    Ok((text, bytes))
}

/// A message, its blob and the descriptors that came along.
pub(crate) type WithFds<T> = (T, Vec<u8>, Vec<OwnedFd>);

/// Reads a frame, blocking, and the descriptors that its first byte brings; `None` at the end of the stream.
pub(crate) fn read_with_fds<T: DeserializeOwned>(
    from: &mut std::os::unix::net::UnixStream,
) -> io::Result<Option<WithFds<T>>> {
    let mut head = [0; 8];
    let Some(fds) = recv_fds(from.as_fd(), &mut head[..1])? else { return Ok(None) };
    from.read_exact(&mut head[1..])?;
    let (text, blob) = read_parts(from, head)?;
    Ok(Some((serde_json::from_slice(&text)?, blob, fds)))
}

/// Reads a frame without blocking; `None` at the end of the stream.
pub(crate) async fn read_async<T: DeserializeOwned>(
    from: &mut tokio::net::UnixStream,
) -> io::Result<Option<T>> {
    match read_text(from).await? {
        Some(text) => Ok(Some(serde_json::from_slice(&text)?)),
        None => Ok(None),
    }
}

/// Reads the JSON of a frame without blocking; `None` at the end of the stream.
pub(crate) async fn read_text(from: &mut tokio::net::UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 8];
    if from.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut head[1..]).await?;
    let (json, blob) = lengths(head)?;
    let mut text = vec![0; json + blob];
    from.read_exact(&mut text).await?;
    text.truncate(json);
    Ok(Some(text))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(json: &str) -> Vec<u8> {
        let mut frame = (json.len() as u32).to_le_bytes().to_vec();
        frame.extend([0; 4]);
        frame.extend(json.as_bytes());
        frame
    }

    /// What hostd of protocol version 0 says. These never change.
    #[test]
    fn requests_of_the_first_version_are_understood() {
        let id = "e".repeat(64);
        for json in [
            r#""Hello""#,
            r#""Start""#,
            r#""Wait""#,
            r#""Quit""#,
            r#"{"Kill":15}"#,
            r#"{"Resize":{"rows":24,"cols":80}}"#,
            r#"{"Attach":{"stdin":true,"stdout":true,"stderr":false}}"#,
            &format!(
                r#"{{"Exec":{{"spec":{{"id":"{id}","args":["sh"],"env":[],"cwd":"/","user":"","tty":true,
                "console_size":{{"rows":24,"cols":80}},"stdin":true,"privileged":false}},"attach":null}}}}"#
            ),
            &format!(r#"{{"ExecPid":"{id}"}}"#),
            &format!(r#"{{"ExecWait":"{id}"}}"#),
            &format!(r#"{{"ExecResize":["{id}",{{"rows":24,"cols":80}}]}}"#),
        ] {
            let request = read_request(&mut framed(json).as_slice()).unwrap().unwrap();
            assert_eq!(request.unwrap_or_else(|f| panic!("{json}: {}", f.message)).since(), 0, "{json}");
        }
    }

    /// What shims of protocol version 0 answer. These never change.
    #[test]
    fn replies_of_the_first_version_are_understood() {
        let read = |json: &str| serde_json::from_str::<Reply>(json).unwrap();
        assert!(matches!(
            read(r#"{"Hello":{"pid":7,"started":true}}"#),
            Reply::Hello { pid: 7, started: true, version: 0 }
        ));
        assert!(matches!(read(r#""Done""#), Reply::Done));
        assert!(matches!(read(r#""NoSuchExec""#), Reply::NoSuchExec));
        assert!(matches!(read(r#"{"ExecIs":{"pid":8}}"#), Reply::ExecIs { pid: 8 }));
        assert!(matches!(
            read(r#"{"Exited":{"code":137,"at":1700000000000000000}}"#),
            Reply::Exited(ExitRecord { code: 137, oom_killed: false, .. })
        ));
        let Reply::Failed(failure) = read(r#"{"Failed":{"code":127,"message":"exec: x"}}"#) else { panic!() };
        assert!(failure.code == 127 && !failure.whole);
    }

    #[test]
    fn what_a_later_version_says_is_refused_or_read_without_what_is_new() {
        let asked = |json: &str| read_request(&mut framed(json).as_slice()).unwrap().unwrap();
        assert!(asked(r#"{"Dance":{"tempo":3}}"#).unwrap_err().message.contains("unknown variant `Dance`"));
        assert!(asked("{").unwrap_err().message.contains("does not understand"));
        let attach = r#"{"Attach":{"stdin":true,"stdout":true,"stderr":false,"replay":true}}"#;
        assert!(matches!(asked(attach).unwrap(), Request::Attach(_)));
        let hello = r#"{"Hello":{"pid":7,"started":true,"version":99,"mood":"good"}}"#;
        assert!(matches!(serde_json::from_str(hello).unwrap(), Reply::Hello { version: 99, .. }));
    }

    #[test]
    fn a_message_is_as_long_as_is_allowed_and_no_longer() {
        let mut head = [0xff; 8];
        assert!(read_request(&mut head.as_slice()).is_err());
        head = [0, 0, 0, 0, 1, 0, 0x80, 0];
        assert_eq!(lengths(head).unwrap_err().to_string(), "the message is too long");
        assert!(encode(&Request::ExecPid("x".repeat(LONGEST)), &[]).is_err());
        assert!(read_request(&mut &framed(r#""Hello""#)[..10]).is_err(), "it ends early");
        assert!(read_request(&mut [].as_slice()).unwrap().is_none());
    }
}
