//! The TLS configuration, read again when its files change: a renewed certificate needs no restart.

use crate::Result;
use crate::config::TlsFiles;
use crate::failure::Failure;
use rustls::ServerConfig;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the files are looked at, at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    state: Mutex<State>,
}

struct State {
    config: Arc<ServerConfig>,
    /// Modification times of what was read last, be it good or bad.
    seen: Vec<Option<SystemTime>>,
    looked: Instant,
}

impl Tls {
    /// Reads the files; `None` where no TLS is asked for.
    pub(crate) fn load(files: Option<&TlsFiles>) -> Result<Option<Self>> {
        let Some(files) = files else { return Ok(None) };
        let state = State { seen: modified(files), config: read(files)?, looked: Instant::now() };
        Ok(Some(Self(Arc::new(Shared { files: files.clone(), state: Mutex::new(state) }))))
    }

    /// What the next connection gets.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= INTERVAL {
            state.looked = Instant::now();
            if modified(&self.0.files) != state.seen {
                self.reread(&mut state);
            }
        }
        state.config.clone()
    }

    /// Reads the files now.
    pub(crate) fn reload(&self) {
        self.reread(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn reread(&self, state: &mut State) {
        state.seen = modified(&self.0.files);
        match read(&self.0.files) {
            Ok(config) => {
                state.config = config;
                tracing::info!("read the certificates again");
            }
            // A renewal may be half done: the old ones serve on, and the next change is tried again.
            Err(failure) => {
                let cause =
                    std::error::Error::source(&failure).map(|cause| format!(": {cause}")).unwrap_or_default();
                tracing::warn!("keeping the old certificates: {failure}{cause}");
            }
        }
    }
}

fn paths(files: &TlsFiles) -> impl Iterator<Item = &Path> {
    [Some(&files.cert), Some(&files.key), files.ca.as_ref()].into_iter().flatten().map(|path| path.as_path())
}

fn modified(files: &TlsFiles) -> Vec<Option<SystemTime>> {
    paths(files).map(|path| std::fs::metadata(path).and_then(|data| data.modified()).ok()).collect()
}

fn read(files: &TlsFiles) -> Result<Arc<ServerConfig>> {
    let text = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| {
            Failure::new(format!("cannot read {}", path.display()))
                .because(error)
                .hint("--tlscacert, --tlscert and --tlskey name the files of the TLS listeners")
        })
    };
    let (cert, key) = (text(&files.cert)?, text(&files.key)?);
    let config = match &files.ca {
        Some(ca) => certs::server_config(&text(ca)?, &cert, &key),
        None => certs::server_config_without_clients(&cert, &key),
    };
    config.map_err(|error| {
        Failure::new(format!("cannot use the certificate {}", files.cert.display())).because(error)
    })
}
