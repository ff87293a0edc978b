//! A machine's engine, ready to be asked.

use super::wire::{Body, Wire};
use super::{ConnectError, EngineError, Way};
use bollard::{BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite};

/// The newest API version that we know; the engine's own is taken where that is older.
const API_VERSION: ClientVersion = ClientVersion { major_version: 1, minor_version: 50 };

/// Requests have no time limit of their own: a stop, a wait or a pull takes as long as it takes.
const NO_TIMEOUT: u64 = 10 * 365 * 24 * 3600;

/// Error messages are short; what is longer is none.
const MAX_ERROR: usize = 64 << 10;

/// A machine's engine, ready to be asked.
#[derive(Clone)]
pub(crate) struct Engine {
    machine: String,
    docker: Docker,
    wire: Arc<Wire>,
}

/// An archive, as it is read.
pub(crate) type Archive = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Result of asking an engine.
pub(crate) type Result<T> = std::result::Result<T, EngineError>;

impl Engine {
    /// Connects to the engine of `machine` and agrees on an API version.
    pub(crate) async fn connect(machine: &str, way: Way) -> Result<Self> {
        let wire = Wire::new(way);
        let fail = |e| EngineError::from_bollard(machine, e);
        let sender = wire.clone();
        let transport = move |request: BollardRequest| {
            let wire = sender.clone();
            async move { wire.send(request).await.map_err(|e| std::io::Error::other(e).into()) }
        };
        let docker =
            Docker::connect_with_custom_transport(transport, Some("http://docker"), NO_TIMEOUT, &API_VERSION);
        let docker = docker.map_err(fail)?.negotiate_version().await.map_err(fail)?;
        Ok(Self { machine: machine.to_owned(), docker, wire })
    }

    /// The machine's name.
    pub(crate) fn machine(&self) -> &str {
        &self.machine
    }

    /// For calls with typed requests and answers.
    pub(crate) fn docker(&self) -> &Docker {
        &self.docker
    }

    /// bollard's error in our terms.
    pub(crate) fn error(&self, error: bollard::errors::Error) -> EngineError {
        EngineError::from_bollard(&self.machine, error)
    }

    /// An answer as the engine wrote it, every field of it.
    pub(crate) async fn get_json(&self, path: &str) -> Result<serde_json::Value> {
        let response = self.ask(Method::GET, path, None, false).await?;
        let body = response.into_body().collect().await.map_err(|e| self.broken(e))?.to_bytes();
        serde_json::from_slice(&body).map_err(|e| self.nonsense(e))
    }

    /// An answer, or the parts of it that `T` names.
    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T> {
        serde_json::from_value(self.get_json(path).await?).map_err(|e| self.nonsense(e))
    }

    /// An answer as it comes in. The call returns once the engine has begun to answer.
    pub(crate) async fn stream(
        &self,
        method: Method,
        path: &str,
    ) -> Result<impl AsyncBufRead + Send + Unpin + use<>> {
        let response = self.ask(method, path, None, false).await?;
        Ok(reader(response))
    }

    /// Sends JSON where the answer says nothing more than that it was done.
    pub(crate) async fn post(&self, path: &str, body: &serde_json::Value) -> Result<()> {
        self.ask(Method::POST, path, Some(body), false).await.map(drop)
    }

    /// Sends an archive, and gives the answer as it comes in.
    pub(crate) async fn upload(
        &self,
        path: &str,
        archive: Archive,
    ) -> Result<impl AsyncBufRead + Send + Unpin + use<>> {
        let body = StreamBody::new(archive.map_ok(Frame::data).boxed());
        let request = Request::post(self.uri(path)).header(CONTENT_TYPE, "application/x-tar");
        let request = request.body(Body::Right(body)).map_err(|e| self.nonsense(e))?;
        Ok(reader(self.send(request).await?))
    }

    /// Takes the connection over: what is written goes to the container's input, and what it says can be read.
    pub(crate) async fn hijack(
        &self,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let response = self.ask(Method::POST, path, body, true).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.nonsense(format!(
                "status {} where the connection should be handed over",
                response.status()
            )));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| self.broken(e))?;
        Ok(TokioIo::new(upgraded))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
        upgrade: bool,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(self.uri(path));
        if upgrade {
            request = request.header(CONNECTION, "Upgrade").header(UPGRADE, "tcp");
        }
        let body = match body {
            Some(json) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(json.to_string())
            }
            None => Bytes::new(),
        };
        let body: Body = Either::Left(Full::new(body));
        let request = request.body(body).map_err(|e| self.nonsense(e))?;
        self.send(request).await
    }

    fn uri(&self, path: &str) -> String {
        let version = self.docker.client_version();
        format!("/v{}.{}{path}", version.major_version, version.minor_version)
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>> {
        let response = self.wire.send(request).await.map_err(|source| self.unreachable(source))?;
        if response.status().is_success() || response.status() == StatusCode::SWITCHING_PROTOCOLS {
            Ok(response)
        } else {
            Err(self.refusal(response).await)
        }
    }

    async fn refusal(&self, response: Response<Incoming>) -> EngineError {
        let status = response.status().as_u16();
        let limited = http_body_util::Limited::new(response.into_body(), MAX_ERROR);
        let body = match limited.collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return self.nonsense(e),
        };
        let message = match serde_json::from_slice::<serde_json::Value>(&body) {
            Ok(json) => json["message"].as_str().unwrap_or_default().to_owned(),
            Err(_) => String::from_utf8_lossy(&body).into_owned(),
        };
        EngineError::Refused { status, message: message.trim().to_owned() }
    }

    fn unreachable(&self, source: ConnectError) -> EngineError {
        EngineError::Unreachable { machine: self.machine.clone(), source }
    }

    fn broken(&self, source: hyper::Error) -> EngineError {
        self.unreachable(ConnectError::Broken { to: self.wire.way().to_string(), source })
    }

    fn nonsense(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> EngineError {
        EngineError::Nonsense { machine: self.machine.clone(), source: source.into() }
    }
}

fn reader(response: Response<Incoming>) -> impl AsyncBufRead + Send + Unpin {
    let chunks = TryStreamExt::map_err(response.into_body().into_data_stream(), std::io::Error::other);
    tokio_util::io::StreamReader::new(chunks)
}
