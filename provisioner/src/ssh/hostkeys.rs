//! Whether a server is the one that is meant.
//!
//! What is expected comes from the machine's pins; without any, from the user's `known_hosts` and our own; without
//! any there either, the first key is trusted, and the caller keeps it. A key that is not the expected one ends the
//! connection, whatever it is.

use super::SshError;
use russh::client;
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate, known_hosts};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// The keys that a hop may show.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expected {
    keys: Vec<PublicKey>,
    /// Nothing else will do, even where no key could be read.
    pinned: bool,
}

impl Expected {
    /// The pins of a machine, as OpenSSH lines. One that cannot be read is no pin, so none of them matches it.
    pub(crate) fn pinned(lines: &[String]) -> Self {
        Self {
            keys: lines.iter().filter_map(|line| PublicKey::from_openssh(line).ok()).collect(),
            pinned: true,
        }
    }

    /// What the known_hosts files say of a host under any of its names.
    pub(crate) fn known(files: &[PathBuf], names: &[&str], port: u16) -> Self {
        let mut keys = Vec::new();
        for (file, name) in files.iter().flat_map(|file| names.iter().map(move |name| (file, name))) {
            // Lines that cannot be read do not make a host unknown that another line knows.
            for (_, key) in known_hosts::known_host_keys_path(name, port, file).unwrap_or_default() {
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
        }
        Self { keys, pinned: false }
    }

    /// Whether nothing is known, so that any key will do.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.pinned
    }

    /// The algorithms to ask for, so that the server shows the key that is known; `None` leaves the choice open.
    pub(crate) fn algorithms(&self) -> Option<Vec<Algorithm>> {
        let mut algorithms = Vec::new();
        for key in &self.keys {
            if key.algorithm().is_rsa() {
                algorithms.extend(
                    [HashAlg::Sha512, HashAlg::Sha256].map(|hash| Algorithm::Rsa { hash: Some(hash) }),
                );
            } else {
                algorithms.push(key.algorithm());
            }
        }
        (!algorithms.is_empty()).then_some(algorithms)
    }

    /// Their fingerprints, for a message.
    pub(crate) fn fingerprints(&self) -> String {
        let all: Vec<String> = self.keys.iter().map(fingerprint).collect();
        all.join(" or ")
    }
}

/// `SHA256:…` of a key.
pub(crate) fn fingerprint(key: &PublicKey) -> String {
    format!("{} ({})", key.fingerprint(HashAlg::Sha256), key.algorithm())
}

/// The key that a server has shown, shared with whoever waits for the connection.
pub(crate) type Shown = Arc<Mutex<Option<PublicKey>>>;

/// Judges the key that one hop shows.
pub(crate) struct Verifier {
    pub(crate) hop: String,
    pub(crate) expected: Expected,
    pub(crate) shown: Shown,
}

impl client::Handler for Verifier {
    type Error = SshError;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, SshError> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            // We never offer certificate algorithms.
            return Ok(false);
        };
        *self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(key.clone());
        let same = |known: &PublicKey| known.key_data() == key.key_data();
        if self.expected.is_empty() || self.expected.keys.iter().any(same) {
            return Ok(true);
        }
        Err(SshError::HostKeyChanged {
            hop: self.hop.clone(),
            expected: self.expected.fingerprints(),
            got: fingerprint(key),
        })
    }
}
