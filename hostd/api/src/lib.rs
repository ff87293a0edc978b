//! The Docker Engine API: routes, wire shapes, streams. It translates and decides nothing.
//!
//! ```text
//! connection  one HTTP/1.1 connection; lets a handler take the socket over (attach, exec)
//!   version   takes `/v1.43` off the path, answers `_ping`, puts the standard headers on all that leaves
//!     routes  method and path to handler; what is known but missing answers 501 with its name
//!       containers, exec, images, system    a handler parses, makes one call into the engine, answers
//! ```
//! Requests come in as loosely as Docker takes them: [`fields`] reads JSON with field names in any case and nulls for
//! absent, [`create`] refuses by name what the engine does not honour. Responses are shaped by [`inspect`], [`summary`]
//! and [`images`] as clients of the version that was asked for expect them. Everything that can fail ends in one
//! [`error::ApiError`]: a status and `{"message": …}`.

mod activity;
mod archive;
mod commit;
mod connection;
mod containers;
mod create;
mod disk_usage;
mod error;
mod exec;
mod fields;
mod hostconfig;
mod images;
mod inspect;
mod leftover;
mod limits;
mod networks;
mod params;
mod ports;
mod progress;
mod request;
mod routes;
mod stats;
mod summary;
mod system;
mod timestamps;
mod version;
mod volumes;
mod websocket;

use hostd_engine::Engine;
use std::os::fd::AsFd;
use tokio_util::sync::CancellationToken;

pub use activity::Activity;
pub use connection::Transport;
pub use version::{MAX_API_VERSION, MIN_API_VERSION};

/// The version that hostd reports of itself.
pub const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The API over one engine. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    router: axum::Router,
    activity: Activity,
}

impl Api {
    /// The API that drives `engine`.
    pub fn new(engine: Engine) -> Self {
        Self { router: routes::router(engine), activity: Activity::default() }
    }

    /// Tells when there are requests.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Serves one connection until the client leaves or, after `stop`, until its current request is answered.
    /// A stream that took the connection over ends at once with `stop`.
    pub async fn serve(&self, io: impl Transport, stop: CancellationToken) {
        connection::serve(io, |_| None, self.router.clone(), &self.activity, stop).await;
    }

    /// As [`Api::serve`], for a client on a unix socket: it is told of a stream only when it has read the head before.
    pub async fn serve_local<T: Transport + AsFd>(&self, io: T, stop: CancellationToken) {
        connection::serve(io, |io| Some(io.as_fd()), self.router.clone(), &self.activity, stop).await;
    }
}
