//! What the default bridge is remembered by across restarts and reboots.

use crate::error::NetworkError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// `<state_dir>/default-bridge.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BridgeRecord {
    /// ID of the network `bridge`: 64 hex digits.
    pub(crate) network_id: String,
    pub(crate) bridge: String,
    pub(crate) ip: Ipv4Addr,
    pub(crate) prefix_len: u8,
    /// Forwarding was off before us: what uninstalling would have to turn off again.
    pub(crate) enabled_ip_forward: bool,
}

impl BridgeRecord {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("default-bridge.json")
    }

    /// The record, if there is a readable one: the address is a preference, not worth a daemon that does not start.
    pub(crate) fn load(state_dir: &Path) -> Result<Option<Self>, NetworkError> {
        let path = Self::path(state_dir);
        match fs::read(&path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)
                .inspect_err(|e| tracing::warn!("ignoring {}, which is damaged: {e}", path.display()))
                .ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(NetworkError::State { action: "read", path, source }),
        }
    }

    /// When it was last written.
    pub(crate) fn saved_at(state_dir: &Path) -> SystemTime {
        let modified = fs::metadata(Self::path(state_dir)).and_then(|meta| meta.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    pub(crate) fn save(&self, state_dir: &Path) -> Result<(), NetworkError> {
        let path = Self::path(state_dir);
        let write = || -> io::Result<()> {
            fs::create_dir_all(state_dir)?;
            let temporary = path.with_extension("json.tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(state_dir)?.sync_all()
        };
        write().map_err(|source| NetworkError::State { action: "write", path: path.clone(), source })
    }
}
