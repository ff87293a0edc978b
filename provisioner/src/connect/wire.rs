//! HTTP/1.1 over the way to an engine.
//!
//! Connections are kept between requests, as a TLS handshake costs more than most requests. A connection that serves a
//! stream (logs, wait, pull) is busy until that ends, and the next request dials another.

use super::{ConnectError, Way};
use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// A request's body, as bollard makes them.
pub(super) type Body = Either<Full<Bytes>, StreamBody<BodyFrames>>;
type BodyFrames = Pin<Box<dyn Stream<Item = std::io::Result<Frame<Bytes>>> + Send>>;

/// Sends requests to one engine.
pub(super) struct Wire {
    way: Way,
    kept: Mutex<Vec<SendRequest<Body>>>,
}

impl Wire {
    pub(super) fn new(way: Way) -> Arc<Self> {
        Arc::new(Self { way, kept: Mutex::default() })
    }

    pub(super) fn way(&self) -> &Way {
        &self.way
    }

    /// Sends one request, and gives the answer as soon as its head is there.
    pub(super) async fn send(&self, mut request: Request<Body>) -> Result<Response<Incoming>, ConnectError> {
        // bollard writes absolute URIs, which are for proxies.
        if let Some(path) = request.uri().path_and_query() {
            *request.uri_mut() = path.clone().into();
        }
        request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
        while let Some(mut kept) = self.idle() {
            match kept.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(kept, response)),
                Err(mut failed) => match failed.take_message() {
                    // The other side closed the connection meanwhile; nothing was sent.
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(failed.into_error())),
                },
            }
        }
        let mut fresh = self.connect().await?;
        let response = fresh.send_request(request).await.map_err(|e| self.broken(e))?;
        Ok(self.keep(fresh, response))
    }

    async fn connect(&self) -> Result<SendRequest<Body>, ConnectError> {
        let stream = TokioIo::new(self.way.dial().await?.stream);
        let (sender, connection) = http1::handshake(stream).await.map_err(|e| self.broken(e))?;
        // Ends with the connection; errors reach the request that suffers from them.
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    fn idle(&self) -> Option<SendRequest<Body>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|connection| !connection.is_closed());
        let free = kept.iter().position(SendRequest::is_ready)?;
        Some(kept.swap_remove(free))
    }

    fn keep(&self, connection: SendRequest<Body>, response: Response<Incoming>) -> Response<Incoming> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        response
    }

    fn broken(&self, source: hyper::Error) -> ConnectError {
        ConnectError::Broken { to: self.way.to_string(), source }
    }
}
