//! What goes wrong, by the kind that the API turns into a status, in Docker's words where clients match them.

use hostd_image::ImageError;
use hostd_network::NetworkError;
use hostd_runtime::RuntimeError;
use hostd_volume::VolumeError;
use std::error::Error;
use std::io;

/// What a caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object named does not exist.
    NotFound,
    /// The request makes no sense.
    Invalid,
    /// The object's state forbids it.
    Conflict,
    /// It is protected.
    Forbidden,
    /// Nothing to do.
    NotModified,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Something this engine depends on does not answer.
    Unavailable,
    /// This engine cannot do that (yet).
    Unsupported,
    /// Everything else.
    Internal,
}

/// What went wrong, in Docker's words where clients match them.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// What a caller can do about it.
    pub kind: ErrorKind,
    /// A phrase that names the object.
    pub message: String,
    /// The cause, not repeated in `message`.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
    /// What the failed program leaves as its exit code, where the error is about one: 126 or 127.
    pub exit_code: Option<i32>,
}

/// What the engine's calls return.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

impl EngineError {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, exit_code: None }
    }
    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }
    /// The object named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }
    /// The object's state forbids it.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }
    /// A field or value that this engine does not honour.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }
    /// Something of our own failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
    /// The message and its causes in one line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// `map_err(io("cannot write x"))`: an internal error with the system's as its cause.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> EngineError {
    move |error| EngineError::internal(what).caused_by(error)
}

/// A task of ours panicked or was cancelled while the daemon goes down.
pub(crate) fn joined(error: tokio::task::JoinError) -> EngineError {
    EngineError::internal("a background task failed").caused_by(error)
}

impl From<ImageError> for EngineError {
    fn from(error: ImageError) -> Self {
        use hostd_image::ErrorKind as K;
        let kind = match error.kind() {
            K::NotFound => ErrorKind::NotFound,
            K::Invalid => ErrorKind::Invalid,
            K::Conflict => ErrorKind::Conflict,
            K::Unauthorized => ErrorKind::Unauthorized,
            K::Unavailable => ErrorKind::Unavailable,
            K::Internal => ErrorKind::Internal,
        };
        wrap(kind, error)
    }
}

impl From<NetworkError> for EngineError {
    fn from(error: NetworkError) -> Self {
        let kind = match &error {
            NetworkError::NoSuchNetwork(_) => ErrorKind::NotFound,
            _ => ErrorKind::Internal,
        };
        wrap(kind, error)
    }
}

impl From<VolumeError> for EngineError {
    fn from(error: VolumeError) -> Self {
        let kind = match &error {
            VolumeError::NotFound(_) => ErrorKind::NotFound,
            VolumeError::Invalid(_) => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        };
        wrap(kind, error)
    }
}

impl From<RuntimeError> for EngineError {
    fn from(error: RuntimeError) -> Self {
        let kind = match &error {
            RuntimeError::Exec { .. } => ErrorKind::Invalid,
            _ => ErrorKind::Internal,
        };
        wrap(kind, error)
    }
}

/// Takes over the message of `error`, and its cause as a cause.
fn wrap(kind: ErrorKind, error: impl Error + Send + Sync + 'static) -> EngineError {
    let message = error.to_string();
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    EngineError {
        source: (!causes.is_empty()).then(|| causes.join(": ").into()),
        ..EngineError::new(kind, message)
    }
}
