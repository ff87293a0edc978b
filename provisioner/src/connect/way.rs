//! The way to an engine: which socket, and what runs over it.
//!
//! Where nobody has chosen there are two, TLS and SSH. TLS goes first; SSH follows where that is refused, or where
//! nothing has come of it within [`HEAD_START`], and the first that leads there is taken. Once SSH was needed it goes
//! first for a while, as long as its session lives: a filtered port would else cost every request the head start.

use super::ConnectError;
use crate::ssh::Tunnel;
use futures_util::future::{Either as First, select};
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

/// How long a connection may take to come about; a machine that drops packets would otherwise hold us for minutes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// What is read of a TLS connection at once.
const READ_AHEAD: usize = 128 << 10;
/// How long TLS may take before SSH is tried beside it.
const HEAD_START: Duration = Duration::from_millis(1500);
/// For how long SSH goes first where it was needed.
const REMEMBERED: Duration = Duration::from_secs(60);

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
    /// An SSH session, to the engine's unix socket.
    Ssh(Arc<Tunnel>),
    /// One or the other.
    Either(Arc<Either>),
}

/// A way and the one that is taken where it leads nowhere.
pub(crate) struct Either {
    direct: Way,
    tunnel: Arc<Tunnel>,
    /// When the tunnel was last needed.
    needed: Mutex<Option<Instant>>,
}

/// A connection, and how it came about.
pub(crate) struct Dialled {
    /// The connection.
    pub(crate) stream: Box<dyn Stream>,
    /// `tls://…` or `ssh://…`.
    pub(crate) over: String,
}

impl Way {
    /// `direct`, or else SSH.
    pub(crate) fn either(direct: Self, tunnel: Arc<Tunnel>) -> Self {
        Self::Either(Arc::new(Either { direct, tunnel, needed: Mutex::default() }))
    }

    /// Connects, TLS handshake included.
    pub(crate) async fn dial(&self) -> Result<Dialled, ConnectError> {
        match self {
            Self::Either(either) => either.dial().await,
            // Its session has limits of its own, one for each host on the way.
            Self::Ssh(tunnel) => through(tunnel).await,
            direct => direct.dial_in_time().await,
        }
    }

    async fn dial_in_time(&self) -> Result<Dialled, ConnectError> {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.dial_direct()).await;
        let timed_out = |_| Err(ConnectError::dial(self, std::io::ErrorKind::TimedOut.into()));
        let stream = dialled.unwrap_or_else(timed_out)?;
        Ok(Dialled { stream, over: format!("{}{self}", self.scheme()) })
    }

    async fn dial_direct(&self) -> Result<Box<dyn Stream>, ConnectError> {
        let refused = |source| ConnectError::dial(self, source);
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(refused)?)),
            Self::Tcp { address } => Ok(Box::new(tcp(address).await.map_err(refused)?)),
            Self::Tls { address, name, config } => {
                // rustls asks for 4 KB at a time, which would be a system call each.
                let socket = BufReader::with_capacity(READ_AHEAD, tcp(address).await.map_err(refused)?);
                let tls = TlsConnector::from(config.clone()).connect(name.clone(), socket).await;
                let tls = tls.map_err(|source| ConnectError::Tls { address: address.clone(), source })?;
                Ok(Box::new(tls))
            }
            Self::Ssh(tunnel) => Ok(through(tunnel).await?.stream),
            Self::Either(either) => Ok(Box::pin(either.direct.dial_direct()).await?),
        }
    }

    fn scheme(&self) -> &'static str {
        match self {
            Self::Unix(_) => "unix://",
            Self::Tcp { .. } => "tcp://",
            Self::Tls { .. } => "tls://",
            // Their texts have it.
            Self::Ssh(_) | Self::Either(_) => "",
        }
    }
}

async fn through(tunnel: &Tunnel) -> Result<Dialled, ConnectError> {
    let stream = Box::new(tunnel.open().await.map_err(ConnectError::Ssh)?);
    Ok(Dialled { stream, over: tunnel.to_string() })
}

impl Either {
    async fn dial(&self) -> Result<Dialled, ConnectError> {
        let needed = *self.needed.lock().unwrap_or_else(PoisonError::into_inner);
        if needed.is_some_and(|at| at.elapsed() < REMEMBERED)
            && self.tunnel.is_up().await
            && let Ok(dialled) = through(&self.tunnel).await
        {
            return Ok(dialled);
        }
        let mut direct = pin!(self.direct.dial_in_time());
        let head_start = tokio::time::timeout(HEAD_START, &mut direct).await;
        let failed = match head_start {
            Ok(Ok(dialled)) => return Ok(dialled),
            Ok(Err(error)) if !error.is_unreachable() => return Err(error),
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let tunnelled = pin!(through(&self.tunnel));
        let (direct, tunnelled) = match failed {
            Some(error) => (error, tunnelled.await),
            None => match select(direct, tunnelled).await {
                First::Left((Ok(dialled), _)) => return Ok(dialled),
                First::Left((Err(error), tunnelled)) if error.is_unreachable() => (error, tunnelled.await),
                First::Left((Err(error), _)) => return Err(error),
                First::Right((Ok(dialled), _)) => return Ok(self.remember(dialled)),
                First::Right((Err(error), direct)) => match direct.await {
                    Ok(dialled) => return Ok(dialled),
                    Err(direct) => (direct, Err(error)),
                },
            },
        };
        match tunnelled {
            Ok(dialled) => Ok(self.remember(dialled)),
            Err(_) if !direct.is_unreachable() => Err(direct),
            Err(tunnelled) => Err(self.neither(direct, tunnelled)),
        }
    }

    fn remember(&self, dialled: Dialled) -> Dialled {
        *self.needed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        dialled
    }

    /// What is told is why the first way failed, and that the other did too.
    fn neither(&self, direct: ConnectError, tunnelled: ConnectError) -> ConnectError {
        ConnectError::Neither {
            direct: Box::new(direct),
            tunnel: self.tunnel.to_string(),
            tunnelled: Box::new(tunnelled),
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp { address } | Self::Tls { address, .. } => f.write_str(address),
            Self::Ssh(tunnel) => write!(f, "{tunnel}"),
            Self::Either(either) => write!(f, "{}", either.direct),
        }
    }
}

async fn tcp(address: &str) -> std::io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    // Keystrokes are small and should not wait for each other.
    socket.set_nodelay(true)?;
    Ok(socket)
}
