//! One client's connection: request by request to the machine that is meant at that moment.
//!
//! Heads are read to find where messages end, and passed as they came. An answer that ends with its connection, or that
//! switches protocols (attach, exec, build sessions), makes both connections one: from then on bytes are carried both ways
//! and each half closes on its own.

use super::buffer::Buffer;
use super::chunks::Chunks;
use super::head::{self, Answer, Body, Request};
use super::upstream::{Upstream, Upstreams};
use crate::error::CliError;
use crate::store::MachineName;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

/// For how long a client that was answered early may go on sending what nobody reads.
const LINGER: Duration = Duration::from_secs(5);

/// What docker-py gets to read a head before what follows is sent, too; hostd gives it as much.
const HEAD_START: Duration = Duration::from_millis(100);

/// A client.
pub(super) struct Client<R, W> {
    pub(super) reader: R,
    pub(super) writer: W,
    /// It came over TCP, where a browser may be made to come.
    pub(super) exposed: bool,
    /// `#12`.
    pub(super) label: String,
}

/// How far the client's side of a request has come.
#[derive(Default)]
struct Sent {
    whole: bool,
    /// The client will send nothing more.
    closed: bool,
}

/// What an exchange ended with.
enum Ended {
    Answered(Answer),
    /// Both connections are one now.
    Joined,
    /// The connection had been closed before the request came, and nothing has been done with it.
    Stale,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Client<R, W> {
    /// Serves it to its end.
    pub(super) async fn serve(mut self, upstreams: &Upstreams) -> io::Result<()> {
        let (mut input, mut output) = (Buffer::new(), Buffer::new());
        let mut told: Option<(MachineName, String)> = None;
        loop {
            let request = loop {
                if let Some(request) = head::request(input.held())? {
                    break request;
                }
                if input.fill(&mut self.reader).await? == 0 {
                    return Ok(());
                }
            };
            if self.exposed && request.from_browser {
                super::log(&format!("{} refused: a browser asks for {}", self.label, request.path));
                return self.refuse(&mut input, "403 Forbidden", "this engine is not for browsers").await;
            }
            let machine = match upstreams.machine() {
                Ok(machine) => machine,
                Err(error) => {
                    return self.fail(&mut input, "503 Service Unavailable", &request, &error).await;
                }
            };
            let upstream = match upstreams.connect(&machine, false).await {
                Ok(upstream) => upstream,
                Err(error) => return self.fail(&mut input, "502 Bad Gateway", &request, &error).await,
            };
            let now = (machine.clone(), upstream.over.clone());
            if told.as_ref() != Some(&now) {
                super::log(&format!(
                    "{} {} {} -> {} over {}",
                    self.label, request.method, request.path, now.0, now.1
                ));
                told = Some(now);
            }
            let head = input.held()[..request.length].to_vec();
            input.consume(request.length);
            let mut passed = self.pass((&mut input, &mut output), upstream, &request, &head).await?;
            if matches!(passed, Passed::Stale) {
                let fresh = match upstreams.connect(&machine, true).await {
                    Ok(upstream) => upstream,
                    Err(error) => return self.fail(&mut input, "502 Bad Gateway", &request, &error).await,
                };
                passed = self.pass((&mut input, &mut output), fresh, &request, &head).await?;
            }
            if !matches!(passed, Passed::Next) {
                return Ok(());
            }
        }
    }

    /// Passes one request and its answer.
    async fn pass(
        &mut self,
        (input, output): (&mut Buffer, &mut Buffer),
        mut upstream: Upstream,
        request: &Request,
        head: &[u8],
    ) -> io::Result<Passed> {
        // Of a connection that is not used any more.
        output.clear();
        let mut sent = Sent::default();
        let may_repeat = upstream.used && matches!(request.method.as_str(), "GET" | "HEAD" | "OPTIONS");
        let ended = {
            let up = send(&mut self.reader, input, &mut upstream.writer, request.body, head, &mut sent);
            let down = answer(&mut upstream.reader, output, &mut self.writer, request, may_repeat);
            tokio::select! {
                biased;
                ended = down => ended,
                failed = up => return Err(failed),
            }
        };
        let ended = match ended {
            // A client that has gone was told to the engine, which had nothing more to say.
            Err(_) if sent.closed => return Ok(Passed::Last),
            ended => ended?,
        };
        match ended {
            Ended::Stale => Ok(Passed::Stale),
            Ended::Joined => {
                if request.loses {
                    tokio::time::sleep(HEAD_START).await;
                }
                self.join(input, &mut upstream, output).await?;
                Ok(Passed::Last)
            }
            Ended::Answered(answer) => {
                let whole = sent.whole && request.keeps && answer.keeps;
                if whole && !sent.closed && output.held().is_empty() {
                    upstream.keep();
                }
                if !sent.whole && !sent.closed {
                    self.linger(input).await?;
                }
                Ok(if whole { Passed::Next } else { Passed::Last })
            }
        }
    }

    /// Carries bytes both ways until both have ended.
    async fn join(
        &mut self,
        input: &mut Buffer,
        upstream: &mut Upstream,
        output: &mut Buffer,
    ) -> io::Result<()> {
        let Upstream { reader, writer, .. } = upstream;
        let mut up = std::pin::pin!(pour(&mut self.reader, input, writer));
        let mut down = std::pin::pin!(pour(reader, output, &mut self.writer));
        tokio::select! {
            poured = &mut down => {
                poured?;
                // The engine has closed, or only said its last word.
                tokio::time::timeout(LINGER, up).await.unwrap_or(Ok(()))
            }
            poured = &mut up => {
                poured?;
                down.await
            }
        }
    }

    /// Lets a client that is still sending read its answer: a connection that is closed on it would lose that.
    async fn linger(&mut self, input: &mut Buffer) -> io::Result<()> {
        self.writer.shutdown().await?;
        let ended = async {
            loop {
                input.consume(input.held().len());
                if input.fill(&mut self.reader).await? == 0 {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(LINGER, ended).await.unwrap_or(Ok(()))
    }

    async fn fail(
        &mut self,
        input: &mut Buffer,
        status: &str,
        request: &Request,
        error: &CliError,
    ) -> io::Result<()> {
        super::log(&format!("{} {} {}: {}", self.label, request.method, request.path, error.one_line()));
        self.refuse(input, status, &error.with_hint()).await
    }

    /// An answer of our own, in the form of Docker's.
    async fn refuse(&mut self, input: &mut Buffer, status: &str, message: &str) -> io::Result<()> {
        let body = serde_json::json!({ "message": message }).to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        self.writer.write_all(answer.as_bytes()).await?;
        self.linger(input).await
    }
}

enum Passed {
    Next,
    Last,
    Stale,
}

/// Sends head and body on, and watches the client until the answer is there. Ends only when the client is lost.
async fn send(
    client: &mut (impl AsyncRead + Unpin),
    input: &mut Buffer,
    engine: &mut (impl AsyncWrite + Unpin),
    body: Body,
    head: &[u8],
    sent: &mut Sent,
) -> io::Error {
    let mut to_engine = engine.write_all(head).await.is_ok() && engine.flush().await.is_ok();
    let mut left = Left::of(body);
    loop {
        let ready = match left.take(input.held()) {
            Ok(ready) => ready,
            Err(error) => return error,
        };
        // An engine that reads no more may have answered all the same.
        to_engine = to_engine && input.drain(ready, engine).await.is_ok();
        if !to_engine {
            input.consume(ready);
        }
        sent.whole = left.is_nothing();
        if sent.whole && !input.held().is_empty() {
            // The next request has come already; it waits its turn.
            return std::future::pending().await;
        }
        match input.fill(client).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return error,
        }
    }
    sent.closed = true;
    // What the client's end means is the engine's to say.
    let _ = engine.shutdown().await;
    std::future::pending().await
}

/// What is to come of a body.
enum Left {
    Bytes(u64),
    Chunks(Chunks),
}

impl Left {
    fn of(body: Body) -> Self {
        match body {
            Body::None | Body::ToEnd => Self::Bytes(0),
            Body::Length(length) => Self::Bytes(length),
            Body::Chunked => Self::Chunks(Chunks::default()),
        }
    }

    fn is_nothing(&self) -> bool {
        match self {
            Self::Bytes(left) => *left == 0,
            Self::Chunks(chunks) => chunks.is_over(),
        }
    }

    /// How many of these bytes belong to the body; they count as gone.
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Bytes(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunks(chunks) => chunks.pass(bytes),
        }
    }
}

/// Passes the answer on, with those that come before it (`100 Continue`).
async fn answer(
    engine: &mut (impl AsyncRead + Unpin),
    output: &mut Buffer,
    client: &mut (impl AsyncWrite + Unpin),
    request: &Request,
    may_repeat: bool,
) -> io::Result<Ended> {
    let mut begun = false;
    loop {
        let answer = loop {
            if let Some(answer) = head::answer(output.held(), &request.method)? {
                break answer;
            }
            match output.fill(engine).await {
                Ok(0) | Err(_) if !begun && may_repeat && output.held().is_empty() => {
                    return Ok(Ended::Stale);
                }
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        };
        begun = true;
        output.drain(answer.length, client).await?;
        match answer.status {
            101 => return Ok(Ended::Joined),
            100..200 => continue,
            _ if answer.body == Body::ToEnd => return Ok(Ended::Joined),
            _ => {}
        }
        let mut left = Left::of(answer.body);
        loop {
            let ready = left.take(output.held())?;
            output.drain(ready, client).await?;
            if left.is_nothing() {
                return Ok(Ended::Answered(answer));
            }
            if output.fill(engine).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Carries bytes to the end of the stream, and passes that on.
async fn pour(
    from: &mut (impl AsyncRead + Unpin),
    through: &mut Buffer,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    loop {
        through.drain(through.held().len(), to).await?;
        if through.fill(from).await? == 0 {
            return to.shutdown().await;
        }
    }
}
