//! What can go wrong with a container's files, in Docker's words where clients match them.

use crate::error::ImageError;
use rustix::io::Errno;
use std::io;

/// Why files of a container could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// There is nothing at that path.
    #[error("no such file or directory")]
    NotFound,
    /// The request makes no sense; Docker's words.
    #[error("{0}")]
    Invalid(String),
    /// The file system is mounted read-only.
    #[error("read-only file system")]
    ReadOnly,
    /// The archive would write outside of where it is to be extracted, or in the way of what is there; Docker's words.
    #[error("{0}")]
    Refused(String),
    /// What the archive holds cannot be understood.
    #[error(transparent)]
    Archive(#[from] ImageError),
    /// A call failed.
    #[error("cannot {doing}")]
    Io {
        /// What was being done, and to what.
        doing: String,
        /// What the kernel or the stream said.
        source: io::Error,
    },
}

impl FilesError {
    pub(crate) fn io<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source: source.into() }
    }

    /// Of an attempt to reach what a client has named.
    pub(crate) fn path(path: &str, error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::NotFound,
            Errno::NOTDIR => Self::Invalid("not a directory".to_owned()),
            Errno::LOOP => Self::Invalid(format!("{path}: too many levels of symbolic links")),
            Errno::INVAL | Errno::NAMETOOLONG => Self::Invalid(format!("invalid path: {path:?}")),
            error => Self::Io { doing: format!("open {path}"), source: error.into() },
        }
    }
}
