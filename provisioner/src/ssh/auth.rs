//! Logging in with keys: a key that was named, alone; else our own, the agent's, those of `~/.ssh`.

use super::hostkeys::Verifier;
use super::{SshError, config, prompt};
use russh::client::Handle;
use russh::keys::agent::client::AgentClient;
use russh::keys::{self, PrivateKeyWithHashAlg};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to try, in this order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identities {
    /// Files that must be there.
    pub(crate) named: Vec<PathBuf>,
    /// Whether the agent is asked.
    pub(crate) agent: bool,
    /// Files that may be there.
    pub(crate) usual: Vec<PathBuf>,
}

impl Identities {
    /// This key and no other.
    pub(crate) fn only(key: PathBuf) -> Self {
        Self { named: vec![key], ..Self::default() }
    }

    /// What OpenSSH would try for a host with this configuration.
    pub(crate) fn usual(of_host: &config::HostConfig) -> Self {
        let mut usual = of_host.identity_files.clone();
        if usual.is_empty()
            && let Some(home) = config::home()
        {
            usual.extend(["id_ed25519", "id_ecdsa", "id_rsa"].map(|name| home.join(".ssh").join(name)));
        }
        Self { named: Vec::new(), agent: of_host.identities_only != Some(true), usual }
    }
}

/// Logs in, or says what was tried.
pub(crate) async fn log_in(
    handle: &mut Handle<Verifier>,
    hop: &str,
    user: &str,
    identities: &Identities,
    may_ask: bool,
) -> Result<(), SshError> {
    let mut tried: Vec<String> = Vec::new();
    for key in &identities.named {
        tried.push(key.display().to_string());
        if with_file(handle, user, key, may_ask).await? {
            return Ok(());
        }
    }
    if identities.agent && with_agent(handle, user, &mut tried).await {
        return Ok(());
    }
    for key in identities.usual.iter().filter(|key| key.is_file()) {
        tried.push(key.display().to_string());
        if with_file(handle, user, key, may_ask).await? {
            return Ok(());
        }
    }
    let tried = if tried.is_empty() { "none: there is no key to try".to_owned() } else { tried.join(", ") };
    Err(SshError::Refused { hop: hop.to_owned(), user: user.to_owned(), tried })
}

async fn with_file(
    handle: &mut Handle<Verifier>,
    user: &str,
    path: &Path,
    may_ask: bool,
) -> Result<bool, SshError> {
    let failed = |source| SshError::Key { key: path.display().to_string(), source: Box::new(source) };
    let key = match keys::load_secret_key(path, None) {
        Err(keys::Error::KeyIsEncrypted) => {
            let question = format!("Passphrase of {}", path.display());
            let phrase = if may_ask { prompt::secret(&question).map_err(SshError::Terminal)? } else { None };
            let phrase = phrase.ok_or_else(|| SshError::Encrypted { key: path.display().to_string() })?;
            keys::load_secret_key(path, Some(&phrase)).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    let hash =
        if key.algorithm().is_rsa() { handle.best_supported_rsa_hash().await?.flatten() } else { None };
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
    Ok(handle.authenticate_publickey(user, key).await?.success())
}

/// An agent that is not there, or that refuses, is no failure: other keys may do.
async fn with_agent(handle: &mut Handle<Verifier>, user: &str, tried: &mut Vec<String>) -> bool {
    let Ok(mut agent) = AgentClient::connect_env().await else { return false };
    let Ok(identities) = agent.request_identities().await else { return false };
    // Servers hang up after six attempts or so.
    for identity in identities.into_iter().take(5) {
        let key = identity.public_key().into_owned();
        tried.push(format!("{} of the agent", identity.comment()));
        let hash = if key.algorithm().is_rsa() {
            handle.best_supported_rsa_hash().await.ok().flatten().flatten()
        } else {
            None
        };
        match handle.authenticate_publickey_with(user, key, hash, &mut agent).await {
            Ok(result) if result.success() => return true,
            _ => {}
        }
    }
    false
}
