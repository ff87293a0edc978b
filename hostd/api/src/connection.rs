//! One connection: HTTP/1.1, until a handler takes the socket over.
//!
//! Attach and exec leave HTTP behind: after the response's head both sides write as they like, and each closes its half
//! on its own. Docker does that for requests with `Upgrade: tcp` (answered 101) and for such without (answered 200), so
//! hyper's own upgrade, which knows only the first, is not enough. Instead a handler sends a [`Takeover`] through the
//! [`Hijacker`] of its connection and waits; [`serve`] then takes the socket, and what was read ahead, out of hyper.

use crate::activity::Activity;
use crate::error::{ApiError, chain};
use crate::{leftover, version, websocket};
use axum::Router;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Request, Response, header};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use hostd_engine::EngineError;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A connected socket, with or without TLS.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Transport for T {}

/// Gives the unix socket that a transport is, if it is one.
pub(crate) type LocalSocket<T> = for<'a> fn(&'a T) -> Option<BorrowedFd<'a>>;

/// A client that connects and sends no request in that time is let go. One that has sent a request may stay: clients keep
/// connections for later, and not all of them bear to find one closed.
const FIRST_REQUEST: Duration = Duration::from_secs(60);
/// What a Python client on TCP gets to read a head before what follows is sent, too.
const HEAD_START: Duration = Duration::from_millis(100);
/// How often a client is looked at that has not read a head: at first, and when it takes its time.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// How long a client may go on writing once it was answered for the last time.
const LINGER: Duration = Duration::from_millis(500);
/// The same on TCP once a stream's output has ended, of which it may have much to read still.
const STREAM_LINGER: Duration = Duration::from_secs(60);
/// What is read of a body at once: all that a client's socket holds. From 256 KiB up every buffer would be a mapping of
/// its own, whose pages the kernel clears anew for each.
const BODY_BUFFER: usize = 240 << 10;
/// Buffer of each direction of a stream, to begin with, and when much comes.
const STREAM_BUFFER: (usize, usize) = (16 << 10, 256 << 10);

/// What follows on the socket once it has left HTTP.
pub(crate) struct Takeover {
    /// The response's head, as it goes out.
    head: String,
    /// Run once the head is out.
    begin: BoxFuture<'static, Begun>,
    /// What the socket speaks from then on.
    protocol: Protocol,
    /// Whether the client is known to lose what comes along with the head.
    loses: bool,
}

/// What a socket speaks that has left HTTP.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    /// Bytes, both ways.
    Raw,
    /// Messages, of a terminal or not.
    WebSocket { tty: bool },
}

/// What a client gets that took a connection over.
pub(crate) struct Begun {
    /// Sent first.
    pub(crate) replay: Option<BoxStream<'static, Result<Bytes, EngineError>>>,
    /// Then both directions are copied to and from here.
    pub(crate) stream: Option<UnixStream>,
}

/// Takes the connection of a request over.
#[derive(Clone)]
pub(crate) struct Hijacker {
    sender: mpsc::Sender<Takeover>,
    /// Whether the client asked for `Upgrade: tcp`.
    upgrade: bool,
    /// Whether it is docker-py.
    python: bool,
}

impl<S: Sync> FromRequestParts<S> for Hijacker {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let sender = parts.extensions.get::<mpsc::Sender<Takeover>>().cloned();
        let sender = sender.ok_or_else(|| ApiError::internal("the connection cannot be taken over"))?;
        let agent = parts.headers.get(header::USER_AGENT).map_or(&[][..], |agent| agent.as_bytes());
        let python = agent.starts_with(b"docker-sdk-python/");
        Ok(Self { sender, upgrade: parts.headers.contains_key(header::UPGRADE), python })
    }
}

impl Hijacker {
    /// Whether the client asked for an upgrade; only then may the content type say `multiplexed`.
    pub(crate) fn upgrade(&self) -> bool {
        self.upgrade
    }

    /// Hands the connection to the stream that `begin` gives once the response's head is out. Never returns where that
    /// works: the connection drops this future with the request it belongs to.
    pub(crate) async fn take_over(
        self,
        content_type: &str,
        begin: impl Future<Output = Begun> + Send + 'static,
    ) -> ApiError {
        let status = if self.upgrade {
            "101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp"
        } else {
            "200 OK\r\nConnection: close"
        };
        let headers = version::header_lines();
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{headers}\r\n");
        let loses = self.python;
        self.send(Takeover { head, begin: Box::pin(begin), protocol: Protocol::Raw, loses }).await
    }

    /// As [`Hijacker::take_over`], for a client that asks for WebSocket with this key.
    pub(crate) async fn take_over_by_websocket(
        self,
        key: &str,
        tty: bool,
        begin: impl Future<Output = Begun> + Send + 'static,
    ) -> ApiError {
        let (accept, headers) = (websocket::accept(key), version::header_lines());
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{headers}\r\n"
        );
        let protocol = Protocol::WebSocket { tty };
        self.send(Takeover { head, begin: Box::pin(begin), protocol, loses: false }).await
    }

    async fn send(self, takeover: Takeover) -> ApiError {
        match self.sender.send(takeover).await {
            Ok(()) => std::future::pending().await,
            Err(_) => ApiError::internal("the connection is gone"),
        }
    }
}

/// Serves requests until the client leaves, a handler takes the socket over, or `stop`.
pub(crate) async fn serve<T: Transport>(
    io: T,
    local: LocalSocket<T>,
    router: Router,
    activity: &Activity,
    stop: CancellationToken,
) {
    let (sender, mut takeovers) = mpsc::channel::<Takeover>(1);
    let asked = Arc::new(AtomicBool::new(false));
    let (asks, activity) = (Arc::clone(&asked), activity.clone());
    let service = hyper::service::service_fn(move |request: Request<Incoming>| -> BoxFuture<'static, _> {
        asks.store(true, Ordering::Relaxed);
        activity.note();
        let (parts, body) = request.into_parts();
        let (body, leftover) = leftover::watch(body, parts.headers.contains_key(header::EXPECT));
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(sender.clone());
        let router = router.clone();
        Box::pin(async move {
            let answer = version::answer(router, request).await;
            leftover.drain().await;
            Ok::<Response<Body>, Infallible>(answer)
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(BODY_BUFFER)
        .serve_connection(TokioIo::new(io), service);
    let mut first_request = std::pin::pin!(tokio::time::sleep(FIRST_REQUEST));
    let takeover = loop {
        tokio::select! {
            biased;
            Some(takeover) = takeovers.recv() => break takeover,
            result = &mut connection => {
                match result {
                    Ok(()) if stop.is_cancelled() => {}
                    Ok(()) => linger(connection.into_parts().io.into_inner(), LINGER).await,
                    Err(error) => tracing::debug!("connection ended: {}", chain(&error)),
                }
                return;
            }
            () = stop.cancelled(), if !stop.is_cancelled() => Pin::new(&mut connection).graceful_shutdown(),
            () = &mut first_request, if !first_request.is_elapsed() => {
                if !asked.load(Ordering::Relaxed) {
                    return;
                }
            }
        }
    };
    let parts = connection.into_parts();
    let client = parts.io.into_inner();
    let local = local(&client).and_then(|socket| socket.try_clone_to_owned().ok());
    tokio::select! {
        result = run(client, local, parts.read_buf, takeover) => {
            if let Err(error) = result {
                tracing::debug!("stream ended: {error}");
            }
        }
        () = stop.cancelled() => {}
    }
}

/// Reads on for a moment after the last answer: closing a socket before its client has stopped writing would make that
/// write fail, and the client might report this and not the answer; on TCP the kernel would even drop what the client
/// has not read yet.
async fn linger(mut client: impl AsyncRead + Unpin, patience: Duration) {
    let mut buffer = vec![0; STREAM_BUFFER.0];
    let read = async { while client.read(&mut buffer).await.is_ok_and(|count| count > 0) {} };
    // A client that goes on for longer has had its chance.
    let _ = tokio::time::timeout(patience, read).await;
}

/// Head, replay, then both directions until the engine's side ends.
async fn run(
    mut client: impl Transport,
    local: Option<OwnedFd>,
    ahead: Bytes,
    takeover: Takeover,
) -> io::Result<()> {
    client.write_all(takeover.head.as_bytes()).await?;
    client.flush().await?;
    let is_local = local.is_some();
    let begun = takeover.begin.await;
    if let Protocol::WebSocket { tty } = takeover.protocol {
        return websocket::run(client, ahead, begun, tty).await;
    }
    let Begun { replay, stream } = begun;
    let (mut from_engine, mut to_engine) = stream.map(UnixStream::into_split).unzip();
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let output = async {
        head_taken(local, takeover.loses).await;
        if let Some(mut replay) = replay {
            while let Some(chunk) = replay.next().await {
                to_client.write_all(&chunk.map_err(io::Error::other)?).await?;
            }
        }
        to_client.flush().await?;
        if let Some(from) = &mut from_engine {
            copy_out(from, &mut to_client).await?;
        }
        to_client.shutdown().await
    };
    let input = async {
        let Some(to_engine) = &mut to_engine else { return Ok(()) };
        to_engine.write_all(&ahead).await?;
        copy(&mut from_client, to_engine).await?;
        to_engine.shutdown().await
    };
    // The end of the output ends the session; the end of the input is only stdin's. An input that breaks off (the
    // process closed its stdin) leaves the output alone.
    let input = async {
        if let Err(error) = input.await {
            tracing::debug!("input of a stream ended: {error}");
        }
        std::future::pending::<()>().await;
    };
    let result = tokio::select! {
        result = output => result,
        () = input => Ok(()),
    };
    drop((from_engine, to_engine));
    if result.is_ok() && !is_local {
        linger(from_client, STREAM_LINGER).await;
    }
    result
}

/// Waits until a client has read the head. docker-py reads it through a buffer and goes on below that buffer: output
/// that comes along with the head would be lost to it. A client on a unix socket can be watched, and is waited for as
/// long as it takes: before the head it cannot read anything else. One on TCP cannot; the kind that is known to `lose`
/// output gets a moment.
async fn head_taken(socket: Option<OwnedFd>, loses: bool) {
    let Some(socket) = socket else {
        if loses {
            tokio::time::sleep(HEAD_START).await;
        }
        return;
    };
    let mut pause = LOOK.0;
    // Of one that has left nothing is unread.
    while hostd_engine::unread_by_peer(socket.as_fd()).is_ok_and(|count| count > 0) {
        tokio::time::sleep(pause).await;
        pause = (pause * 5 / 4).min(LOOK.1);
    }
}

/// As [`copy`], from the engine. One that left without reading all that the client wrote ends with an error, after all
/// that it had to say: an end as any other.
async fn copy_out(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    match copy(from, to).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        result => result,
    }
}

/// Copies until end of file, flushing whenever the reader has nothing more at hand (TLS buffers).
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut buffer = vec![0; STREAM_BUFFER.0];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
        to.flush().await?;
        if count == buffer.len() && count < STREAM_BUFFER.1 {
            buffer = vec![0; STREAM_BUFFER.1];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::{get, post};
    use std::sync::Mutex;
    use tokio::io::DuplexStream;

    /// A server whose `/attach` hands over to a socket pair, and the engine's end of that pair.
    fn server() -> (DuplexStream, UnixStream, CancellationToken) {
        let (api_end, engine_end) = UnixStream::pair().unwrap();
        let api_end = Arc::new(Mutex::new(Some(api_end)));
        let router = Router::new().route("/plain", get(|| async { "plain" })).route(
            "/attach",
            post(move |hijacker: Hijacker| async move {
                let stream = api_end.lock().unwrap().take();
                let replay = futures_util::stream::once(async { Ok(Bytes::from_static(b"old,")) }).boxed();
                let begin = async { Begun { replay: Some(replay), stream } };
                hijacker.take_over("application/vnd.docker.raw-stream", begin).await
            }),
        );
        let (client, io) = tokio::io::duplex(1 << 16);
        let stop = CancellationToken::new();
        let ends = stop.clone();
        tokio::spawn(async move { serve(io, |_| None, router, &Activity::default(), ends).await });
        (client, engine_end, stop)
    }

    async fn head(client: &mut DuplexStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    #[tokio::test]
    async fn a_body_that_nobody_wants_is_read_before_the_answer_and_the_connection_stays() {
        let (mut client, _engine, _stop) = server();
        let request = format!("GET /plain HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 200 << 10);
        client.write_all(request.as_bytes()).await.unwrap();
        // More than the pipe between the two holds: it goes through only when it is read.
        client.write_all(&vec![b'x'; 200 << 10]).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        client.read_exact(&mut [0; 5]).await.unwrap();
        client.write_all(b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }

    #[tokio::test]
    async fn a_body_that_is_not_to_be_sent_unasked_is_not_waited_for() {
        let (mut client, _engine, _stop) = server();
        let request = "GET /plain HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }

    #[tokio::test]
    async fn a_client_that_writes_more_than_is_wanted_still_gets_the_answer() {
        let (client, _engine, _stop) = server();
        let (mut answers, mut requests) = tokio::io::split(client);
        let size = 8 << 20;
        let request = format!("GET /plain HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n");
        requests.write_all(request.as_bytes()).await.unwrap();
        let body = vec![b'x'; size];
        let (written, answer) = tokio::join!(requests.write_all(&body), async {
            let mut answer = Vec::new();
            answers.read_to_end(&mut answer).await.unwrap();
            answer
        });
        written.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    }

    async fn session(request: &str, status: &str) {
        let (mut client, mut engine, _stop) = server();
        // Input that comes along with the request must not be lost, nor a request before it disturb.
        client.write_all(b"GET /v1.41/plain HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(head(&mut client).await.starts_with("HTTP/1.1 200 OK\r\n"));
        let mut body = [0; 5];
        client.read_exact(&mut body).await.unwrap();
        client.write_all(format!("{request}\r\n\r\nearly ").as_bytes()).await.unwrap();
        let answer = head(&mut client).await;
        assert!(answer.starts_with(status), "{answer}");
        assert!(answer.contains("Api-Version: 1.50\r\n"));
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut input = String::new();
        engine.read_to_string(&mut input).await.unwrap();
        assert_eq!(input, "early late");
        // The client closed its half; the other still carries.
        engine.write_all(b"output").await.unwrap();
        drop(engine);
        let mut output = String::new();
        client.read_to_string(&mut output).await.unwrap();
        assert_eq!(output, "old,output");
    }

    #[tokio::test]
    async fn an_upgrade_is_answered_101_and_each_half_closes_on_its_own() {
        session(
            "POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp",
            "HTTP/1.1 101 UPGRADED\r\n",
        )
        .await;
    }

    #[tokio::test]
    async fn without_an_upgrade_the_connection_is_taken_over_with_200() {
        session("POST /v1.24/attach HTTP/1.1\r\nHost: x", "HTTP/1.1 200 OK\r\n").await;
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_and_streams() {
        let (mut client, _engine, stop) = server();
        client.write_all(b"POST /attach HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n\r\n").await.unwrap();
        head(&mut client).await;
        stop.cancel();
        client.read_to_end(&mut Vec::new()).await.unwrap();
        let (mut idle, _engine, stop) = server();
        idle.write_all(b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        head(&mut idle).await;
        stop.cancel();
        idle.read_to_end(&mut Vec::new()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_let_go_and_who_has_asked_may_stay() {
        let (mut silent, _engine, _stop) = server();
        let (mut kept, _engine, _stop) = server();
        let request = b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n";
        kept.write_all(request).await.unwrap();
        assert!(head(&mut kept).await.starts_with("HTTP/1.1 200 OK\r\n"));
        kept.read_exact(&mut [0; 5]).await.unwrap();
        tokio::time::sleep(FIRST_REQUEST * 10).await;
        assert_eq!(silent.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        kept.write_all(request).await.unwrap();
        assert!(head(&mut kept).await.starts_with("HTTP/1.1 200 OK\r\n"));
    }
}
