//! Speaking to registries: the distribution protocol, version 2.
//!
//! [`Registries`] knows how each registry may be reached (`endpoint`), and keeps one HTTP client (`tls`) for each. A pull
//! opens a [`Session`] with one of them, which asks for manifests and blobs, fetches tokens (`auth`) and tries again
//! what may pass.

mod auth;
mod endpoint;
mod session;
mod tls;

pub(crate) use session::{Fetched, Session};

use crate::error::ImageError;
use crate::model::ImageStoreConfig;
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};

/// Every registry that this machine has spoken to.
pub(crate) struct Registries {
    config: ImageStoreConfig,
    /// By host and port, and whether certificates are verified.
    clients: Mutex<HashMap<(String, bool), reqwest::Client>>,
}

impl Registries {
    pub(crate) fn new(config: ImageStoreConfig) -> Self {
        Self { config, clients: Mutex::default() }
    }

    /// The client for one host. Connections are kept and used again.
    fn client(&self, host: &str, verify: bool) -> Result<reqwest::Client, ImageError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), verify);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = tls::client(host, verify)?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

/// What a failed request says at its root: `Connection refused`, and not the layers of HTTP above it.
fn failed(what: impl Into<String>, error: &reqwest::Error) -> ImageError {
    let mut root: &dyn Error = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    let text = if error.is_timeout() { "timed out".to_owned() } else { root.to_string() };
    ImageError::Registry { what: what.into(), source: text.into() }
}
