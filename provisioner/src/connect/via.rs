//! Which way a machine's engine is to be reached by: `--via`, or what its record says.

use serde::{Deserialize, Serialize};

/// A kind of way to an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Via {
    /// Mutual TLS, and SSH where its port is not reached
    #[default]
    Auto,
    /// Mutual TLS alone
    Tls,
    /// One SSH session alone; the engine needs no open port
    Ssh,
}
