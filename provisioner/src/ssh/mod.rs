//! Sessions with machines over SSH.
//!
//! - **hop**: one SSH server on the way; the last is the machine, those before it are jump hosts (`ProxyJump`).
//! - **pin**: a host key that the machine may show, kept in its record. A machine whose key berth delivered is pinned
//!   before the first connect; any other at its first contact, by `known_hosts` or else on trust, which is said aloud.
//!
//! ```text
//! Target ─ config::resolve ─▶ hops ─ (TCP, then direct-tcpip through the hop before) ─▶ hostkeys ─▶ auth ─▶ Session
//! ```
//! One command holds one [`Session`]; all it runs and uploads are channels of it. A [`Tunnel`] carries what goes to the
//! engine in the same way, and makes its session anew when that has died.

mod auth;
mod config;
mod hostkeys;
pub(crate) mod keys;
mod prompt;
mod session;
pub(crate) mod shell;
mod tunnel;
mod upload;

pub(crate) use session::{Session, Target};
pub(crate) use tunnel::Tunnel;

use std::io;

/// Why there is no session, or why it ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SshError {
    #[error("cannot reach {hop}")]
    Unreachable { hop: String, source: io::Error },
    #[error("cannot reach {hop} through {through}")]
    NotThrough { hop: String, through: String, source: Box<russh::Error> },
    #[error("{hop} did not answer within {seconds} seconds")]
    TimedOut { hop: String, seconds: u64 },
    #[error("no SSH session with {hop}")]
    Handshake { hop: String, source: Box<russh::Error> },
    #[error("the host key of {hop} has changed: expected {expected}, got {got}")]
    HostKeyChanged { hop: String, expected: String, got: String },
    #[error("{user} cannot log in to {hop}: no key was accepted (tried {tried})")]
    Refused { hop: String, user: String, tried: String },
    #[error("the key {key} is encrypted, and there is no terminal to ask for its passphrase")]
    Encrypted { key: String },
    #[error("cannot use the key {key}")]
    Key { key: String, source: Box<russh::keys::Error> },
    #[error("cannot read {path}")]
    Config { path: String, source: io::Error },
    #[error("too many jump hosts on the way to {0}")]
    TooManyHops(String),
    #[error("invalid jump host `{0}`")]
    InvalidJump(String),
    #[error("the SSH session broke")]
    Broken(#[source] Box<russh::Error>),
    #[error("cannot upload {path}")]
    Upload { path: String, source: russh_sftp::client::error::Error },
    #[error("cannot upload {path}")]
    UploadIo { path: String, source: io::Error },
    #[error("the machine refused to run a command")]
    NotRun,
    #[error("{hop} opens no connection to {socket}")]
    NoSocket { hop: String, socket: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the SSH session with {0} does not answer")]
    Silent(String),
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
}

impl From<russh::Error> for SshError {
    fn from(error: russh::Error) -> Self {
        Self::Broken(Box::new(error))
    }
}

impl SshError {
    /// Whether it may pass by itself while a machine boots.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::TimedOut { .. }
                | Self::Handshake { .. }
                | Self::NotThrough { .. }
                | Self::Refused { .. }
                | Self::Broken(_)
        )
    }
}

impl From<SshError> for crate::error::CliError {
    fn from(error: SshError) -> Self {
        let hint = match &error {
            SshError::Unreachable { .. } | SshError::TimedOut { .. } | SshError::NotThrough { .. } => {
                Some("check that the host is up, and that its SSH port can be reached from here".to_owned())
            }
            SshError::HostKeyChanged { .. } => Some(
                "if the machine was reinstalled, accept its new key with `berth provision --accept-host-key MACHINE`; \
                 if not, someone may be in between"
                    .to_owned(),
            ),
            SshError::Refused { .. } => {
                Some("name a key that the machine accepts, add it to the SSH agent, or check the user's name".to_owned())
            }
            SshError::NoSocket { .. } => {
                Some("`berth provision MACHINE` brings hostd there up to date".to_owned())
            }
            SshError::Encrypted { key } => Some(format!("add it to the agent first: `ssh-add {key}`")),
            _ => None,
        };
        // The variant's own source stays below its text.
        let what = error.to_string();
        let cli = match error {
            SshError::Unreachable { source, .. }
            | SshError::Config { source, .. }
            | SshError::UploadIo { source, .. }
            | SshError::Terminal(source) => Self::new(what).because(source),
            SshError::NotThrough { source, .. }
            | SshError::Handshake { source, .. }
            | SshError::Broken(source) => Self::new(what).because(source),
            SshError::Key { source, .. } => Self::new(what).because(source),
            SshError::Upload { source, .. } => Self::new(what).because(source),
            SshError::NoSocket { source, .. } => Self::new(what).because(source),
            _ => Self::new(what),
        };
        match hint {
            Some(hint) => cli.hint(hint),
            None => cli,
        }
    }
}
