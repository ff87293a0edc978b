//! Where hostd listens: unix sockets, tcp, and sockets that the service manager opened (`fd://`).

use crate::Result;
use crate::config::Config;
use crate::failure::Failure;
use crate::group;
use crate::tls::Tls;
use rustix::fs::{Mode, Uid};
use rustix::net::{AddressFamily, SocketType};
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// Sockets that the backlog holds.
const BACKLOG: u32 = 1024;

/// One `--host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// `unix:///path`.
    Unix(PathBuf),
    /// `tcp://address:port`.
    Tcp(SocketAddr),
    /// `fd://`: all sockets that were passed.
    Inherited,
}

impl Host {
    /// Reads one; a tcp address without port gets Docker's.
    pub(crate) fn parse(text: &str, tls: bool) -> Result<Self> {
        let invalid = || {
            Failure::new(format!("invalid host \"{text}\""))
                .hint("hosts look like unix:///run/hostd.sock, tcp://127.0.0.1:2376 or fd://")
        };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(invalid()) };
        }
        if let Some(rest) = text.strip_prefix("fd://") {
            return if rest.is_empty() || rest == "*" { Ok(Self::Inherited) } else { Err(invalid()) };
        }
        let address = text.strip_prefix("tcp://").ok_or_else(invalid)?.trim_end_matches('/');
        let port = if tls { 2376 } else { 2375 };
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = match (address.is_empty(), has_port) {
            (true, _) => format!("127.0.0.1:{port}"),
            (false, true) => address.to_owned(),
            (false, false) => format!("{address}:{port}"),
        };
        let mut found = address.to_socket_addrs().map_err(|error| invalid().because(error))?;
        found.next().map(Self::Tcp).ok_or_else(invalid)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Inherited => write!(f, "fd://"),
        }
    }
}

/// A bound socket.
pub(crate) enum Listener {
    /// Guarded by its mode.
    Unix(tokio::net::UnixListener),
    /// Guarded by TLS, where there is one.
    Tcp(tokio::net::TcpListener, Option<Tls>),
}

/// Listeners that are bound; sockets made here go with them.
pub(crate) struct Listeners {
    pub(crate) all: Vec<(String, Listener)>,
    made: Vec<PathBuf>,
}

impl Drop for Listeners {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds all hosts of the configuration.
pub(crate) fn bind(config: &Config, tls: Option<&Tls>) -> Result<Listeners> {
    let mut listeners = Listeners { all: Vec::new(), made: Vec::new() };
    let owner = socket_group(config.group.as_deref())?;
    for host in &config.hosts {
        let failed = |error: io::Error| Failure::new(format!("cannot listen on {host}")).because(error);
        match host {
            Host::Unix(path) => {
                let socket = bind_unix(path, owner)?;
                listeners.made.push(path.clone());
                let socket = tokio::net::UnixListener::from_std(socket).map_err(failed)?;
                listeners.all.push((host.to_string(), Listener::Unix(socket)));
            }
            Host::Tcp(address) => {
                let socket = bind_tcp(*address).map_err(|error| {
                    let taken = error.kind() == io::ErrorKind::AddrInUse;
                    let failure = failed(error);
                    if taken {
                        failure.hint("another program listens there: `ss -ltnp` shows which")
                    } else {
                        failure
                    }
                })?;
                warn_if_open(host, tls, config);
                listeners.all.push((host.to_string(), Listener::Tcp(socket, tls.cloned())));
            }
            Host::Inherited => listeners.all.extend(inherited(config, tls)?),
        }
    }
    Ok(listeners)
}

fn warn_if_open(host: &Host, tls: Option<&Tls>, config: &Config) {
    if tls.is_none() || config.tls.as_ref().is_some_and(|files| files.ca.is_none()) {
        tracing::warn!("{host} demands no client certificate: whoever reaches it is root on this machine");
    }
}

/// The group that was asked for must exist; `docker` is used where it does.
fn socket_group(asked: Option<&str>) -> Result<Option<rustix::fs::Gid>> {
    match asked {
        None => Ok(group::find("docker")),
        Some("") => Ok(None),
        Some(name) => {
            match group::find(name) {
                Some(id) => Ok(Some(id)),
                None => Err(Failure::new(format!("group {name} not found"))
                    .hint(format!("`groupadd {name}` makes it"))),
            }
        }
    }
}

fn bind_unix(path: &Path, owner: Option<rustix::fs::Gid>) -> Result<std::os::unix::net::UnixListener> {
    let failed =
        |error: io::Error| Failure::new(format!("cannot listen on unix://{}", path.display())).because(error);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    remove_stale(path)?;
    let bind = || -> io::Result<OwnedFd> {
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(path)?)?;
        // Nobody can connect before listen(2), so that owner and mode are never too wide for anyone.
        let guarded = rustix::fs::chown(path, Some(Uid::ROOT), Some(owner.unwrap_or(rustix::fs::Gid::ROOT)))
            .and_then(|()| {
                rustix::fs::chmod(path, Mode::from_raw_mode(if owner.is_some() { 0o660 } else { 0o600 }))
            })
            .and_then(|()| rustix::net::listen(&socket, BACKLOG as i32));
        if let Err(error) = guarded {
            let _ = std::fs::remove_file(path);
            return Err(error.into());
        }
        Ok(socket)
    };
    bind().map(Into::into).map_err(failed)
}

/// Removes a socket that nobody answers on; one that is answered, or a file of another kind, stays.
fn remove_stale(path: &Path) -> Result<()> {
    let Ok(data) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !data.file_type().is_socket() {
        return Err(Failure::new(format!("{} exists and is not a socket", path.display())));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(Failure::new(format!("another daemon answers on unix://{}", path.display()))
            .hint("stop that one, or give this one another --host"));
    }
    std::fs::remove_file(path).map_err(|error| {
        Failure::new(format!("cannot remove the stale socket {}", path.display())).because(error)
    })
}

fn bind_tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    // After a restart, connections of the old daemon may linger on the port.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sockets from the service manager (`LISTEN_PID`, `LISTEN_FDS`).
fn inherited(config: &Config, tls: Option<&Tls>) -> Result<Vec<(String, Listener)>> {
    let none = || {
        Failure::new("no sockets were passed for fd://")
            .hint("fd:// is for socket activation: start hostd through its systemd socket unit")
    };
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Err(none());
    }
    let count = number("LISTEN_FDS").and_then(|count| u16::try_from(count).ok()).filter(|count| *count > 0);
    let fds = hostd_sys::process::take_listen_fds(count.ok_or_else(none)?)
        .map_err(|error| Failure::new("cannot take the sockets passed for fd://").because(error))?;
    fds.into_iter().enumerate().map(|(index, fd)| inherited_one(index + 3, fd, config, tls)).collect()
}

fn inherited_one(
    number: usize,
    fd: OwnedFd,
    config: &Config,
    tls: Option<&Tls>,
) -> Result<(String, Listener)> {
    let name = format!("fd://{number}");
    let failed = |error: io::Error| Failure::new(format!("cannot listen on {name}")).because(error);
    if !rustix::net::sockopt::socket_acceptconn(&fd).map_err(|error| failed(error.into()))? {
        return Err(failed(io::Error::other("it does not listen")));
    }
    rustix::io::ioctl_fionbio(&fd, true).map_err(|error| failed(error.into()))?;
    let family = rustix::net::sockopt::socket_domain(&fd).map_err(|error| failed(error.into()))?;
    if family == AddressFamily::UNIX {
        let socket = tokio::net::UnixListener::from_std(fd.into()).map_err(failed)?;
        return Ok((name, Listener::Unix(socket)));
    }
    let authenticated = config.tls.as_ref().is_some_and(|files| files.ca.is_some());
    if !authenticated && !config.open_inherited {
        return Err(Failure::new(format!("refusing to listen on {name}, a network socket, without client certificates"))
            .hint("add --tlsverify with --tlscacert, --tlscert and --tlskey, or insist with --allow-unauthenticated=fd://"));
    }
    warn_if_open(&Host::Inherited, tls, config);
    let socket = tokio::net::TcpListener::from_std(fd.into()).map_err(failed)?;
    Ok((name, Listener::Tcp(socket, tls.cloned())))
}
