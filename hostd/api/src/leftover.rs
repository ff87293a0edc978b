//! What a handler leaves of a request's body.
//!
//! An answer that goes out while the client still writes the body makes hyper close the connection: the client's write
//! fails, and clients such as docker's report that instead of the answer. So a body that nobody wants (of a request that
//! is refused) is read before the answer goes out, as Go's server does it, and up to the same size: who sends more than
//! that is better cut off.

use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;

/// The most that is read of a body that nobody wants, in bytes.
const MOST: usize = 256 << 10;
/// The longest that such a body may take to come.
const LONGEST: Duration = Duration::from_secs(5);

/// Gives what is left of a body once its reader has dropped it.
pub(crate) struct Leftover(Option<oneshot::Receiver<Incoming>>);

/// The body for the handler, and what it will leave of it. `expects`: the client sends the body only when it is told to
/// go on, which nobody does who leaves it unread.
pub(crate) fn watch(body: Incoming, expects: bool) -> (Body, Leftover) {
    if expects || body.is_end_stream() {
        return (Body::new(body), Leftover(None));
    }
    let (back, rest) = oneshot::channel();
    (Body::new(Watched { body: Some(body), back: Some(back) }), Leftover(Some(rest)))
}

impl Leftover {
    /// Reads what is left, if that is not too much. To be called when the answer is known.
    pub(crate) async fn drain(self) {
        // A body that is still held goes on being read while the answer is sent.
        let Some(Ok(mut rest)) = self.0.map(|mut rest| rest.try_recv()) else { return };
        let read = async {
            let mut count = 0;
            while let Some(Ok(frame)) = rest.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
                if count > MOST {
                    return;
                }
            }
        };
        // Late or too large: the connection is closed, which is what the client learns.
        let _ = tokio::time::timeout(LONGEST, read).await;
    }
}

struct Watched {
    /// Absent only in drop.
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !body.is_end_stream()
        {
            // Nobody waits for it when the connection is gone.
            let _ = back.send(body);
        }
    }
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}
