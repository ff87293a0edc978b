//! Accepts connections and hands them to the API, until told to stop.

use crate::listen::{Listener, Listeners};
use crate::quiet::QuietStream;
use crate::tls::Tls;
use hostd_api::Api;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that does not finish its handshake in that time is let go.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What a stop waits for requests that are under way.
const GRACE: Duration = Duration::from_secs(3);
/// What an accept loop waits after a failure (out of descriptors, say) before it tries again.
const PAUSE: Duration = Duration::from_millis(100);

/// Everything that serves.
pub(crate) struct Server {
    tasks: TaskTracker,
    stop: CancellationToken,
    listeners: Listeners,
}

impl Server {
    /// Starts to accept.
    pub(crate) fn start(mut listeners: Listeners, api: Api) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        for (name, listener) in listeners.all.drain(..) {
            tracing::info!("listening on {name}");
            let door = Door { api: api.clone(), tasks: tasks.clone(), stop: stop.clone() };
            tasks.spawn(door.keep(name, listener));
        }
        Self { tasks, stop, listeners }
    }

    /// Stops to accept, lets requests under way end for a moment, and cuts off the rest.
    pub(crate) async fn stop(self) {
        drop(self.listeners);
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(GRACE, self.tasks.wait()).await.is_err() {
            tracing::debug!("{} connections were cut off", self.tasks.len());
        }
    }
}

#[derive(Clone)]
struct Door {
    api: Api,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Door {
    /// Accepts until the stop. No error ends it: what fails is one connection, or passes.
    async fn keep(self, name: String, listener: Listener) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept(&listener) => accepted,
                () = self.stop.cancelled() => return,
            };
            if let Err(error) = accepted {
                tracing::warn!("cannot accept a connection on {name}: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn accept(&self, listener: &Listener) -> io::Result<()> {
        let (api, stop) = (self.api.clone(), self.stop.clone());
        match listener {
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let stream = QuietStream::new(stream)?;
                self.tasks.spawn(async move { api.serve_local(stream, stop).await });
            }
            Listener::Tcp(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                // Terminals send single bytes.
                stream.set_nodelay(true)?;
                match tls {
                    None => drop(self.tasks.spawn(async move { api.serve(stream, stop).await })),
                    Some(tls) => drop(self.tasks.spawn(secure(api, stream, tls.clone(), stop))),
                }
            }
        }
        Ok(())
    }
}

async fn secure(api: Api, stream: TcpStream, tls: Tls, stop: CancellationToken) {
    let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
    let handshake = TlsAcceptor::from(tls.current()).accept(stream);
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake) => outcome,
        () = stop.cancelled() => return,
    };
    match outcome {
        Ok(Ok(stream)) => api.serve(stream, stop).await,
        Ok(Err(error)) => tracing::info!("refused a client at {peer}: {error}"),
        Err(_) => tracing::debug!("a client at {peer} did not finish its handshake"),
    }
}
