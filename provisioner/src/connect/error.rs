//! Why an engine did not do what it was asked.

use super::Way;
use std::io;

/// Why a machine's engine cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// No connection came about.
    #[error("connect to {to}")]
    Dial {
        /// Address or socket.
        to: String,
        /// The reason.
        source: io::Error,
    },
    /// There is a connection, but the two sides do not trust each other.
    #[error("TLS handshake with {address}")]
    Tls {
        /// Address dialled.
        address: String,
        /// The reason.
        source: io::Error,
    },
    /// The connection broke while a request was on its way.
    #[error("the connection to {to} broke")]
    Broken {
        /// Address or socket.
        to: String,
        /// The reason.
        source: hyper::Error,
    },
    /// No SSH session carries a connection to the engine.
    #[error("connect over SSH")]
    Ssh(#[source] crate::ssh::SshError),
    /// Neither of two ways leads there.
    #[error("{}, and neither does {tunnel} lead there: {}", chain(.direct.as_ref()), chain(.tunnelled.as_ref()))]
    Neither {
        /// Why the first did not.
        direct: Box<ConnectError>,
        /// Where SSH is.
        tunnel: String,
        /// Why that did not.
        tunnelled: Box<ConnectError>,
    },
    /// The machine has no SSH, and was to be reached by it.
    #[error("it has no SSH")]
    NoSsh,
    /// The machine's URL is none.
    #[error("`{url}` is no address of an engine")]
    Url {
        /// What stands in the store.
        url: String,
    },
    /// The machine's driver does not say where its engine is.
    #[error("cannot tell where its engine is")]
    Driver(#[source] Box<drivers::driver::DriverError>),
    /// The machine's certificates cannot be used.
    #[error("cannot use the certificates in {}", dir.display())]
    Certificates {
        /// Where they are.
        dir: std::path::PathBuf,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An error and its causes on one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl ConnectError {
    /// Whether the machine was not reached in this way, so that another may do; trust that fails is no such case.
    pub(super) fn is_unreachable(&self) -> bool {
        use io::ErrorKind as K;
        match self {
            Self::Dial { .. } => true,
            // Forwarders and firewalls accept a connection first, and cut it then.
            Self::Tls { source, .. } => matches!(
                source.kind(),
                K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::TimedOut
            ),
            _ => false,
        }
    }

    pub(super) fn dial(way: &Way, source: io::Error) -> Self {
        Self::Dial { to: way.to_string(), source }
    }
}

/// What an engine call can end with besides its result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    /// The engine was not reached, or lost.
    #[error("cannot reach machine `{machine}`")]
    Unreachable {
        /// Which machine.
        machine: String,
        /// The reason.
        source: ConnectError,
    },
    /// The engine said no, in these words.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The engine's own words.
        message: String,
    },
    /// The engine answered something that we cannot read.
    #[error("the engine of machine `{machine}` gave an answer that makes no sense")]
    Nonsense {
        /// Which machine.
        machine: String,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl EngineError {
    /// Whether the engine does not know what was asked for.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether the engine lacks the image, rather than something else that was named.
    pub(crate) fn is_missing_image(&self) -> bool {
        matches!(self, Self::Refused { status: 404, message } if message.to_ascii_lowercase().contains("no such image"))
    }

    /// What bollard's error says, in our terms.
    pub(super) fn from_bollard(machine: &str, error: bollard::errors::Error) -> Self {
        use bollard::errors::Error as E;
        match error {
            E::DockerResponseServerError { status_code, message } => {
                Self::Refused { status: status_code, message: message.trim().to_owned() }
            }
            E::DockerStreamError { error } => Self::Refused { status: 500, message: error },
            E::DockerContainerWaitError { error, code: _ } => Self::Refused { status: 500, message: error },
            // Our transport hands its errors through bollard in this wrapping.
            E::IOError { err } => match err.downcast::<ConnectError>() {
                Ok(source) => Self::Unreachable { machine: machine.to_owned(), source },
                Err(err) => Self::Nonsense { machine: machine.to_owned(), source: err.into() },
            },
            other => Self::Nonsense { machine: machine.to_owned(), source: other.into() },
        }
    }
}
