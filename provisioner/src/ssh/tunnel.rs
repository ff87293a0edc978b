//! Streams to a unix socket of the machine, all of them channels of one session.
//!
//! Where the server opens the socket itself (`direct-streamlocal`), a stream costs one round trip and no process. Where it
//! forwards no sockets, or its user may not open this one, `hostd dial-stdio` runs on the machine for each stream, with
//! sudo where the user is not root. A server lets a session run few programs at a time: beyond that, a second session
//! is made.
//!
//! A session that does not answer (the laptop slept, the line broke, or one of its streams is full and not read) takes no
//! new streams: the next one gets a session of its own making. What runs on the old one ends with it.

use super::SshError;
use super::session::{Session, Target};
use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelOpenFailure, ChannelStream};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// How long a session may take to open a channel before another is tried in its place.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// How long a program on the machine may take to connect; sudo and a slow machine are in it.
const PROGRAM_LIMIT: Duration = Duration::from_secs(30);
/// What `hostd dial-stdio` says once it is connected.
const CONNECTED: &str = "hostd: connected";
/// More than this a program that fails does not say.
const MOST_WORDS: usize = 4096;
/// More sessions than this are never needed at a time.
const MOST_SESSIONS: usize = 64;

/// The way to a unix socket of one machine.
pub(crate) struct Tunnel {
    target: Target,
    socket: &'static str,
    /// Those that take new streams, the latest last.
    sessions: Mutex<Vec<Arc<Session>>>,
    /// The server was seen to open no socket for us.
    by_program: AtomicBool,
}

/// Why a session gave no stream.
enum Failed {
    /// It is of no use any more.
    Dead(SshError),
    /// It runs as many programs as the server allows.
    Full,
    /// Another one would fail too.
    Refused(SshError),
}

impl Tunnel {
    /// To this socket of that machine; nothing is connected yet.
    pub(crate) fn new(target: Target, socket: &'static str) -> Arc<Self> {
        Arc::new(Self { target, socket, sessions: Mutex::default(), by_program: AtomicBool::new(false) })
    }

    /// Whether a session is there already.
    pub(crate) async fn is_up(&self) -> bool {
        self.sessions.lock().await.iter().any(|session| !session.is_closed())
    }

    /// A connection to the socket.
    pub(crate) async fn open(&self) -> Result<TunnelStream, SshError> {
        let mut fresh = false;
        let mut passed = Vec::new();
        loop {
            let session = self.session(&passed, &mut fresh).await?;
            match self.open_on(&session).await {
                Ok(stream) => return Ok(TunnelStream { stream, session }),
                Err(Failed::Refused(error)) => return Err(error),
                Err(Failed::Dead(error)) => {
                    self.sessions.lock().await.retain(|other| !Arc::ptr_eq(other, &session));
                    if fresh {
                        return Err(error);
                    }
                }
                Err(Failed::Full) if fresh || passed.len() >= MOST_SESSIONS => {
                    return Err(SshError::NotRun);
                }
                Err(Failed::Full) => passed.push(session),
            }
        }
    }

    /// A session that is none of those passed by; `fresh` tells that it was just made.
    async fn session(&self, passed: &[Arc<Session>], fresh: &mut bool) -> Result<Arc<Session>, SshError> {
        // Held while one is made: those who come meanwhile want the same.
        let mut sessions = self.sessions.lock().await;
        sessions.retain(|session| !session.is_closed());
        let seen = |session: &Arc<Session>| passed.iter().any(|other| Arc::ptr_eq(other, session));
        if let Some(session) = sessions.iter().rev().find(|session| !seen(session)) {
            return Ok(session.clone());
        }
        *fresh = true;
        let session = Arc::new(Session::connect(&self.target).await?);
        sessions.push(session.clone());
        Ok(session)
    }

    async fn open_on(&self, session: &Session) -> Result<ChannelStream<Msg>, Failed> {
        let silent = || Failed::Dead(SshError::Silent(session.label().to_owned()));
        if !self.by_program.load(Ordering::Relaxed) {
            match timeout(OPEN_LIMIT, session.open_socket(self.socket)).await {
                Err(_) => return Err(silent()),
                Ok(Ok(channel)) => return Ok(channel.into_stream()),
                Ok(Err(russh::Error::ChannelOpenFailure(_))) => {}
                Ok(Err(error)) => return Err(Failed::Dead(error.into())),
            }
        }
        let channel = match timeout(OPEN_LIMIT, session.open_program()).await {
            Err(_) => return Err(silent()),
            Ok(Ok(channel)) => channel,
            Ok(Err(russh::Error::ChannelOpenFailure(
                ChannelOpenFailure::ConnectFailed | ChannelOpenFailure::ResourceShortage,
            ))) => return Err(Failed::Full),
            Ok(Err(error @ russh::Error::ChannelOpenFailure(_))) => {
                return Err(Failed::Refused(self.no_socket(session, error)));
            }
            Ok(Err(error)) => return Err(Failed::Dead(error.into())),
        };
        let connected = timeout(PROGRAM_LIMIT, self.connect_by_program(session, channel)).await;
        let stream = connected.unwrap_or_else(|_| Err(silent()))?;
        self.by_program.store(true, Ordering::Relaxed);
        Ok(stream)
    }

    async fn connect_by_program(
        &self,
        session: &Session,
        mut channel: Channel<Msg>,
    ) -> Result<ChannelStream<Msg>, Failed> {
        let broken = |error: russh::Error| Failed::Dead(error.into());
        // The path is ours and has nothing that a shell would read.
        let dial = format!("/usr/local/bin/hostd dial-stdio {}", self.socket);
        let command =
            format!("sh -c 'if [ \"$(id -u)\" = 0 ]; then exec {dial}; else exec sudo -n {dial}; fi'");
        channel.exec(true, command).await.map_err(broken)?;
        let mut words = Vec::new();
        while let Some(message) = channel.wait().await {
            match message {
                ChannelMsg::ExtendedData { data, .. } if words.len() < MOST_WORDS => {
                    words.extend_from_slice(&data);
                    if String::from_utf8_lossy(&words).lines().any(|line| line == CONNECTED) {
                        return Ok(channel.into_stream());
                    }
                }
                ChannelMsg::Failure => return Err(Failed::Refused(SshError::NotRun)),
                ChannelMsg::Close => break,
                _ => {}
            }
        }
        if session.is_closed() {
            return Err(broken(russh::Error::Disconnect));
        }
        let words = String::from_utf8_lossy(&words);
        let said: Vec<&str> = words.lines().filter(|line| !line.trim().is_empty()).collect();
        Err(Failed::Refused(self.no_socket(session, said.join("\n"))))
    }

    fn no_socket(
        &self,
        session: &Session,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> SshError {
        SshError::NoSocket {
            hop: session.label().to_owned(),
            socket: self.socket.to_owned(),
            source: source.into(),
        }
    }
}

impl std::fmt::Display for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let endpoint = &self.target.endpoint;
        if endpoint.host.contains(':') {
            write!(f, "ssh://{}@[{}]:{}", endpoint.user, endpoint.host, endpoint.port)
        } else {
            write!(f, "ssh://{}@{}:{}", endpoint.user, endpoint.host, endpoint.port)
        }
    }
}

/// One connection through a tunnel.
pub(crate) struct TunnelStream {
    stream: ChannelStream<Msg>,
    /// Lives as long as what it carries, and tells an end of the stream from its own.
    session: Arc<Session>,
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let ended = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == before;
        if ended && buffer.remaining() > 0 && self.session.is_closed() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the SSH session with {} ended", self.session.label()),
            )));
        }
        read
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
