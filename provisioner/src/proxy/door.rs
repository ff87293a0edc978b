//! Where clients come in: a unix socket of its owner's alone, or a port of the loopback address.

use crate::error::{CliError, Doing as _};
use rustix::fs::Mode;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// What a door is opened at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            let path = std::path::absolute(path).map_err(|e| e.to_string())?;
            return Ok(Self::Unix(path));
        }
        let Some(address) = text.strip_prefix("tcp://") else {
            return Err("a socket is unix:///PATH or tcp://127.0.0.1:PORT".to_owned());
        };
        let address = address.trim_end_matches('/').replace("localhost:", "127.0.0.1:");
        let address: SocketAddr =
            address.parse().map_err(|_| "an address has a port: tcp://127.0.0.1:2375")?;
        if address.ip().is_loopback() {
            Ok(Self::Tcp(address))
        } else {
            Err("only this computer's own address will do (127.0.0.1, [::1]): whoever reaches it commands the engine"
                .to_owned())
        }
    }
}

/// An open door. A unix socket is removed when this is dropped.
pub(crate) enum Door {
    Unix {
        listener: UnixListener,
        path: PathBuf,
        /// Held by the process whose socket it is; the kernel lets go of it however that ends.
        _lock: File,
    },
    Tcp {
        listener: TcpListener,
        address: SocketAddr,
    },
}

/// What is read from a client.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// What is written to it.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

impl Door {
    /// Opens it; a socket that a killed proxy has left is replaced.
    pub(crate) async fn open(address: &Address) -> Result<Self, CliError> {
        match address {
            Address::Unix(path) => Self::open_unix(path),
            Address::Tcp(address) => {
                let listener =
                    TcpListener::bind(address).await.doing(format!("cannot listen on tcp://{address}"))?;
                let address = listener.local_addr().doing(format!("cannot listen on tcp://{address}"))?;
                Ok(Self::Tcp { listener, address })
            }
        }
    }

    fn open_unix(path: &Path) -> Result<Self, CliError> {
        let doing = || format!("cannot listen on {}", path.display());
        let lock = claim(path).map_err(|error| match error {
            Claim::Held(pid) => CliError::new(doing())
                .because(format!("another `berth proxy`{pid} is there"))
                .hint("use that one, or choose another place with --listen unix:///PATH"),
            Claim::Failed(source) => CliError::new(doing()).because(source),
        })?;
        clear(path).doing(doing())?;
        // Nobody else may connect, from the first moment on.
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        Ok(Self::Unix { listener: bound.doing(doing())?, path: path.to_owned(), _lock: lock })
    }

    /// The next client.
    pub(crate) async fn accept(&self) -> io::Result<(Reader, Writer)> {
        match self {
            Self::Unix { listener, .. } => {
                let (reader, writer) = listener.accept().await?.0.into_split();
                Ok((Box::new(reader), Box::new(writer)))
            }
            Self::Tcp { listener, .. } => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                Ok((Box::new(reader), Box::new(writer)))
            }
        }
    }

    /// Whether every program of this computer gets in, browsers too.
    pub(crate) fn is_exposed(&self) -> bool {
        matches!(self, Self::Tcp { .. })
    }
}

impl std::fmt::Display for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix { path, .. } => write!(f, "unix://{}", path.display()),
            Self::Tcp { address, .. } => write!(f, "tcp://{address}"),
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Unix { path, .. } = self {
            // The lock file stays: removing it would let two hold a lock of the same name.
            let _ = std::fs::remove_file(path);
        }
    }
}

enum Claim {
    /// By whom, as far as that is known.
    Held(String),
    Failed(io::Error),
}

impl From<io::Error> for Claim {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

/// Takes the lock beside a socket.
fn claim(path: &Path) -> Result<File, Claim> {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&lock)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // The holder may not have written it yet.
            let _ = file.read_to_string(&mut pid);
            let pid = pid.trim();
            return Err(Claim::Held(if pid.is_empty() {
                String::new()
            } else {
                format!(" (process {pid})")
            }));
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    Ok(file)
}

/// Removes a socket that nobody listens on; anything else that is there stays, and is an error.
fn clear(path: &Path) -> io::Result<()> {
    let taken = |what| Err(io::Error::new(ErrorKind::AddrInUse, what));
    match std::fs::symlink_metadata(path) {
        Err(missing) if missing.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(data) if !data.file_type().is_socket() => return taken("a file is there that is no socket"),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => taken("another program listens there"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_a_socket_or_a_port_of_this_computer() {
        assert_eq!("unix:///x/y".parse(), Ok(Address::Unix("/x/y".into())));
        assert_eq!("tcp://localhost:2375".parse(), Ok(Address::Tcp(([127, 0, 0, 1], 2375).into())));
        for bad in [
            "tcp://0.0.0.0:2375",
            "tcp://192.0.2.1:2375",
            "tcp://[::]:1",
            "tcp://127.0.0.1",
            "/x",
            "npipe://x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }
}
