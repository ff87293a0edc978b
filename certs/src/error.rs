//! What can go wrong with certificates.

use std::io;
use std::path::PathBuf;

/// Why a certificate could not be made, read, stored or used.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// A file or directory could not be read, written or locked.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was being done: "read", "write", …
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The operating system gave no random bytes.
    #[error("cannot get random bytes for a serial number")]
    Random(#[source] getrandom::Error),
    /// A name cannot stand in a certificate.
    #[error("`{name}` cannot stand in a certificate as a DNS name")]
    Name {
        /// The name asked for.
        name: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// A key or a certificate could not be made.
    #[error("cannot make {what}")]
    Make {
        /// Which one.
        what: String,
        /// Why not.
        source: rcgen::Error,
    },
    /// What should be a certificate or a key is none.
    #[error("{what} is not valid")]
    Invalid {
        /// Which one.
        what: String,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// PEM text without the expected section.
    #[error("{what} holds no {section}")]
    Empty {
        /// Which text.
        what: &'static str,
        /// `certificate` or `private key`.
        section: &'static str,
    },
    /// There is a CA certificate, and its key is gone: no new certificates can be issued by it, and a new CA would be
    /// unknown to all machines.
    #[error("the certificate authority in {} has lost its key", dir.display())]
    KeyLost {
        /// Where the authority is kept.
        dir: PathBuf,
    },
    /// `ca-key.pem` is not the key of `ca.pem`.
    #[error("the key of the certificate authority in {} belongs to another certificate", dir.display())]
    KeyMismatch {
        /// Where the authority is kept.
        dir: PathBuf,
    },
    /// rustls refuses the certificates or the key.
    #[error("cannot use {what} for TLS")]
    Tls {
        /// Which ones.
        what: &'static str,
        /// rustls' reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
