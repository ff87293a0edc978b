//! The way to an engine: which socket, and whether TLS runs over it.

use super::ConnectError;
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// How long a connection may take to come about; a machine that drops packets would otherwise hold us for minutes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to an engine, whatever it runs over.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How an engine is reached.
#[derive(Clone)]
pub(crate) enum Way {
    /// A socket on this host.
    Unix(PathBuf),
    /// TCP without TLS: only for engines that were registered so by name.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// TCP with mutual TLS.
    Tls {
        /// `host:port`.
        address: String,
        /// The name that the engine's certificate must carry, whatever the address.
        name: ServerName<'static>,
        /// Whom we trust, and the certificate that we show.
        config: Arc<rustls::ClientConfig>,
    },
}

impl Way {
    /// Connects, TLS handshake included.
    pub(crate) async fn dial(&self) -> Result<Box<dyn Stream>, ConnectError> {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.dial_unbounded()).await;
        dialled.unwrap_or_else(|_| Err(ConnectError::dial(self, std::io::ErrorKind::TimedOut.into())))
    }

    async fn dial_unbounded(&self) -> Result<Box<dyn Stream>, ConnectError> {
        let refused = |source| ConnectError::dial(self, source);
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(refused)?)),
            Self::Tcp { address } => Ok(Box::new(tcp(address).await.map_err(refused)?)),
            Self::Tls { address, name, config } => {
                let socket = tcp(address).await.map_err(refused)?;
                let tls = TlsConnector::from(config.clone()).connect(name.clone(), socket).await;
                let tls = tls.map_err(|source| ConnectError::Tls { address: address.clone(), source })?;
                Ok(Box::new(tls))
            }
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { address } | Self::Tls { address, .. } => f.write_str(address),
        }
    }
}

async fn tcp(address: &str) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    // Keystrokes are small and should not wait for each other.
    socket.set_nodelay(true)?;
    Ok(socket)
}
