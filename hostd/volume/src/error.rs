//! What can go wrong, in the words that clients match where Docker has them.

use std::io;
use std::path::PathBuf;

/// Why a volume could not be made, read, filled or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// No volume has that name.
    #[error("get {0}: no such volume")]
    NotFound(String),
    /// It was asked for in a way that cannot work.
    #[error("{0}")]
    Invalid(String),
    /// A file or directory could not be worked on.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A record is damaged.
    #[error("cannot understand the volume record {}", path.display())]
    Record {
        /// The record.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// What the image holds could not be copied.
    #[error("cannot copy {what} of the image into volume {volume}")]
    Populate {
        /// The volume's name.
        volume: String,
        /// File or directory, as the container would see it.
        what: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What a caller does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeErrorKind {
    /// There is no such volume.
    NotFound,
    /// It was asked for in a way that cannot work.
    Invalid,
    /// The host failed.
    Internal,
}

impl VolumeError {
    /// The kind, for callers that translate.
    pub fn kind(&self) -> VolumeErrorKind {
        match self {
            Self::NotFound(_) => VolumeErrorKind::NotFound,
            Self::Invalid(_) => VolumeErrorKind::Invalid,
            Self::Io { .. } | Self::Record { .. } | Self::Populate { .. } => VolumeErrorKind::Internal,
        }
    }
}
