//! What can go wrong with images, in Docker's words where clients match them.

use std::io;
use std::path::{Path, PathBuf};

/// What an error means for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The image, or the registry's side of it, does not exist.
    NotFound,
    /// The request itself is wrong: a malformed name, archive or manifest.
    Invalid,
    /// Something that uses the image stands in the way.
    Conflict,
    /// The registry wants (other) credentials.
    Unauthorized,
    /// The registry cannot be reached, or is not able to answer now.
    Unavailable,
    /// This machine failed: its disk, or a bug.
    Internal,
}

/// Why an operation on images failed.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Docker's words.
    #[error("No such image: {0}")]
    NotFound(String),
    /// The name does not follow the grammar of references.
    #[error("invalid reference format")]
    InvalidReference,
    /// The name would be fine in lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    NotLowercase(String),
    /// The name breaks another rule of the grammar; the text is Docker's.
    #[error("{0}")]
    InvalidName(String),
    /// An id prefix that several images share.
    #[error("multiple IDs found with provided prefix: {0}")]
    AmbiguousId(String),
    /// Removal is refused; the text is Docker's.
    #[error("{0}")]
    Conflict(String),
    /// The archive or tar stream cannot be used as it is.
    #[error("{0}")]
    InvalidArchive(String),
    /// An entry of a tar stream is refused.
    #[error("tar entry {name:?}: {reason}")]
    Entry {
        /// The entry's name, as it stands in the stream.
        name: String,
        /// Why it is refused.
        reason: String,
    },
    /// Content does not have the digest by which it was asked for.
    #[error("{what}: expected digest {expected}, got {got}")]
    WrongDigest {
        /// Which manifest, configuration or layer.
        what: String,
        /// The digest that was asked for.
        expected: String,
        /// The digest of what came.
        got: String,
    },
    /// A manifest or configuration that is not what it should be.
    #[error("{0}")]
    InvalidManifest(String),
    /// The registry has no such repository or tag, or does not show it; Docker's words.
    #[error("{0}")]
    RegistryNotFound(String),
    /// The registry refuses; Docker's words.
    #[error("{0}")]
    Denied(String),
    /// The registry cannot be spoken to.
    #[error("{what}")]
    Registry {
        /// What was asked, of which registry.
        what: String,
        /// What the connection said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry answers, with an error that is its own.
    #[error("{0}")]
    RegistryAnswer(String),
    /// A layer could not be written.
    #[error("cannot unpack layer {layer}")]
    Unpack {
        /// Digest of the layer, or its name in the archive.
        layer: String,
        /// What failed underneath.
        source: Box<ImageError>,
    },
    /// A file of the store could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The stream that is read or unpacked failed.
    #[error("cannot {doing}")]
    Stream {
        /// What was being done.
        doing: String,
        /// What the stream said.
        source: io::Error,
    },
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl ImageError {
    /// What this error means for whoever asked.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) | Self::RegistryNotFound(_) => ErrorKind::NotFound,
            Self::InvalidReference
            | Self::NotLowercase(_)
            | Self::InvalidName(_)
            | Self::AmbiguousId(_)
            | Self::InvalidArchive(_)
            | Self::Entry { .. }
            | Self::InvalidManifest(_) => ErrorKind::Invalid,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Denied(_) => ErrorKind::Unauthorized,
            Self::WrongDigest { .. } | Self::Registry { .. } | Self::RegistryAnswer(_) => {
                ErrorKind::Unavailable
            }
            Self::Unpack { source, .. } => source.kind(),
            Self::Io { .. } | Self::Stream { .. } | Self::Other(_) => ErrorKind::Internal,
        }
    }

    /// For `map_err` around a call on one file of the store.
    pub(crate) fn io<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source: source.into() }
    }

    /// For `map_err` around a read of a stream.
    pub(crate) fn stream(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Stream { doing, source }
    }
}
